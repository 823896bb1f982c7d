//! Small disks for tests, which become full, lie or break: file systems in a file or in memory, mounted while a test runs.
#![allow(dead_code, reason = "each test binary uses some of it")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A file system of a few megabytes.
pub(crate) struct Disk {
    directory: tempfile::TempDir,
}

impl Disk {
    /// Makes it, or says why that cannot be. With `make` (`mkfs.ext4 -O …`) it is in a file, without in memory.
    pub(crate) fn new(test: &str, bytes: u64, make: &[&str]) -> Option<Disk> {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let disk = Disk { directory };
        fs::create_dir(disk.path()).unwrap();
        let made = || -> Result<(), String> {
            if !rustix::process::geteuid().is_root() {
                return Err("this test mounts, which needs root".to_owned());
            }
            let (path, size) = (disk.path(), format!("size={bytes}"));
            if let Some((program, options)) = make.split_first() {
                fs::File::create(disk.backing()).unwrap().set_len(bytes).unwrap();
                run(Command::new(program).args(options).arg(disk.backing()))?;
                return run(Command::new("mount")
                    .args(["-o", "loop"])
                    .arg(disk.backing())
                    .arg(path));
            }
            run(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(path))
        };
        match made() {
            Ok(()) => Some(disk),
            Err(why) => {
                eprintln!("skipped: {test}: {why}");
                None
            }
        }
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join("mount")
    }

    /// The file that it is in.
    pub(crate) fn backing(&self) -> PathBuf {
        self.directory.path().join("disk")
    }

    pub(crate) fn free(&self) -> u64 {
        let stat = rustix::fs::statvfs(self.path()).unwrap();
        stat.f_bavail * stat.f_frsize
    }

    /// Fills it until no more than `left` bytes are free. Returns the file that does.
    pub(crate) fn fill(&self, left: u64) -> PathBuf {
        let path = self.path().join("filler");
        fill(&path, left);
        path
    }

    pub(crate) fn remount(&self, options: &str) {
        let options = format!("remount,{options}");
        run(Command::new("mount").args(["-o", &options]).arg(self.path())).unwrap();
    }
}

/// Grows a file until no more than `left` bytes are free beside it.
pub(crate) fn fill(path: &Path, left: u64) {
    use std::io::Write;
    let mut file = fs::File::options().create(true).append(true).open(path).unwrap();
    loop {
        let stat = rustix::fs::fstatvfs(&file).unwrap();
        let free = stat.f_bavail * stat.f_frsize;
        let len = free.saturating_sub(left).min(1 << 20);
        // Blocks of indices take their part.
        if len == 0 || file.write_all(&vec![7; usize::try_from(len).unwrap()]).is_err() {
            file.sync_all().unwrap();
            return;
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        drop(run(Command::new("umount").arg("--lazy").arg(self.path())));
    }
}

/// Runs a program that must work.
pub(crate) fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|err| format!("{command:?}: {err}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}
