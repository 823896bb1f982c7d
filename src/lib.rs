//! Ashlar: a read-only file system in one image file, every block of which is verified before a byte of it is used.
//!
//! The rooms of this library, each of which answers one question:
//!
//! * [`format`](mod@format): what do these bytes mean?
//! * [`image`]: where is it?
//! * [`store`]: is it true?
//! * [`trust`]: who vouches for it?
//! * [`mod@heal`]: where else is a true copy?
//! * [`fs`]: what does the tree say?
//! * [`mod@verify`]: is all of it true?
//! * [`manifest`]: what does it hold, as lines of text?
//! * [`extract`](mod@extract): how does a tree come out of an image?
//! * [`diff`](mod@diff): what is different between two images?
//! * [`update`]: which image is next?
//! * `fec`: how do damaged bytes come back? (with the feature of that name)
//! * `fuse`: how does the kernel ask? (with the feature of that name)
//! * `takeover`: what if the server dies? (the same)
//! * `confine`: what may a server still do? (with the feature `fuse`)
//!
//! ```no_run
//! use ashlarfs::{Anchor, Options};
//!
//! let digest = "9f0c…".parse()?;
//! let tree = ashlarfs::open("root.img".as_ref(), &Options::new(Anchor::RootDigest(digest)))?;
//! let passwd = tree.resolve(b"etc/passwd")?;
//! let mut first = vec![0; 4096];
//! let len = tree.read_at(passwd, 0, &mut first)?;
//! println!("{}", String::from_utf8_lossy(&first[..len]));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#[cfg(feature = "boot")]
pub mod boot;
#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "fuse")]
pub mod confine;
pub mod diff;
mod elf;
pub mod error;
pub mod extract;
#[cfg(feature = "fec")]
pub mod fec;
pub mod format;
pub mod fs;
#[cfg(feature = "fuse")]
pub mod fuse;
pub mod heal;
pub mod image;
pub mod integration;
pub mod lint;
pub mod manifest;
mod power;
pub mod state;
pub mod store;
#[cfg(feature = "fuse")]
pub mod takeover;
pub mod trust;
pub mod update;
pub mod verify;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use error::{Error, Result};
pub use format::digest::Digest;
pub use fs::Tree;
pub use image::{Method, Source};
pub use store::heal::Healer;
use store::heal::Healers;
pub use store::{CacheLimits, Store};
pub use trust::Anchor;

/// How an image is opened.
#[derive(Debug, Clone)]
pub struct Options {
    /// What the image is held against.
    pub anchor: Anchor,
    /// Signatures from beside the image, whole `.minisig` files.
    pub detached_signatures: Vec<Vec<u8>>,
    /// How the file is read.
    pub method: Method,
    /// How much memory expanded blocks may take.
    pub cache: CacheLimits,
    /// How long a read of the image file may take before it fails; for ever where nothing is said.
    pub io_timeout: Option<Duration>,
    /// Who is asked, one after the other, for bytes that the image does not have any more.
    pub healers: Vec<Arc<dyn Healer>>,
    /// Until when whoever reads waits for them, if that is longer than the usual 20 seconds.
    pub heal_until: Option<Instant>,
    /// What each thread does first that is started for such reads, or to heal: it gives up its privileges, say.
    pub first: fn(),
}

impl Options {
    /// The default options with this anchor: a map, and 32 MiB of cache.
    pub fn new(anchor: Anchor) -> Self {
        Options {
            anchor,
            detached_signatures: Vec::new(),
            method: Method::Auto,
            cache: CacheLimits { data_bytes_max: 24 << 20, metadata_bytes_max: 8 << 20 },
            io_timeout: None,
            healers: Vec::new(),
            heal_until: None,
            first: || {},
        }
    }
}

/// Opens the image at `path`. Reads and checks a few KiB, whatever the image's size.
pub fn open(path: &Path, options: &Options) -> Result<Tree> {
    open_source(image::open(path, options.method)?, options)
}

/// Opens the image that a source holds.
pub fn open_source(source: Arc<dyn Source>, options: &Options) -> Result<Tree> {
    let source = match options.io_timeout {
        Some(patience) => Arc::new(image::patient::Patient::new(source, patience, options.first)),
        None => source,
    };
    let digest = trust::root_digest(&*source, &options.anchor, &options.detached_signatures)?;
    let (all, first) = (options.healers.clone(), options.first);
    let healers = Healers { all, first, patient_until: options.heal_until };
    let store = Store::open_healing(source, digest, options.cache, healers)?;
    Tree::new(Arc::new(store))
}
