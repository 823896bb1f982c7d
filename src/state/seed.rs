//! How does state begin? As a copy of what the image has, made once; after that it belongs to the machine.
//!
//! A copy is made as `.NAME.seed` beside where it goes, written down to the disk, and only then gets its name: something is
//! there whole, or not at all. A power cut leaves at most the former, which the next boot removes.

use std::io;
use std::num::NonZeroUsize;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fd::{AsFd, AsRawFd, OwnedFd};

use super::disk;
use super::node::{self, Node};
use crate::error::{Error, Result};
use crate::extract::{self, Options, Skipped, Summary, Watch};
use crate::format::inode::Kind;
use crate::fs::Tree;
use crate::fs::path::Resolved;

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Seeded {
    /// It was there.
    Already,
    /// It is a copy of what the image has.
    Copied(Summary),
    /// The image has nothing there: an empty directory was made.
    Absent,
}

/// Copies a file or directory of the image to `below`, a path without `..` under `base`. Does nothing when something is there
/// already; that must be no symlink, for who mounts it would be led away. Directories on the way are made.
pub fn seed(tree: &Tree, image_path: &[u8], base: &Path, below: &Path) -> Result<Seeded> {
    let name = below.file_name().ok_or(Error::Invalid)?.as_bytes();
    let parent = super::make_directories(base, below.parent().unwrap_or(Path::new("")))?;
    let staged = [b".", name, b".seed"].concat();
    disk::remove_tree(&parent, &staged)?;
    match disk::kind(&parent, name)? {
        None => {}
        Some(Kind::Link) => return Err(refuse_symlink(below)),
        Some(_) => return Ok(Seeded::Already),
    }
    let seeded = match resolve(tree, image_path)? {
        None => {
            let made = disk::make_directory(&parent, &staged)?;
            node::restore(made.as_fd(), &now(Node::plain_directory()), &mut Vec::new())?;
            disk::sync_all(&parent)?;
            disk::rename(&parent, &staged, &parent, name)?;
            Seeded::Absent
        }
        Some(resolved) => {
            let summary = match stage(tree, &resolved, &parent, &staged) {
                Ok(summary) => summary,
                Err(err) => {
                    // So that a full disk is no fuller than before. The next boot tries again if this does not work.
                    disk::remove_tree(&parent, &staged).ok();
                    return Err(err);
                }
            };
            disk::sync_all(&parent)?;
            if resolved.path.is_empty() {
                disk::rename(&parent, &staged, &parent, name)?;
            } else {
                let (inner, last) = open_inner(&parent, &staged, &resolved)?;
                disk::rename(&inner, &last, &parent, name)?;
            }
            Seeded::Copied(summary)
        }
    };
    // All of it, not only the directory: the name came from another one.
    disk::sync_all(&parent)?;
    disk::remove_tree(&parent, &staged)?;
    Ok(seeded)
}

/// Copies a directory of the image into one that is there and empty, such as a new tmpfs, which gets its attributes, too.
/// What cannot be read is left out, and told by an error in the end. Where the image has no such directory, nothing is copied.
pub fn fill(tree: &Tree, image_path: &[u8], target: &Path) -> Result<Summary> {
    let directory = disk::open_own(target)?;
    let Some(resolved) = resolve(tree, image_path)? else { return Ok(Summary::default()) };
    let inode = tree.inode(resolved.index)?;
    if inode.kind != Kind::Dir {
        return Err(Error::NotADirectory);
    }
    let staged = b".ashlar-fill".as_slice();
    // What can be had is had, whatever else is damaged.
    let (summary, left_out) =
        extract_to(tree, &resolved, &directory, staged).inspect_err(|_| {
            // What does not fit shall not fill it either.
            disk::remove_tree(&directory, staged).unwrap_or_default();
        })?;
    let (inner, last) = open_inner(&directory, staged, &resolved)?;
    let inner = disk::open_directory(&inner, &last)?;
    for name in disk::names(&inner).map_err(disk::wrap("list", image_path))? {
        disk::rename(&inner, &name, &directory, &name)?;
    }
    disk::remove_tree(&directory, staged)?;
    let node = Node::in_image(tree, resolved.index, &inode)?;
    node::restore(directory.as_fd(), &node, &mut Vec::new())?;
    left_out.map_or(Ok(summary), Err)
}

/// What the image has at a path: nothing, or what is no symlink.
fn resolve(tree: &Tree, image_path: &[u8]) -> Result<Option<Resolved>> {
    let resolved = match tree.resolve_to_last(image_path) {
        Ok(resolved) => resolved,
        Err(Error::NotFound | Error::NotADirectory) => return Ok(None),
        Err(err) => return Err(err),
    };
    if tree.inode(resolved.index)?.kind == Kind::Link {
        return Err(refuse_symlink(Path::new(std::ffi::OsStr::from_bytes(image_path))));
    }
    Ok(Some(resolved))
}

fn refuse_symlink(path: &Path) -> Error {
    let why = io::Error::other("it is a symlink, behind which nothing can be kept");
    Error::io(format!("cannot keep {}", super::shown(path.as_os_str().as_bytes())), why)
}

/// Extracts what was found into a new directory, all of it; there it has the path that it has in the image.
fn stage(tree: &Tree, resolved: &Resolved, parent: &OwnedFd, staged: &[u8]) -> Result<Summary> {
    let (summary, left_out) = extract_to(tree, resolved, parent, staged)?;
    left_out.map_or(Ok(summary), Err)
}

/// The same as far as it can be, with the first error about what cannot.
fn extract_to(
    tree: &Tree,
    resolved: &Resolved,
    parent: &OwnedFd,
    staged: &[u8],
) -> Result<(Summary, Option<Error>)> {
    // Whatever becomes of the path to it, this is the directory that is open.
    let mut target = format!("/proc/self/fd/{}/", parent.as_raw_fd()).into_bytes();
    target.extend_from_slice(staged);
    let target = PathBuf::from(std::ffi::OsString::from_vec(target));
    let options = Options {
        paths: vec![resolved.path.clone()],
        owners: true,
        xattrs: true,
        force: false,
        workers: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
    };
    let first = First::default();
    disk::step("extract")?;
    let summary = extract::extract(tree, &target, &options, &first)?;
    let first = first.0.into_inner().unwrap_or_else(PoisonError::into_inner);
    let left_out = first.map(|what| Error::io("cannot copy all of it", io::Error::other(what)));
    Ok((summary, left_out))
}

/// The directory in which what was extracted is, and its name there.
fn open_inner(parent: &OwnedFd, staged: &[u8], resolved: &Resolved) -> Result<(OwnedFd, Vec<u8>)> {
    let mut names = resolved.path.split(|byte| *byte == b'/').map(<[u8]>::to_vec);
    let mut last = names.next_back().filter(|name| !name.is_empty());
    let mut here = disk::open_directory(parent, staged)?;
    for name in names {
        here = disk::open_directory(&here, &name)?;
    }
    Ok((here, last.take().unwrap_or_else(|| b".".to_vec())))
}

/// A directory that is made now.
fn now(node: Node) -> Node {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = now.unwrap_or_default();
    Node { mtime: (i64::try_from(now.as_secs()).unwrap_or(0), now.subsec_nanos()), ..node }
}

/// Remembers the first thing that went wrong.
#[derive(Default)]
struct First(Mutex<Option<String>>);

impl Watch for First {
    fn progress(&self, _bytes: u64) {}

    fn failed(&self, path: &[u8], err: &Error) {
        let mut first = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert_with(|| format!("{}: {err}", super::shown(path)));
    }

    fn skipped(&self, _path: &[u8], _what: Skipped) {}
}
