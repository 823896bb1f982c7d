//! Whose `/etc` is left on the data partition, when its image is not?

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::disk;
use crate::format::digest::Digest;

/// Where each image that was booted has its own (BOOT.md).
const STATE: &str = "state";
const PREFIX: &str = "etc.";
/// What is put behind the name of the record of what the image itself has there.
const RECORD: &str = ".pristine";
/// What each boot removes, and nobody takes for an `/etc`.
const HALF: &str = ".tmp";

/// Directories and records of images that are not wanted, and the bytes that they take on the disk.
pub(super) fn unwanted(
    data: &Path,
    is_wanted: impl Fn(Digest) -> bool,
) -> io::Result<Vec<(PathBuf, u64)>> {
    let entries = match fs::read_dir(data.join(STATE)) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()?.strip_prefix(PREFIX));
        let image = name.and_then(|name| name.strip_suffix(RECORD).unwrap_or(name).parse().ok());
        if image.is_some_and(|image| !is_wanted(image)) {
            let bytes = bytes_of(&path)?;
            found.push((path, bytes));
        }
    }
    found.sort();
    Ok(found)
}

/// Removes one. It loses its name first: should the image come back, half of an `/etc` is none.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    if !path.symlink_metadata()?.is_dir() {
        return disk::remove(path);
    }
    let mut half = path.as_os_str().to_owned();
    half.push(HALF);
    let half = PathBuf::from(half);
    if half.symlink_metadata().is_ok() {
        fs::remove_dir_all(&half)?;
    }
    disk::rename_new(path, &half)?;
    fs::remove_dir_all(&half)
}

/// What it takes on the disk, with all that is in it.
fn bytes_of(path: &Path) -> io::Result<u64> {
    let mut bytes = 0_u64;
    let mut left = vec![path.to_owned()];
    while let Some(path) = left.pop() {
        let metadata = path.symlink_metadata()?;
        bytes = bytes.saturating_add(metadata.blocks().saturating_mul(512));
        if metadata.is_dir() {
            for entry in fs::read_dir(&path)? {
                left.push(entry?.path());
            }
        }
    }
    Ok(bytes)
}
