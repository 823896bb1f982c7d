//! Where in the target are we? A stack of directories, of which only the innermost few stay open.

use std::sync::Arc;

use rustix::fd::OwnedFd;
use rustix::fs::Mode;

use super::place::{self, DIRECTORY, Id, Place, wrap};
use crate::error::{Error, Result};
use crate::format::index::InodeIndex;
use crate::format::inode::Inode;
use crate::fs::walk::Visit;

/// Directories kept open above the innermost one. A tree may be 2048 deep, and a process have 1024 files open by default.
const OPEN_MAX: usize = 32;

/// The way from the target directory to where we are.
pub(super) struct Way {
    here: Here,
    /// The target directory first.
    above: Vec<Above>,
}

/// The directory where we are, or were.
pub(super) struct Here {
    pub(super) directory: Arc<OwnedFd>,
    id: Id,
    /// What the image has there.
    pub(super) visit: Visit,
}

/// A directory above it.
struct Above {
    /// `None` when too far above; it is found again as the parent of the one below, and must be the same.
    directory: Option<Arc<OwnedFd>>,
    id: Id,
    visit: Visit,
}

impl Way {
    /// At the target directory itself.
    pub(super) fn new(place: &Place, root: Inode) -> Result<Self> {
        let visit = Visit { path: Vec::new(), index: InodeIndex::ROOT, inode: root };
        let directory = Arc::clone(&place.root);
        let id = place::id(&directory)?;
        Ok(Way { here: Here { directory, id, visit }, above: Vec::new() })
    }

    /// Whether we are in the directory at `path`.
    pub(super) fn is_at(&self, path: &[u8]) -> bool {
        self.here.visit.path == path
    }

    /// The directory where we are.
    pub(super) fn here(&self) -> &Arc<OwnedFd> {
        &self.here.directory
    }

    /// Goes into a directory that was opened here.
    pub(super) fn enter(&mut self, directory: OwnedFd, visit: Visit) -> Result<()> {
        let id = place::id(&directory)?;
        let inner = Here { directory: Arc::new(directory), id, visit };
        let Here { directory, id, visit } = std::mem::replace(&mut self.here, inner);
        self.above.push(Above { directory: Some(directory), id, visit });
        let far = self.above.len().checked_sub(OPEN_MAX.saturating_add(1));
        if let Some(far) = far.and_then(|at| self.above.get_mut(at)) {
            far.directory = None;
        }
        Ok(())
    }

    /// Goes out of the directory where we are, into the one above; returns the one that was left.
    pub(super) fn leave(&mut self) -> Result<Here> {
        let Above { directory, id, visit } = self.above.pop().ok_or(Error::Invalid)?;
        let directory = match directory {
            Some(directory) => directory,
            None => Arc::new(self.reopen(&id)?),
        };
        Ok(std::mem::replace(&mut self.here, Here { directory, id, visit }))
    }

    /// The directory above, which was closed meanwhile. Somebody may have moved the one below: then it is another one.
    fn reopen(&self, id: &Id) -> Result<OwnedFd> {
        let doing = "cannot go back to the directory above";
        let above = rustix::fs::openat(&self.here.directory, c"..", DIRECTORY, Mode::empty())
            .map_err(wrap(doing))?;
        if place::id(&above)? == *id {
            return Ok(above);
        }
        Err(Error::io(doing, std::io::Error::other("it was moved away while it was extracted")))
    }

    /// The target directory, when all others were left.
    pub(super) fn into_root(self) -> Here {
        self.here
    }
}
