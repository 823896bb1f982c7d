//! What does the host's own kernel find on a disk? It mounts it, as the machine would: what a crash left is put right by that.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::disk::{FileSystem, path};
use crate::outcome::{Doing, Result, failed, run, skipped};

/// Something that is mounted until it is dropped.
#[derive(Debug)]
pub(crate) struct Mounted {
    at: PathBuf,
}

/// Whether this kernel lets us.
pub(crate) fn check(file_system: FileSystem) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        return skipped("only root may mount");
    }
    let name = file_system.name();
    let known = || -> Result<bool> {
        let text =
            fs::read_to_string("/proc/filesystems").doing("cannot read /proc/filesystems")?;
        Ok(text.lines().any(|line| line.trim() == name))
    };
    // It may be a module that nobody has needed yet.
    if !known()? {
        run(Command::new("modprobe").arg(name).env("PATH", path())).ok();
    }
    if known()? { Ok(()) } else { skipped(format!("this kernel has no {name}")) }
}

impl Mounted {
    /// A place in memory.
    pub(crate) fn memory(at: &Path) -> Result<Self> {
        fs::create_dir_all(at).doing(format!("cannot make {}", at.display()))?;
        mount(Command::new("mount").args(["-t", "tmpfs", "-o", "mode=700", "tmpfs"]), at)
    }

    /// A disk, writable.
    pub(crate) fn disk(file_system: FileSystem, disk: &Path, at: &Path) -> Result<Self> {
        fs::create_dir_all(at).doing(format!("cannot make {}", at.display()))?;
        mount(Command::new("mount").args(["-t", file_system.name(), "-o", "loop"]).arg(disk), at)
    }

    /// Where it is.
    pub(crate) fn at(&self) -> &Path {
        &self.at
    }

    /// Unmounts it; that this cannot be done is a failure.
    pub(crate) fn end(self) -> Result<()> {
        self.unmount()
    }

    fn unmount(&self) -> Result<()> {
        run(Command::new("umount").arg(&self.at).env("PATH", path())).map(drop)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if is_mounted(&self.at)
            && let Err(stop) = self.unmount()
        {
            eprintln!("vm-tests: {} stays mounted: {stop:?}", self.at.display());
        }
    }
}

fn mount(command: &mut Command, at: &Path) -> Result<Mounted> {
    run(command.arg(at).env("PATH", path()))?;
    Ok(Mounted { at: at.to_owned() })
}

fn is_mounted(at: &Path) -> bool {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let at = at.display().to_string();
    text.lines().any(|line| line.split(' ').nth(4) == Some(at.as_str()))
}

/// Puts right what mounting does not: file systems count on a superblock being written whole, and there are copies of it
/// elsewhere.
pub(crate) fn repair(file_system: FileSystem, disk: &Path) -> Result<()> {
    let words: &[&str] = match file_system {
        FileSystem::Ext4 => &["e2fsck", "-f", "-y"],
        FileSystem::Btrfs => &["btrfs", "rescue", "super-recover", "-y"],
    };
    let mut command = Command::new("env");
    command.args(words).arg(disk).env("PATH", path());
    let output = command.output().doing("cannot run a repair")?;
    // 2 of `super-recover`: it was bad, and is good now.
    match (file_system, output.status.code()) {
        (_, Some(0 | 1)) | (FileSystem::Btrfs, Some(2)) => Ok(()),
        _ => failed(format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )),
    }
}
