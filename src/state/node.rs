//! What is a file besides its content and its name? The same question to an image and to a disk, and how a file that was
//! just made gets to be so.

use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::disk::{self, Id, wrap};
use crate::error::{Error, Result};
use crate::format::XATTR_VALUE_MAX;
use crate::format::field::usize_from_u32;
use crate::format::index::InodeIndex;
use crate::format::inode::{Inode, Kind};
use crate::fs::Tree;

/// Everything about a file but its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) kind: Kind,
    pub(super) permissions: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) size: u64,
    pub(super) nlink: u32,
    pub(super) mtime: (i64, u32),
    pub(super) device: (u32, u32),
    /// A symlink's target.
    pub(super) target: Vec<u8>,
    /// Names and values, sorted by name.
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Node {
    /// A directory as the system makes one where the image has none.
    pub(super) fn plain_directory() -> Self {
        Node {
            kind: Kind::Dir,
            permissions: 0o755,
            uid: 0,
            gid: 0,
            size: 0,
            nlink: 2,
            mtime: (0, 0),
            device: (0, 0),
            target: Vec::new(),
            xattrs: Vec::new(),
        }
    }

    /// What an image has.
    pub(super) fn in_image(tree: &Tree, index: InodeIndex, inode: &Inode) -> Result<Self> {
        let attr = tree.attr_of(index, inode)?;
        let target = if inode.kind == Kind::Link { tree.read_link(index)? } else { Vec::new() };
        let mut xattrs = Vec::new();
        for name in tree.xattr_names(index)? {
            let value = tree.xattr(index, &name)?.ok_or(Error::Invalid)?;
            xattrs.push((name, value));
        }
        Ok(Node {
            kind: inode.kind,
            permissions: inode.permissions,
            uid: inode.uid,
            gid: inode.gid,
            size: inode.size,
            nlink: inode.nlink,
            mtime: (inode.mtime_sec, inode.mtime_nsec),
            device: attr.device,
            target,
            xattrs,
        })
    }

    /// Whether it is neither directory, regular file nor symlink.
    pub(super) fn is_special(&self) -> bool {
        !matches!(self.kind, Kind::Dir | Kind::File | Kind::Link)
    }
}

/// A file on the disk, open: a directory or regular file to be read, everything else only as what it is.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) node: Node,
    pub(super) fd: OwnedFd,
    pub(super) id: Id,
}

impl Found {
    /// Opens what has a name in a directory, if there is something.
    pub(super) fn open(at: impl AsFd, name: &[u8]) -> Result<Option<Self>> {
        let Some(kind) = disk::kind(&at, name)? else { return Ok(None) };
        let flags = match kind {
            Kind::Dir => OFlags::RDONLY | OFlags::DIRECTORY,
            // Whoever puts a pipe there meanwhile does not make us wait.
            Kind::File => OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY,
            _ => OFlags::PATH,
        };
        let found = Found::of(disk::open(&at, name, flags)?, name)?;
        if found.node.kind == kind {
            Ok(Some(found))
        } else {
            let changed = std::io::Error::other("it became something else meanwhile");
            Err(Error::io(format!("cannot open {}", super::shown(name)), changed))
        }
    }

    /// What is open.
    pub(super) fn of(fd: OwnedFd, name: &[u8]) -> Result<Self> {
        let stat = disk::stat(&fd).map_err(wrap("look at", name))?;
        let kind = Kind::from_mode(stat.stx_mode).ok_or(Error::Invalid)?;
        let target = if kind == Kind::Link {
            rustix::fs::readlinkat(&fd, c"", Vec::new())
                .map_err(wrap("read the symlink", name))?
                .into_bytes()
        } else {
            Vec::new()
        };
        let node = Node {
            kind,
            permissions: stat.stx_mode & 0o7777,
            uid: stat.stx_uid,
            gid: stat.stx_gid,
            size: stat.stx_size,
            nlink: stat.stx_nlink,
            mtime: (stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec),
            device: (stat.stx_rdev_major, stat.stx_rdev_minor),
            target,
            xattrs: xattrs(fd.as_fd()).map_err(wrap("read attributes of", name))?,
        };
        Ok(Found { node, id: Id::of(&stat), fd })
    }
}

