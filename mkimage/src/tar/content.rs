//! What is in the files of an archive? Pieces of the archive itself, or of the file in which they were kept.

use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::fstat;

use super::input::Kept;
use crate::Failure;
use crate::scan::Stamp;
use crate::tree::{Content, Contents, NodeId};

/// A piece of a sparse file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    /// Where it is in the file.
    pub(super) offset: u64,
    pub(super) len: u64,
    /// Where its bytes were kept.
    pub(super) kept_at: u64,
}

/// Where a file's content was kept.
#[derive(Debug, Clone)]
pub(super) enum Place {
    /// It is no regular file.
    None,
    /// All of it in one piece.
    Whole { kept_at: u64, size: u64 },
    /// In ascending order, without overlap; holes between them.
    Sparse { extents: Box<[Extent]>, size: u64 },
}

impl Place {
    /// The file's size.
    pub(super) fn size(&self) -> u64 {
        match self {
            Place::None => 0,
            Place::Whole { size, .. } | Place::Sparse { size, .. } => *size,
        }
    }
}

/// Content of the files of an archive.
#[derive(Debug)]
pub(crate) struct TarContents {
    pub(super) kept: Kept,
    pub(super) places: Vec<Place>,
}

impl Contents for TarContents {
    fn open(&self, node: NodeId) -> Result<Box<dyn Content + '_>, Failure> {
        let place = self.places.get(node as usize).unwrap_or(&Place::None);
        Ok(Box::new(TarContent { kept: &self.kept, place }))
    }
}

#[derive(Debug)]
struct TarContent<'a> {
    kept: &'a Kept,
    place: &'a Place,
}

impl TarContent<'_> {
    fn read(&self, buf: &mut [u8], at: u64) -> io::Result<()> {
        self.kept.file.read_exact_at(buf, at).map_err(|err| {
            let what = match err.kind() {
                io::ErrorKind::UnexpectedEof => "it has become shorter".to_owned(),
                _ => err.to_string(),
            };
            io::Error::new(err.kind(), format!("cannot read {}: {what}", self.kept.name))
        })
    }
}

impl Content for TarContent<'_> {
    fn read_exact_at(&mut self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let outside = || io::Error::other(format!("{}: no content at {offset}", self.kept.name));
        let end = offset.checked_add(buf.len() as u64).ok_or_else(outside)?;
        match self.place {
            Place::None => Err(outside()),
            Place::Whole { size, .. } | Place::Sparse { size, .. } if end > *size => Err(outside()),
            Place::Whole { kept_at, .. } => self.read(buf, kept_at + offset),
            Place::Sparse { extents, .. } => {
                buf.fill(0);
                let first = extents.partition_point(|extent| extent.offset + extent.len <= offset);
                for extent in extents[first..].iter().take_while(|extent| extent.offset < end) {
                    let from = extent.offset.max(offset);
                    let to = (extent.offset + extent.len).min(end);
                    let piece = &mut buf[(from - offset) as usize..(to - offset) as usize];
                    self.read(piece, extent.kept_at + (from - extent.offset))?;
                }
                Ok(())
            }
        }
    }

    fn next_data(&mut self, offset: u64) -> io::Result<u64> {
        let Place::Sparse { extents, size } = self.place else { return Ok(offset) };
        let next = extents.partition_point(|extent| extent.offset + extent.len <= offset);
        Ok(extents.get(next).map_or(*size, |extent| extent.offset.max(offset)))
    }

    fn finish(&mut self) -> Result<(), String> {
        let Some(stamp) = &self.kept.stamp else { return Ok(()) };
        let now = fstat(&self.kept.file)
            .map_err(|err| format!("cannot read {}: {err}", self.kept.name))?;
        match stamp.difference(&Stamp::of(&now)) {
            Some(difference) => {
                Err(format!("{} changed while it was read: {difference}", self.kept.name))
            }
            None => Ok(()),
        }
    }
}
