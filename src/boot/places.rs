//! What in the root is not the image's? `/etc`, `/var`, state overlays and single paths, each put in its place.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, XattrFlags};
use rustix::mount::MountFlags;

use super::choose::{self, open_as};
use super::config::{Etc, Modes, Overlay, Var};
use super::overlay::{OVERLAYS, lay, prepare, transient};
use super::workspace::{bind, mount, mount_tmpfs};
use super::{Failed, Site};
use crate::error::Error;
use crate::format::digest::Digest;
use crate::fs::Tree;
use crate::fs::stack::Stack;
use crate::state::{self, etc, seed};
use crate::trust::Anchor;

/// Where single paths are on the data partition.
const BINDS: &str = "state/bind";
/// The overlay of `/etc`. No directory's own overlay is called so.
const ETC_OVERLAY: &str = "@etc";
/// The xattr on a kept directory that tells which image it was last used with.
const IMAGE_XATTR: &str = "trusted.ashlar.image";
/// By which systemd sees that a directory is older than `/usr` (`systemd-update-done.service(8)`). A rollback is older than
/// what it replaces, so the stamp is taken away whenever the image is another one.
const STAMP: &str = ".updated";

/// Puts everything in its place. What does not work is done without, and noted. Returns what became of a merged `/etc`.
/// `stack` are the images that the root is made of, `tree` its own.
pub(super) fn fill(
    tree: &Tree,
    stack: Stack<'_>,
    modes: &Modes,
    root: &Path,
    site: &Site<'_>,
    may_write: bool,
    degraded: &mut Vec<String>,
) -> Option<etc::Report> {
    let mut note = |what: &str, result: Result<(), Failed>| {
        if let Err(failed) = result {
            degraded.push(format!("{what}: {failed}"));
        }
    };
    let places = Places { tree, stack, root, site, may_write };
    let mut report = None;
    note("/etc", places.etc(modes.etc, &mut report));
    note("/tmp", tmp(modes, root));
    note("/var", places.var(modes.var));
    for path in &modes.state_overlay {
        note(path, places.state_overlay(path));
    }
    // Those first that others are in.
    let mut paths: Vec<&String> = modes.bind.iter().collect();
    paths.sort();
    for path in paths {
        note(path, places.bind_path(path));
    }
    report
}

/// What was kept is where the data partition says, even if that cannot be written to: but not if it should be forgotten.
pub(super) fn kept(site: &Site<'_>, below: impl AsRef<Path>) -> Result<PathBuf, Failed> {
    let path = site.data.join(below);
    match site.unusable {
        None if path.symlink_metadata().is_ok_and(|found| !found.is_symlink()) => Ok(path),
        _ => Err(Failed::new("nothing was kept")),
    }
}

/// Refuses what cannot be without a data partition that can be written to.
pub(super) fn needs_writing(may_write: bool) -> Result<(), Failed> {
    if may_write { Ok(()) } else { Err(Failed::new("the data partition cannot be written to")) }
}

/// The root of an image, and what it is filled from.
struct Places<'a> {
    tree: &'a Tree,
    stack: Stack<'a>,
    root: &'a Path,
    site: &'a Site<'a>,
    may_write: bool,
}

