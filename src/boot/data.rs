//! What is the data partition, and may it be written to?

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::StatVfsMountFlags;
use rustix::mount::MountFlags;

use super::config::{Config, FILE_LEN_MAX};
use super::workspace::{bind, make_private};
use super::{Failed, mounts};
use crate::format::field::u64_from_usize;
use crate::image;

/// The configuration file, on the data partition.
pub const CONFIG: &str = "ashlar.toml";
/// The configuration file of the image, and of the initramfs.
pub const CONFIG_IN_ROOT: &str = "/etc/ashlar/ashlar.toml";
/// Where everything is that is kept and not `/var`.
pub const STATE: &str = "state";
/// If this is there, nothing lies over the root (init-overlay's `disable`).
pub const OVERLAY_DISABLED: &str = "state/overlay.disabled";

/// The data partition.
#[derive(Debug, Clone)]
pub struct Data {
    /// Where it is mounted.
    pub path: PathBuf,
    /// What it was mounted from: a device, mostly.
    pub source: PathBuf,
    /// Its device number, major and minor.
    pub device: (u32, u32),
}

impl Data {
    /// Makes the file system that is mounted at `newroot` appear at `path`, too, and from now on it is used from there.
    pub fn take(newroot: &Path, path: PathBuf) -> Result<Data, Failed> {
        let mount = mounts::at(newroot).ok_or_else(|| {
            Failed::new(format!("nothing is mounted at {}", newroot.display()))
                .hint("the initramfs mounts the data partition there; see `root=` on the kernel command line")
        })?;
        bind(newroot, &path)?;
        make_private(&path)?;
        let metadata = fs::metadata(&path)
            .map_err(|err| Failed::io(format_args!("cannot look at {}", path.display()), err))?;
        let device = (rustix::fs::major(metadata.dev()), rustix::fs::minor(metadata.dev()));
        // PID 1 of a kernel without an initramfs sees `/dev/root`, a name that no other program can use.
        let source = if mount.source.is_absolute() && mount.source.exists() {
            mount.source
        } else {
            device_path(device).unwrap_or(mount.source)
        };
        Ok(Data { path, source, device })
    }

    /// The one of a running system, which is mounted at `path`.
    pub fn running(path: PathBuf) -> Result<Data, Failed> {
        let mount = mounts::at(&path).ok_or_else(|| {
            Failed::new(format!("the data partition is not mounted at {}", path.display()))
        })?;
        let device = (mount.device.0, mount.device.1);
        Ok(Data { path, source: mount.source, device })
    }

    /// A path on it.
    pub fn join(&self, path: impl AsRef<Path>) -> PathBuf {
        self.path.join(path)
    }

    /// Lets it be written to.
    pub fn make_writable(&self) -> Result<(), Failed> {
        self.remount(false)
    }

    /// Forbids that it be written to.
    pub fn make_read_only(&self) -> Result<(), Failed> {
        self.remount(true)
    }

    fn remount(&self, read_only: bool) -> Result<(), Failed> {
        remount(&self.path, read_only).map_err(|err| {
            let how = if read_only { "read-only" } else { "writable" };
            Failed::io(format_args!("cannot make the data partition {how}"), err.into())
        })
    }

    /// What its configuration file says. A file that cannot be understood says nothing: the machine boots as if it were not
    /// there, for then it can be corrected.
    pub fn config(&self) -> Config {
        read_config(&self.join(CONFIG))
    }

    /// Whether what lies over the root was switched off.
    pub fn is_overlay_disabled(&self) -> bool {
        self.join(OVERLAY_DISABLED).exists()
    }
}

/// Allows or forbids that a mount and its file system be written to; how else it is mounted (nosuid, sync) stays.
pub(super) fn remount(path: &Path, read_only: bool) -> rustix::io::Result<()> {
    const KEPT: [(StatVfsMountFlags, MountFlags); 6] = [
        (StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
        (StatVfsMountFlags::NODEV, MountFlags::NODEV),
        (StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
        (StatVfsMountFlags::NOATIME, MountFlags::NOATIME),
        (StatVfsMountFlags::NODIRATIME, MountFlags::NODIRATIME),
        (StatVfsMountFlags::SYNCHRONOUS, MountFlags::SYNCHRONOUS),
    ];
    let found = rustix::fs::statvfs(path)?.f_flag;
    let kept = KEPT.iter().filter(|(is, _)| found.contains(*is)).map(|(_, keep)| *keep);
    let read_only = if read_only { MountFlags::RDONLY } else { MountFlags::empty() };
    rustix::mount::mount_remount(path, kept.fold(read_only, |all, flag| all | flag), c"")
}

/// Whether a mount is read-only.
pub(super) fn is_read_only(path: &Path) -> bool {
    rustix::fs::statvfs(path).is_ok_and(|stat| stat.f_flag.contains(StatVfsMountFlags::RDONLY))
}

/// Reads a small text file that anybody may have put there.
pub(super) fn read_text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let file = image::open_regular(path)?;
    file.take(u64_from_usize(FILE_LEN_MAX)).read_to_string(&mut text)?;
    Ok(text)
}

/// Reads a configuration file; nothing where there is none.
pub fn read_config(path: &Path) -> Config {
    match read_text(path) {
        Ok(text) => Config::from_toml(&text).unwrap_or_else(|why| {
            tracing::error!("{} is ignored: {why}", path.display());
            Config::default()
        }),
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => Config::default(),
        Err(err) => {
            tracing::error!("{} is ignored: {err}", path.display());
            Config::default()
        }
    }
}

/// The node of a block device in `/dev`.
fn device_path((major, minor): (u32, u32)) -> Option<PathBuf> {
    let uevent = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/uevent")).ok()?;
    let name = uevent.lines().find_map(|line| line.strip_prefix("DEVNAME="))?;
    Some(Path::new("/dev").join(name))
}
