//! What is mounted where?

use std::path::{Path, PathBuf};

use crate::fuse::mountinfo::{self, Mount};

/// The mount that a directory is the root of, the uppermost if several are there.
pub fn at(path: &Path) -> Option<Mount> {
    mountinfo::all().ok()?.into_iter().rev().find(|mount| mount.mountpoint == path)
}

/// The mount points below a directory, in the order in which they were mounted.
pub fn below(path: &Path) -> Vec<PathBuf> {
    let all = mountinfo::all().unwrap_or_default();
    let points = all.into_iter().map(|mount| mount.mountpoint);
    points.filter(|point| point != path && point.starts_with(path)).collect()
}