impl Places<'_> {
    /// Makes `/etc` what it shall be. Where that fails, changes are possible all the same, and gone at the next boot.
    fn etc(&self, mode: Etc, report: &mut Option<etc::Report>) -> Result<(), Failed> {
        let at = self.root.join("etc");
        let below = Path::new(OVERLAYS).join(ETC_OVERLAY);
        let transient = |lowers: &[PathBuf]| self.lay_memory(ETC_OVERLAY, lowers, &at);
        let mut on_disk = || -> Result<(), Failed> {
            needs_writing(self.may_write)?;
            if mode == Etc::Merge {
                let prepared = self.prepare_etc()?;
                bind(&prepared.directory, &at)?;
                *report = Some(prepared.report);
                return Ok(());
            }
            drop(state::make_directories(&self.site.data.path, &below)?);
            let kept = self.site.data.join(&below);
            prepare(std::slice::from_ref(&at), &kept)?;
            renew_stamps(&kept.join("upper"), &["."], self.tree);
            lay_over(&at, &kept)
        };
        let done = match mode {
            Etc::Ro => return Ok(()),
            Etc::Transient => return transient(std::slice::from_ref(&at)),
            Etc::Merge | Etc::Overlay => on_disk(),
        };
        let Err(failed) = done else { return Ok(()) };
        // What was kept counts all the same: passwords, the network, and who may come in by it.
        let recalled = match mode {
            Etc::Merge => self.recall_etc(&at).map(|recalled| *report = Some(recalled)),
            _ => kept(self.site, below.join("upper"))
                .and_then(|upper| transient(&[upper, at.clone()])),
        };
        if let Err(why) = recalled {
            tracing::error!("/etc: {why}");
            transient(std::slice::from_ref(&at))?;
        }
        Err(Failed::new(format_args!("{failed}; changes are gone at the next boot")))
    }

    /// The directory with the image's `/etc` and the changes that were made to the one before.
    fn prepare_etc(&self) -> Result<etc::Prepared, Failed> {
        let below = Path::new(super::data::STATE);
        drop(state::make_directories(&self.site.data.path, below)?);
        let prepared = etc::prepare(&self.site.data.join(below), self.tree, &mut |old| {
            open_old(old, self.site)
        })?;
        warn_of(&prepared.report);
        Ok(prepared)
    }

    /// The same in memory.
    fn recall_etc(&self, at: &Path) -> Result<etc::Report, Failed> {
        let state = kept(self.site, super::data::STATE)?;
        let place = self.site.workspace.place("transient", "@merged")?;
        mount_tmpfs(&place, "mode=755")?;
        let report =
            etc::prepare_elsewhere(&state, self.tree, &mut |old| open_old(old, self.site), &place)?;
        bind(&place, at)?;
        warn_of(&report);
        Ok(report)
    }

    /// Makes `/var` what it shall be. Where that fails it is in memory: most programs start without their past, few without
    /// `/var`.
    fn var(&self, mode: Var) -> Result<(), Failed> {
        let at = self.root.join("var");
        let transient = || -> Result<(), Failed> {
            mount("tmpfs", &at, "tmpfs", MountFlags::empty(), "mode=755")?;
            seed::fill(self.tree, b"var", &at)?;
            Ok(())
        };
        // The one case in which it is an overlay, in which container engines cannot lay theirs. Bound as it is, read-only,
        // neither logind nor what has a StateDirectory= would start.
        let recalled = || self.lay_memory("@var", &[kept(self.site, "var")?], &at);
        let on_disk = || -> Result<(), Failed> {
            needs_writing(self.may_write)?;
            // Somebody made a place for it.
            if let Err(err) = fs::remove_dir(self.site.data.join("var")) {
                tracing::debug!("/var is not empty: {err}");
            }
            seed::seed(self.tree, b"var", &self.site.data.path, Path::new("var"))?;
            let directory = self.site.data.join("var");
            renew_stamps(&directory, &["."], self.tree);
            bind(&directory, &at)
        };
        match mode {
            Var::Ro => Ok(()),
            Var::Transient => transient(),
            Var::Bind => on_disk().or_else(|failed| {
                recalled().or_else(|_| transient())?;
                Err(Failed::new(format_args!(
                    "{failed}; it is in memory, and gone at the next boot"
                )))
            }),
        }
    }

    /// Lays a directory of the data partition over one of the root. When the image is another one than the last time, the
    /// overlay first loses what the image has itself: the image wins, and what was added stays.
    ///
    /// Where nothing can be written, what was kept is seen, and what changes is in memory.
    fn state_overlay(&self, path: &str) -> Result<(), Failed> {
        let name = name_of(path);
        let below = Path::new(OVERLAYS).join(&name);
        if let Err(failed) = needs_writing(self.may_write) {
            let (upper, at) = (kept(self.site, below.join("upper"))?, in_root(self.root, path)?);
            self.lay_memory(&name, &[upper, at.clone()], &at)?;
            return Err(failed);
        }
        drop(state::make_directories(&self.site.data.path, &below.join("upper"))?);
        let kept = self.site.data.join(&below);
        let at = in_root(self.root, path)?;
        let report = state::prune::prune(&kept.join("upper"), self.stack, path.as_bytes())?;
        if !report.removed.is_empty() {
            tracing::info!("{path}: the new image replaces {}", report.removed.join(", "));
        }
        lay_over(&at, &kept)
    }

    /// Puts a file or directory of the data partition in the place of the image's, from which it was copied the first time.
    fn bind_path(&self, path: &str) -> Result<(), Failed> {
        let at = in_root(self.root, path)?;
        // Flat: one that is in another must not be what that other one begins with.
        let below = Path::new(BINDS).join(name_of(path));
        if let Err(failed) = needs_writing(self.may_write) {
            bind(&kept(self.site, &below)?, &at)?;
            return Err(failed);
        }
        // An extension's where the root has none.
        let mut from = self.tree;
        for tree in [self.tree].iter().chain(self.stack.0) {
            match tree.resolve_to_last(path.as_bytes()) {
                Ok(_) => {
                    from = tree;
                    break;
                }
                Err(Error::NotFound | Error::NotADirectory) => {}
                // Damaged: that is not absent, and an extension's copy would be kept for good.
                Err(err) => return Err(err.into()),
            }
        }
        seed::seed(from, path.as_bytes(), &self.site.data.path, &below)?;
        bind(&self.site.data.join(below), &at)
    }

    /// Lays memory over directories, the uppermost first: changes are gone at the next boot.
    fn lay_memory(&self, name: &str, lowers: &[PathBuf], at: &Path) -> Result<(), Failed> {
        let memory = transient(name, None, self.site)?;
        lay(lowers, Some(&memory), at, Path::new("overlay"))
    }
}

