//! What is on the disk? An ext4 filesystem, or one of btrfs, made from a directory, without mounting it.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::outcome::{Doing, Result, failed, run};

/// What the data partition is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileSystem {
    /// The one of most cases.
    Ext4,
    /// The one that writes nothing in place, and is a module of the kernels here.
    Btrfs,
}

impl FileSystem {
    /// What `mount -t` calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            FileSystem::Ext4 => "ext4",
            FileSystem::Btrfs => "btrfs",
        }
    }

    /// The modules that it needs, dependencies first.
    pub(crate) fn modules(self) -> &'static [&'static str] {
        match self {
            FileSystem::Ext4 => &["fuse", "overlay"],
            FileSystem::Btrfs => &["fuse", "overlay", "libcrc32c", "xor", "raid6_pq", "btrfs"],
        }
    }
}

/// The same as [`make`] with btrfs, as its own `mkfs` makes it.
pub(crate) fn make_btrfs(directory: &Path, disk: &Path, size: &str) -> Result<()> {
    run(Command::new("truncate").args(["-s", size]).arg(disk))?;
    let mut command = Command::new("mkfs.btrfs");
    command.args(["-q", "-f", "-L", "data", "--rootdir"]);
    run(command.arg(directory).arg(disk).env("PATH", path()))?;
    Ok(())
}

/// Holds that the filesystem is whole; see [`check`].
pub(crate) fn check_as(file_system: FileSystem, disk: &Path) -> Result<()> {
    match file_system {
        FileSystem::Ext4 => check(disk),
        FileSystem::Btrfs => {
            let mut command = Command::new("btrfs");
            command.args(["check", "--readonly"]).arg(disk).env("PATH", path());
            run(&mut command).map(drop)
        }
    }
}

/// Makes a data partition of `size` (as mkfs takes it: `64M`) from all that lies in a directory.
pub(crate) fn make(directory: &Path, disk: &Path, size: &str) -> Result<()> {
    let mut command = Command::new("mkfs.ext4");
    // Small blocks of inodes and no reserve: it is a small disk. All of it belongs to root, whoever makes it.
    command.args(["-q", "-F", "-m", "0", "-L", "data", "-E", "root_owner=0:0", "-d"]);
    run(command.arg(directory).arg(disk).arg(size).env("PATH", path()))?;
    Ok(())
}

/// Holds that the filesystem is whole and was left as a clean shutdown leaves it.
pub(crate) fn check(disk: &Path) -> Result<()> {
    let mut command = Command::new("e2fsck");
    let said = run(command.args(["-f", "-n"]).arg(disk).env("PATH", path()).env("LC_ALL", "C"))?;
    let mut command = Command::new("dumpe2fs");
    let header = run(command.arg("-h").arg(disk).env("PATH", path()).env("LC_ALL", "C"))?;
    let field = |name: &str| {
        let line = header.lines().find_map(|line| line.strip_prefix(name));
        line.map(str::trim).unwrap_or_default().to_owned()
    };
    if field("Filesystem state:") != "clean" {
        return failed(format!("the data partition was not left clean:\n{said}\n{header}"));
    }
    if field("Filesystem features:").contains("needs_recovery") {
        return failed("the data partition was still mounted for writing when the machine stopped");
    }
    Ok(())
}

/// Replays the journal and removes what nobody has open any more, as mounting does; that more has to be repaired is a failure.
pub(crate) fn recover(disk: &Path) -> Result<()> {
    let mut command = Command::new("e2fsck");
    let output =
        command.arg("-p").arg(disk).env("PATH", path()).output().doing("cannot run e2fsck")?;
    match output.status.code() {
        // Nothing to do, or it is done.
        Some(0 | 1) => check(disk),
        _ => failed(format!("e2fsck: {}", String::from_utf8_lossy(&output.stdout))),
    }
}

/// Whether there is something at an absolute path.
pub(crate) fn has(disk: &Path, what: &str) -> Result<bool> {
    Ok(debugfs(disk, &format!("stat \"{what}\""))?.contains("Inode:"))
}

/// Copies a directory of it to a directory that is there.
pub(crate) fn copy_out(disk: &Path, what: &str, to: &Path) -> Result<()> {
    debugfs(disk, &format!("rdump \"{what}\" {}", to.display())).map(drop)
}

/// Copies a file of it to a path.
pub(crate) fn copy_file_out(disk: &Path, what: &str, to: &Path) -> Result<()> {
    debugfs(disk, &format!("dump \"{what}\" {}", to.display()))?;
    if to.exists() { Ok(()) } else { failed(format!("there is no {what} on the data partition")) }
}

/// Flips a bit of a file of it, `offset` bytes behind its beginning, past the filesystem.
pub(crate) fn flip(disk: &Path, what: &str, offset: u64) -> Result<()> {
    let header = debugfs(disk, "stats -h")?;
    let size = header.lines().find_map(|line| line.strip_prefix("Block size:"));
    let size: u64 = size.unwrap_or_default().trim().parse().doing("what size is a block?")?;
    let block = debugfs(disk, &format!("bmap \"{what}\" {}", offset / size))?;
    let block: u64 = block.trim().parse().doing(format!("where is {what}?"))?;
    if block == 0 {
        return failed(format!("{what} has a hole there"));
    }
    let at = block * size + offset % size;
    let doing = format!("cannot change {}", disk.display());
    let file = File::options().read(true).write(true).open(disk).doing(&doing)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).doing(&doing)?;
    byte[0] ^= 1;
    file.write_all_at(&byte, at).doing(doing)
}

fn debugfs(disk: &Path, request: &str) -> Result<String> {
    run(Command::new("debugfs").args(["-R", request]).arg(disk).env("PATH", path()))
}

/// Directories with their parents, below `top`.
pub(crate) fn directories(top: &Path, paths: &[&str]) -> Result<()> {
    for path in paths {
        let path: PathBuf = top.join(path);
        fs::create_dir_all(&path).doing(format!("cannot make {}", path.display()))?;
    }
    Ok(())
}

/// Writes a program.
pub(crate) fn program(path: &Path, content: &[u8]) -> Result<()> {
    let doing = format!("cannot write {}", path.display());
    fs::write(path, content).doing(&doing)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).doing(doing)
}

/// Where an ordinary user's shell does not look, but these programs are.
pub(crate) fn path() -> String {
    format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default())
}
