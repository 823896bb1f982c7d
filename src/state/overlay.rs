//! How does a persistent overlay start again? It is renamed away first, so that no boot finds half of it.
//!
//! Both are init-overlay's words: `persistent-clear` and `persistent-move`, which keeps one backup.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fd::OwnedFd;

use super::disk;
use crate::error::{Error, Result};
use crate::format::inode::Kind;

/// Removes the overlay `below`, a path without `..` under `base`, whose last name is the overlay's. It need not be there.
pub fn clear(base: &Path, below: &Path) -> Result<()> {
    let (place, name, gone) = open(base, below)?;
    if disk::kind(&place, name)?.is_some() {
        disk::rename(&place, name, &place, &gone)?;
        disk::sync(&place, name)?;
    }
    disk::remove_tree(&place, &gone)
}

/// Renames the overlay to `NAME.bak`, in place of the one that was there. Tells whether there was something to rename.
///
/// An overlay that holds nothing is no backup, and the one before it may be all there is: it stays where it is.
pub fn set_aside(base: &Path, below: &Path) -> Result<bool> {
    let (place, name, gone) = open(base, below)?;
    if is_empty(&place, name)? {
        return Ok(false);
    }
    let backup = [name, b".bak"].concat();
    if disk::kind(&place, &backup)?.is_some() {
        disk::rename(&place, &backup, &place, &gone)?;
    }
    disk::rename(&place, name, &place, &backup)?;
    disk::sync(&place, name)?;
    disk::remove_tree(&place, &gone)?;
    Ok(true)
}

/// Whether an overlay is not there, or has nothing in it but, perhaps, its two directories, and nothing in the upper one.
fn is_empty(place: &OwnedFd, name: &[u8]) -> Result<bool> {
    let names = |directory: &OwnedFd| disk::names(directory).map_err(disk::wrap("list", name));
    match disk::kind(place, name)? {
        None => return Ok(true),
        Some(Kind::Dir) => {}
        Some(_) => return Ok(false),
    }
    let overlay = disk::open_directory(place, name)?;
    let inside = names(&overlay)?;
    if inside.iter().any(|name| name != b"upper" && name != b"work") {
        return Ok(false);
    }
    match disk::kind(&overlay, b"upper")? {
        None => Ok(true),
        Some(Kind::Dir) => Ok(names(&disk::open_directory(&overlay, b"upper")?)?.is_empty()),
        Some(_) => Ok(false),
    }
}

/// The directory in which the overlay is, its name there, and the name of one that is going; what an earlier boot left of
/// that is removed.
fn open<'a>(base: &Path, below: &'a Path) -> Result<(OwnedFd, &'a [u8], Vec<u8>)> {
    let name = below.file_name().ok_or(Error::Invalid)?.as_bytes();
    let place = super::make_directories(base, below.parent().unwrap_or(Path::new("")))?;
    let gone = [b".", name, b".gone"].concat();
    disk::remove_tree(&place, &gone)?;
    Ok((place, name, gone))
}
