//! What does a file have besides its content? Owner, extended attributes, mode and times, in the order in which they last:
//! a change of owner takes capabilities and set-user-ID away, and what cannot be written takes no attributes.

use rustix::fd::{AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, StatxFlags, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

use super::place::{self, ACCESS_ACL, Target, wrap};
use super::way::Here;
use super::{Job, Skipped, add};
use crate::error::{Error, Result};
use crate::format::inode::{Body, Kind};
use crate::fs::walk::Visit;
use std::ffi::CStr;
use std::os::fd::AsFd;

/// Set-user-ID and set-group-ID: worse than useless on a file of another owner.
const SET_ID: u16 = 0o6000;

/// Whom this process acts as.
pub(super) struct Who {
    uid: u32,
    gid: u32,
}

impl Who {
    pub(super) fn am_i() -> Self {
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        Who { uid: uid.as_raw(), gid: gid.as_raw() }
    }

    fn is_root(&self) -> bool {
        self.uid == 0
    }
}

/// A file of the target, opened in one of two ways.
#[derive(Clone, Copy)]
pub(super) enum Handle<'a> {
    /// For reading or writing.
    Open(BorrowedFd<'a>),
    /// Only as what it is: a symlink, a device, a pipe, a socket.
    Path(BorrowedFd<'a>),
}

impl Handle<'_> {
    fn set_owner(self, uid: Uid, gid: Gid) -> rustix::io::Result<()> {
        match self {
            Handle::Open(fd) => rustix::fs::fchown(fd, Some(uid), Some(gid)),
            Handle::Path(fd) => {
                rustix::fs::chownat(fd, c"", Some(uid), Some(gid), AtFlags::EMPTY_PATH)
            }
        }
    }

    fn set_xattr(self, name: &[u8], value: &[u8]) -> rustix::io::Result<()> {
        match self {
            Handle::Open(fd) => rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty()),
            Handle::Path(fd) => {
                rustix::fs::setxattr(by_number(fd), name, value, XattrFlags::empty())
            }
        }
    }

    fn remove_xattr(self, name: &CStr) -> rustix::io::Result<()> {
        match self {
            Handle::Open(fd) => rustix::fs::fremovexattr(fd, name),
            Handle::Path(fd) => rustix::fs::removexattr(by_number(fd), name),
        }
    }

    fn set_mode(self, mode: Mode) -> rustix::io::Result<()> {
        match self {
            Handle::Open(fd) => rustix::fs::fchmod(fd, mode),
            Handle::Path(fd) => rustix::fs::chmodat(CWD, by_number(fd), mode, AtFlags::empty()),
        }
    }

    fn set_times(self, times: &Timestamps) -> rustix::io::Result<()> {
        match self {
            Handle::Open(fd) => rustix::fs::futimens(fd, times),
            Handle::Path(fd) => rustix::fs::utimensat(fd, c"", times, AtFlags::EMPTY_PATH),
        }
    }
}

