//! How does a persistent overlay start again? It is renamed away first, so that no boot finds half of it.
//!
//! Both are init-overlay's words: `persistent-clear` and `persistent-move`, which keeps one backup.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fd::OwnedFd;

use super::disk;
use crate::error::{Error, Result};

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
pub fn set_aside(base: &Path, below: &Path) -> Result<bool> {
    let (place, name, gone) = open(base, below)?;
    if disk::kind(&place, name)?.is_none() {
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

/// The directory in which the overlay is, its name there, and the name of one that is going; what an earlier boot left of
/// that is removed.
fn open<'a>(base: &Path, below: &'a Path) -> Result<(OwnedFd, &'a [u8], Vec<u8>)> {
    let name = below.file_name().ok_or(Error::Invalid)?.as_bytes();
    let place = super::make_directories(base, below.parent().unwrap_or(Path::new("")))?;
    let gone = [b".", name, b".gone"].concat();
    disk::remove_tree(&place, &gone)?;
    Ok((place, name, gone))
}
