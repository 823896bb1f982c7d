//! How much of one image is missing from another one? Blocks are the same where their digests are.

use crate::error::Result;
use crate::format::digest::Digest;
use crate::format::entry::LEN_ON_DISK;
use crate::format::superblock;
use crate::store::{self, Store};

/// What an update from one image to another would download, in stored bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Download {
    /// Blocks that the first image does not have.
    pub blocks: u64,
    /// Their stored bytes.
    pub block_bytes: u64,
    /// Bytes that are always new: superblock and its backup, digest table, page list, signatures.
    pub table_bytes: u64,
    /// All of these bytes.
    pub bytes: u64,
    /// Blocks of the second image.
    pub total_blocks: u64,
    /// Length of the second image with its signatures: what a full download takes.
    pub total_bytes: u64,
}

/// What an update from `a` to `b` would download. Reads both digest tables and keeps 32 bytes for each block of `a`.
pub fn download(a: &Store, b: &Store) -> Result<Download> {
    let new = b.superblock();
    let trailer_len = match b.source() {
        source if source.has_slack() => 0,
        // Parity is not downloaded: it is made where the image is put.
        source => store::covered_len(source).saturating_sub(new.image_len),
    };
    let total_blocks = u64::from(new.block_count);
    let total_bytes = new.image_len.saturating_add(trailer_len);
    if a.root_digest() == b.root_digest() {
        return Ok(Download { total_blocks, total_bytes, ..Download::default() });
    }
    let mut old: Vec<Digest> = Vec::new();
    for page in 0..a.superblock().page_count() {
        old.extend(a.table_page(page)?.iter().map(|entry| entry.digest));
    }
    old.sort_unstable();
    let mut missing: Vec<(Digest, u32)> = Vec::new();
    for page in 0..new.page_count() {
        let entries = b.table_page(page)?;
        let unknown = entries.iter().filter(|entry| old.binary_search(&entry.digest).is_err());
        missing.extend(unknown.map(|entry| (entry.digest, entry.stored_len)));
    }
    missing.sort_unstable();
    missing.dedup();
    let blocks = missing.iter().fold(0_u64, |count, _| count.saturating_add(1));
    let block_bytes =
        missing.iter().fold(0_u64, |sum, (_, len)| sum.saturating_add(u64::from(*len)));
    let table_bytes = total_blocks
        .saturating_mul(LEN_ON_DISK)
        .saturating_add(new.page_list_len())
        .saturating_add(superblock::LEN_ON_DISK.saturating_mul(2))
        .saturating_add(trailer_len);
    let bytes = block_bytes.saturating_add(table_bytes);
    Ok(Download { blocks, block_bytes, table_bytes, bytes, total_blocks, total_bytes })
}
