//! What if there is no initramfs? Then this is the first program of all: it mounts what an initramfs would have, makes the
//! root, and becomes the first program of the image.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use rustix::mount::MountFlags;

use super::cmdline::{self, BootArgs};
use super::modules::load;
use super::workspace::{is_mounted, mount, mount_tmpfs};
use super::{Failed, Setup, handover, kmsg, needs, setup};

/// Where the new root is mounted before it becomes the root. It lies on the data partition, and is empty.
const NEWROOT: &str = "/newroot";
/// Words of the kernel command line that tell the first program how to run; the kernel passes on what it does not know.
const RUNLEVELS: [&str; 5] = ["single", "emergency", "rescue", "1", "s"];

/// Becomes the first program of an image. Returns only when it failed.
pub fn run(args: &[OsString]) -> Failed {
    let prepare = || -> Result<(), Failed> {
        kernel_mounts()?;
        // What the command line says about that is not read yet.
        kmsg::start(tracing::level_filters::LevelFilter::INFO, true);
        load("fuse", "/dev/fuse");
        load("overlay", "/sys/module/overlay");
        let setup_args = Setup {
            newroot: PathBuf::from(NEWROOT),
            // `init=` names this program.
            init: Some(needs::INIT.to_owned()),
        };
        rustix::mount::mount_bind("/", NEWROOT)
            .map_err(|err| Failed::io(format_args!("cannot bind / to {NEWROOT}"), err.into()))?;
        match setup(&setup_args)? {
            Some(_) => Ok(()),
            None => Err(Failed::new(
                "`ashlar` is the first program, but the kernel command line names no image",
            )
            .hint("add ashlar=NAME, or take init= away")),
        }
    };
    match prepare() {
        Ok(()) => handover::pivot_root(Path::new(NEWROOT), needs::INIT, &words_for_init(args)),
        Err(failed) => failed,
    }
}

/// Whether a shell may be given when nothing can be booted.
pub fn may_give_shell() -> bool {
    let text = cmdline::read().unwrap_or_default();
    BootArgs::parse(&text).ok().flatten().is_some_and(|args| !args.panic)
}

/// The words that are meant for the first program, which the kernel gave to us.
fn words_for_init(args: &[OsString]) -> Vec<OsString> {
    let is_for_init = |word: &&OsString| {
        word.to_str().is_some_and(|word| word.starts_with('-') || RUNLEVELS.contains(&word))
    };
    args.iter().filter(is_for_init).cloned().collect()
}

/// What the kernel has to say, mounted where everybody looks for it. Debian's kernels do not even mount `/dev`.
fn kernel_mounts() -> Result<(), Failed> {
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::NODEV;
    for path in ["/proc", "/sys", "/dev", "/run", NEWROOT] {
        if !Path::new(path).is_dir() {
            return Err(Failed::new(format!("the data partition has no directory {path}"))
                .hint("`ashlar boot install --trampoline --root DIR` makes what is needed"));
        }
    }
    let mounts = [
        ("proc", "/proc", flags, ""),
        ("sysfs", "/sys", flags, ""),
        ("devtmpfs", "/dev", MountFlags::NOSUID, "mode=755"),
    ];
    for (kind, path, flags, options) in mounts {
        if !is_mounted(path) {
            mount(kind, Path::new(path), kind, flags, options)?;
        }
    }
    if !is_mounted("/run") {
        mount_tmpfs("/run", "mode=755,size=20%")?;
    }
    Ok(())
}
