//! Where may things be put? One name at a time, relative to an open directory, never through a symlink, and never over
//! something that is there unless that was asked for.

use std::collections::hash_map::RandomState;
use std::ffi::CStr;
use std::hash::{BuildHasher, Hasher};
use std::path::Path;
use std::sync::Arc;

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags};
use rustix::io::Errno;

use super::split;
use crate::error::{Error, Result};

/// How directories are opened.
pub(super) const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The ACL that says who may do what with a file.
pub(super) const ACCESS_ACL: &CStr = c"system.posix_acl_access";

/// An error of the target with what was attempted.
pub(super) fn wrap(doing: &'static str) -> impl Fn(Errno) -> Error {
    move |errno| Error::io(doing, errno.into())
}

/// Whether everything that follows would fail likewise.
pub(super) fn is_fatal(err: &std::io::Error) -> bool {
    [Errno::NOSPC, Errno::DQUOT, Errno::ROFS]
        .iter()
        .any(|errno| err.raw_os_error() == Some(errno.raw_os_error()))
}

/// What makes an inode of the target itself.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Id {
    device: (u32, u32),
    inode: u64,
}

/// Which inode is open.
pub(super) fn id(fd: impl AsFd) -> Result<Id> {
    let stat = rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::INO)
        .map_err(wrap("cannot look at the directory"))?;
    Ok(Id { device: (stat.stx_dev_major, stat.stx_dev_minor), inode: stat.stx_ino })
}

/// The directory that everything goes into.
pub(super) struct Place {
    pub(super) root: Arc<OwnedFd>,
    /// Whether it was there before.
    pub(super) existed: bool,
}

impl Place {
    /// Opens or makes the target directory. It must be empty but by force.
    pub(super) fn open(path: &Path, force: bool) -> Result<Self> {
        let wrap = |what: &str, err: std::io::Error| {
            Error::io(format!("cannot {what} {}", path.display()), err)
        };
        let existed = match rustix::fs::mkdirat(CWD, path, Mode::RWXU) {
            Ok(()) => false,
            Err(Errno::EXIST) => true,
            Err(errno) => return Err(wrap("make", errno.into())),
        };
        // The path is the caller's own: a symlink to a directory may stand for it.
        let flags = DIRECTORY.difference(OFlags::NOFOLLOW);
        let root = rustix::fs::openat(CWD, path, flags, Mode::empty())
            .map_err(|errno| wrap("open", errno.into()))?;
        if existed && !force && !is_empty(&root).map_err(|errno| wrap("read", errno.into()))? {
            return Err(wrap("extract into", Errno::NOTEMPTY.into()));
        }
        Ok(Place { root: Arc::new(root), existed })
    }

    /// Makes a hard link; both paths are below the target.
    pub(super) fn link(&self, first: &[u8], further: &[u8], force: bool) -> Result<()> {
        let doing = wrap("cannot make the hard link");
        let ((from, from_name), (to, to_name)) = (split(first), split(further));
        let from = self.directory(from).map_err(&doing)?;
        let to = self.directory(to).map_err(&doing)?;
        let target = Target { directory: &to, name: to_name, force };
        let made = target
            .make(|name| rustix::fs::linkat(&from, from_name, &to, name, AtFlags::empty()))
            .map_err(&doing)?;
        made.commit(&to, to_name)?;
        if made.name(to_name) != to_name {
            // rename(2) does nothing when both names are the same file's already.
            made.discard(&to, to_name);
        }
        Ok(())
    }

    /// The directory at a path below the target.
    fn directory(&self, path: &[u8]) -> rustix::io::Result<Arc<OwnedFd>> {
        let flags = DIRECTORY.difference(OFlags::RDONLY).union(OFlags::PATH);
        let names = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty());
        let mut here = Arc::clone(&self.root);
        for name in names {
            here = Arc::new(rustix::fs::openat(&here, name, flags, Mode::empty())?);
        }
        Ok(here)
    }
}

