//! What is remembered of an inode until all of them were seen?

use crate::error::{Error, Result};
use crate::format::field::{u64_from_usize, usize_from_u32};
use crate::format::inode::Kind;

/// What has to be remembered of an inode: 16 bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Node {
    /// Links that were not found yet. Of a directory, those that its subdirectories make.
    pub(super) links_left: u32,
    /// The directory that a directory says it is in.
    pub(super) parent: u32,
    /// See `directories::depths`.
    pub(super) depth: u16,
    /// Nothing when the inode cannot be had.
    pub(super) kind: Option<Kind>,
    /// Whether a directory names it.
    pub(super) named: bool,
    /// Whether there are more links than it says.
    pub(super) overrun: bool,
}

/// Most bytes that are taken to remember all inodes: enough for 2^28 of them.
const NODES_LEN_MAX: u64 = 4 << 30;

/// Room for so many inodes. An image of a few megabytes can claim to have four billion; a reservation that the system
/// grants and cannot keep would kill more than this program.
pub(super) fn room_for(count: u32) -> Result<Vec<Node>> {
    let no_memory = || {
        let what = format!("cannot check {count} inodes");
        Error::io(what, std::io::ErrorKind::OutOfMemory.into())
    };
    let len = u64::from(count).saturating_mul(u64_from_usize(size_of::<Node>()));
    if len > NODES_LEN_MAX {
        return Err(no_memory());
    }
    let mut nodes = Vec::new();
    nodes.try_reserve_exact(usize_from_u32(count)).map_err(|_| no_memory())?;
    Ok(nodes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_inodes_take_no_memory() {
        assert!(room_for(1000).is_ok());
        for count in [(1 << 28) + 1, u32::MAX] {
            let err = room_for(count).unwrap_err();
            let Error::Io { source, .. } = err else { panic!("{err}") };
            assert_eq!(source.kind(), std::io::ErrorKind::OutOfMemory);
        }
    }
}
