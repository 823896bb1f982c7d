//! The tree is a directory of this machine. Every step is one name below an open directory, and none follows a symlink.

use std::io;
use std::path::{Path, PathBuf};

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, fstat, openat, readlinkat, statat};
use rustix::io::{Errno, pread};

use super::look::{Found, Look};
use crate::error::{Error, Result};
use crate::format::field::{u64_from_usize, usize_from_u64};
use crate::format::inode::Kind;

const STEP: OFlags =
    OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// A pipe must not be waited for, should one take the place of a file meanwhile.
const READ: OFlags = OFlags::RDONLY
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NOCTTY)
    .union(OFlags::CLOEXEC);

/// A directory that holds a root tree.
#[derive(Debug)]
pub struct Directory {
    root: OwnedFd,
    path: PathBuf,
}

impl Directory {
    /// The tree below `path`, which itself may be a symlink to it.
    pub fn open(path: &Path) -> Result<Self> {
        let flags = STEP.difference(OFlags::NOFOLLOW);
        let root = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|err| Error::io("cannot open the directory", err.into()))?;
        Ok(Directory { root, path: path.to_owned() })
    }

    /// The directory that holds the last name of a path, and that name.
    fn parent<'a>(&self, path: &'a [u8]) -> Result<(OwnedFd, &'a [u8]), Errno> {
        let mut names: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
        let last = names.pop().filter(|name| !name.is_empty()).unwrap_or(b".");
        let mut here = rustix::io::fcntl_dupfd_cloexec(&self.root, 0)?;
        for name in names {
            here = openat(&here, name, STEP, Mode::empty())?;
        }
        Ok((here, last))
    }

    fn stat(&self, path: &[u8]) -> Result<Stat, Errno> {
        let (parent, name) = self.parent(path)?;
        lstat(&parent, name)
    }

    fn names(&self, path: &[u8]) -> Result<Vec<(Vec<u8>, Kind)>, Errno> {
        let (parent, name) = self.parent(path)?;
        let flags = READ.union(OFlags::DIRECTORY);
        let directory = openat(&parent, name, flags, Mode::empty())?;
        let mut found = Vec::new();
        for entry in Dir::read_from(&directory)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let kind = match kind(entry.file_type()) {
                Some(kind) => Some(kind),
                // Some file systems do not tell types here. What vanished meanwhile is not there.
                None => match lstat(&directory, name) {
                    Ok(stat) => kind(FileType::from_raw_mode(stat.st_mode)),
                    Err(Errno::NOENT) => None,
                    Err(err) => return Err(err),
                },
            };
            found.extend(kind.map(|kind| (name.to_vec(), kind)));
        }
        Ok(found)
    }

    fn bytes(&self, path: &[u8], offset: u64, len: usize) -> Result<Vec<u8>, Errno> {
        let (parent, name) = self.parent(path)?;
        // Opening a device may do something.
        if !is_regular(&lstat(&parent, name)?) {
            return Err(Errno::INVAL);
        }
        let file = openat(&parent, name, READ, Mode::empty())?;
        let stat = fstat(&file)?;
        if !is_regular(&stat) {
            return Err(Errno::INVAL);
        }
        let left = u64::try_from(stat.st_size).unwrap_or(0).saturating_sub(offset);
        let mut bytes = vec![0; len.min(usize_from_u64(left))];
        let mut filled = 0_usize;
        while filled < bytes.len() {
            let at = offset.saturating_add(u64_from_usize(filled));
            match pread(&file, bytes.get_mut(filled..).unwrap_or_default(), at) {
                Ok(0) => break,
                Ok(more) => filled = filled.saturating_add(more),
                Err(Errno::INTR) => {}
                Err(err) => return Err(err),
            }
        }
        bytes.truncate(filled);
        Ok(bytes)
    }

    fn error(&self, doing: &str, path: &[u8], err: Errno) -> Error {
        use std::os::unix::ffi::OsStrExt;
        let shown = self.path.join(std::ffi::OsStr::from_bytes(path));
        Error::io(format!("cannot {doing} {}", shown.display()), io::Error::from(err))
    }
}

fn lstat(directory: impl AsFd, name: &[u8]) -> Result<Stat, Errno> {
    statat(directory, name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT)
}

fn is_regular(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
}

/// `None` where the type is not told, or is one that Linux has not.
fn kind(file_type: FileType) -> Option<Kind> {
    Some(match file_type {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Dir,
        FileType::Symlink => Kind::Link,
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Sock,
        FileType::CharacterDevice => Kind::Char,
        FileType::BlockDevice => Kind::Block,
        FileType::Unknown => return None,
    })
}

impl Look for Directory {
    fn lstat(&self, path: &[u8]) -> Result<Option<Found>> {
        let stat = match self.stat(path) {
            Ok(stat) => stat,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
            Err(err) => return Err(self.error("look at", path, err)),
        };
        let Some(kind) = kind(FileType::from_raw_mode(stat.st_mode)) else { return Ok(None) };
        Ok(Some(Found {
            kind,
            permissions: u16::try_from(stat.st_mode & 0o7777).unwrap_or(0),
            size: u64::try_from(stat.st_size).unwrap_or(0),
            mtime_sec: stat.st_mtime,
        }))
    }

    fn read_link(&self, path: &[u8]) -> Result<Vec<u8>> {
        let read = |(parent, name): (OwnedFd, &[u8])| readlinkat(parent, name, Vec::new());
        match self.parent(path).and_then(read) {
            Ok(target) => Ok(target.into_bytes()),
            Err(err) => Err(self.error("read the symlink", path, err)),
        }
    }

    fn list(&self, path: &[u8]) -> Result<Vec<(Vec<u8>, Kind)>> {
        self.names(path).map_err(|err| self.error("list", path, err))
    }

    fn read(&self, path: &[u8], offset: u64, len: usize) -> Result<Vec<u8>> {
        self.bytes(path, offset, len).map_err(|err| self.error("read", path, err))
    }
}
