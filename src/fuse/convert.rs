//! What does the kernel call it? Our numbers and types in FUSE's words, and back.

use std::os::fd::OwnedFd;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileType, INodeNo};

use crate::error::{Error, Result};
use crate::format::index::InodeIndex;
use crate::format::inode::Kind;
use crate::format::superblock::Superblock;
use crate::fs::Attr;

/// The preferred size of a read, as `stat(2)` tells it: what the kernel's page cache deals in.
const READ_UNIT: u32 = 4096;

/// The unit of [`Space`], in bytes.
pub const SPACE_UNIT: u32 = 4096;

/// The answer for a name that does not exist: inode 0.
pub const ABSENT: FileAttr = FileAttr {
    ino: INodeNo(0),
    size: 0,
    blocks: 0,
    atime: UNIX_EPOCH,
    mtime: UNIX_EPOCH,
    ctime: UNIX_EPOCH,
    crtime: UNIX_EPOCH,
    kind: FileType::RegularFile,
    perm: 0,
    nlink: 0,
    uid: 0,
    gid: 0,
    rdev: 0,
    blksize: 0,
    flags: 0,
};

/// The kernel's number for an inode: one more than ours, for its root is 1 and 0 means none.
pub fn node(index: InodeIndex) -> INodeNo {
    INodeNo(u64::from(index.0).saturating_add(1))
}

/// Our number for one of the kernel's.
pub fn inode_index(ino: INodeNo) -> Result<InodeIndex> {
    let index = ino.0.checked_sub(1).and_then(|index| u32::try_from(index).ok());
    index.map(InodeIndex).ok_or(Error::NotFound)
}

/// A file type.
pub fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::Fifo => FileType::NamedPipe,
        Kind::Char => FileType::CharDevice,
        Kind::Dir => FileType::Directory,
        Kind::Block => FileType::BlockDevice,
        Kind::File => FileType::RegularFile,
        Kind::Link => FileType::Symlink,
        Kind::Sock => FileType::Socket,
    }
}

/// Attributes.
pub fn file_attr(attr: &Attr) -> FileAttr {
    let time = time(attr.mtime_sec, attr.mtime_nsec);
    let (major, minor) = attr.device;
    FileAttr {
        ino: node(attr.index),
        size: attr.size,
        blocks: attr.blocks,
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind: file_type(attr.kind),
        perm: attr.permissions,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: device(major, minor),
        blksize: READ_UNIT,
        flags: 0,
    }
}

/// A time. What no clock can show becomes the epoch.
fn time(sec: i64, nsec: u32) -> SystemTime {
    let whole = Duration::from_secs(sec.unsigned_abs());
    let time = if sec < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
    time.and_then(|time| time.checked_add(Duration::from_nanos(nsec.into()))).unwrap_or(UNIX_EPOCH)
}

/// A device number as the kernel packs it into 32 bits (`new_encode_dev`): 12 bits major inside 20 bits minor.
fn device(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & 0xf_ff00) << 12)
}

/// How much there is and how much is free, in units of [`SPACE_UNIT`] bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// All space.
    pub blocks: u64,
    /// Free for the superuser.
    pub blocks_free: u64,
    /// Free for everyone.
    pub blocks_available: u64,
    /// All inodes.
    pub inodes: u64,
    /// Free inodes.
    pub inodes_free: u64,
}

/// The space that `statfs(2)` tells: the image is what is used, and what is free is what is free beside the image file.
///
/// By the letter a read-only file system is always full. Told so about `/`, desktops warn of a full disk and installers
/// refuse to run, although what they would write lies elsewhere, mostly beside the image.
pub fn space(superblock: &Superblock, image: Option<&OwnedFd>) -> Space {
    let used = superblock.image_len.div_ceil(SPACE_UNIT.into());
    let inodes_used = u64::from(superblock.inode_count());
    let (blocks_free, blocks_available, inodes_free) = match image
        .and_then(|image| rustix::fs::fstatvfs(image).ok())
    {
        Some(beside) => {
            let units =
                |blocks: u64| blocks.saturating_mul(beside.f_frsize).div_euclid(SPACE_UNIT.into());
            (units(beside.f_bfree), units(beside.f_bavail), beside.f_ffree)
        }
        None => (0, 0, 0),
    };
    Space {
        blocks: used.saturating_add(blocks_free),
        blocks_free,
        blocks_available,
        inodes: inodes_used.saturating_add(inodes_free),
        inodes_free,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_there_and_back() {
        for index in [0, 1, u32::MAX] {
            assert_eq!(inode_index(node(InodeIndex(index))).unwrap(), InodeIndex(index));
        }
        assert!(inode_index(INodeNo(0)).is_err());
        assert!(inode_index(INodeNo(u64::MAX)).is_err());
    }

    #[test]
    fn devices_are_packed_as_the_kernel_does() {
        for (major, minor) in [(1, 3), (8, 255), (259, 1_048_575), (4095, 256)] {
            let dev = rustix::fs::makedev(major, minor);
            let packed = device(major, minor);
            assert_eq!((packed >> 8) & 0xfff, rustix::fs::major(dev));
            assert_eq!((packed & 0xff) | ((packed >> 12) & 0xf_ff00), rustix::fs::minor(dev));
        }
    }

    #[test]
    fn times_before_the_epoch_and_beyond_all_clocks() {
        assert_eq!(time(-1, 5), UNIX_EPOCH - Duration::from_nanos(999_999_995));
        assert_eq!(time(1, 5), UNIX_EPOCH + Duration::new(1, 5));
        let _ = (time(i64::MIN, 0), time(i64::MAX, 999_999_999));
    }
}
