//! Where was each node found, and how is it opened again? A name and a parent each, no paths: a million files cost tens of megabytes.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ashlarfs::format::inode::Kind;
use rustix::fs::{Mode, OFlags, Stat, open, openat};
use rustix::io::Errno;

use super::SharedFd;
use crate::text::shown;
use crate::tree::NodeId;

/// What tells that a file is still the one that was scanned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    inode: u64,
    pub(crate) size: u64,
    /// In nanoseconds, modulo 2^64: only ever compared.
    mtime: u64,
    ctime: u64,
}

impl Stamp {
    pub(crate) fn of(stat: &Stat) -> Self {
        let nanoseconds = |sec: i64, nsec: u64| {
            sec.cast_unsigned().wrapping_mul(1_000_000_000).wrapping_add(nsec)
        };
        Stamp {
            inode: stat.st_ino,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            mtime: nanoseconds(stat.st_mtime, stat.st_mtime_nsec),
            ctime: nanoseconds(stat.st_ctime, stat.st_ctime_nsec),
        }
    }

    /// In what a later look differs.
    pub(crate) fn difference(&self, now: &Stamp) -> Option<String> {
        if self.inode != now.inode {
            return Some("it was replaced by another one".into());
        }
        if self.size != now.size {
            return Some(format!("its size was {} bytes and is {}", self.size, now.size));
        }
        if self.mtime != now.mtime {
            return Some("it was written to".into());
        }
        (self.ctime != now.ctime).then(|| "its attributes or links were changed".into())
    }
}

#[derive(Debug)]
struct Place {
    stamp: Stamp,
    name_at: u64,
    parent: NodeId,
    name_len: u16,
    is_file: bool,
}

/// The first place of every node.
#[derive(Debug)]
pub(crate) struct Places {
    source: Vec<u8>,
    rows: Vec<Place>,
    /// All names, back to back.
    names: Vec<u8>,
}

impl Places {
    pub(super) fn new(source: &Path) -> Self {
        Places {
            source: source.as_os_str().as_bytes().to_vec(),
            rows: Vec::new(),
            names: Vec::new(),
        }
    }

    /// Adds the next node.
    pub(super) fn add(&mut self, parent: NodeId, name: &[u8], kind: Kind, stamp: Stamp) {
        self.rows.push(Place {
            stamp,
            name_at: self.names.len() as u64,
            parent,
            name_len: name.len() as u16,
            is_file: kind == Kind::File,
        });
        self.names.extend_from_slice(name);
    }

    pub(super) fn stamp(&self, node: NodeId) -> &Stamp {
        &self.rows[node as usize].stamp
    }

    pub(super) fn is_file(&self, node: NodeId) -> bool {
        self.rows.get(node as usize).is_some_and(|row| row.is_file)
    }

    pub(super) fn parent(&self, node: NodeId) -> NodeId {
        self.rows[node as usize].parent
    }

    pub(super) fn name(&self, node: NodeId) -> &[u8] {
        let row = &self.rows[node as usize];
        let at = row.name_at as usize;
        &self.names[at..at + usize::from(row.name_len)]
    }

    /// The path of `name` in a directory as a person would write it; of the directory itself when `name` is empty or a dot.
    pub(super) fn path(&self, directory: NodeId, name: &[u8]) -> Vec<u8> {
        let mut path = self.source.clone();
        let inner = self.inner_path(directory, name);
        let inner = inner.strip_suffix(b"/").unwrap_or(&inner);
        if !inner.is_empty() && inner != b"." {
            if !path.ends_with(b"/") {
                path.push(b'/');
            }
            path.extend_from_slice(inner);
        }
        path
    }

    /// A node's path, for messages.
    pub(super) fn shown(&self, node: NodeId) -> String {
        if node == 0 {
            return shown(&self.source);
        }
        shown(&self.path(self.parent(node), self.name(node)))
    }

    /// The path of `name` in a directory from the root of the tree, without leading slash.
    pub(super) fn inner_path(&self, directory: NodeId, name: &[u8]) -> Vec<u8> {
        let mut names = vec![name];
        let mut node = directory;
        while node != 0 {
            names.push(self.name(node));
            node = self.parent(node);
        }
        names.reverse();
        names.join(&b'/')
    }
}

/// Open directories, a bounded number of them.
#[derive(Debug)]
pub(crate) struct OpenDirectories {
    root: SharedFd,
    /// The ones used last, the latest at the end.
    recent: Vec<(NodeId, SharedFd)>,
    access: Access,
}

/// How files are opened: whether their access times need not be touched. Not everybody may ask for that.
#[derive(Debug, Clone)]
pub(super) struct Access(Arc<AtomicBool>);

/// Most directories that stay open. Files are read directory by directory, so few are enough, and every system allows that many.
const OPEN_MAX: usize = 32;

impl OpenDirectories {
    pub(super) fn new(source: &Path) -> Result<Self, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = open(source, flags, Mode::empty())?;
        Ok(OpenDirectories {
            root: Arc::new(root),
            recent: Vec::new(),
            access: Access(Arc::new(AtomicBool::new(true))),
        })
    }

    pub(super) fn root(&self) -> SharedFd {
        Arc::clone(&self.root)
    }

    /// Opens a directory, from the nearest one above it that is still open.
    pub(super) fn open(&mut self, places: &Places, directory: NodeId) -> Result<SharedFd, Errno> {
        let mut chain = Vec::new();
        let mut node = directory;
        let mut fd = loop {
            if node == 0 {
                break self.root();
            }
            if let Some(at) = self.recent.iter().position(|(open, _)| *open == node) {
                let used = self.recent.remove(at);
                let fd = Arc::clone(&used.1);
                self.recent.push(used);
                break fd;
            }
            chain.push(node);
            node = places.parent(node);
        };
        for node in chain.into_iter().rev() {
            fd = Arc::new(self.access.open_at(&fd, places.name(node), OFlags::DIRECTORY)?);
            if self.recent.len() >= OPEN_MAX {
                self.recent.remove(0);
            }
            self.recent.push((node, Arc::clone(&fd)));
        }
        Ok(fd)
    }

    /// How to open files in these directories.
    pub(super) fn access(&self) -> Access {
        self.access.clone()
    }
}

impl Access {
    /// Opens a name for reading, without following symlinks and without waiting for the other end of a pipe.
    pub(super) fn open_at(
        &self,
        directory: &SharedFd,
        name: &[u8],
        flags: OFlags,
    ) -> Result<rustix::fd::OwnedFd, Errno> {
        let flags = flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        if self.0.load(Ordering::Relaxed) {
            match openat(directory, name, flags | OFlags::NOATIME, Mode::empty()) {
                Err(Errno::PERM) => self.0.store(false, Ordering::Relaxed),
                result => return result,
            }
        }
        openat(directory, name, flags, Mode::empty())
    }
}
