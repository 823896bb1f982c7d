//! What of a state overlay stays when a new image comes? What the image does not have. Its own files count again, whatever
//! was laid over them: else an old copy would hide every later version. (ostree's rule for state overlays.)
//!
//! The overlay's upper directory carries the digests of the image that it was made to fit and of its extensions, written
//! last: a power cut in between makes the next boot do it again.

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
use crate::format::inode::Kind;
use crate::fs::stack::{self, Stack};

/// The extended attribute that names the images. Where `trusted.` is not to be had, the other one.
const MARKS: [&str; 2] = ["trusted.ashlar.image", "user.ashlar.image"];
/// Longest attribute that Linux knows, in bytes (`XATTR_SIZE_MAX`).
const MARK_LEN_MAX: usize = 64 * 1024;
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

/// Makes the upper directory of an overlay fit the images whose directory `image_path` it lies over. `upper` must be there;
/// nothing may be mounted from it meanwhile.
pub fn prune(upper: &Path, lower: Stack<'_>, image_path: &[u8]) -> Result<PruneReport> {
    let upper = open_last(upper)?;
    let digests: Vec<String> = lower.0.iter().map(|tree| tree.root_digest().to_string()).collect();
    if is_marked(&upper, &digests) {
        return Ok(PruneReport { fitted: true, ..PruneReport::default() });
    }
    let mut report = PruneReport::default();
    match lower.resolve_following(image_path) {
        Ok((node, _)) if node.top.inode.kind == Kind::Dir => {
            prune_below(&upper, lower, node, &mut report)?;
        }
        Ok(_) => return Err(Error::NotADirectory),
        Err(Error::NotFound | Error::NotADirectory) => {}
        Err(err) => return Err(err),
    }
    disk::sync_all(&upper)?;
    set_mark(&upper, digests.join("+").as_bytes())?;
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
struct Level<'a> {
    names: Vec<Vec<u8>>,
    node: stack::Node<'a>,
    path_len: usize,
}

fn prune_below<'a>(
    upper: &OwnedFd,
    lower: Stack<'a>,
    node: stack::Node<'a>,
    report: &mut PruneReport,
) -> Result<()> {
    let top = disk::open_directory(upper, b".")?;
    let mut path: Vec<u8> = Vec::new();
    let mut levels = vec![enter(&top, node, 0)?];
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
        let Some(below) = lower.lookup(&level.node, &name)? else { continue };
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(&name);
        let is_merged = below.top.inode.kind == Kind::Dir
            && disk::kind(trail.here(), &name)? == Some(Kind::Dir);
        if is_merged {
            let directory = disk::open_directory(trail.here(), &name)?;
            if !is_opaque(directory.as_fd()) {
                levels.push(enter(&directory, below, path.len())?);
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
fn enter<'a>(directory: &OwnedFd, below: stack::Node<'a>, path_len: usize) -> Result<Level<'a>> {
    let stack::Layer { tree, index, inode } = &below.top;
    let node = Node::in_image(tree, *index, inode)?;
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
    Ok(Level { names, node: below, path_len })
}

fn is_opaque(directory: BorrowedFd<'_>) -> bool {
    let mut value = [0; 1];
    rustix::fs::fgetxattr(directory, OPAQUE, &mut value[..]) == Ok(1) && value == [b'y']
}

/// Whether it fits all of these already. An extension that is not there for once, for its disk was slow, say, leaves nothing
/// that hides anything: that it is missing, or back again, changes nothing.
fn is_marked(upper: &OwnedFd, digests: &[String]) -> bool {
    MARKS.iter().any(|name| {
        let mut value = vec![0; MARK_LEN_MAX];
        let len = rustix::fs::fgetxattr(upper, *name, value.as_mut_slice()).unwrap_or_default();
        let marked = String::from_utf8_lossy(value.get(..len).unwrap_or_default());
        // In the same order: another one lies above, and wins.
        let mut marked = marked.split('+');
        digests.iter().all(|digest| marked.any(|it| it == digest))
    })
}

fn set_mark(upper: &OwnedFd, digests: &[u8]) -> Result<()> {
    disk::step("mark the overlay")?;
    let [trusted, user] = MARKS;
    let set = |name| rustix::fs::fsetxattr(upper, name, digests, XattrFlags::empty());
    match set(trusted) {
        Err(Errno::PERM | Errno::OPNOTSUPP) => set(user),
        done => done,
    }
    .map_err(wrap("mark", b"the overlay"))
}
