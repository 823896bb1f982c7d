//! What is in the scanned files, and are they still the ones that were scanned?

use std::io;
use std::sync::{Mutex, PoisonError};

use rustix::fd::OwnedFd;
use rustix::fs::{FileType, OFlags, SeekFrom, fstat, seek};
use rustix::io::{Errno, pread};

use super::HINT_ACCESS;
use super::places::{OpenDirectories, Places, Stamp};
use crate::Failure;
use crate::tree::{Content, Contents, NodeId};

/// Content of the files of a scanned directory.
#[derive(Debug)]
pub(crate) struct HostContents {
    places: Places,
    directories: Mutex<OpenDirectories>,
}

impl HostContents {
    pub(super) fn new(places: Places, directories: OpenDirectories) -> Self {
        HostContents { places, directories: Mutex::new(directories) }
    }

    fn open_fd(&self, node: NodeId) -> Result<OwnedFd, Errno> {
        let (directory, access) = {
            let mut open = self.directories.lock().unwrap_or_else(PoisonError::into_inner);
            (open.open(&self.places, self.places.parent(node))?, open.access())
        };
        // Others may look for their directories meanwhile.
        access.open_at(&directory, self.places.name(node), OFlags::empty())
    }
}

impl Contents for HostContents {
    fn open(&self, node: NodeId) -> Result<Box<dyn Content + '_>, Failure> {
        debug_assert!(self.places.is_file(node), "only regular files have content");
        let size = self.places.stamp(node).size;
        let mut content =
            HostContent { places: &self.places, node, fd: None, size, has_holes: false, end: None };
        match self.open_fd(node) {
            Ok(fd) => {
                let stat = fstat(&fd).map_err(|err| Failure::new(content.cannot("read", err)))?;
                if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
                    let allocated = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512);
                    content.has_holes = allocated < size;
                    content.fd = Some(fd);
                }
            }
            // Gone, or not the file it was: told by `finish`, as every other change is.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO) => {}
            Err(err) => {
                let failure = Failure::new(content.cannot("open", err));
                return Err(match err {
                    Errno::ACCESS | Errno::PERM => failure.hint(HINT_ACCESS),
                    _ => failure,
                });
            }
        }
        Ok(Box::new(content))
    }
}

/// One open file. A change never stops a read: what is missing reads as zeros, and `finish` tells.
#[derive(Debug)]
struct HostContent<'a> {
    places: &'a Places,
    node: NodeId,
    /// None when the file is gone.
    fd: Option<OwnedFd>,
    /// As it was when the file was scanned.
    size: u64,
    has_holes: bool,
    /// Where the file ended when it ended too early.
    end: Option<u64>,
}

impl HostContent<'_> {
    fn cannot(&self, what: &str, err: Errno) -> String {
        format!("cannot {what} {}: {err}", self.places.shown(self.node))
    }
}

impl Content for HostContent<'_> {
    fn read_exact_at(&mut self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let mut done = 0;
        while done < buf.len() {
            let at = offset.saturating_add(done as u64);
            let len = match self.fd.as_ref().map_or(Ok(0), |fd| pread(fd, &mut buf[done..], at)) {
                Ok(len) => len,
                Err(Errno::INTR) => continue,
                Err(err) => return Err(io::Error::other(self.cannot("read", err))),
            };
            if len == 0 {
                self.end = Some(self.end.map_or(at, |end| end.min(at)));
                buf[done..].fill(0);
                break;
            }
            done += len;
        }
        Ok(())
    }

    fn next_data(&mut self, offset: u64) -> io::Result<u64> {
        let Some(fd) = self.fd.as_ref().filter(|_| self.has_holes) else { return Ok(offset) };
        match seek(fd, SeekFrom::Data(offset)) {
            Ok(data) => Ok(data.min(self.size)),
            Err(Errno::NXIO) => Ok(self.size),
            // A file system that does not tell.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => {
                self.has_holes = false;
                Ok(offset)
            }
            Err(err) => Err(io::Error::other(self.cannot("seek in", err))),
        }
    }

    fn finish(&mut self) -> Result<(), String> {
        let path = || self.places.shown(self.node);
        let Some(fd) = &self.fd else {
            return Err(format!("{} vanished before it was read", path()));
        };
        let now = fstat(fd).map_err(|err| self.cannot("read", err))?;
        if let Some(difference) = self.places.stamp(self.node).difference(&Stamp::of(&now)) {
            return Err(format!("{} changed while it was read: {difference}", path()));
        }
        match self.end {
            Some(end) => Err(format!(
                "{} ended while it was read: after {end} bytes of {}",
                path(),
                self.size
            )),
            None => Ok(()),
        }
    }
}
