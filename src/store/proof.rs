//! Are these the bytes that were sealed? The only calls to BLAKE3, one for each kind of bytes (SPEC §1).

use crate::format::context;
use crate::format::digest::Digest;
use crate::format::fec;

/// Whether a block holds file content or metadata; the two are hashed apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BlockKind {
    /// File content.
    Data,
    /// Part of a section.
    Metadata,
}

fn hash(context: &str, raw: &[u8]) -> Digest {
    Digest(*blake3::Hasher::new_derive_key(context).update(raw).finalize().as_bytes())
}

/// Digest of a block's stored bytes.
pub fn hash_block(kind: BlockKind, stored: &[u8]) -> Digest {
    hash(
        match kind {
            BlockKind::Data => context::DATA_BLOCK,
            BlockKind::Metadata => context::METADATA_BLOCK,
        },
        stored,
    )
}

/// Digest of one page of the digest table.
pub fn hash_table_page(page: &[u8]) -> Digest {
    hash(context::TABLE_PAGE, page)
}

/// Digest of the page list.
pub fn hash_page_list(list: &[u8]) -> Digest {
    hash(context::PAGE_LIST, list)
}

/// Digest of the superblock: the root digest.
pub fn hash_superblock(superblock: &[u8]) -> Digest {
    hash(context::SUPERBLOCK, superblock)
}

/// Checksum of a trailer whose checksum field is zero.
pub fn hash_trailer(trailer: &[u8]) -> Digest {
    hash(context::TRAILER, trailer)
}

/// Checksum of a head of parity whose checksum field is zero.
pub fn hash_parity_head(head: &[u8]) -> Digest {
    hash(context::PARITY_HEAD, head)
}

/// Digest of the table of checksums of all shards.
pub fn hash_parity_table(table: &[u8]) -> Digest {
    hash(context::PARITY_TABLE, table)
}

/// The checksum of a shard, whose bytes come in pieces.
#[derive(Debug)]
pub struct ShardHasher(blake3::Hasher);

impl Default for ShardHasher {
    fn default() -> Self {
        ShardHasher(blake3::Hasher::new_derive_key(context::SHARD))
    }
}

impl ShardHasher {
    /// Takes the next bytes.
    pub fn update(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }

    /// The checksum: it tells damage, and proves nothing.
    pub fn finish(&self) -> [u8; fec::SUM_LEN] {
        self.0.finalize().as_bytes().first_chunk().copied().unwrap_or_default()
    }
}
