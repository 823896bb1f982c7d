//! What does the kernel read, and in which order? Written down as it happens, for `mkimage --order`.
//!
//! The kernel keeps what it has read, so its questions are the cold reads of a machine: what it will ask for at the next boot,
//! too. It names files by number; their names are those by which they were looked up.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};

use crate::format::index::InodeIndex;
use crate::format::trace::{self, Piece};

/// Bytes that names may take in memory: those of a hundred thousand files. A boot looks up a few thousand.
const NAMES_BYTES_MAX: usize = 8 << 20;
/// What a name takes besides its own length.
const NAME_COST: usize = 48;

/// Writes a trace.
#[derive(Debug)]
pub struct Recorder(Mutex<State>);

#[derive(Debug)]
struct State {
    /// Nothing when there is no more to be written.
    out: Option<File>,
    /// Bytes that may still be written.
    left: usize,
    /// Of each inode that was looked up, the directory and the name.
    names: HashMap<InodeIndex, (InodeIndex, Box<[u8]>)>,
    /// Bytes that names may still take.
    names_left: usize,
}

impl Recorder {
    /// Writes to an empty file, up to `bytes_max` bytes.
    pub fn start(mut out: File, bytes_max: usize) -> io::Result<Self> {
        out.write_all(trace::HEAD)?;
        let left = bytes_max.saturating_sub(trace::HEAD.len());
        let state =
            State { out: Some(out), left, names: HashMap::new(), names_left: NAMES_BYTES_MAX };
        Ok(Recorder(Mutex::new(state)))
    }

    /// An inode has a name.
    pub(super) fn name(&self, directory: InodeIndex, name: &[u8], inode: InodeIndex) {
        let mut state = self.state();
        if state.out.is_none() || matches!(name, b"." | b"..") || state.names.contains_key(&inode) {
            return;
        }
        let Some(left) = state.names_left.checked_sub(name.len().saturating_add(NAME_COST)) else {
            tracing::warn!("the trace of reads ends here: too many files were looked up");
            return state.end();
        };
        state.names_left = left;
        state.names.insert(inode, (directory, name.into()));
    }

    /// A piece of a file was read.
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
        if let Some(out) = &mut state.out
            && let Err(err) = out.write_all(&line)
        {
            tracing::warn!("the trace of reads ends here: {err}");
            state.end();
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn end(&mut self) {
        self.out = None;
        self.names = HashMap::new();
    }

    fn path(&self, inode: InodeIndex) -> Option<Vec<u8>> {
        self.out.as_ref()?;
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
