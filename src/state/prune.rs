//! What of a state overlay stays when a new image comes? What the image does not have. Its own files count again, whatever
//! was laid over them: else an old copy would hide every later version. (ostree's rule for state overlays.)
//!
//! The overlay's upper directory carries the digest of the image that it was made to fit, written last: a power cut in
//! between makes the next boot do it again.

use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::fs::{Gid, Mode, Uid, XattrFlags};
use rustix::io::Errno;

use super::disk::{self, Trail, wrap};
use super::node::Node;
use super::shown;
use crate::error::{Error, Result};
use crate::format::digest::Digest;
use crate::format::index::InodeIndex;
use crate::format::inode::Kind;
use crate::fs::Tree;

/// The extended attribute that names the image. Where `trusted.` is not to be had, the other one.
const MARKS: [&str; 2] = ["trusted.ashlar.image", "user.ashlar.image"];
/// The one by which an overlay says that a directory hides the one below it.
const OPAQUE: &str = "trusted.overlay.opaque";

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
pub struct PruneReport {
    /// Whether the overlay fitted the image already; then nothing was done.
    pub fitted: bool,
    /// What the image has itself, and was removed from the overlay: paths below it.
    pub removed: Vec<String>,
}

/// Makes the upper directory of an overlay fit the image whose directory `image_path` it lies over. `upper` must be there;
/// nothing may be mounted from it meanwhile.
pub fn prune(upper: &Path, lower: &Tree, image_path: &[u8]) -> Result<PruneReport> {
    let upper = open_last(upper)?;
    let digest = lower.root_digest();
    if mark(&upper) == Some(digest) {
        return Ok(PruneReport { fitted: true, ..PruneReport::default() });
    }
    let mut report = PruneReport::default();
    let index = match lower.resolve_following(image_path) {
        Ok(resolved) => Some(resolved.index),
        Err(Error::NotFound | Error::NotADirectory) => None,
        Err(err) => return Err(err),
    };
    if let Some(index) = index {
        if lower.inode(index)?.kind != Kind::Dir {
            return Err(Error::NotADirectory);
        }
        prune_below(&upper, lower, index, &mut report)?;
    }
    disk::sync_all(&upper)?;
    set_mark(&upper, digest)?;
    disk::sync(&upper, b"the overlay")?;
    Ok(report)
}

/// Opens a directory whose last name must be no symlink.
fn open_last(path: &Path) -> Result<OwnedFd> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::Invalid);
    };
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    disk::open_directory(disk::open_own(parent)?, name.as_bytes())
}

/// A directory of both.
struct Level {
    names: Vec<Vec<u8>>,
    index: InodeIndex,
    path_len: usize,
}

fn prune_below(
    upper: &OwnedFd,
    lower: &Tree,
    index: InodeIndex,
    report: &mut PruneReport,
) -> Result<()> {
    let top = disk::open_directory(upper, b".")?;
    let mut path: Vec<u8> = Vec::new();
    let mut levels = vec![enter(&top, lower, index, 0)?];
    let mut trail = Trail::new(top);
    while let Some(level) = levels.last_mut() {
        path.truncate(level.path_len);
        let Some(name) = level.names.pop() else {
            levels.pop();
            if !levels.is_empty() {
                trail.leave()?;
            }
            continue;
        };
        let Some((below, inode)) = lower.lookup(level.index, &name)? else { continue };
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(&name);
        let is_merged =
            inode.kind == Kind::Dir && disk::kind(trail.here(), &name)? == Some(Kind::Dir);
        if is_merged {
            let directory = disk::open_directory(trail.here(), &name)?;
            if !is_opaque(directory.as_fd()) {
                levels.push(enter(&directory, lower, below, path.len())?);
                trail.enter(directory)?;
                continue;
            }
        }
        disk::remove_tree(trail.here(), &name)?;
        report.removed.push(shown(&path));
    }
    Ok(())
}

/// Gives a directory that both have the image's mode and owner, which it had when it was copied up, and lists it.
fn enter(directory: &OwnedFd, lower: &Tree, index: InodeIndex, path_len: usize) -> Result<Level> {
    let node = Node::in_image(lower, index, &lower.inode(index)?)?;
    let stat = disk::stat(directory).map_err(wrap("look at", b"a directory of an overlay"))?;
    if (stat.stx_uid, stat.stx_gid) != (node.uid, node.gid) {
        disk::step("set an owner")?;
        let (uid, gid) = (Uid::from_raw(node.uid), Gid::from_raw(node.gid));
        rustix::fs::fchown(directory, Some(uid), Some(gid))
            .map_err(wrap("set the owner of", b"a directory of an overlay"))?;
    }
    if stat.stx_mode & 0o7777 != node.permissions {
        disk::step("set a mode")?;
        rustix::fs::fchmod(directory, Mode::from_raw_mode(node.permissions.into()))
            .map_err(wrap("set the mode of", b"a directory of an overlay"))?;
    }
    let names = disk::names(directory).map_err(wrap("list", b"a directory of an overlay"))?;
    Ok(Level { names, index, path_len })
}

fn is_opaque(directory: BorrowedFd<'_>) -> bool {
    let mut value = [0; 1];
    rustix::fs::fgetxattr(directory, OPAQUE, &mut value[..]) == Ok(1) && value == [b'y']
}

fn mark(upper: &OwnedFd) -> Option<Digest> {
    MARKS.iter().find_map(|name| {
        let mut value = [0; 64];
        let len = rustix::fs::fgetxattr(upper, *name, &mut value[..]).ok()?;
        std::str::from_utf8(value.get(..len)?).ok()?.parse().ok()
    })
}

fn set_mark(upper: &OwnedFd, digest: Digest) -> Result<()> {
    disk::step("mark the overlay")?;
    let value = digest.to_string();
    let [trusted, user] = MARKS;
    let set = |name| rustix::fs::fsetxattr(upper, name, value.as_bytes(), XattrFlags::empty());
    match set(trusted) {
        Err(Errno::PERM | Errno::OPNOTSUPP) => set(user),
        done => done,
    }
    .map_err(wrap("mark", b"the overlay"))
}
