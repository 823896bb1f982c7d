//! Where is it? Bytes are found here and moved, never judged.

pub mod map;
pub mod patient;
pub mod pread;
pub mod source;
pub mod uncached;

use std::fs::{File, FileType, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
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
    let (file, kind) = open_whatever(path).map_err(wrap)?;
    if kind.is_dir() {
        return Err(wrap(io::ErrorKind::IsADirectory.into()));
    }
    if !kind.is_file() && !kind.is_block_device() {
        return Err(wrap(io::Error::other("it is neither a regular file nor a block device")));
    }
    from_file(file, if kind.is_file() { method } else { Method::Pread }).map_err(wrap)
}

/// Opens what must be a regular file, where nobody vouches for the name.
pub fn open_regular(path: &Path) -> io::Result<File> {
    let (file, kind) = open_whatever(path)?;
    let what = match (kind.is_file(), kind.is_dir(), kind.is_fifo()) {
        (true, ..) => return Ok(file),
        (_, true, _) => "directory",
        (_, _, true) => "pipe",
        _ => "device",
    };
    Err(io::Error::other(format!("it is a {what}, and no regular file")))
}

/// Opens what is there, and waits for nobody.
fn open_whatever(path: &Path) -> io::Result<(File, FileType)> {
    use rustix::fs::OFlags;
    // Without O_NONBLOCK, opening a pipe would wait for somebody to write to it; without O_NOCTTY, a terminal would be ours.
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let kind = file.metadata()?.file_type();
    Ok((file, kind))
}

/// Makes a source of an open file.
pub fn from_file(file: File, method: Method) -> io::Result<Arc<dyn Source>> {
    Ok(match method {
        Method::Pread => Arc::new(Pread::new(file)?),
        Method::Auto | Method::Map => Arc::new(Map::new(file)?),
    })
}

/// Whether a name is that of an image: what ends otherwise (a temporary file, a signature) is none, and what is hidden.
pub fn is_image_name(path: &Path) -> bool {
    let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    !hidden && path.extension().is_some_and(|suffix| suffix == "img" || suffix == "ashlar")
}
