//! How is a directory that nobody vouches for read and changed? By one name at a time, relative to an open directory, past
//! no symlink and into no mount. Every change goes through this file, where a test can cut the power before any of them.

use std::fs::File;
use std::path::{Component, Path};

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RenameFlags, ResolveFlags, StatxFlags};
use rustix::io::Errno;

use super::shown;
use crate::error::{Error, Result};
use crate::format::inode::Kind;
use crate::power;
use std::os::unix::ffi::OsStrExt;

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// How a name is looked up: it is one of this directory, and of this file system.
const HERE: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_XDEV);

/// Directories kept open above the innermost one: those of a tree may be as deep as somebody cared to make them.
const OPEN_MAX: usize = 16;

/// An error about a name, with what was attempted.
pub(super) fn wrap<'a>(doing: &'a str, name: &'a [u8]) -> impl Fn(Errno) -> Error + 'a {
    move |errno| Error::io(format!("cannot {doing} {}", shown(name)), errno.into())
}

/// Whether an error says that there is no such name.
pub(super) fn is_missing(err: &Error) -> bool {
    matches!(err, Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
}

/// Whether an error says that something is mounted there.
pub(super) fn is_mount(err: &Error) -> bool {
    matches!(err, Error::Io { source, .. } if source.raw_os_error() == Some(Errno::XDEV.raw_os_error()))
}

/// Opens a directory by a path of the caller's own.
pub(super) fn open_own(path: &Path) -> Result<OwnedFd> {
    let flags = DIRECTORY.difference(OFlags::NOFOLLOW);
    rustix::fs::openat(CWD, path, flags, Mode::empty())
        .map_err(wrap("open", path.as_os_str().as_bytes()))
}

/// Opens a name of a directory, which must not be a symlink, nor where something is mounted.
pub(super) fn open(at: impl AsFd, name: &[u8], flags: OFlags) -> Result<OwnedFd> {
    rustix::fs::openat2(at, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty(), HERE)
        .map_err(wrap("open", name))
}

/// Opens a directory in a directory.
pub(super) fn open_directory(at: impl AsFd, name: &[u8]) -> Result<OwnedFd> {
    open(at, name, DIRECTORY)
}

/// What makes an inode itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Id {
    device: (u32, u32),
    inode: u64,
}

impl Id {
    pub(super) fn of(stat: &rustix::fs::Statx) -> Self {
        Id { device: (stat.stx_dev_major, stat.stx_dev_minor), inode: stat.stx_ino }
    }
}

/// What an open file is.
pub(super) fn stat(fd: impl AsFd) -> rustix::io::Result<rustix::fs::Statx> {
    rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)
}

/// The type of what has a name, if it is there.
pub(super) fn kind(at: impl AsFd, name: &[u8]) -> Result<Option<Kind>> {
    match rustix::fs::statx(at, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::TYPE) {
        Ok(stat) => Kind::from_mode(stat.stx_mode).map(Some).ok_or(Error::Invalid),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(wrap("look at", name)(errno)),
    }
}

/// All names in a directory, sorted.
pub(super) fn names(directory: impl AsFd) -> rustix::io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            names.push(name.to_vec());
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// A directory and the way to it. Those far above are closed, and found again by `..`, where they must be the same.
#[derive(Debug)]
pub(super) struct Trail {
    here: OwnedFd,
    above: Vec<(Option<OwnedFd>, Id)>,
}

impl Trail {
    pub(super) fn new(here: OwnedFd) -> Self {
        Trail { here, above: Vec::new() }
    }

