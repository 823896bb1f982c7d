//! How does a file get to another place, whole? From an image or from a disk, holes left out, hard links kept.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{OFlags, SeekFrom};
use rustix::io::Errno;

use super::disk::{self, Id, Trail};
use super::node::{self, Found, Node};
use crate::error::{Error, Result};
use crate::format::field::u64_from_usize;
use crate::format::index::InodeIndex;
use crate::format::inode::Kind;
use crate::fs::Tree;
use crate::fs::file::FileReader;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// How much is read and written at a time.
const CHUNK_LEN: usize = 64 << 10;
const CHUNK_MASK: u64 = (64 << 10) - 1;

/// The bytes of a regular file.
pub(super) enum Content<'a> {
    InImage(FileReader<'a>),
    OnDisk(BorrowedFd<'a>),
}

impl Content<'_> {
    /// Fills `buf` from `offset` on; less only at the end.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let fd = match self {
            Content::InImage(reader) => return reader.read_at(offset, buf),
            Content::OnDisk(fd) => fd,
        };
        let mut len = 0;
        while let Some(rest) = buf.get_mut(len..).filter(|rest| !rest.is_empty()) {
            match rustix::io::pread(fd, rest, offset.saturating_add(u64_from_usize(len))) {
                Ok(0) => break,
                Ok(more) => len = len.saturating_add(more),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(Error::io("cannot read it", errno.into())),
            }
        }
        Ok(len)
    }

    /// Where there is data at or after `offset`; `None` when there is none up to the end.
    fn seek_data(&self, offset: u64) -> Result<Option<u64>> {
        match self {
            Content::InImage(reader) => reader.seek_data(offset),
            Content::OnDisk(fd) => match rustix::fs::seek(fd, SeekFrom::Data(offset)) {
                Ok(at) => Ok(Some(at)),
                Err(Errno::NXIO) => Ok(None),
                // A file system that knows nothing of holes.
                Err(Errno::INVAL) => Ok(Some(offset)),
                Err(errno) => Err(Error::io("cannot look for holes", errno.into())),
            },
        }
    }

    /// Shows each piece that is not all zeros, with where it is. Pieces start at multiples of their greatest length, so that
    /// the same bytes come in the same pieces, whatever holes they were written with.
    pub(super) fn visit(
        &self,
        mut visit: impl FnMut(u64, &[u8]) -> Result<()>,
    ) -> Result<(), Trouble> {
        let mut buf = vec![0; CHUNK_LEN];
        let mut at = 0;
        while let Some(data) = self.seek_data(at).map_err(Trouble::From)? {
            at = data & !CHUNK_MASK;
            let len = self.read_at(at, &mut buf).map_err(Trouble::From)?;
            let piece = buf.get(..len).unwrap_or_default();
            if piece.iter().any(|byte| *byte != 0) {
                visit(at, piece).map_err(Trouble::To)?;
            }
            if len < CHUNK_LEN {
                break;
            }
            at = at.saturating_add(u64_from_usize(len));
        }
        Ok(())
    }
}

/// Why a copy failed.
#[derive(Debug)]
pub(super) enum Trouble {
    /// It could not be read.
    From(Error),
    /// It could not be written.
    To(Error),
}

impl Trouble {
    /// The error, whoever is to blame.
    pub(super) fn into_error(self) -> Error {
        match self {
            Trouble::From(err) | Trouble::To(err) => err,
        }
    }
}

impl From<Error> for Trouble {
    fn from(err: Error) -> Self {
        Trouble::To(err)
    }
}

/// Which file it was where it came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Origin {
    Image(InodeIndex),
    Disk(Id),
}

/// A tree that is being written.
#[derive(Debug)]
pub(super) struct Out {
    trail: Trail,
    root: OwnedFd,
    /// The path where we are, without slashes around it.
    path: Vec<u8>,
    /// Paths of files with several names.
    first: HashMap<Origin, Vec<u8>>,
    /// What could not be restored, and of what.
    pub(super) not_restored: Vec<(Vec<u8>, String)>,
}

impl Out {
    /// Into an empty directory.
    pub(super) fn new(directory: OwnedFd) -> Result<Self> {
        node::disinherit(directory.as_fd());
        let root = rustix::io::fcntl_dupfd_cloexec(&directory, 0)
            .map_err(|errno| Error::io("cannot open a directory twice", errno.into()))?;
        let trail = Trail::new(directory);
        Ok(Out { trail, root, path: Vec::new(), first: HashMap::new(), not_restored: Vec::new() })
    }

    fn join(&self, name: &[u8]) -> Vec<u8> {
        if self.path.is_empty() {
            name.to_vec()
        } else {
            [&self.path, b"/".as_slice(), name].concat()
        }
    }

    /// Copies what is no directory out of an image.
    pub(super) fn put_from_image(
        &mut self,
        name: &[u8],
        tree: &Tree,
        index: InodeIndex,
        node: &Node,
    ) -> Result<(), Trouble> {
        let content = match node.kind {
            Kind::File => Some(Content::InImage(tree.file(index).map_err(Trouble::From)?)),
            _ => None,
        };
        self.put(name, node, content, Origin::Image(index))
    }

