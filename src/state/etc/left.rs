//! Whose `/etc` is left on the data partition, when its image is not?

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{HALF, PLACE, RECORD, image_of};
use crate::error::{Error, Result};
use crate::format::digest::Digest;
use crate::state::disk::{self, is_missing, wrap};

/// Directories and records of images that are not wanted, by their names in `state/`, and the bytes that they take on the disk.
pub fn left(data: &Path, is_wanted: impl Fn(Digest) -> bool) -> Result<Vec<(String, u64)>> {
    let directory = data.join(PLACE);
    let place = match disk::open_own(&directory) {
        Err(err) if is_missing(&err) => return Ok(Vec::new()),
        place => place?,
    };
    let mut left = Vec::new();
    for name in disk::names(&place).map_err(wrap("list", PLACE.as_bytes()))? {
        let image = image_of(name.strip_suffix(RECORD).unwrap_or(&name));
        if image.is_some_and(|image| !is_wanted(image)) {
            let name = String::from_utf8_lossy(&name).into_owned();
            let bytes = bytes_of(directory.join(&name))?;
            left.push((name, bytes));
        }
    }
    left.sort();
    Ok(left)
}

/// Removes one. It loses its name first: should the image come back, half of an `/etc` is none. A boot removes what is left of it.
pub fn remove(data: &Path, name: &str) -> Result<()> {
    let place = disk::open_own(&data.join(PLACE))?;
    let name = name.as_bytes();
    let half = [name, HALF].concat();
    disk::remove_tree(&place, &half)?;
    disk::rename(&place, name, &place, &half)?;
    disk::sync(&place, PLACE.as_bytes())?;
    disk::remove_tree(&place, &half)
}

/// What it takes on the disk, with all that is in it.
fn bytes_of(path: PathBuf) -> Result<u64> {
    let mut bytes = 0_u64;
    let mut paths = vec![path];
    while let Some(path) = paths.pop() {
        let wrap = |err| Error::io(format!("cannot look at {}", path.display()), err);
        let metadata = path.symlink_metadata().map_err(wrap)?;
        bytes = bytes.saturating_add(metadata.blocks().saturating_mul(512));
        if metadata.is_dir() {
            for entry in fs::read_dir(&path).map_err(wrap)? {
                paths.push(entry.map_err(wrap)?.path());
            }
        }
    }
    Ok(bytes)
}