    pub(super) fn here(&self) -> BorrowedFd<'_> {
        self.here.as_fd()
    }

    /// Goes into a directory that was opened here.
    pub(super) fn enter(&mut self, inner: OwnedFd) -> Result<()> {
        let id = Id::of(&stat(&self.here).map_err(wrap("look at", b"."))?);
        let outer = std::mem::replace(&mut self.here, inner);
        self.above.push((Some(outer), id));
        let far = self.above.len().checked_sub(OPEN_MAX.saturating_add(1));
        if let Some((fd, _)) = far.and_then(|at| self.above.get_mut(at)) {
            *fd = None;
        }
        Ok(())
    }

    /// Goes back to the directory above; returns the one that was left.
    pub(super) fn leave(&mut self) -> Result<OwnedFd> {
        let (fd, id) = self.above.pop().ok_or(Error::Invalid)?;
        let outer = if let Some(fd) = fd {
            fd
        } else {
            let fd = rustix::fs::openat(&self.here, c"..", DIRECTORY, Mode::empty())
                .map_err(wrap("open", b".."))?;
            if Id::of(&stat(&fd).map_err(wrap("look at", b".."))?) != id {
                let moved = std::io::Error::other("a directory was moved away meanwhile");
                return Err(Error::io("cannot go back to the directory above", moved));
            }
            fd
        };
        Ok(std::mem::replace(&mut self.here, outer))
    }
}

/// Makes a directory (mode 0700) and opens it.
pub(super) fn make_directory(at: impl AsFd, name: &[u8]) -> Result<OwnedFd> {
    step("make a directory")?;
    rustix::fs::mkdirat(&at, name, Mode::RWXU).map_err(wrap("make the directory", name))?;
    open_directory(at, name)
}

/// See [`super::make_directories`].
pub(super) fn make_directories(base: OwnedFd, below: &Path) -> Result<OwnedFd> {
    let mut here = base;
    for component in below.components() {
        let name = match component {
            Component::Normal(name) => name.as_bytes(),
            Component::CurDir | Component::RootDir => continue,
            Component::ParentDir | Component::Prefix(_) => return Err(Error::Invalid),
        };
        here = match open_directory(&here, name) {
            Err(err) if is_missing(&err) => {
                let made = make_directory(&here, name)?;
                rustix::fs::fchmod(&made, Mode::from_raw_mode(0o755))
                    .map_err(wrap("set the mode of", name))?;
                sync(&here, name)?;
                made
            }
            opened => opened?,
        };
    }
    Ok(here)
}

/// Makes a regular file (mode 0600) and opens it for writing.
pub(super) fn make_file(at: impl AsFd, name: &[u8]) -> Result<File> {
    step("make a file")?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(at, name, flags, Mode::RUSR | Mode::WUSR)
        .map_err(wrap("make the file", name))?;
    Ok(File::from(fd))
}

/// Makes a symlink.
pub(super) fn make_symlink(at: impl AsFd, name: &[u8], target: &[u8]) -> Result<()> {
    step("make a symlink")?;
    rustix::fs::symlinkat(target, at, name).map_err(wrap("make the symlink", name))
}

/// Makes a device, pipe or socket.
pub(super) fn make_node(at: impl AsFd, name: &[u8], kind: Kind, device: (u32, u32)) -> Result<()> {
    step("make a special file")?;
    let kind = FileType::from_raw_mode(kind.mode_bits().into());
    let device = rustix::fs::makedev(device.0, device.1);
    rustix::fs::mknodat(at, name, kind, Mode::RUSR | Mode::WUSR, device).map_err(wrap("make", name))
}

/// Gives a file one more name.
pub(super) fn link(from: impl AsFd, first: &[u8], to: impl AsFd, name: &[u8]) -> Result<()> {
    step("link")?;
    rustix::fs::linkat(from, first, to, name, AtFlags::empty()).map_err(wrap("link", name))
}

/// Renames, never over a directory with something in it.
pub(super) fn rename(from: impl AsFd, old: &[u8], to: impl AsFd, new: &[u8]) -> Result<()> {
    step("rename")?;
    rustix::fs::renameat_with(from, old, to, new, RenameFlags::empty()).map_err(wrap("rename", old))
}

