//! What does the kernel read, and in which order? Written down as it happens, for `mkimage --order`.
//!
//! The kernel keeps what it has read, so its questions are the cold reads of a machine: what it will ask for at the next boot,
//! too. It names files by number; their names are those by which they were looked up.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::format::index::InodeIndex;
use crate::format::trace::{self, Piece};

/// Bytes that names may take in memory: those of a hundred thousand files. A boot looks up a few thousand.
const NAMES_BYTES_MAX: usize = 8 << 20;
/// What a name takes besides its own length.
const NAME_COST: usize = 48;

/// Writes a trace.
#[derive(Debug)]
pub struct Recorder {
    state: Mutex<State>,
    out: Mutex<File>,
}

#[derive(Debug)]
struct State {
    /// Whether there is no more to be written.
    is_over: bool,
    /// Lines in the order of their reads that are not written yet.
    pending: Vec<u8>,
    /// Bytes that may still be written.
    left: usize,
    /// Of each inode that was looked up, the directory and the name.
    names: HashMap<InodeIndex, (InodeIndex, Box<[u8]>)>,
    /// Bytes that names may still take.
    names_left: usize,
}

impl Recorder {
    /// Makes a file, or empties it, and writes up to `bytes_max` bytes to it.
    pub fn create(path: &Path, bytes_max: usize) -> io::Result<Self> {
        let mut out = File::create(path)?;
        out.write_all(trace::HEAD)?;
        let state = State {
            is_over: false,
            pending: Vec::new(),
            left: bytes_max.saturating_sub(trace::HEAD.len()),
            names: HashMap::new(),
            names_left: NAMES_BYTES_MAX,
        };
        Ok(Recorder { state: Mutex::new(state), out: Mutex::new(out) })
    }

    /// An inode has a name.
    pub(super) fn name(&self, directory: InodeIndex, name: &[u8], inode: InodeIndex) {
        let mut state = self.state();
        if state.is_over || matches!(name, b"." | b"..") || state.names.contains_key(&inode) {
            return;
        }
        let Some(left) = state.names_left.checked_sub(name.len().saturating_add(NAME_COST)) else {
            tracing::warn!("the trace of reads ends here: too many files were looked up");
            return state.end();
        };
        state.names_left = left;
        state.names.insert(inode, (directory, name.into()));
    }

    /// A piece of a file is read. It has its place among others now, and is written by [`flush`](Self::flush).
    pub(super) fn read(&self, inode: InodeIndex, offset: u64, len: u64) {
        let mut state = self.state();
        // Of a file without a name (an NFS handle), or with one that no line can hold, there is no line.
        let Some(path) = state.path(inode) else { return };
        let Some(line) = trace::line(&Piece { offset, len, path: &path }) else { return };
        let Some(left) = state.left.checked_sub(line.len()) else {
            tracing::warn!("the trace of reads ends here: it is as long as it may be");
            return state.end();
        };
        state.left = left;
        state.pending.extend_from_slice(&line);
    }

    /// Writes what is not written yet. It may have to wait, so whoever calls it has answered the kernel.
    pub(super) fn flush(&self) {
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        let pending = std::mem::take(&mut self.state().pending);
        if let Err(err) = out.write_all(&pending) {
            tracing::warn!("the trace of reads ends here: {err}");
            self.state().end();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn end(&mut self) {
        self.is_over = true;
        self.names = HashMap::new();
    }

    fn path(&self, inode: InodeIndex) -> Option<Vec<u8>> {
        if self.is_over {
            return None;
        }
        let mut names = Vec::new();
        let mut at = inode;
        while at != InodeIndex::ROOT {
            let (directory, name) = self.names.get(&at)?;
            names.push(name);
            at = *directory;
            // An image whose directories go round in circles.
            if names.len() > crate::format::DEPTH_MAX {
                return None;
            }
        }
        Some(names.iter().rev().flat_map(|name| [b"/", name.as_ref()].concat()).collect())
    }
}
