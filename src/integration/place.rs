//! Where do files go? Below one directory, whatever symlinks say: each path is resolved as if that directory were `/`.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::obstacle::Obstacle;

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
const DIRECTORY_MODE: u32 = 0o755;
/// Longer files are nothing that was ever written from here.
const LEN_MAX: u64 = 256 << 20;

/// A directory that stands for `/`: the running system's, or that of a tree which will become an image.
#[derive(Debug)]
pub struct Place {
    root: OwnedFd,
    shown: PathBuf,
}

/// What is at a path.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing.
    Nothing,
    /// A file with its content and permission bits.
    File(Vec<u8>, u32),
    /// A symlink with its target.
    Link(Vec<u8>),
    /// A directory.
    Directory,
    /// A device, a socket, a file too long to be ours.
    Other,
}

impl Place {
    /// Opens the directory `path`.
    pub fn open(path: &Path) -> Result<Self, Obstacle> {
        let root = rustix::fs::openat(CWD, path, DIRECTORY, Mode::empty())
            .map_err(|errno| Obstacle::io("open", path, errno))?;
        Ok(Place { root, shown: path.to_owned() })
    }

    /// The path as a person would write it, for messages.
    pub fn shown(&self, path: &str) -> PathBuf {
        self.shown.join(path)
    }

    fn wrap(&self, doing: &'static str, path: &str) -> impl Fn(Errno) -> Obstacle {
        let shown = self.shown(path);
        move |errno| Obstacle::io(doing, &shown, errno)
    }

    fn open_beneath(&self, path: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let path = if path.is_empty() { "." } else { path };
        let resolve = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);
        rustix::fs::openat2(&self.root, path, flags, Mode::empty(), resolve)
    }

    fn directory(&self, path: &str) -> Result<Option<OwnedFd>, Obstacle> {
        match self.open_beneath(path, DIRECTORY) {
            Ok(fd) => Ok(Some(fd)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(self.wrap("open", path)(errno)),
        }
    }

    /// Whether there is anything at `path`, behind symlinks too.
    pub fn has(&self, path: &str) -> bool {
        self.open_beneath(path, OFlags::PATH.union(OFlags::CLOEXEC)).is_ok()
    }

    /// What is at `path`. A symlink at its end is not followed.
    pub fn look(&self, path: &str) -> Result<Found, Obstacle> {
        let (parent, name) = split(path);
        let Some(parent) = self.directory(parent)? else { return Ok(Found::Nothing) };
        let stat = match rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(Found::Nothing),
            Err(errno) => return Err(self.wrap("look at", path)(errno)),
        };
        let wrap = self.wrap("read", path);
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Ok(Found::Directory),
            FileType::Symlink => rustix::fs::readlinkat(&parent, name, Vec::new())
                .map(|target| Found::Link(target.into_bytes()))
                .map_err(wrap),
            FileType::RegularFile
                if u64::try_from(stat.st_size).is_ok_and(|len| len <= LEN_MAX) =>
            {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let fd = rustix::fs::openat(&parent, name, flags, Mode::empty()).map_err(wrap)?;
                let mut content = Vec::new();
                std::fs::File::from(fd)
                    .read_to_end(&mut content)
                    .map_err(|err| Obstacle::from_io("read", &self.shown(path), err))?;
                Ok(Found::File(content, stat.st_mode & 0o7777))
            }
            _ => Ok(Found::Other),
        }
    }

    /// Makes the directory `path` and those above it. Returns the ones that were not there, topmost first.
    pub fn make_directories(&self, path: &str) -> Result<Vec<String>, Obstacle> {
        let mut made = Vec::new();
        let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
        for prefix in ends.filter_map(|end| path.get(..end)).filter(|prefix| !prefix.is_empty()) {
            if self.directory(prefix)?.is_some() {
                continue;
            }
            let (parent, name) = split(prefix);
            let wrap = self.wrap("make", prefix);
            let parent = self.directory(parent)?.ok_or_else(|| wrap(Errno::NOENT))?;
            match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(DIRECTORY_MODE)) {
                Ok(()) => {}
                // It is there, and yet leads nowhere inside of the root.
                Err(Errno::EXIST) => {
                    return Err(Obstacle::Astray { path: self.shown(prefix) });
                }
                Err(errno) => return Err(wrap(errno)),
            }
            // Whatever the umask is.
            let fd = self.directory(prefix)?.ok_or_else(|| wrap(Errno::NOENT))?;
            rustix::fs::fchmod(fd, Mode::from_raw_mode(DIRECTORY_MODE)).map_err(&wrap)?;
            made.push(prefix.to_owned());
        }
        Ok(made)
    }

    /// Writes a file whose directory exists. Who looks meanwhile sees the old one or the new one, whole.
    pub fn write(&self, path: &str, content: &[u8], mode: u32) -> Result<(), Obstacle> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        self.replace(path, |parent, temporary| {
            let fd = rustix::fs::openat(parent, temporary, flags, Mode::from_raw_mode(0o600))?;
            let mut file = std::fs::File::from(fd);
            file.write_all(content)?;
            rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?;
            file.sync_all()
        })
    }

    /// The same for a symlink.
    pub fn link(&self, path: &str, target: &str) -> Result<(), Obstacle> {
        self.replace(path, |parent, temporary| {
            Ok(rustix::fs::symlinkat(target, parent, temporary)?)
        })
    }

    fn replace(
        &self,
        path: &str,
        make: impl FnOnce(&OwnedFd, &str) -> std::io::Result<()>,
    ) -> Result<(), Obstacle> {
        let (parent, name) = split(path);
        let wrap = self.wrap("write", path);
        let parent = self.directory(parent)?.ok_or_else(|| wrap(Errno::NOENT))?;
        let temporary = format!(".{name}.ashlar-new");
        // One that was left behind by a power cut.
        match rustix::fs::unlinkat(&parent, &*temporary, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(wrap(errno)),
        }
        let written = make(&parent, &temporary)
            .and_then(|()| Ok(rustix::fs::renameat(&parent, &*temporary, &parent, name)?))
            .and_then(|()| Ok(rustix::fs::fsync(&parent)?));
        written.map_err(|err| {
            // What was begun goes away if it can; the first error is the one to tell.
            rustix::fs::unlinkat(&parent, &*temporary, AtFlags::empty()).unwrap_or_default();
            Obstacle::from_io("write", &self.shown(path), err)
        })
    }

    /// Removes a file or symlink.
    pub fn remove(&self, path: &str) -> Result<(), Obstacle> {
        let (parent, name) = split(path);
        let wrap = self.wrap("remove", path);
        let parent = self.directory(parent)?.ok_or_else(|| wrap(Errno::NOENT))?;
        rustix::fs::unlinkat(parent, name, AtFlags::empty()).map_err(wrap)
    }

    /// Removes a directory if it is empty, and says whether it did.
    pub fn remove_directory(&self, path: &str) -> Result<bool, Obstacle> {
        let (parent, name) = split(path);
        let Some(parent) = self.directory(parent)? else { return Ok(false) };
        match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
            Ok(()) => Ok(true),
            Err(Errno::NOTEMPTY | Errno::NOENT | Errno::NOTDIR | Errno::EXIST | Errno::BUSY) => {
                Ok(false)
            }
            Err(errno) => Err(self.wrap("remove", path)(errno)),
        }
    }
}

/// The directory and the name of a path, which never starts with a slash.
fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}