fn is_empty(directory: &OwnedFd) -> rustix::io::Result<bool> {
    for entry in rustix::fs::Dir::read_from(directory)? {
        if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Closes a directory to others, and rids it of ACLs that are not the image's.
///
/// What fails here shows when files are made in it.
pub(super) fn settle(directory: &OwnedFd) {
    rustix::fs::fchmod(directory, Mode::RWXU).ok();
    for name in [c"system.posix_acl_default", ACCESS_ACL] {
        rustix::fs::fremovexattr(directory, name).ok();
    }
}

/// Lets the owner of a directory that was there before fill it, and takes nothing from anybody: should this process be
/// killed, it stays in use as it was.
///
/// What fails here shows when files are made in it.
pub(super) fn let_in(directory: &OwnedFd) {
    let Ok(stat) = rustix::fs::fstat(directory) else { return };
    let mode = Mode::from_raw_mode(stat.st_mode);
    if !mode.contains(Mode::RWXU) {
        rustix::fs::fchmod(directory, mode.union(Mode::RWXU)).ok();
    }
}

/// A name in an open directory where something is to be made.
pub(super) struct Target<'a> {
    pub(super) directory: &'a Arc<OwnedFd>,
    pub(super) name: &'a [u8],
    /// Whether what is there may be replaced.
    pub(super) force: bool,
}

/// Something that was made, under its own name or, where that was taken, under another one until it is whole.
pub(super) struct Made<T> {
    pub(super) value: T,
    staged: Option<Vec<u8>>,
}

impl<T> Made<T> {
    /// The name that it has now.
    pub(super) fn name<'a>(&'a self, name: &'a [u8]) -> &'a [u8] {
        self.staged.as_deref().unwrap_or(name)
    }

    /// Gives it its own name, in place of what has it.
    pub(super) fn commit(&self, directory: &OwnedFd, name: &[u8]) -> Result<()> {
        let Some(staged) = &self.staged else { return Ok(()) };
        rustix::fs::renameat(directory, staged.as_slice(), directory, name).map_err(|errno| {
            self.discard(directory, name);
            wrap("cannot replace what is there")(errno)
        })
    }

    /// Removes it. If that fails there is nothing more to be done: the caller is about to say that it is not whole.
    pub(super) fn discard(&self, directory: &OwnedFd, name: &[u8]) {
        rustix::fs::unlinkat(directory, self.name(name), AtFlags::empty()).ok();
    }
}

impl Target<'_> {
    /// Makes something that is no directory, by its name or, if there is something already and force is allowed, by
    /// another one.
    pub(super) fn make<T>(
        &self,
        make: impl Fn(&[u8]) -> rustix::io::Result<T>,
    ) -> rustix::io::Result<Made<T>> {
        match make(self.name) {
            Ok(value) => Ok(Made { value, staged: None }),
            Err(Errno::EXIST) if self.force => {
                // Random, so that nobody has put something there; should it be taken all the same, that is an error.
                let random = RandomState::new().build_hasher().finish();
                let staged = format!(".ashlar-{random:016x}").into_bytes();
                Ok(Made { value: make(&staged)?, staged: Some(staged) })
            }
            Err(errno) => Err(errno),
        }
    }

    /// Makes and opens a directory; tells whether it was there before.
    pub(super) fn make_directory(&self) -> Result<(OwnedFd, bool)> {
        let make = || rustix::fs::mkdirat(self.directory, self.name, Mode::RWXU);
        let wrap_make = wrap("cannot make the directory");
        let existed = match make() {
            Ok(()) => false,
            Err(Errno::EXIST) if self.force => true,
            Err(errno) => return Err(wrap_make(errno)),
        };
        match self.open() {
            // Not a directory, or a symlink: in the way.
            Err(Errno::NOTDIR | Errno::LOOP) if existed => {
                rustix::fs::unlinkat(self.directory, self.name, AtFlags::empty())
                    .map_err(wrap("cannot remove what is in the way"))?;
                make().map_err(wrap_make)?;
                Ok((self.open_directory()?, false))
            }
            opened => Ok((opened.map_err(wrap("cannot open the directory"))?, existed)),
        }
    }

    /// Opens a directory.
    pub(super) fn open_directory(&self) -> Result<OwnedFd> {
        self.open().map_err(wrap("cannot open the directory"))
    }

    fn open(&self) -> rustix::io::Result<OwnedFd> {
        rustix::fs::openat(self.directory, self.name, DIRECTORY, Mode::empty())
    }
}
