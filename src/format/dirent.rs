//! What does a directory entry say? (SPEC §7)

use super::field::{self, Field, field};
use super::inode::Kind;

/// Length of an entry in bytes, its name not included.
pub const LEN: usize = 12;
/// The same, as a length on disk.
pub const LEN_ON_DISK: u64 = 12;

/// The layout, as SPEC §7 has it.
pub const FIELDS: &[Field] = &[
    field(0x00, 4, "inode"),
    field(0x04, 4, "name_end"),
    field(0x08, 2, "type"),
    field(0x0a, 2, "reserved"),
];

/// An entry as it stands in the record; its rules concern its neighbours too and are checked by who reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dirent {
    /// Index of the inode, not yet checked.
    pub inode: u32,
    /// Where the name ends, counted from the start of the names.
    pub name_end: u32,
    /// The inode's type; `None` when it is none of the seven.
    pub kind: Option<Kind>,
    /// Whether the reserved bytes are zero.
    pub reserved_is_zero: bool,
}

impl Dirent {
    /// Decodes an entry.
    pub fn decode(raw: &[u8; LEN]) -> Self {
        Dirent {
            inode: field::get_u32(raw, 0x00),
            name_end: field::get_u32(raw, 0x04),
            kind: Kind::from_mode(field::get_u16(raw, 0x08))
                .filter(|kind| kind.mode_bits() == field::get_u16(raw, 0x08)),
            reserved_is_zero: field::is_zero(raw, 0x0a, 2),
        }
    }
}

/// Encodes an entry.
pub fn encode(inode: u32, name_end: u32, kind: Kind) -> [u8; LEN] {
    let mut raw = [0; LEN];
    field::put(&mut raw, 0x00, &inode.to_le_bytes());
    field::put(&mut raw, 0x04, &name_end.to_le_bytes());
    field::put(&mut raw, 0x08, &kind.mode_bits().to_le_bytes());
    raw
}
