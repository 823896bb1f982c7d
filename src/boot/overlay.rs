//! How is an overlay mounted? Over directories of images, with what changes on the data partition or in memory.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags};

use super::workspace::{make_dir, mount, mount_tmpfs};
use super::{Failed, Site, data};

/// Options by which an overlay still fits when the image below it changes, which overlayfs allows only while none of these
/// features was ever used on it (`overlayfs.rst`, "Changes to underlying filesystems").
const OPTIONS: &str = "xino=off,index=off,metacopy=off,redirect_dir=nofollow,nfs_export=off";
/// Where overlays are on the data partition.
pub(super) const OVERLAYS: &str = "state/overlay";
/// What to do where overlayfs is missing.
pub(super) const NO_OVERLAYFS: &str = "the kernel needs overlayfs: is the module in the initramfs?";

/// Memory for an overlay: a tmpfs of its own, half of the memory unless a size is said.
pub(super) fn transient(
    name: &str,
    size: Option<&str>,
    site: &Site<'_>,
) -> Result<PathBuf, Failed> {
    let place = site.workspace.place("transient", name)?;
    let size = size.map(|size| format!(",size={size}")).unwrap_or_default();
    mount_tmpfs(&place, &format!("mode=755{size}"))?;
    Ok(place)
}

/// Mounts an overlay. `lowers` are directories, the uppermost first; `kept` is where the upper and the work directory are.
/// `source` is only a name.
pub(super) fn lay(
    lowers: &[PathBuf],
    kept: Option<&Path>,
    at: &Path,
    source: &Path,
) -> Result<(), Failed> {
    let list: Vec<String> = lowers.iter().map(|path| path.display().to_string()).collect();
    let mut options = format!("lowerdir={},{OPTIONS}", list.join(":"));
    let mut flags = MountFlags::RDONLY;
    if let Some(kept) = kept {
        prepare(lowers, kept)?;
        let (upper, work) = (kept.join("upper"), kept.join("work"));
        options = format!("{options},upperdir={},workdir={}", upper.display(), work.display());
        flags = MountFlags::empty();
    }
    mount(source, at, "overlay", flags, &options).map_err(|failed| failed.hint(NO_OVERLAYFS))?;
    // Where it cannot make its work directory, overlayfs says so in the kernel's log and goes on without writing.
    if kept.is_some() && data::is_read_only(at) {
        rustix::mount::unmount(at, UnmountFlags::NOFOLLOW).map_err(|err| {
            Failed::io(format_args!("cannot unmount {}", at.display()), err.into())
        })?;
        return Err(Failed::new(format_args!(
            "the overlay of {} cannot be written to",
            at.display()
        ))
        .hint("is the data partition full? the kernel's log says more"));
    }
    Ok(())
}

/// Makes the directories of an overlay, where they are missing.
pub(super) fn prepare(lowers: &[PathBuf], kept: &Path) -> Result<(), Failed> {
    let upper = kept.join("upper");
    let is_new = !upper.exists();
    make_dir(&upper)?;
    make_dir(kept.join("work"))?;
    match lowers.first() {
        // The upper directory's own mode and owner become those of the mount.
        Some(top) if is_new => copy_owner(top, &upper),
        _ => Ok(()),
    }
}

/// Gives a directory another one's mode and owner.
pub(super) fn copy_owner(from: &Path, to: &Path) -> Result<(), Failed> {
    let copy = || -> io::Result<()> {
        let metadata = fs::metadata(from)?;
        chown(to, Some(metadata.uid()), Some(metadata.gid()))?;
        fs::set_permissions(to, fs::Permissions::from_mode(metadata.mode() & 0o7777))
    };
    copy().map_err(|err| Failed::io(format_args!("cannot prepare {}", to.display()), err))
}
