//! What is asked of a build, and what is told meanwhile?

use std::path::PathBuf;

use ashlarfs::fec::Share;

use crate::plan::Wanted;
use crate::sign::Key;

/// How an image is built.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// Base-2 logarithm of the data block size.
    pub(crate) block_bits: u8,
    /// zstd level; `None` stores everything as it is.
    pub(crate) level: Option<i32>,
    pub(crate) workers: usize,
    pub(crate) label: String,
    pub(crate) image_version: u64,
    /// Seconds since 1970; 0 when not recorded.
    pub(crate) build_time: i64,
    /// An older image whose stored blocks are used again for equal content.
    pub(crate) base: Option<PathBuf>,
    /// Pieces of files in the order in which they will be wanted. The content of these files lies in this order; what is not
    /// named follows by path.
    pub(crate) order: Vec<Wanted>,
    /// A file that changed while it was read is a warning (its old size is kept), not an error.
    pub(crate) ignore_changed: bool,
    /// Keys that sign the image.
    pub(crate) sign_keys: Vec<Key>,
    /// How much of the image may be damaged and come back; none makes no parity.
    pub(crate) parity: Option<Share>,
}

/// Told as the build goes on; all calls come from one thread.
pub(crate) trait Progress {
    /// Content bytes of regular files are to be read, in total.
    fn start(&self, files: u64, bytes: u64);
    /// So many more bytes of content were dealt with.
    fn advance(&self, bytes: u64);
    /// A warning for the person who builds.
    fn warn(&self, text: &str);
    /// Another phase begins: `writing metadata`, `verifying` …
    fn phase(&self, name: &'static str);
}
