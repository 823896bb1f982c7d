//! How is a tree looked at, wherever it lies? Four questions, which a directory and an image answer alike.

use std::fmt;

use crate::error::Result;
use crate::format::inode::Kind;

/// What lies at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// File type.
    pub kind: Kind,
    /// `mode & 07777`.
    pub permissions: u16,
    /// Length in bytes.
    pub size: u64,
    /// Time of last change, seconds since 1970-01-01 UTC.
    pub mtime_sec: i64,
}

/// A tree that can be looked at.
///
/// Paths start at its root, without a leading slash; the empty path is the root itself. They have no `.` and no `..`, and
/// no symlink may be followed on their way: where symlinks lead is found out by who asks, one step at a time, so that none
/// can lead out of the tree.
pub trait Look: fmt::Debug {
    /// What lies at a path; nothing when there is no such name, or something on the way is no directory.
    fn lstat(&self, path: &[u8]) -> Result<Option<Found>>;

    /// A symlink's target.
    fn read_link(&self, path: &[u8]) -> Result<Vec<u8>>;

    /// The names in a directory with their types, in any order.
    fn list(&self, path: &[u8]) -> Result<Vec<(Vec<u8>, Kind)>>;

    /// Up to `len` bytes of a regular file from `offset` on: fewer only at its end. Never waits for a pipe, and never opens
    /// a device.
    fn read(&self, path: &[u8], offset: u64, len: usize) -> Result<Vec<u8>>;

    /// How many entries all directories have at most: who sees more goes round in circles.
    fn entries_max(&self) -> u64 {
        u64::MAX
    }
}
