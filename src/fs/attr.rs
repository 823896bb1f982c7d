//! What are a file's attributes? Ours: neither libc's nor fuser's.

use crate::format::index::InodeIndex;
use crate::format::inode::{Body, Inode, Kind, Runs};

/// Attributes as `stat(2)` tells them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attr {
    /// The inode's index; `st_ino` is one more.
    pub index: InodeIndex,
    /// File type.
    pub kind: Kind,
    /// `mode & 07777`.
    pub permissions: u16,
    /// Links.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Length in bytes.
    pub size: u64,
    /// Units of 512 bytes that are no hole; what a hole in a file of several runs saves is not subtracted.
    pub blocks: u64,
    /// Time of last change, seconds since 1970-01-01 UTC. Access and change times are the same.
    pub mtime_sec: i64,
    /// And nanoseconds.
    pub mtime_nsec: u32,
    /// Device number: major and minor; zeros for what is no device.
    pub device: (u32, u32),
}

impl Attr {
    /// The attributes in an inode.
    pub fn new(index: InodeIndex, inode: &Inode) -> Self {
        let data_len = match inode.body {
            Body::File { runs, tail } => {
                let full_len = match runs {
                    Runs::One(run) if run.block.is_none() => 0,
                    _ => inode.size.saturating_sub(tail.len.into()),
                };
                full_len.saturating_add(tail.block.map_or(0, |_| tail.len.into()))
            }
            Body::Dir { .. } => inode.size,
            _ => 0,
        };
        let device = match inode.body {
            Body::Device { major, minor } => (major, minor),
            _ => (0, 0),
        };
        Attr {
            index,
            kind: inode.kind,
            permissions: inode.permissions,
            nlink: inode.nlink,
            uid: inode.uid,
            gid: inode.gid,
            size: inode.size,
            blocks: data_len.div_ceil(512),
            mtime_sec: inode.mtime_sec,
            mtime_nsec: inode.mtime_nsec,
            device,
        }
    }
}
