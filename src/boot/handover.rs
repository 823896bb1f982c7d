//! How does the machine go on in the new root? The kernel's file systems are moved there, and the first program starts.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::mount::UnmountFlags;

use super::Failed;
use super::workspace::{is_mounted, move_mount};

/// The file systems that every root has, in the order in which they are moved.
const KERNEL_MOUNTS: [&str; 4] = ["/dev", "/proc", "/sys", "/run"];

/// Moves the kernel's file systems into the new root.
pub fn move_kernel_mounts(newroot: &Path) -> Result<(), Failed> {
    for path in KERNEL_MOUNTS {
        if is_mounted(path) {
            let to = newroot.join(path.trim_start_matches('/'));
            if !to.is_dir() {
                return Err(Failed::new(format!("the image has no directory {path}"))
                    .hint("`ashlar lint` names what a root needs"));
            }
            move_mount(Path::new(path), &to)?;
        }
    }
    Ok(())
}

/// Makes `newroot` the root and starts `init` in it, as `switch_root(8)` does. The initramfs is emptied, for it is memory.
/// Returns only when it failed.
pub fn switch_root(newroot: &Path, init: &str, args: &[OsString]) -> Failed {
    let switch = || -> Result<(), Failed> {
        let old = rustix::fs::open("/", OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|err| Failed::io("cannot open /", err.into()))?;
        move_kernel_mounts(newroot)?;
        let wrap = |err: rustix::io::Errno| Failed::io("cannot switch the root", err.into());
        rustix::process::chdir(newroot).map_err(wrap)?;
        empty_initramfs(&old);
        move_mount(Path::new("."), Path::new("/"))?;
        rustix::process::chroot(".").map_err(wrap)?;
        rustix::process::chdir("/").map_err(wrap)
    };
    match switch() {
        Ok(()) => exec(init, args),
        Err(failed) => failed,
    }
}

/// Makes `newroot` the root where the old one is a file system of its own, which then is seen no more. Returns only when
/// it failed.
pub fn pivot_root(newroot: &Path, init: &str, args: &[OsString]) -> Failed {
    let pivot = || -> Result<(), Failed> {
        move_kernel_mounts(newroot)?;
        let wrap = |err: rustix::io::Errno| Failed::io("cannot switch the root", err.into());
        rustix::process::chdir(newroot).map_err(wrap)?;
        // The old root comes to lie on top of the new one, and is taken off (pivot_root(2), NOTES).
        rustix::process::pivot_root(".", ".").map_err(wrap)?;
        rustix::mount::unmount(".", UnmountFlags::DETACH).map_err(wrap)?;
        rustix::process::chdir("/").map_err(wrap)
    };
    match pivot() {
        Ok(()) => exec(init, args),
        Err(failed) => failed,
    }
}

fn exec(init: &str, args: &[OsString]) -> Failed {
    Failed::io(format_args!("cannot start {init}"), Command::new(init).args(args).exec())
}

/// Removes the files of an initramfs, and nothing else: not what is mounted in it.
fn empty_initramfs(root: &rustix::fd::OwnedFd) {
    // linux/magic.h: RAMFS_MAGIC, TMPFS_MAGIC. Anything else is somebody's disk.
    const MEMORY: [u32; 2] = [0x8584_58f6, 0x0102_1994];
    let kind = rustix::fs::fstatfs(root).ok().and_then(|stat| u32::try_from(stat.f_type).ok());
    if !kind.is_some_and(|kind| MEMORY.contains(&kind)) {
        return;
    }
    let Ok(device) = rustix::fs::fstat(root).map(|stat| stat.st_dev) else { return };
    let mut ahead = vec![PathBuf::from(".")];
    let mut directories = Vec::new();
    while let Some(path) = ahead.pop() {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let Ok(directory) = rustix::fs::openat(root, &path, flags, Mode::empty()) else { continue };
        for entry in rustix::fs::Dir::read_from(&directory).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let inside = path.join(OsStr::from_bytes(name.to_bytes()));
            let stat = rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW);
            let Some(stat) = stat.ok().filter(|stat| stat.st_dev == device) else { continue };
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                ahead.push(inside);
            } else {
                // What stays costs memory and nothing else.
                rustix::fs::unlinkat(root, &inside, AtFlags::empty()).unwrap_or_default();
            }
        }
        directories.push(path);
    }
    for path in directories.iter().rev() {
        rustix::fs::unlinkat(root, path, AtFlags::REMOVEDIR).unwrap_or_default();
    }
}
