//! Where is it? Bytes are found here and moved, never judged.

pub mod map;
pub mod pread;
pub mod source;

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, Result};
use map::Map;
use pread::Pread;
pub use source::Source;

/// How an image file is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Method {
    /// Map regular files, read block devices.
    #[default]
    Auto,
    /// Copy out of a memory map.
    Map,
    /// `pread(2)`.
    Pread,
}

/// Opens the image file or block device at `path` for reading.
pub fn open(path: &Path, method: Method) -> Result<Arc<dyn Source>> {
    let wrap = |source| Error::io(format!("cannot open {}", path.display()), source);
    let file = File::open(path).map_err(wrap)?;
    let kind = file.metadata().map_err(wrap)?.file_type();
    if kind.is_dir() {
        return Err(wrap(std::io::ErrorKind::IsADirectory.into()));
    }
    from_file(file, if kind.is_file() { method } else { Method::Pread }).map_err(wrap)
}

/// Makes a source of an open file.
pub fn from_file(file: File, method: Method) -> std::io::Result<Arc<dyn Source>> {
    Ok(match method {
        Method::Pread => Arc::new(Pread::new(file)?),
        Method::Auto | Method::Map => Arc::new(Map::new(file)?),
    })
}