/// Removes a name that is no directory's.
pub(super) fn unlink(at: impl AsFd, name: &[u8]) -> Result<()> {
    step("remove a file")?;
    rustix::fs::unlinkat(at, name, AtFlags::empty()).map_err(wrap("remove", name))
}

/// Removes an empty directory.
pub(super) fn remove_directory(at: impl AsFd, name: &[u8]) -> Result<()> {
    step("remove a directory")?;
    rustix::fs::unlinkat(at, name, AtFlags::REMOVEDIR).map_err(wrap("remove", name))
}

/// Writes a directory down to the disk: its names last.
pub(super) fn sync(fd: impl AsFd, name: &[u8]) -> Result<()> {
    step("sync")?;
    rustix::fs::fsync(fd).map_err(wrap("write down", name))
}

/// Writes everything of a file system down to the disk.
pub(super) fn sync_all(fd: impl AsFd) -> Result<()> {
    step("sync all")?;
    rustix::fs::syncfs(fd)
        .map_err(|errno| Error::io("cannot write everything down to the disk", errno.into()))
}

/// Removes what has a name, and everything below it. Nothing is removed behind a symlink or in a mount.
pub(super) fn remove_tree(at: impl AsFd, name: &[u8]) -> Result<()> {
    match kind(&at, name)? {
        None => return Ok(()),
        Some(Kind::Dir) => {}
        Some(_) => return unlink_any(at, name),
    }
    let (directory, inside) = open_to_empty(&at, name)?;
    let mut trail = Trail::new(directory);
    let mut levels = vec![(name.to_vec(), inside)];
    while let Some((_, inside)) = levels.last_mut() {
        if let Some(name) = inside.pop() {
            match kind(trail.here(), &name)? {
                Some(Kind::Dir) => {
                    let (directory, inside) = open_to_empty(trail.here(), &name)?;
                    trail.enter(directory)?;
                    levels.push((name, inside));
                }
                Some(_) => unlink_any(trail.here(), &name)?,
                None => {}
            }
            continue;
        }
        let Some((name, _)) = levels.pop() else { break };
        if levels.is_empty() {
            break;
        }
        trail.leave()?;
        remove_directory(trail.here(), &name)?;
    }
    remove_directory(at, name)
}

/// Removes what is no directory, immutable or not (`chattr +i`).
fn unlink_any(at: impl AsFd, name: &[u8]) -> Result<()> {
    match unlink(&at, name) {
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::PermissionDenied => {
            // Only regular files and directories have such flags.
            if kind(&at, name)? == Some(Kind::File) {
                loosen(&open(&at, name, OFlags::RDONLY | OFlags::NONBLOCK)?);
            }
            unlink(at, name)
        }
        unlinked => unlinked,
    }
}

/// Lets a file or directory be changed whose flags forbid it. Where that cannot be, who tries to change it is told.
fn loosen(file: &OwnedFd) {
    use rustix::fs::IFlags;
    let Ok(flags) = rustix::fs::ioctl_getflags(file) else { return };
    let loose = flags.difference(IFlags::IMMUTABLE | IFlags::APPEND);
    if loose != flags {
        rustix::fs::ioctl_setflags(file, loose).unwrap_or_default();
    }
}

/// Opens a directory that is to be emptied, and lists it.
fn open_to_empty(at: impl AsFd, name: &[u8]) -> Result<(OwnedFd, Vec<Vec<u8>>)> {
    let directory = open_directory(at, name)?;
    loosen(&directory);
    let mode = stat(&directory).map_err(wrap("look at", name))?.stx_mode;
    if mode & 0o700 != 0o700 {
        step("set a mode")?;
        rustix::fs::fchmod(&directory, Mode::RWXU).map_err(wrap("set the mode of", name))?;
    }
    let inside = names(&directory).map_err(wrap("list", name))?;
    Ok((directory, inside))
}

/// Asked before every change.
pub(super) fn step(doing: &'static str) -> Result<()> {
    power::step(doing).map_err(|err| Error::io(doing, err))
}