/// A name for what a descriptor stands for, for calls that take none that is only a path. It leads to that very inode.
fn by_number(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// Whether an extended attribute goes where the file goes. Properties of the file system (`btrfs.compression`) and marks of
/// an overlay or our own belong to where it was.
pub(super) fn is_carried(name: &[u8]) -> bool {
    let begins = |prefixes: &[&[u8]]| prefixes.iter().any(|prefix| name.starts_with(prefix));
    begins(&[b"user.", b"trusted.", b"security.", b"system.posix_acl_"])
        && !begins(&[b"trusted.overlay.", b"trusted.ashlar."])
}

/// All extended attributes that this process may see and that are to be carried.
fn xattrs(fd: BorrowedFd<'_>) -> rustix::io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let path = by_number(fd);
    let mut list = match rustix::fs::listxattr_query(&path) {
        Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Ok(len) => vec![0; len],
        Err(errno) => return Err(errno),
    };
    let list_len = rustix::fs::listxattr(&path, list.as_mut_slice())?;
    list.truncate(list_len);
    let mut found = Vec::new();
    for name in list.split(|byte| *byte == 0).filter(|name| is_carried(name)) {
        let mut value = vec![0; usize_from_u32(XATTR_VALUE_MAX)];
        match rustix::fs::getxattr(&path, name, value.as_mut_slice()) {
            Ok(len) => value.truncate(len),
            // Gone meanwhile, or not for our eyes.
            Err(Errno::NODATA | Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP) => continue,
            Err(errno) => return Err(errno),
        }
        value.shrink_to_fit();
        found.push((name.to_vec(), value));
    }
    found.sort_unstable();
    Ok(found)
}

/// Whether nothing that follows could be written either.
fn is_fatal(errno: Errno) -> bool {
    [Errno::NOSPC, Errno::DQUOT, Errno::ROFS, Errno::IO].contains(&errno)
}

/// Bytes that the extended attributes of a file may have on every file system.
const XATTRS_LEN_SURE: usize = 1024;

/// What an extended attribute's error says, for a file that has so many bytes of them, on a file system with so many free
/// blocks. Where they are too long for the file system that is told as a full disk (ext4: more than a block for all of a
/// file's), and stays so however much is free. Short ones find room wherever there is any, also for what is no block of a
/// file (btrfs): where not, the disk is full.
fn xattr_errno(errno: Errno, len: usize, blocks_free: u64) -> Errno {
    let is_long = len > XATTRS_LEN_SURE && blocks_free > 0;
    if errno == Errno::NOSPC && is_long { Errno::TOOBIG } else { errno }
}

/// Gives a file that was just made its owner, extended attributes, mode and times, in the order in which they last. What
/// this process, or this file system, may not do is named in `left_out`; an error says that the disk is full or broken.
pub(super) fn restore(fd: BorrowedFd<'_>, node: &Node, left_out: &mut Vec<String>) -> Result<()> {
    disk::step("set attributes")?;
    let path = by_number(fd);
    let mut tried = |what: &str, result: rustix::io::Result<()>| match result {
        Err(errno) if is_fatal(errno) => {
            Err(Error::io(format!("cannot set the {what}"), errno.into()))
        }
        Err(errno) => {
            left_out.push(format!("{what}: {}", std::io::Error::from(errno)));
            Ok(())
        }
        Ok(()) => Ok(()),
    };
    let mut mode = node.permissions;
    let stat = disk::stat(fd).map_err(wrap("look at", b"what was made"))?;
    if (stat.stx_uid, stat.stx_gid) != (node.uid, node.gid) {
        let (uid, gid) = (Some(Uid::from_raw(node.uid)), Some(Gid::from_raw(node.gid)));
        let owned = rustix::fs::chownat(fd, c"", uid, gid, AtFlags::EMPTY_PATH);
        if owned.is_err() {
            // Set-user-ID and set-group-ID are worse than useless with another owner.
            mode &= 0o1777;
        }
        tried("owner", owned)?;
    }
    let len = node.xattrs.iter().map(|(name, value)| name.len().saturating_add(value.len()));
    let len = len.fold(0, usize::saturating_add);
    for (name, value) in &node.xattrs {
        let set = rustix::fs::setxattr(&path, name.as_slice(), value, XattrFlags::empty());
        let set = set.map_err(|errno| {
            // Not `f_bfree`: of those the file system keeps some to itself.
            let free = rustix::fs::statvfs(&path).map_or(0, |stat| stat.f_bavail);
            xattr_errno(errno, len, free)
        });
        tried(&super::shown(name), set)?;
    }
    if node.kind != Kind::Link {
        let mode = Mode::from_raw_mode(mode.into());
        tried("mode", rustix::fs::chmodat(CWD, &path, mode, AtFlags::empty()))?;
    }
    let time = Timespec { tv_sec: node.mtime.0, tv_nsec: node.mtime.1.into() };
    let times = Timestamps { last_access: time, last_modification: time };
    tried("time", rustix::fs::utimensat(fd, c"", &times, AtFlags::EMPTY_PATH))
}

/// Takes away what a directory that was just made may have inherited, so that nothing below it inherits it either.
pub(super) fn disinherit(directory: BorrowedFd<'_>) {
    for name in [c"system.posix_acl_default", c"system.posix_acl_access"] {
        // Mostly there is none.
        rustix::fs::fremovexattr(directory, name).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_full_disk_is_a_full_disk() {
        assert!(is_fatal(xattr_errno(Errno::NOSPC, 5000, 0)));
        assert!(!is_fatal(xattr_errno(Errno::NOSPC, 5000, 1)));
        assert!(is_fatal(xattr_errno(Errno::NOSPC, 100, 1)));
        assert!(
            [Errno::IO, Errno::DQUOT].iter().all(|errno| is_fatal(xattr_errno(*errno, 5000, 1)))
        );
    }
}
