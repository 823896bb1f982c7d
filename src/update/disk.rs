//! How does a change reach the disk, whole and in order? Every change to the names of a data partition goes through this
//! file, where a test can cut the power before any of them.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;

use rustix::fs::{CWD, RenameFlags};

pub(super) use crate::power::step;

/// The magic number of btrfs (`statfs(2)`).
const BTRFS: i64 = 0x9123_683e;

/// Makes a directory if it is not there, and the name of it lasts.
pub(super) fn make_directory(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    step("make a directory")?;
    fs::create_dir_all(path)?;
    sync_directory(path.parent().unwrap_or(Path::new(".")))
}

/// Writes the names of a directory down. On btrfs all of the file system: names that were changed in several directories may
/// be lost there by a directory's own fsync (facts of `CrashMonkey`, OSDI 2018, §5).
pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    step("write names down")?;
    let directory = File::open(path)?;
    if rustix::fs::fstatfs(&directory).is_ok_and(|stat| stat.f_type == BTRFS) {
        rustix::fs::syncfs(&directory)?;
        return Ok(());
    }
    directory.sync_all()
}

/// Renames within a directory, over nothing that is there, and the new name lasts.
pub(super) fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    step("rename")?;
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // A file system that does not know how (NFS, old FUSE): nobody else is here, for we hold the lock.
        Err(rustix::io::Errno::INVAL) if !to.exists() => fs::rename(from, to)?,
        renamed => renamed?,
    }
    sync_directory(to.parent().unwrap_or(Path::new(".")))
}

/// Renames within a directory, over what is there, and the new name lasts.
pub(super) fn rename_over(from: &Path, to: &Path) -> io::Result<()> {
    step("rename over")?;
    fs::rename(from, to)?;
    sync_directory(to.parent().unwrap_or(Path::new(".")))
}

/// Exchanges two names of a directory, and that lasts: at every moment there is the one or the other under each.
pub(super) fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    step("exchange")?;
    rustix::fs::renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE)?;
    sync_directory(other.parent().unwrap_or(Path::new(".")))
}

/// Removes a file, immutable or not (`chattr +i`).
pub(super) fn remove(path: &Path) -> io::Result<()> {
    step("remove")?;
    match fs::remove_file(path) {
        Err(err) if err.kind() == io::ErrorKind::PermissionDenied => {
            use rustix::fs::IFlags;
            let file = OpenOptions::new().read(true).open(path)?;
            let flags = rustix::fs::ioctl_getflags(&file)?;
            rustix::fs::ioctl_setflags(&file, flags.difference(IFlags::IMMUTABLE))?;
            fs::remove_file(path)
        }
        removed => removed,
    }
}
