//! What does the kernel start from? A cpio archive in the format newc, written here.

use std::fs;
use std::path::Path;

use crate::outcome::{Doing, Result};

/// Type bits of a mode.
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

/// An archive that grows.
#[derive(Debug, Default)]
pub(crate) struct Initramfs {
    bytes: Vec<u8>,
    entries: u32,
}

impl Initramfs {
    /// An archive with what every initramfs needs: the usual directories, and a console for its init to speak on.
    pub(crate) fn new() -> Self {
        let mut archive = Initramfs::default();
        for directory in [
            "bin",
            "dev",
            "etc",
            "etc/ashlar",
            "etc/ashlar/keys",
            "modules",
            "newroot",
            "proc",
            "run",
            "sys",
        ] {
            archive.directory(directory);
        }
        archive.add("dev/console", CHARACTER_DEVICE | 0o600, (5, 1), &[]);
        archive.add("dev/null", CHARACTER_DEVICE | 0o666, (1, 3), &[]);
        archive
    }

    /// Adds a directory; its parent comes first.
    pub(crate) fn directory(&mut self, path: &str) {
        self.add(path, DIRECTORY | 0o755, (0, 0), &[]);
    }

    /// Adds a file.
    pub(crate) fn file(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.add(path, REGULAR | mode, (0, 0), content);
    }

    /// Ends the archive and writes it.
    pub(crate) fn write(mut self, path: &Path) -> Result<()> {
        self.add("TRAILER!!!", 0, (0, 0), &[]);
        fs::write(path, self.bytes).doing(format!("cannot write {}", path.display()))
    }

    fn add(&mut self, path: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        self.entries += 1;
        let len = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        // inode, mode, uid, gid, links, mtime, size, device of the archive (2), device (2), length of the name, checksum
        let fields = [
            self.entries,
            mode,
            0,
            0,
            1,
            0,
            len(content),
            0,
            0,
            device.0,
            device.1,
            len(path.as_bytes()) + 1,
            0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn busybox_reads_what_was_written() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("initramfs");
        let mut archive = Initramfs::new();
        archive.file("etc/odd", 0o640, b"12345");
        archive.file("etc/empty", 0o600, b"");
        archive.write(&path).unwrap();
        let input = Stdio::from(fs::File::open(&path).unwrap());
        let Ok(output) = Command::new("busybox").args(["cpio", "-tv"]).stdin(input).output() else {
            eprintln!("skipped: no busybox");
            return;
        };
        let listed = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{listed}");
        assert!(listed.contains("-rw-r-----") && listed.contains("etc/odd"), "{listed}");
        assert!(listed.contains("crw-------") && listed.contains("dev/console"), "{listed}");
        assert!(listed.contains(" 5 ") && listed.contains("newroot"), "{listed}");
    }
}
