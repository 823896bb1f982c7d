//! Where does everything lie that the root needs and does not show?
//!
//! Below `/run/initramfs`, because systemd unmounts nothing there at shutdown: elsewhere it would be unmounted by force, and
//! a forced unmount of any mount of a FUSE file system ends its connection, and with it the root.

use std::fmt::Display;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};

use super::Failed;

/// Where it is, both in the initramfs and on the running system.
pub const WORKSPACE: &str = "/run/initramfs/ashlar";

/// The directories. Nothing in here is shared with other mount name spaces before the root is handed over.
#[derive(Debug, Clone)]
pub struct Workspace {
    top: PathBuf,
}

impl Workspace {
    /// Makes it: a small tmpfs of its own. `/run` becomes one, too, where the initramfs has none.
    pub fn create() -> Result<Workspace, Failed> {
        if !is_mounted("/run") {
            make_dir("/run")?;
            mount_tmpfs("/run", "mode=755,size=20%")?;
        }
        make_dir(WORKSPACE)?;
        if is_mounted(WORKSPACE) {
            return Err(Failed::new(format!("{WORKSPACE} is in use already"))
                .hint("the root can be set up once; reboot to do it again"));
        }
        // Nobody else is let in: there may be set-user-ID files on the data partition that the image has replaced.
        mount_tmpfs(WORKSPACE, "mode=700,size=1m")?;
        make_private(Path::new(WORKSPACE))?;
        let workspace = Workspace { top: PathBuf::from(WORKSPACE) };
        for path in [workspace.data(), workspace.root(), workspace.lower(), workspace.empty()] {
            make_dir(path)?;
        }
        Ok(workspace)
    }

    /// The one that was made when this machine booted, if it did boot from an image.
    pub fn existing() -> Option<Workspace> {
        is_mounted(WORKSPACE).then(|| Workspace { top: PathBuf::from(WORKSPACE) })
    }

    /// The data partition.
    pub fn data(&self) -> PathBuf {
        self.top.join("data")
    }

    /// Where the root is put together.
    pub fn root(&self) -> PathBuf {
        self.top.join("root")
    }

    /// The image's own tree, where something lies over it.
    pub fn lower(&self) -> PathBuf {
        self.top.join("lower")
    }

    /// Where a server is shut in: there is nothing in it, and it is the root of nothing.
    pub fn empty(&self) -> PathBuf {
        self.top.join("empty")
    }

    /// Where what is read is written down, if it is.
    pub fn trace(&self) -> PathBuf {
        self.top.join("trace")
    }

    /// A directory of its own for `what`.
    pub fn place(&self, what: &str, name: &str) -> Result<PathBuf, Failed> {
        let path = self.top.join(what).join(name);
        make_dir(&path)?;
        Ok(path)
    }

    /// Takes away what was mounted for an image, and leaves the data partition.
    pub fn clear(&self) {
        let below = super::mounts::below(&self.top);
        // The last mounted first.
        below.iter().rev().filter(|path| **path != self.data()).for_each(|path| unmount(path));
    }

    /// Takes everything away again, after a failure: what is mounted in it and then itself. The data partition's own mount
    /// is not touched.
    pub fn remove(&self) {
        self.clear();
        unmount(&self.data());
        unmount(&self.top);
    }
}

/// Unmounts what is mounted at a path, now or when nobody uses it any more.
pub(super) fn unmount(path: &Path) {
    let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
    if let Err(err) = rustix::mount::unmount(path, flags) {
        tracing::debug!("cannot unmount {}: {err}", path.display());
    }
}

/// Makes a directory and those above it.
pub(super) fn make_dir(path: impl AsRef<Path>) -> Result<(), Failed> {
    let path = path.as_ref();
    fs::create_dir_all(path)
        .map_err(|err| Failed::io(format_args!("cannot make {}", path.display()), err))
}

/// Mounts a tmpfs.
pub(super) fn mount_tmpfs(at: impl AsRef<Path>, options: &str) -> Result<(), Failed> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    mount("tmpfs", at.as_ref(), "tmpfs", flags, options)
}

/// Mounts a file system.
pub(super) fn mount(
    source: impl AsRef<Path>,
    at: &Path,
    kind: &str,
    flags: MountFlags,
    options: &str,
) -> Result<(), Failed> {
    let wrap =
        |err: io::Error| Failed::io(format_args!("cannot mount {kind} on {}", at.display()), err);
    let options = std::ffi::CString::new(options).map_err(|err| wrap(err.into()))?;
    rustix::mount::mount(source.as_ref(), at, kind, flags, &*options)
        .map_err(|err| wrap(err.into()))
}

/// Makes a directory appear at a second place.
pub(super) fn bind(from: &Path, to: &Path) -> Result<(), Failed> {
    rustix::mount::mount_bind(from, to)
        .map_err(|err| Failed::io(moving("bind", from.display(), to.display()), err.into()))
}

/// Moves a mount with everything that is mounted in it.
pub(super) fn move_mount(from: &Path, to: &Path) -> Result<(), Failed> {
    rustix::mount::mount_move(from, to)
        .map_err(|err| Failed::io(moving("move", from.display(), to.display()), err.into()))
}

fn moving(verb: &str, from: impl Display, to: impl Display) -> String {
    format!("cannot {verb} mount {from} to {to}")
}

/// What is mounted below a mount shall be seen here only.
pub(super) fn make_private(at: &Path) -> Result<(), Failed> {
    rustix::mount::mount_change(at, MountPropagationFlags::PRIVATE)
        .map_err(|err| Failed::io(format_args!("cannot make {} private", at.display()), err.into()))
}

/// Whether something is mounted at a path.
pub(super) fn is_mounted(path: impl AsRef<Path>) -> bool {
    crate::fuse::mountinfo::place(path.as_ref()).is_ok_and(|place| place.is_mount_root)
}