/// A name for what an `O_PATH` descriptor stands for, for calls that take no such descriptor. It leads to that very inode.
fn by_number(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// Restores everything but content. What fails is told, the rest is restored all the same.
pub(super) fn restore(job: &Job<'_>, handle: Handle<'_>, visit: &Visit) {
    let mut failed = None;
    let mut tried = |result: Result<()>| match result {
        Ok(()) => true,
        Err(err) => {
            failed.get_or_insert(err);
            false
        }
    };
    let inode = &visit.inode;
    let mut is_owner_right = (inode.uid, inode.gid) == (job.who.uid, job.who.gid);
    if job.options.owners && job.who.is_root() {
        let owner = (Uid::from_raw(inode.uid), Gid::from_raw(inode.gid));
        is_owner_right =
            tried(handle.set_owner(owner.0, owner.1).map_err(wrap("cannot set the owner")));
    } else if job.options.owners && !is_owner_right {
        job.skip(&visit.path, Skipped::Owner);
    }
    if job.existed && !matches!(inode.kind, Kind::Link | Kind::Dir) {
        // It may have one from a default ACL of the directory. Mostly there is none.
        handle.remove_xattr(ACCESS_ACL).ok();
    }
    if job.options.xattrs {
        restore_xattrs(job, handle, visit, &mut tried);
    }
    if inode.kind != Kind::Link {
        let unset = if is_owner_right { 0 } else { SET_ID };
        let mode = Mode::from_raw_mode(u32::from(inode.permissions & !unset));
        tried(handle.set_mode(mode).map_err(wrap("cannot set the mode")));
    }
    let time = Timespec { tv_sec: inode.mtime_sec, tv_nsec: inode.mtime_nsec.into() };
    let times = Timestamps { last_access: time, last_modification: time };
    tried(handle.set_times(&times).map_err(wrap("cannot set the time")));
    if let Some(err) = failed {
        job.fail(&visit.path, err);
    }
}

fn restore_xattrs(
    job: &Job<'_>,
    handle: Handle<'_>,
    visit: &Visit,
    tried: &mut impl FnMut(Result<()>) -> bool,
) {
    if visit.inode.xattrs.is_none() {
        return;
    }
    let names = match job.tree.xattr_names(visit.index) {
        Ok(names) => names,
        Err(err) => {
            tried(Err(err));
            return;
        }
    };
    for name in names {
        let value = match job.tree.xattr(visit.index, &name) {
            Ok(value) => value.unwrap_or_default(),
            Err(err) => {
                tried(Err(err));
                continue;
            }
        };
        match handle.set_xattr(&name, &value) {
            Ok(()) => {}
            // Only root may set most of them, and not every file system takes them.
            Err(Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP) if !job.who.is_root() => {
                job.skip(&visit.path, Skipped::Xattr);
            }
            Err(errno) => {
                let doing = format!("cannot set {}", String::from_utf8_lossy(&name));
                tried(Err(Error::io(doing, errno.into())));
            }
        }
    }
}

/// Gives a directory what is its own, when everything in it is done.
pub(super) fn finish_directory(job: &Job<'_>, left: &Here) {
    if !job.kept().contains(&left.visit.index) {
        if job.existed {
            place::settle(&left.directory);
        }
        restore(job, Handle::Open(left.directory.as_fd()), &left.visit);
    }
}

/// Makes a symlink, device, pipe or socket.
pub(super) fn make_other(job: &Job<'_>, target: &Target<'_>, visit: &Visit) -> Result<()> {
    let directory = target.directory;
    let node = |kind, device| {
        target.make(move |name| rustix::fs::mknodat(directory, name, kind, Mode::empty(), device))
    };
    let made = match (visit.inode.kind, visit.inode.body) {
        (Kind::Link, _) => {
            let to = job.tree.read_link(visit.index)?;
            target.make(|name| rustix::fs::symlinkat(to.as_slice(), directory, name))
        }
        (kind, Body::Device { major, minor }) => {
            let device = rustix::fs::makedev(major, minor);
            node(file_type(kind), device)
        }
        (kind, _) => node(file_type(kind), 0),
    };
    let made = match made {
        Ok(made) => made,
        // Not even root may where CAP_MKNOD was taken away, as in a container.
        Err(Errno::PERM) if matches!(visit.inode.body, Body::Device { .. }) => {
            job.lost().insert(visit.index);
            job.skip(&visit.path, Skipped::Device);
            return Ok(());
        }
        Err(errno) => return Err(wrap("cannot make it")(errno)),
    };
    let restored = open_made(directory, made.name(target.name), visit.inode.kind)
        .map(|fd| restore(job, Handle::Path(fd.as_fd()), visit));
    restored.and_then(|()| made.commit(directory, target.name))?;
    let is_symlink = visit.inode.kind == Kind::Link;
    add(if is_symlink { &job.counts.symlinks } else { &job.counts.special }, 1);
    Ok(())
}

/// Opens what was just made, as what it is. In a directory that others can write to it may have become something else,
/// such as a hard link to a file whose owner must not be changed.
fn open_made(directory: &OwnedFd, name: &[u8], kind: Kind) -> Result<OwnedFd> {
    let doing = "cannot look at what was made";
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(directory, name, flags, Mode::empty()).map_err(wrap(doing))?;
    let wanted = StatxFlags::TYPE | StatxFlags::NLINK;
    let stat = rustix::fs::statx(&fd, c"", AtFlags::EMPTY_PATH, wanted).map_err(wrap(doing))?;
    if Kind::from_mode(stat.stx_mode) != Some(kind) || stat.stx_nlink != 1 {
        return Err(Error::io(doing, std::io::Error::other("somebody put something else there")));
    }
    Ok(fd)
}

fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::Fifo => FileType::Fifo,
        Kind::Char => FileType::CharacterDevice,
        Kind::Dir => FileType::Directory,
        Kind::Block => FileType::BlockDevice,
        Kind::File => FileType::RegularFile,
        Kind::Link => FileType::Symlink,
        Kind::Sock => FileType::Socket,
    }
}
