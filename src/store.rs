//! Is it true? Blocks leave here verified or not at all.
//!
//! Stored bytes are copied into private memory, the copy is hashed, and only that copy is decoded, expanded or handed
//! out. Nothing here reads the image twice for the same purpose: what was hashed is what is used, whatever happens to the
//! file meanwhile.

pub mod block;
mod cache;
mod expand;
pub mod heal;
mod opening;
pub(crate) mod parallel;
pub mod prefetch;
pub mod proof;
mod readahead;
mod table;
mod tail;

use std::cell::RefCell;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::error::{Error, Result};
use crate::format::branch;
use crate::format::digest::Digest;
use crate::format::entry::{Codec, Entry};
use crate::format::field::{u32_from_usize, usize_from_u32};
use crate::format::index::BlockIndex;
use crate::format::superblock::Superblock;
use crate::image::Source;
use block::Block;
use cache::Cache;
use heal::{Healers, Part, Sealed, Wanted};
pub use opening::{open_superblock, read_superblock, whole_image};
use parallel::on_threads;
use prefetch::idle::Idler;
use prefetch::list::Listed;
use prefetch::{Ahead, Prefetch};
use proof::BlockKind;
use readahead::Readahead;
use table::Table;
pub use tail::{
    covered_len, last_parity_head, parity_behind, parity_head, parity_of, read_pages,
    superblock_offsets,
};

/// How much memory may be spent on expanded blocks.
#[derive(Debug, Clone, Copy)]
pub struct CacheLimits {
    /// Bytes of file content.
    pub data_bytes_max: usize,
    /// Bytes of metadata.
    pub metadata_bytes_max: usize,
}

impl CacheLimits {
    /// For those who expand nothing, or nothing twice.
    pub const NONE: CacheLimits = CacheLimits { data_bytes_max: 0, metadata_bytes_max: 0 };
}

/// What happened so far. All of it is counted in blocks but where the name says bytes.
#[derive(Debug, Default)]
pub struct Counters {
    /// Blocks whose digest was computed and found right.
    pub blocks_verified: AtomicU64,
    /// Stored bytes of those blocks.
    pub bytes_verified: AtomicU64,
    /// Blocks that were answered from the cache.
    pub cache_hits: AtomicU64,
    /// Blocks that could not be had: unreadable, untrusted or corrupt.
    pub failures: AtomicU64,
}

/// An image whose root digest was checked, and whose blocks are checked as they are asked for.
#[derive(Debug)]
pub struct Store {
    sealed: Sealed,
    superblock: Superblock,
    root_digest: Digest,
    used_backup: bool,
    table: Table,
    data: Cache,
    metadata: Cache,
    counters: Counters,
    /// Set for those who serve: a library call that reads one file needs no thread beside it.
    prefetch: OnceLock<Prefetch>,
    readahead: Readahead,
    listed: OnceLock<Listed>,
}

