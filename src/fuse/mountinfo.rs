//! Which file system is that? Read from `/proc/self/mountinfo` (proc(5)).

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, StatxAttributes, StatxFlags};

/// The file system type of our mounts.
pub const FILE_SYSTEM_TYPE: &str = "fuse.ashlar";

/// A file system's device number, major and minor; it names a mounted file system as long as it is mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Device(pub u32, pub u32);

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.0, self.1)
    }
}

/// One line of mountinfo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// What is mounted.
    pub device: Device,
    /// Where.
    pub mountpoint: PathBuf,
    /// The type of the file system.
    pub file_system_type: OsString,
    /// What the mount says it was made from.
    pub source: PathBuf,
    /// The user whose server it is.
    pub user_id: Option<u32>,
}

/// What `path` is: the device it is on, whether it is a directory, and whether something is mounted there.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// The file system's device number.
    pub device: Device,
    /// Whether it is a directory.
    pub is_dir: bool,
    /// Whether it is the root of a mount.
    pub is_mount_root: bool,
}

/// Looks at a path. Attributes that the kernel has are believed, so a server is not asked for what it told before.
pub fn place(path: &Path) -> io::Result<Place> {
    let stat = rustix::fs::statx(CWD, path, AtFlags::NO_AUTOMOUNT, StatxFlags::TYPE)?;
    Ok(Place {
        device: Device(stat.stx_dev_major, stat.stx_dev_minor),
        is_dir: FileType::from_raw_mode(stat.stx_mode.into()) == FileType::Directory,
        is_mount_root: stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT),
    })
}

/// All mounts that this process sees, in the order in which the kernel tells them.
pub fn all() -> io::Result<Vec<Mount>> {
    Ok(parse(&std::fs::read("/proc/self/mountinfo")?))
}

/// The mounts that a text in the form of mountinfo tells; lines that tell none are passed over.
pub fn parse(table: &[u8]) -> Vec<Mount> {
    table.split(|byte| *byte == b'\n').filter_map(line).collect()
}

/// The mount of a device, the newest first when it is mounted in several places.
pub fn find(device: Device) -> io::Result<Option<Mount>> {
    Ok(all()?.into_iter().rev().find(|it| it.device == device))
}

fn line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ').skip(2);
    let device = std::str::from_utf8(fields.next()?).ok()?;
    let (major, minor) = device.split_once(':')?;
    let mountpoint = fields.nth(1)?;
    let mut rest = fields.skip_while(|field| *field != b"-").skip(1);
    let (file_system_type, source, options) = (rest.next()?, rest.next()?, rest.next()?);
    let mut options = std::str::from_utf8(options).ok()?.split(',');
    Some(Mount {
        device: Device(major.parse().ok()?, minor.parse().ok()?),
        mountpoint: unescape(mountpoint).into(),
        file_system_type: unescape(file_system_type),
        source: unescape(source).into(),
        user_id: options.find_map(|option| option.strip_prefix("user_id=")?.parse().ok()),
    })
}

/// Space, tab, newline and backslash stand as three octal digits behind a backslash.
fn unescape(field: &[u8]) -> OsString {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let digits = after.split_at_checked(3).filter(|_| *first == b'\\');
        let byte = digits
            .and_then(|(digits, _)| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        out.push(byte.unwrap_or(*first));
        rest = digits.filter(|_| byte.is_some()).map_or(after, |(_, behind)| behind);
    }
    OsString::from_vec(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_with_everything() {
        let line = b"36 35 0:98 / /mnt/a\\040b rw,noatime shared:1 master:2 - fuse.ashlar /x\\134y.img ro,user_id=7";
        let mount = super::line(line).unwrap();
        assert_eq!(mount.device, Device(0, 98));
        assert_eq!(mount.mountpoint, Path::new("/mnt/a b"));
        assert_eq!(mount.file_system_type, FILE_SYSTEM_TYPE);
        assert_eq!(mount.source, Path::new("/x\\y.img"));
        assert_eq!(mount.user_id, Some(7));
        assert_eq!(super::line(b""), None);
        assert_eq!(super::line(b"1 2 3 4"), None);
    }
}
