//! Where does a new image come from? From a place that gives ranges of its bytes, none of which is believed.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::failed::Failed;
use crate::format::digest::Digest;
use crate::format::field::usize_from_u64;
use crate::image::{self, Method, Source};
use crate::trust;

/// Bytes that a file is read by.
pub(super) const PIECE: u64 = 1 << 20;
/// How long to wait before something is tried again, where nothing else is said.
pub(super) const PAUSE: Duration = Duration::from_millis(250);

/// A place that holds a new image.
pub trait Origin: Sync {
    /// Length of what it holds, in bytes.
    fn len(&self) -> u64;

    /// Whether it holds nothing.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads a range and hands it on in pieces, in order. When it fails, what was handed on so far counts.
    fn read(
        &self,
        range: Range<u64>,
        take: &mut dyn FnMut(&[u8]) -> Result<(), Failed>,
    ) -> Result<(), Trouble>;

    /// Whether any range can be had, or only the whole from its start to its end.
    fn has_ranges(&self) -> bool {
        true
    }

    /// Whether it is on this machine: bytes that were wrong once are wrong whenever they are asked for.
    fn is_local(&self) -> bool {
        false
    }

    /// How many ranges may be read at the same time.
    fn connections(&self) -> usize {
        1
    }

    /// Longest range worth one question.
    fn range_len_max(&self) -> u64 {
        u64::MAX
    }

    /// Bytes between two ranges that are cheaper to read than to ask twice.
    fn gap_max(&self) -> u64 {
        0
    }

    /// How long to wait before what failed is tried again; each further time it is twice as long.
    fn pause(&self) -> Duration {
        PAUSE
    }

    /// The signature beside it, `.minisig` behind its name, if there is one.
    fn signature(&self) -> Option<Vec<u8>> {
        None
    }

    /// The image that it changes, where it is but a change.
    fn base(&self) -> Option<Digest> {
        None
    }

    /// Its name, for people.
    fn shown(&self) -> String;
}

impl fmt::Debug for dyn Origin + '_ {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Origin").field(&self.shown()).finish()
    }
}

/// Why a range could not be had.
#[derive(Debug)]
pub enum Trouble {
    /// It may work when it is tried again.
    Passing(Failed),
    /// It will not.
    Final(Failed),
}

impl Trouble {
    /// What went wrong.
    pub fn into_failed(self) -> Failed {
        match self {
            Trouble::Passing(failed) | Trouble::Final(failed) => failed,
        }
    }
}

impl From<Failed> for Trouble {
    /// What went wrong on our side will not pass.
    fn from(failed: Failed) -> Self {
        Trouble::Final(failed)
    }
}

/// An image in a file or on a block device.
#[derive(Debug)]
pub struct FileOrigin {
    path: PathBuf,
    source: Arc<dyn Source>,
}

impl FileOrigin {
    /// Opens it.
    pub fn open(path: &Path) -> Result<Self, Failed> {
        let source = image::open(path, Method::Pread)?;
        Ok(FileOrigin { path: path.to_owned(), source })
    }
}

impl Origin for FileOrigin {
    fn len(&self) -> u64 {
        self.source.len()
    }

    fn read(
        &self,
        range: Range<u64>,
        take: &mut dyn FnMut(&[u8]) -> Result<(), Failed>,
    ) -> Result<(), Trouble> {
        pour(&*self.source, range, &self.path, take)
    }

    fn is_local(&self) -> bool {
        true
    }

    fn connections(&self) -> usize {
        super::wish::workers()
    }

    fn range_len_max(&self) -> u64 {
        4 * PIECE
    }

    fn signature(&self) -> Option<Vec<u8>> {
        trust::read_signature(&trust::signature_beside(&self.path)).ok()
    }

    fn shown(&self) -> String {
        self.path.display().to_string()
    }
}

/// Hands on the bytes of a range of a file or device.
pub(super) fn pour(
    source: &dyn Source,
    range: Range<u64>,
    path: &Path,
    take: &mut dyn FnMut(&[u8]) -> Result<(), Failed>,
) -> Result<(), Trouble> {
    let mut piece = Vec::new();
    let mut at = range.start;
    while at < range.end {
        let len = range.end.saturating_sub(at).min(PIECE);
        piece.resize(usize_from_u64(len), 0);
        source.read_exact_at(&mut piece, at).map_err(|err| {
            let path = path.display();
            let doing = format!("cannot read {len} bytes at offset {at} of {path}");
            Trouble::Final(Failed::io(doing, err))
        })?;
        take(&piece)?;
        at = at.saturating_add(len);
    }
    Ok(())
}
