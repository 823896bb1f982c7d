//! Which blocks are wanted first? Records of the prefetch section (SPEC §6.2).

use super::field::{self, Field, field};
use super::index::BlockIndex;

/// Length of a record in bytes.
pub const LEN: usize = 4;
/// The same, as a length on disk.
pub const LEN_ON_DISK: u64 = 4;

/// The layout, as SPEC §6.2 has it.
pub const FIELDS: &[Field] = &[field(0x00, 4, "block")];

/// Decodes a record; that the block is a data block is checked by who reads it.
pub fn decode(raw: &[u8; LEN]) -> BlockIndex {
    BlockIndex(field::get_u32(raw, 0x00))
}

/// Encodes a record.
pub fn encode(block: BlockIndex) -> [u8; LEN] {
    block.0.to_le_bytes()
}
