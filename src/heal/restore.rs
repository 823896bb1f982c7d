//! How does a damaged image become whole again? It is written anew, each part of it as it was sealed, from whoever has it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::error::{Error, Result};
use crate::format::entry::{ENTRIES_PER_PAGE, Entry, LEN_ON_DISK};
use crate::format::field::u64_from_usize;
use crate::format::index::BlockIndex;
use crate::store::Store;
use crate::store::heal::Part;

/// What nobody has, and what was wrong with the image's own.
pub type Lost = Vec<(Part, Error)>;

/// Writes the image that a store has open to a file, but for its trailer, which is no part of what is sealed. Every byte is held
/// against a digest before it is written. What nobody has is left out and returned.
///
/// `progress` is told of bytes that are done, and of how many there are.
pub fn write(store: &Store, out: &File, progress: &dyn Fn(u64, u64)) -> Result<Lost> {
    let superblock = store.superblock();
    let mut restore = Restore { store, out, lost: Vec::new(), done: 0, progress };
    restore.part(Part::Superblock, &[0, superblock.backup_offset()])?;
    restore.part(Part::PageList, &[superblock.page_list_offset()])?;
    let mut offset = superblock.table_offset;
    let mut block = 0_u32;
    for page in 0..superblock.page_count() {
        let rest = superblock.block_count.saturating_sub(block);
        let count = rest.min(ENTRIES_PER_PAGE);
        match store.table_page(page) {
            Ok(entries) => {
                // Encoded, they are the page again: there is one way to do so.
                let raw: Vec<u8> = entries.iter().flat_map(Entry::encode).collect();
                restore.put(&raw, offset)?;
                for (entry, block) in entries.iter().zip(block..) {
                    let block = BlockIndex(block);
                    restore.part(Part::Block(block, store.kind(block)), &[entry.offset])?;
                }
            }
            Err(err) => restore.lost.push((Part::TablePage(page), err)),
        }
        block = block.saturating_add(count);
        offset = offset.saturating_add(u64::from(count).saturating_mul(LEN_ON_DISK));
    }
    Ok(restore.lost)
}

struct Restore<'a> {
    store: &'a Store,
    out: &'a File,
    lost: Lost,
    done: u64,
    progress: &'a dyn Fn(u64, u64),
}

impl Restore<'_> {
    /// Writes a part to its places. That it is lost is no error: others may not be, and all are to be named.
    fn part(&mut self, part: Part, offsets: &[u64]) -> Result<()> {
        let bytes = match self.store.sealed(part) {
            Ok(bytes) => bytes,
            Err(err) => {
                self.lost.push((part, err));
                return Ok(());
            }
        };
        offsets.iter().try_for_each(|offset| self.put(&bytes, *offset))
    }

    fn put(&mut self, bytes: &[u8], offset: u64) -> Result<()> {
        let wrap = |err: io::Error| Error::io("cannot write the new image", err);
        self.out.write_all_at(bytes, offset).map_err(wrap)?;
        self.done = self.done.saturating_add(u64_from_usize(bytes.len()));
        (self.progress)(self.done, self.store.superblock().image_len);
        Ok(())
    }
}
