//! What did somebody change in /etc?

use std::path::Path;

use super::merge::STAMP;
use super::record::{Damage, Entry, Record};
use crate::error::Result;
use crate::format::inode::Kind;
use crate::fs::Tree;
use crate::state::disk::{self, Trail, wrap};
use crate::state::node::Found;

/// What happened to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// The image does not have it.
    Added,
    /// Only the image has it, and what is below it.
    Removed,
    /// Type, mode, owner, device, target, extended attributes or content differ. Times do not count, nor do labels.
    Modified,
    /// Something is mounted over it, so that it cannot be seen.
    Hidden,
}

/// A path that is not as the image has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// What happened to it.
    pub what: What,
    /// Its path below /etc; empty for /etc itself.
    pub path: Vec<u8>,
}

/// Everything in the directory `current` that is not as `pristine` has it in /etc, sorted by path.
pub fn changes(pristine: &Tree, current: &Path) -> Result<Vec<Change>> {
    let record = Record::of(pristine, Damage::Refused)?;
    let mut found = Vec::new();
    let mut path: Vec<u8> = Vec::new();
    let top = Found::of(disk::open_own(current)?, b"etc")?;
    compare(&record, &path, &top, &mut found)?;
    let mut levels = vec![(0, list(&record, &path, &top, &mut found)?)];
    let mut trail = Trail::new(top.fd);
    while let Some((path_len, names)) = levels.last_mut() {
        path.truncate(*path_len);
        let Some(name) = names.pop() else {
            levels.pop();
            if !levels.is_empty() {
                trail.leave()?;
            }
            continue;
        };
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(&name);
        let file = match Found::open(trail.here(), &name) {
            Ok(Some(file)) => file,
            Ok(None) => continue,
            Err(err) if disk::is_mount(&err) => {
                found.push(Change { what: What::Hidden, path: path.clone() });
                continue;
            }
            Err(err) => return Err(err),
        };
        compare(&record, &path, &file, &mut found)?;
        if file.node.kind == Kind::Dir {
            levels.push((path.len(), list(&record, &path, &file, &mut found)?));
            trail.enter(file.fd)?;
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

fn compare(record: &Record, path: &[u8], file: &Found, found: &mut Vec<Change>) -> Result<()> {
    let pristine = record.get(path);
    let what = match pristine {
        None => What::Added,
        Some(entry) if Entry::on_disk(file, &[Some(entry)])?.is_like(entry) => return Ok(()),
        Some(_) => What::Modified,
    };
    found.push(Change { what, path: path.to_vec() });
    Ok(())
}

/// Names in a directory; those that only the image has are told as removed.
fn list(
    record: &Record,
    path: &[u8],
    directory: &Found,
    found: &mut Vec<Change>,
) -> Result<Vec<Vec<u8>>> {
    let mut names = disk::names(&directory.fd).map_err(wrap("list", path))?;
    if path.is_empty() {
        names.retain(|name| name != STAMP);
    }
    for name in record.names(path) {
        if names.binary_search_by(|other| other.as_slice().cmp(name)).is_err()
            && !(path.is_empty() && name == STAMP)
        {
            let path = if path.is_empty() { name.to_vec() } else { [path, b"/", name].concat() };
            found.push(Change { what: What::Removed, path });
        }
    }
    Ok(names)
}
