//! Where are a file's full blocks? In runs of data blocks, or in holes (SPEC §6.1).

use super::field::{self, Field, field};
use super::index::{BlockIndex, NONE};

/// Length of a run record in bytes.
pub const LEN: usize = 12;
/// The same, as a length on disk.
pub const LEN_ON_DISK: u64 = 12;

/// The layout, as SPEC §6.1 has it.
pub const FIELDS: &[Field] =
    &[field(0x00, 4, "file_block"), field(0x04, 4, "block"), field(0x08, 4, "count")];

/// Consecutive blocks of a file that are consecutive in the table, or a hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Where it starts in the file, in blocks.
    pub file_block: u32,
    /// Its first data block; `None` for a hole.
    pub block: Option<BlockIndex>,
    /// How many blocks it covers.
    pub count: u32,
}

impl Run {
    /// Decodes a record; its rules concern the whole list and are checked by who reads it.
    pub fn decode(raw: &[u8; LEN]) -> Self {
        Run {
            file_block: field::get_u32(raw, 0x00),
            block: block_or_hole(field::get_u32(raw, 0x04)),
            count: field::get_u32(raw, 0x08),
        }
    }

    /// Encodes the record.
    pub fn encode(&self) -> [u8; LEN] {
        let mut raw = [0; LEN];
        field::put(&mut raw, 0x00, &self.file_block.to_le_bytes());
        field::put(&mut raw, 0x04, &self.block.map_or(NONE, |block| block.0).to_le_bytes());
        field::put(&mut raw, 0x08, &self.count.to_le_bytes());
        raw
    }

    /// Whether `next` could have been part of this run (S-52 forbids it).
    pub fn continues_into(&self, next: &Run) -> bool {
        match (self.block, next.block) {
            (None, None) => true,
            (Some(this), Some(next)) => this.0.checked_add(self.count) == Some(next.0),
            _ => false,
        }
    }
}

/// `NONE` is a hole.
pub fn block_or_hole(raw: u32) -> Option<BlockIndex> {
    (raw != NONE).then_some(BlockIndex(raw))
}
