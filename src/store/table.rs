//! Where is each block, and what must it hash to? The digest table, page by page as it is needed.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};

use lru::LruCache;

use super::{lock, proof};
use crate::error::{Error, Result};
use crate::format::defect::{Corrupt, Untrusted};
use crate::format::digest::Digest;
use crate::format::entry::{self, ENTRIES_PER_PAGE, Entry};
use crate::format::field::{u32_from_usize, usize_from_u32, usize_from_u64};
use crate::format::index::BlockIndex;
use crate::format::superblock::{self, Superblock};
use crate::image::Source;

/// Pages kept in memory: 3 MiB, the tables of the 65,536 blocks used last.
const PAGES_MAX: NonZeroUsize = NonZeroUsize::new(64).unwrap();

/// The digest table of an image, its page list verified.
#[derive(Debug)]
pub(super) struct Table {
    pages: Mutex<LruCache<u32, Arc<[Entry]>>>,
    page_digests: Vec<Digest>,
}

impl Table {
    /// Reads and verifies the page list: 32 bytes for each 1024 blocks.
    pub(super) fn open(source: &dyn Source, superblock: &Superblock) -> Result<Self> {
        // The list's length follows from the superblock, which is authentic; a file that is shorter is not read at all.
        let (offset, len) = (superblock.page_list_offset(), superblock.page_list_len());
        if source.len() < superblock.image_len {
            let image_len = superblock.image_len;
            return Err(Untrusted::Truncated { len: source.len(), image_len }.into());
        }
        let raw = super::read(source, offset, usize_from_u64(len))?;
        let found = proof::hash_page_list(&raw);
        if found != superblock.page_list_digest {
            let expected = superblock.page_list_digest;
            return Err(Untrusted::PageList { expected, found }.into());
        }
        let (digests, _) = raw.as_chunks::<32>();
        let page_digests = digests.iter().map(|digest| Digest(*digest)).collect();
        Ok(Table { pages: Mutex::new(LruCache::new(PAGES_MAX)), page_digests })
    }

    /// The entry of `block`.
    pub(super) fn entry(
        &self,
        source: &dyn Source,
        superblock: &Superblock,
        block: BlockIndex,
    ) -> Result<Entry> {
        let page = self.page(source, superblock, block.0 / ENTRIES_PER_PAGE)?;
        page.get(usize_from_u32(block.0 % ENTRIES_PER_PAGE)).copied().ok_or(Error::Invalid)
    }

    /// One page of entries, verified and found to keep its rules.
    pub(super) fn page(
        &self,
        source: &dyn Source,
        superblock: &Superblock,
        page: u32,
    ) -> Result<Arc<[Entry]>> {
        if let Some(entries) = lock(&self.pages).get(&page) {
            return Ok(Arc::clone(entries));
        }
        let entries: Arc<[Entry]> = self.read_page(source, superblock, page)?.into();
        lock(&self.pages).put(page, Arc::clone(&entries));
        Ok(entries)
    }

    fn read_page(
        &self,
        source: &dyn Source,
        superblock: &Superblock,
        page: u32,
    ) -> Result<Vec<Entry>> {
        let expected = *self.page_digests.get(usize_from_u32(page)).ok_or(Error::Invalid)?;
        let first = page.saturating_mul(ENTRIES_PER_PAGE);
        let count = superblock.block_count.saturating_sub(first).min(ENTRIES_PER_PAGE);
        let offset = u64::from(first)
            .saturating_mul(entry::LEN_ON_DISK)
            .saturating_add(superblock.table_offset);
        let raw = super::read(source, offset, usize_from_u32(count).saturating_mul(entry::LEN))?;
        let found = proof::hash_table_page(&raw);
        if found != expected {
            return Err(Untrusted::TablePage { page, expected, found }.into());
        }
        Ok(decode_page(&raw, first, superblock)?)
    }
}

/// Decodes the page whose first entry is `first`, checking what one page shows of rule S-26.
fn decode_page(raw: &[u8], first: u32, superblock: &Superblock) -> Result<Vec<Entry>, Corrupt> {
    let (chunks, _) = raw.as_chunks::<{ entry::LEN }>();
    let mut entries: Vec<Entry> = Vec::with_capacity(chunks.len());
    let mut due = (first == 0).then_some(superblock::LEN_ON_DISK);
    for (chunk, block) in chunks.iter().zip((first..).map(BlockIndex)) {
        let is_data = block.0 < superblock.data_block_count;
        let content_len_max =
            if is_data { superblock.block_size() } else { superblock.metadata_block_size() };
        let entry = Entry::decode(chunk, block, content_len_max)?;
        let expected = due.unwrap_or(entry.offset);
        if entry.offset != expected || entry.offset < superblock::LEN_ON_DISK {
            return Err(Corrupt::EntryOffset { block, offset: entry.offset, expected });
        }
        if entry.end() > superblock.table_offset {
            let expected = superblock.table_offset;
            return Err(Corrupt::EntryOffset { block, offset: entry.end(), expected });
        }
        due = Some(entry.end());
        entries.push(entry);
    }
    let is_last = u64::from(first).saturating_add(u64::from(u32_from_usize(entries.len())))
        == u64::from(superblock.block_count);
    match entries.last() {
        Some(last) if is_last && last.end() != superblock.table_offset => {
            Err(Corrupt::EntryOffset {
                block: BlockIndex(superblock.block_count),
                offset: superblock.table_offset,
                expected: last.end(),
            })
        }
        _ => Ok(entries),
    }
}