    /// Copies what is no directory from a disk.
    pub(super) fn put_from_disk(&mut self, name: &[u8], found: &Found) -> Result<(), Trouble> {
        let is_file = found.node.kind == Kind::File;
        let content = is_file.then(|| Content::OnDisk(found.fd.as_fd()));
        self.put(name, &found.node, content, Origin::Disk(found.id))
    }

    fn put(
        &mut self,
        name: &[u8],
        node: &Node,
        content: Option<Content<'_>>,
        origin: Origin,
    ) -> Result<(), Trouble> {
        if node.nlink > 1 {
            if let Some(first) = self.first.get(&origin) {
                return Ok(self.link(first, name)?);
            }
            self.first.insert(origin, self.join(name));
        }
        let here = self.trail.here();
        let made: OwnedFd = match (node.kind, content) {
            (Kind::File, Some(content)) => {
                let file = disk::make_file(here, name)?;
                if let Err(err) = fill(&file, &content, node.size) {
                    self.first.remove(&origin);
                    disk::unlink(here, name)?;
                    return Err(err);
                }
                file.into()
            }
            (Kind::Link, _) => {
                disk::make_symlink(here, name, &node.target)?;
                disk::open(here, name, OFlags::PATH)?
            }
            (kind, _) => {
                if let Err(err) = disk::make_node(here, name, kind, node.device) {
                    let is_refused = matches!(&err, Error::Io { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied);
                    if !is_refused {
                        return Err(err.into());
                    }
                    // Not even root may everywhere, as in a container.
                    self.first.remove(&origin);
                    self.not_restored.push((self.join(name), err.to_string()));
                    return Ok(());
                }
                disk::open(here, name, OFlags::PATH)?
            }
        };
        let path = self.join(name);
        Ok(self.restore(&made, node, &path)?)
    }

    fn restore(&mut self, fd: &OwnedFd, node: &Node, path: &[u8]) -> Result<()> {
        let mut left_out = Vec::new();
        node::restore(fd.as_fd(), node, &mut left_out)?;
        self.not_restored.extend(left_out.into_iter().map(|what| (path.to_vec(), what)));
        Ok(())
    }

    fn link(&self, first: &[u8], name: &[u8]) -> Result<()> {
        let (directory, first) = match first.iter().rposition(|byte| *byte == b'/') {
            Some(at) => (first.get(..at), first.get(at.saturating_add(1)..)),
            None => (Some(b"".as_slice()), Some(first)),
        };
        let (Some(directory), Some(first)) = (directory, first) else { return Err(Error::Invalid) };
        let root = rustix::io::fcntl_dupfd_cloexec(&self.root, 0)
            .map_err(|errno| Error::io("cannot open a directory twice", errno.into()))?;
        let directory = disk::make_directories(root, Path::new(OsStr::from_bytes(directory)))?;
        disk::link(directory, first, self.trail.here(), name)
    }

    /// Makes a directory and goes into it. It stays closed to others until it is left.
    pub(super) fn enter(&mut self, name: &[u8]) -> Result<()> {
        let directory = disk::make_directory(self.trail.here(), name)?;
        self.trail.enter(directory)?;
        self.path = self.join(name);
        Ok(())
    }

    /// Leaves a directory, which is whole now.
    pub(super) fn leave(&mut self, node: &Node) -> Result<()> {
        let left = self.trail.leave()?;
        let path = self.path.clone();
        self.restore(&left, node, &path)?;
        self.go_up();
        Ok(())
    }

    /// Leaves a directory in which nothing was put, and removes it.
    pub(super) fn leave_none(&mut self) -> Result<()> {
        self.trail.leave()?;
        let name = self.path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        disk::remove_directory(self.trail.here(), name)?;
        self.go_up();
        Ok(())
    }

    fn go_up(&mut self) {
        let slash = self.path.iter().rposition(|byte| *byte == b'/');
        self.path.truncate(slash.unwrap_or(0));
    }

    /// Gives the directory at the top what is its own, when everything in it is done.
    pub(super) fn finish(&mut self, node: &Node) -> Result<()> {
        let root = rustix::io::fcntl_dupfd_cloexec(&self.root, 0)
            .map_err(|errno| Error::io("cannot open a directory twice", errno.into()))?;
        self.restore(&root, node, b"")
    }
}

/// Writes the data of a file, and gives it its length.
fn fill(file: &File, content: &Content<'_>, size: u64) -> Result<(), Trouble> {
    let wrong = |err| Error::io("cannot write a file", err);
    let mut end = size;
    content.visit(|at, piece| {
        end = end.max(at.saturating_add(u64_from_usize(piece.len())));
        disk::step("write")?;
        file.write_all_at(piece, at).map_err(wrong)
    })?;
    disk::step("set the length")?;
    file.set_len(end).map_err(wrong)?;
    Ok(())
}
