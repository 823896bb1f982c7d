//! What is wanted of an installation, and who is told how far it is?

use std::path::PathBuf;
use std::sync::atomic::AtomicU64;

use super::state::TRIES;
use crate::format::digest::Digest;
use crate::trust::Anchor;

/// What is done now, and how far it is: bytes done, and bytes in all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Blocks are looked for on this machine.
    Looking,
    /// Blocks are fetched.
    Fetching,
    /// The disk writes.
    Writing,
    /// All is read back.
    Verifying,
}

/// Told how far it is.
pub type Progress<'a> = &'a (dyn Fn(Step, u64, u64) + Sync);

/// What is wanted.
pub struct Wish<'a> {
    /// Who must vouch for the image.
    pub anchor: &'a Anchor,
    /// Signatures from beside it.
    pub signatures: Vec<Vec<u8>>,
    /// Whether it may be older than what was blessed here.
    pub allow_downgrade: bool,
    /// Whether it may be one that was given up here.
    pub allow_bad: bool,
    /// How often it is tried until somebody blesses it; with none it is the default at once.
    pub tries: Option<u8>,
    /// The image that runs, where this is the data partition of a running system.
    pub booted: Option<Digest>,
    /// Further images that may have blocks of it.
    pub seeds: Vec<PathBuf>,
    /// Who is told.
    pub progress: Progress<'a>,
}

impl<'a> Wish<'a> {
    /// The usual one: an image that somebody vouches for, no older than what was here, on trial; nobody is told.
    pub fn new(anchor: &'a Anchor) -> Self {
        Wish {
            anchor,
            signatures: Vec::new(),
            allow_downgrade: false,
            allow_bad: false,
            tries: Some(TRIES),
            booted: None,
            seeds: Vec::new(),
            progress: &|_, _, _| {},
        }
    }
}

impl std::fmt::Debug for Wish<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wish").field("anchor", &self.anchor).finish_non_exhaustive()
    }
}

/// Bytes, by where they came from.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) fetched: u64,
    pub(super) copied: AtomicU64,
    pub(super) resumed: AtomicU64,
}

/// As many as there are processors; but in tests that cut the power at a change, all changes are made in order.
pub(super) fn workers() -> usize {
    if cfg!(test) { 1 } else { std::thread::available_parallelism().map_or(1, usize::from) }
}