thread_local! {
    /// Stored bytes on their way through the hash: at most one block per thread.
    static STORED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Lends this thread's memory for the stored bytes of a block.
fn with_stored<T>(entry: &Entry, work: impl FnOnce(&mut [u8]) -> Result<T>) -> Result<T> {
    STORED.with_borrow_mut(|scratch| {
        let len = usize_from_u32(entry.stored_len);
        if scratch.len() < len {
            scratch.resize(len, 0);
        }
        work(scratch.get_mut(..len).ok_or(Error::Invalid)?)
    })
}

/// A lock whose holder panicked still guards sound data: all who hold one here complete each change before they let it go.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Copies content to where it is wanted; both must be equally long.
fn copy(from: &[u8], to: &mut [u8]) -> Result<()> {
    if from.len() != to.len() {
        return Err(Error::Invalid);
    }
    to.copy_from_slice(from);
    Ok(())
}

/// Reads bytes at `offset` into private memory.
fn read_into(source: &dyn Source, offset: u64, raw: &mut [u8]) -> Result<()> {
    source.read_exact_at(raw, offset).map_err(|err| {
        Error::io(format!("cannot read {} bytes at offset {offset}", raw.len()), err)
    })
}

impl Store {
    /// Opens the image that has the given root digest. Reads the superblock and the page list, nothing else.
    pub fn open(source: Arc<dyn Source>, root_digest: Digest, limits: CacheLimits) -> Result<Self> {
        Store::open_healing(source, root_digest, limits, Vec::new())
    }

    /// The same with somebody to ask, one after the other, for bytes that the image does not have any more.
    pub fn open_healing(
        source: Arc<dyn Source>,
        root_digest: Digest,
        limits: CacheLimits,
        healers: impl Into<Healers>,
    ) -> Result<Self> {
        Store::open_sealed(Sealed::new(source, healers.into(), false), root_digest, limits)
    }

    /// The same for those who restore an image: its superblock, too, may come from a copy of it.
    pub fn open_restoring(
        source: Arc<dyn Source>,
        root_digest: Digest,
        limits: CacheLimits,
        healers: impl Into<Healers>,
    ) -> Result<Self> {
        Store::open_sealed(Sealed::new(source, healers.into(), true), root_digest, limits)
    }

    fn open_sealed(sealed: Sealed, root_digest: Digest, limits: CacheLimits) -> Result<Self> {
        let (raw, used_backup) = opening::raw_superblock(&sealed, root_digest)?;
        let superblock = Superblock::decode(&raw)?;
        let table = Table::open(&sealed, &superblock)?;
        let block_len = usize_from_u32(superblock.block_size());
        let metadata_block_len = usize_from_u32(superblock.metadata_block_size());
        Ok(Store {
            sealed,
            superblock,
            root_digest,
            used_backup,
            table,
            data: Cache::new(limits.data_bytes_max, block_len),
            metadata: Cache::new(limits.metadata_bytes_max, metadata_block_len),
            counters: Counters::default(),
            prefetch: OnceLock::new(),
            readahead: Readahead::new(),
            listed: OnceLock::new(),
        })
    }

    /// The superblock.
    pub fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// The root digest that everything hangs from.
    pub fn root_digest(&self) -> Digest {
        self.root_digest
    }

    /// Whether the first superblock was damaged and the backup had to serve.
    pub fn used_backup(&self) -> bool {
        self.used_backup
    }

    /// What happened so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Bytes of expanded blocks in memory.
    pub fn cached_bytes(&self) -> usize {
        self.data.bytes().saturating_add(self.metadata.bytes())
    }

    /// The source, for those who account for bytes outside of blocks.
    pub fn source(&self) -> &dyn Source {
        self.sealed.source()
    }

    /// The bytes of a part of the image as they were sealed, whoever has them: for those who write images.
    pub fn sealed(&self, part: Part) -> Result<Vec<u8>> {
        let superblock = &self.superblock;
        let wanted = match part {
            Part::Superblock => {
                let (raw, _) = opening::raw_superblock(&self.sealed, self.root_digest)?;
                return Ok(raw.to_vec());
            }
            Part::PageList => table::wanted_list(superblock),
            Part::TablePage(page) => self.table.wanted(superblock, page)?,
            Part::Block(block, _) => self.wanted(block, &self.entry(block)?),
        };
        let mut raw = vec![0; wanted.len];
        self.sealed.read(&wanted, &mut raw)?;
        Ok(raw)
    }

    /// The digest of a page of the digest table.
    pub fn page_digest(&self, page: u32) -> Option<Digest> {
        self.table.wanted(&self.superblock, page).ok().map(|wanted| wanted.digest)
    }

    /// Whether a block holds data or metadata.
    pub fn kind(&self, block: BlockIndex) -> BlockKind {
        if block.0 < self.superblock.data_block_count {
            BlockKind::Data
        } else {
            BlockKind::Metadata
        }
    }

    /// The table entry of a block.
    pub fn entry(&self, block: BlockIndex) -> Result<Entry> {
        self.table.entry(&self.sealed, &self.superblock, block)
    }

    /// All entries of one page of the table (1024 blocks; the last page has fewer).
    pub fn table_page(&self, page: u32) -> Result<Arc<[Entry]>> {
        self.table.page(&self.sealed, &self.superblock, page)
    }

    /// From now on, it is noticed who reads in order; what should be expanded ahead of them is for a thread of the caller's to
    /// do. `None` when there is one already.
    pub fn prefetch(self: &Arc<Self>) -> Option<Ahead> {
        let (prefetch, ahead) = Prefetch::new(self);
        self.prefetch.set(prefetch).ok().map(|()| ahead)
    }

    /// Has [`Ahead::wait`] return though nothing is wanted.
    pub fn wake_prefetch(&self) {
        if let Some(prefetch) = self.prefetch.get() {
            prefetch.wake();
        }
    }

    /// From now on, blocks are expanded in the order of a list while a processor idles, on a thread that ends with the list or
    /// the store. No more of them wait for somebody who asks than fill three quarters of the cache.
    pub fn follow_list(self: &Arc<Self>, list: Vec<BlockIndex>) -> Result<()> {
        let waiting_max = self.blocks_in_cache().saturating_mul(3) / 4;
        // A second list changes nothing.
        if list.is_empty() || waiting_max == 0 || self.listed.get().is_some() {
            return Ok(());
        }
        let listed = Listed::start(self, list, waiting_max)
            .map_err(|err| Error::io("cannot start the prefetch thread", err))?;
        self.listed.set(listed).unwrap_or_default();
        Ok(())
    }

    /// Tells those who expand ahead, if there are any, what is read.
    fn note(&self, block: BlockIndex) {
        if self.kind(block) == BlockKind::Metadata {
            return;
        }
        if let Some(prefetch) = self.prefetch.get() {
            prefetch.note(block);
        }
        self.note_listed(block);
    }

    fn note_listed(&self, block: BlockIndex) {
        if let Some(listed) = self.listed.get() {
            listed.note(block);
        }
    }

    /// How many data blocks the cache holds.
    fn blocks_in_cache(&self) -> u32 {
        let blocks = self.data.bytes_max().checked_shr(u32::from(self.superblock.block_bits));
        u32_from_usize(blocks.unwrap_or(0))
    }

    /// How many blocks ahead may be expanded: what half the cache holds, so that what was expanded is there when it is wanted.
    fn prefetch_count_max(&self) -> u32 {
        self.blocks_in_cache() / 2
    }

    /// Expands a block into the cache, unless somebody does it already. Nobody waits for this one: it may be interrupted for
    /// as long as there is something else to do.
    fn get_in_idle_time(self: &Arc<Self>, block: BlockIndex, idler: &Idler) -> Result<()> {
        let expand = |entry: &Entry, content: &mut [u8]| idler.expand(self, block, *entry, content);
        self.data.get_in_idle_time(block, || self.new_block(block, expand))
    }

    /// Finds blocks whole, on several threads: those that will be wanted soon are expanded into the cache, the others only
    /// hashed. The first error that is met ends it.
    pub fn prove(
        &self,
        blocks: Range<u32>,
        workers: usize,
        is_wanted: impl Fn(BlockIndex) -> bool + Sync,
    ) -> Result<()> {
        let next = AtomicU32::new(blocks.start);
        let work = || -> Result<()> {
            loop {
                let block = BlockIndex(next.fetch_add(1, Ordering::Relaxed));
                if block.0 >= blocks.end {
                    return Ok(());
                }
                let proved = if is_wanted(block) { self.keep(block) } else { self.check(block) };
                let proved = self.count_failure(proved);
                proved.inspect_err(|_| next.store(blocks.end, Ordering::Relaxed))?;
            }
        };
        // Two blocks are expanded in the time that it takes to start a thread.
        let done = on_threads(workers.min(blocks.len() / 2), work);
        done.into_iter().try_for_each(|done| done.unwrap_or(Err(Error::Invalid)))
    }

    fn keep(&self, block: BlockIndex) -> Result<()> {
        self.data.get(block, || self.expand_new(block)).map(|_| ())
    }

    /// Expands a block into the cache for a reader who will most likely ask for it next, unless somebody does it already.
    fn get_ahead(&self, block: BlockIndex) -> Result<()> {
        self.data.get_ahead(block, || self.expand_new(block))
    }

    /// The content of a block, from the cache or expanded now.
    pub fn get(&self, block: BlockIndex) -> Result<Block> {
        self.note(block);
        let cache = self.cache(block);
        let (content, hit) = self.count_failure(cache.get(block, || self.expand_new(block)))?;
        if hit {
            self.counters.cache_hits.fetch_add(1, Ordering::Relaxed);
        }
        Ok(content)
    }

    /// Expands a block into `content`, whose length must be the block's, without keeping it: whoever has a whole block will
    /// not ask for it again, so the cache lets go of it, too.
    pub fn get_into(&self, block: BlockIndex, content: &mut [u8]) -> Result<()> {
        if self.prefetch.get().is_some_and(Prefetch::is_eager) {
            self.note(block);
        } else {
            self.note_listed(block);
        }
        let expand = |content: &mut [u8]| self.expand_into(block, &self.entry(block)?, content);
        let made = self.cache(block).get_into(block, content, expand);
        if self.count_failure(made)? {
            self.counters.cache_hits.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// So many bytes of a block went to a reader who keeps what it is given. When all of them did, the cache lets go of it.
    pub fn used(&self, block: BlockIndex, len: usize) {
        self.data.used(block, len);
    }

    /// The stored bytes of a block, verified: for those who copy blocks between images.
    pub fn stored(&self, block: BlockIndex) -> Result<Vec<u8>> {
        let entry = self.entry(block)?;
        self.note_place(&entry);
        let mut stored = vec![0; usize_from_u32(entry.stored_len)];
        self.count_failure(self.read_stored(block, &entry, &mut stored))?;
        Ok(stored)
    }

    fn cache(&self, block: BlockIndex) -> &Cache {
        match self.kind(block) {
            BlockKind::Data => &self.data,
            BlockKind::Metadata => &self.metadata,
        }
    }

    fn count_failure<T>(&self, result: Result<T>) -> Result<T> {
        if result.is_err() {
            self.counters.failures.fetch_add(1, Ordering::Relaxed);
        }
        result
    }

    fn expand_new(&self, block: BlockIndex) -> Result<Block> {
        self.new_block(block, |entry, content| self.expand_into(block, entry, content))
    }

    /// A block in memory of its cache, where `expand` puts its content.
    fn new_block(
        &self,
        block: BlockIndex,
        expand: impl FnOnce(&Entry, &mut [u8]) -> Result<()>,
    ) -> Result<Block> {
        let entry = self.entry(block)?;
        let len = usize_from_u32(entry.content_len);
        self.cache(block).pool().block(len, |content| expand(&entry, content))
    }

    /// Finds a block's stored bytes true.
    fn check(&self, block: BlockIndex) -> Result<()> {
        let entry = self.entry(block)?;
        self.note_place(&entry);
        with_stored(&entry, |stored| self.read_stored(block, &entry, stored))
    }

    /// Watches where the image is read, to have what lies behind brought in. Takes a lock.
    fn note_place(&self, entry: &Entry) {
        self.readahead.note(self.sealed.source(), entry.offset);
    }

    fn expand_into(&self, block: BlockIndex, entry: &Entry, content: &mut [u8]) -> Result<()> {
        self.note_place(entry);
        expand_from(block, entry, content, |stored| self.read_stored(block, entry, stored))
    }

    /// The same for one who may neither lock nor wait: what is not whole is an error, and nobody's yet.
    fn expand_unnoticed(&self, block: BlockIndex, entry: &Entry, content: &mut [u8]) -> Result<()> {
        let wanted = self.wanted(block, entry);
        expand_from(block, entry, content, |stored| self.sealed.read_here(&wanted, stored))
            .inspect(|()| self.count_verified(entry))
    }

    fn wanted(&self, block: BlockIndex, entry: &Entry) -> Wanted {
        let part = Part::Block(block, self.kind(block));
        let (offset, len) = (entry.offset, usize_from_u32(entry.stored_len));
        Wanted { part, offset, len, digest: entry.digest }
    }

    /// Copies a block's stored bytes into `stored` and proves the copy, whoever has them. On error the buffer holds nothing
    /// to be used.
    fn read_stored(&self, block: BlockIndex, entry: &Entry, stored: &mut [u8]) -> Result<()> {
        self.sealed.read(&self.wanted(block, entry), stored)?;
        self.count_verified(entry);
        Ok(())
    }

    fn count_verified(&self, entry: &Entry) {
        self.counters.blocks_verified.fetch_add(1, Ordering::Relaxed);
        self.counters.bytes_verified.fetch_add(u64::from(entry.stored_len), Ordering::Relaxed);
    }
}

/// Copy, hash, then use: `read` does the first two, or fails.
fn expand_from(
    block: BlockIndex,
    entry: &Entry,
    content: &mut [u8],
    read: impl FnOnce(&mut [u8]) -> Result<()>,
) -> Result<()> {
    if u32_from_usize(content.len()) != entry.content_len {
        return Err(Error::Invalid);
    }
    match entry.codec {
        Codec::None => read(content),
        Codec::Zstd | Codec::ZstdX86 | Codec::ZstdArm64 => {
            with_stored(entry, |stored| -> Result<()> {
                read(stored)?;
                Ok(expand::expand(stored, content, block)?)
            })?;
            if let Some(machine) = entry.codec.machine() {
                branch::to_distances(machine, content);
            }
            Ok(())
        }
    }
}