/// Lays an overlay over a directory of the root.
fn lay_over(at: &PathBuf, kept: &Path) -> Result<(), Failed> {
    lay(std::slice::from_ref(at), Some(kept), at, Path::new("overlay"))
}

fn open_old(digest: Digest, site: &Site<'_>) -> Result<Option<Tree>, Error> {
    let path = choose::find(&site.data.path, digest, site.patience);
    path.map(|path| open_as(&path, Anchor::RootDigest(digest))).transpose()
}

fn warn_of(report: &etc::Report) {
    for warning in report.warnings() {
        tracing::warn!("/etc: {warning}");
    }
}

/// Makes `/tmp` writable where the root is not: hardly a program runs without it, and not every system mounts one itself.
fn tmp(modes: &Modes, root: &Path) -> Result<(), Failed> {
    let at = root.join("tmp");
    // A symlink leads somewhere that is writable already, or should be.
    let is_dir = fs::symlink_metadata(&at).is_ok_and(|metadata| metadata.is_dir());
    if modes.overlay != Overlay::No || !is_dir {
        return Ok(());
    }
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    mount("tmpfs", &at, "tmpfs", flags, "mode=1777,size=50%")
}

/// Takes systemd's stamp away from directories below one that is kept, if it is there, when the image is another one than
/// the last time.
pub(super) fn renew_stamps(kept: &Path, below: &[&str], tree: &Tree) {
    let digest = tree.root_digest().to_string();
    let renew = || -> io::Result<()> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let kept = rustix::fs::open(kept, flags, Mode::empty())?;
        let mut last = [0; 64];
        let len = rustix::fs::fgetxattr(&kept, IMAGE_XATTR, &mut last[..]).unwrap_or_default();
        if last.get(..len) == Some(digest.as_bytes()) {
            return Ok(());
        }
        for name in below {
            // In an overlay a directory is there when something in it was changed.
            let Ok(stamped) = rustix::fs::openat(&kept, *name, flags, Mode::empty()) else {
                continue;
            };
            match rustix::fs::unlinkat(&stamped, STAMP, rustix::fs::AtFlags::empty()) {
                Ok(()) | Err(rustix::io::Errno::NOENT) => {}
                Err(err) => return Err(err.into()),
            }
        }
        Ok(rustix::fs::fsetxattr(&kept, IMAGE_XATTR, digest.as_bytes(), XattrFlags::empty())?)
    };
    if let Err(err) = renew() {
        tracing::warn!("{}: cannot note the image: {err}", kept.display());
    }
}

/// A path in the new root, which must be there, and where no symlink leads elsewhere: out of the root it would lead into the
/// initramfs.
fn in_root(root: &Path, path: &str) -> Result<PathBuf, Failed> {
    let mut at = root.to_owned();
    for name in path.split('/').filter(|name| !name.is_empty()) {
        at.push(name);
        let metadata = fs::symlink_metadata(&at)
            .map_err(|err| Failed::io(format_args!("the image's {path}"), err))?;
        if metadata.is_symlink() {
            return Err(Failed::new(format_args!(
                "the image's {path} is or leads through a symlink"
            ))
            .hint("name the place where it leads"));
        }
    }
    Ok(at)
}

/// The name under which a path's state is kept: slashes as hyphens, and whatever is not plain as `_` and two digits.
///
/// A dot that a name begins with is not plain: `.NAME.seed` and the like are what something is called while it is made, or
/// removed.
fn name_of(path: &str) -> String {
    use std::fmt::Write;
    let mut name = String::new();
    let mut before = b'/';
    for byte in path.trim_matches('/').bytes() {
        match byte {
            b'/' => name.push('-'),
            b'.' if before != b'/' => name.push('.'),
            byte if byte.is_ascii_alphanumeric() => name.push(char::from(byte)),
            // cannot fail: a String takes everything
            byte => write!(name, "_{byte:02x}").unwrap_or_default(),
        }
        before = byte;
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_directory_has_a_name_of_its_own() {
        assert_eq!(name_of("/opt"), "opt");
        assert_eq!(name_of("/usr/local/"), "usr-local");
        assert_eq!(name_of("/a-b_c@d"), "a_2db_5fc_40d");
        assert_ne!(name_of("/usr-local"), name_of("/usr/local"));
        assert_eq!(name_of("/etc/resolv.conf"), "etc-resolv.conf");
        // What is seeded to `x` is made as `.x.seed`.
        assert_eq!(name_of("/.x.seed"), "_2ex.seed");
        let documented = format!("state/bind/{} ", name_of("/root/.ssh"));
        assert!(include_str!("../../format-spec/BOOT.md").contains(&documented));
    }
}
