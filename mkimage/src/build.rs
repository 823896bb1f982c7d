//! From a tree to an image: plan, pack, seal, emit.

use std::path::PathBuf;

use crate::Failure;
use crate::tree::{Contents, SourceTree};

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
    /// Paths (without leading slash) in the order in which their content shall lie; what is not named follows by path.
    pub(crate) order: Vec<Vec<u8>>,
    /// A file that changed while it was read is a warning (its old size is kept), not an error.
    pub(crate) ignore_changed: bool,
    /// Finished minisign-format signatures are asked for here, given the text to sign.
    pub(crate) sign_keys: Vec<crate::sign::Key>,
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

/// What was built. Bytes are bytes, the rest are counts.
#[derive(Debug, Clone, serde::Serialize)]
pub(crate) struct Summary {
    pub(crate) root_digest: String,
    pub(crate) files: u64,
    pub(crate) directories: u64,
    pub(crate) symlinks: u64,
    pub(crate) others: u64,
    pub(crate) hard_links: u64,
    pub(crate) content_bytes: u64,
    pub(crate) image_bytes: u64,
    pub(crate) duplicate_bytes: u64,
    pub(crate) hole_bytes: u64,
    pub(crate) base_blocks: u64,
    pub(crate) data_blocks: u64,
    pub(crate) metadata_blocks: u64,
    pub(crate) seconds: f64,
}

/// Builds the image of `tree` at `image`.
pub(crate) fn build(
    tree: SourceTree,
    contents: &dyn Contents,
    image: &std::path::Path,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Summary, Failure> {
    let _ = (tree, contents, image, options, progress);
    Err(Failure::new("not built yet"))
}
