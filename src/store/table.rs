//! Where is each block, and what must it hash to? The digest table, page by page as it is needed.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};

use lru::LruCache;

use super::heal::{Part, Sealed, Wanted};
use super::lock;
use crate::error::{Error, Result};
use crate::format::defect::{Corrupt, Untrusted};
use crate::format::digest::Digest;
use crate::format::entry::{self, ENTRIES_PER_PAGE, Entry};
use crate::format::field::{u32_from_usize, usize_from_u32, usize_from_u64};
use crate::format::index::BlockIndex;
use crate::format::superblock::{self, Superblock};

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
    pub(super) fn open(sealed: &Sealed, superblock: &Superblock) -> Result<Self> {
        // The list's length follows from the superblock, which is authentic; what a file that is shorter lacks, somebody else may have.
        let len = sealed.source().len();
        let image_len = superblock.image_len;
        let is_cut = len < image_len;
        let cut = || Error::from(Untrusted::Truncated { len, image_len });
        if is_cut && !sealed.can_heal() {
            return Err(cut());
        }
        let wanted = wanted_list(superblock);
        let mut raw = vec![0; wanted.len];
        sealed.read(&wanted, &mut raw).map_err(|err| if is_cut { cut() } else { err })?;
        let (digests, _) = raw.as_chunks::<32>();
        let page_digests = digests.iter().map(|digest| Digest(*digest)).collect();
        Ok(Table { pages: Mutex::new(LruCache::new(PAGES_MAX)), page_digests })
    }

    /// The entry of `block`.
    pub(super) fn entry(
        &self,
        sealed: &Sealed,
        superblock: &Superblock,
        block: BlockIndex,
    ) -> Result<Entry> {
        let page = self.page(sealed, superblock, block.0 / ENTRIES_PER_PAGE)?;
        page.get(usize_from_u32(block.0 % ENTRIES_PER_PAGE)).copied().ok_or(Error::Invalid)
    }

    /// One page of entries, verified and found to keep its rules.
    pub(super) fn page(
        &self,
        sealed: &Sealed,
        superblock: &Superblock,
        page: u32,
    ) -> Result<Arc<[Entry]>> {
        if let Some(entries) = lock(&self.pages).get(&page) {
            return Ok(Arc::clone(entries));
        }
        let wanted = self.wanted(superblock, page)?;
        let mut raw = vec![0; wanted.len];
        sealed.read(&wanted, &mut raw)?;
        let first = page.saturating_mul(ENTRIES_PER_PAGE);
        let entries: Arc<[Entry]> = decode_page(&raw, first, superblock)?.into();
        lock(&self.pages).put(page, Arc::clone(&entries));
        Ok(entries)
    }

    /// Where a page is, and what it must hash to.
    pub(super) fn wanted(&self, superblock: &Superblock, page: u32) -> Result<Wanted> {
        let digest = *self.page_digests.get(usize_from_u32(page)).ok_or(Error::Invalid)?;
        let first = page.saturating_mul(ENTRIES_PER_PAGE);
        let count = superblock.block_count.saturating_sub(first).min(ENTRIES_PER_PAGE);
        let offset = u64::from(first)
            .saturating_mul(entry::LEN_ON_DISK)
            .saturating_add(superblock.table_offset);
        let len = usize_from_u32(count).saturating_mul(entry::LEN);
        Ok(Wanted { part: Part::TablePage(page), offset, len, digest })
    }
}

/// Where the page list is, and what it must hash to.
pub(super) fn wanted_list(superblock: &Superblock) -> Wanted {
    let (offset, len) = (superblock.page_list_offset(), usize_from_u64(superblock.page_list_len()));
    Wanted { part: Part::PageList, offset, len, digest: superblock.page_list_digest }
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
