//! What are a file's attributes? Ours: neither libc's nor fuser's.

use super::Tree;
use crate::error::{Error, Result};
use crate::format::index::InodeIndex;
use crate::format::inode::{Body, Inode, Kind, Runs};
use crate::format::run::Run;

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
    /// Units of 512 bytes that are no hole.
    pub blocks: u64,
    /// Time of last change, seconds since 1970-01-01 UTC. Access and change times are the same.
    pub mtime_sec: i64,
    /// And nanoseconds.
    pub mtime_nsec: u32,
    /// Device number: major and minor; zeros for what is no device.
    pub device: (u32, u32),
}

/// Runs of one file that are looked at for holes. A file with more of them is taken to have none beyond: an inode must be
/// told of quickly, whoever made it.
const RUNS_COUNTED_MAX: u32 = 1024;

impl Tree {
    /// The attributes in an inode. Run records are read for the holes of a file with several runs.
    pub fn attr_of(&self, index: InodeIndex, inode: &Inode) -> Result<Attr> {
        let data_len = match inode.body {
            Body::File { runs, tail } => {
                let tail_len = u64::from(tail.len);
                let tail_data = tail.block.map_or(0, |_| tail_len);
                inode
                    .size
                    .saturating_sub(tail_len)
                    .saturating_sub(self.hole_len(index, runs)?)
                    .saturating_add(tail_data)
            }
            Body::Dir { .. } => inode.size,
            _ => 0,
        };
        let device = match inode.body {
            Body::Device { major, minor } => (major, minor),
            _ => (0, 0),
        };
        Ok(Attr {
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
        })
    }

    /// Bytes of holes among a file's full blocks. Copying programs look for holes only where fewer blocks than bytes are
    /// told.
    fn hole_len(&self, index: InodeIndex, runs: Runs) -> Result<u64> {
        let blocks = match runs {
            Runs::None => 0,
            Runs::One(run) => hole_count(&run),
            Runs::Many { first, count } => {
                self.check_runs_inside(index, first, count)?;
                let end = first.saturating_add(count.min(RUNS_COUNTED_MAX).into());
                (first..end).try_fold(0, |sum: u64, nth| {
                    Ok::<_, Error>(sum.saturating_add(hole_count(&self.run(nth)?)))
                })?
            }
        };
        Ok(blocks.saturating_mul(self.superblock().block_size().into()))
    }
}

fn hole_count(run: &Run) -> u64 {
    if run.block.is_none() { run.count.into() } else { 0 }
}
