//! Which block, which inode? Numbers that do not mix.

use std::fmt;

/// The value that means "none" where an index or an offset stands on disk (SPEC §1).
pub const NONE: u32 = u32::MAX;

/// A block's place in the digest table, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub struct BlockIndex(pub u32);

/// An inode's place in the inode section, from 0 (the root directory).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub struct InodeIndex(pub u32);

impl InodeIndex {
    /// The root directory.
    pub const ROOT: InodeIndex = InodeIndex(0);
}

impl fmt::Display for BlockIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for InodeIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
