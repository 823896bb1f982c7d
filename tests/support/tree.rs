//! Real directories for tests: one that has everything, what a directory holds as text, and the two commands.
#![allow(dead_code, reason = "each test binary uses some of it")]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, SystemTime};

use rustix::fs::{CWD, FileType, Mode, XattrFlags};

/// Whether tests may make devices and give files away.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Bytes that do not compress, the same for the same seed.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

pub(crate) fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

pub(crate) fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
}

/// Gives a file or directory a time of its own.
pub(crate) fn set_time(path: &Path, sec: u64, nsec: u32) {
    let time = SystemTime::UNIX_EPOCH + Duration::new(sec, nsec);
    File::open(path).unwrap().set_modified(time).unwrap();
}

/// An ACL with one more user: what `setfacl -m u:1234:r` makes of mode 640 (and mode 640 stays).
pub(crate) const ACL: &[u8] = &[
    2, 0, 0, 0, // version
    1, 0, 6, 0, 255, 255, 255, 255, // owner rw-
    2, 0, 4, 0, 210, 4, 0, 0, // user 1234 r--
    4, 0, 4, 0, 255, 255, 255, 255, // group r--
    16, 0, 4, 0, 255, 255, 255, 255, // mask r--
    32, 0, 0, 0, 255, 255, 255, 255, // others ---
];
/// `cap_net_raw=ep` as the kernel keeps it, revision 2.
pub(crate) const CAPABILITY: &[u8] = &[1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Fills a directory with files of all types; with more of them if root.
pub(crate) fn fill(dir: &Path) {
    let write = |name: &str, bytes: &[u8]| fs::write(dir.join(name), bytes).unwrap();
    fs::create_dir(dir.join("bin")).unwrap();
    write("bin/tool", &noise(1, 70_000));
    set_mode(&dir.join("bin/tool"), 0o4755);
    write("empty", b"");
    write("small", b"a few bytes");
    set_time(&dir.join("small"), 1_234_567_890, 123_456_789);
    write("text", &b"over and over again ".repeat(9000));
    write("exact", &noise(2, 4096 * 3));
    write("secret", b"nobody reads this");
    set_mode(&dir.join("secret"), 0o000);
    File::create(dir.join(OsStr::from_bytes(b"not\xffutf8\n\\"))).unwrap();
    let sparse = File::create(dir.join("sparse")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, &noise(3, 4096), 4096 * 7).unwrap();
    sparse.set_len(20_000_000).unwrap();
    symlink("../small", dir.join("bin/link")).unwrap();
    symlink("/bin/tool", dir.join("absolute")).unwrap();
    symlink("bin", dir.join("sbin")).unwrap();
    symlink("nowhere", dir.join("dangling")).unwrap();
    symlink("circle", dir.join("circle")).unwrap();
    rustix::fs::mknodat(CWD, dir.join("pipe"), FileType::Fifo, Mode::from_raw_mode(0o640), 0)
        .unwrap();
    rustix::fs::mknodat(CWD, dir.join("socket"), FileType::Socket, Mode::from_raw_mode(0o600), 0)
        .unwrap();
    fs::create_dir_all(dir.join("deep/er/and/deeper")).unwrap();
    write("deep/er/and/deeper/one", b"found");
    fs::hard_link(dir.join("bin/tool"), dir.join("deep/er/tool")).unwrap();
    fs::hard_link(dir.join("bin/tool"), dir.join("tool")).unwrap();
    write("attrs", b"x");
    set_xattr(&dir.join("attrs"), "user.a", b"");
    set_xattr(&dir.join("attrs"), "user.b", &[0, 255, 10]);
    write("acl", b"x");
    set_mode(&dir.join("acl"), 0o640);
    set_xattr(&dir.join("acl"), "system.posix_acl_access", ACL);
    fs::create_dir(dir.join("inherit")).unwrap();
    write("inherit/not", b"x");
    set_xattr(&dir.join("inherit"), "system.posix_acl_default", ACL);
    if is_root() {
        let device = |name: &str, kind, major, minor| {
            let device = rustix::fs::makedev(major, minor);
            rustix::fs::mknodat(CWD, dir.join(name), kind, Mode::from_raw_mode(0o620), device)
                .unwrap();
            std::os::unix::fs::lchown(dir.join(name), Some(0), Some(5)).unwrap();
            set_mode(&dir.join(name), 0o620);
        };
        device("null", FileType::CharacterDevice, 1, 3);
        device("disk", FileType::BlockDevice, 259, 70_000);
        write("able", b"x");
        std::os::unix::fs::chown(dir.join("able"), Some(1), Some(2)).unwrap();
        set_xattr(&dir.join("able"), "security.capability", CAPABILITY);
        set_xattr(&dir.join("dangling"), "trusted.link", b"of a link");
        std::os::unix::fs::lchown(dir.join("dangling"), Some(70_000), Some(70_001)).unwrap();
        std::os::unix::fs::chown(dir.join("bin/tool"), Some(3), Some(4)).unwrap();
        set_mode(&dir.join("bin/tool"), 0o6755);
    }
    set_mode(&dir.join("deep/er"), 0o500);
    set_time(&dir.join("deep/er"), 1_000_000_000, 1);
    set_time(&dir.join("deep"), 1_000_000_001, 2);
    set_time(dir, 1_000_000_002, 3);
}

/// Lets a directory be removed again by a user who is not root.
pub(crate) fn open_up(dir: &Path) {
    for path in ["deep/er", "inherit"].map(|name| dir.join(name)) {
        if path.exists() {
            set_mode(&path, 0o755);
        }
    }
}

/// Everything about each file below a directory, as text, by path.
pub(crate) fn manifest(dir: &Path) -> BTreeMap<Vec<u8>, String> {
    let mut found = BTreeMap::new();
    let mut stack = vec![dir.to_owned()];
    while let Some(path) = stack.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let kind = meta.mode() & 0o170_000;
        let mut text = format!(
            "{:o} {}:{} mtime {}.{:09} device {:x}",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.mtime(),
            meta.mtime_nsec(),
            meta.rdev()
        );
        match kind {
            0o040_000 => {
                stack.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()))
            }
            0o120_000 => text += &format!(" -> {}", fs::read_link(&path).unwrap().display()),
            0o100_000 => {
                // Only root reads what nobody may.
                let content = fs::read(&path).map(|bytes| blake3::hash(&bytes).to_string());
                text += &format!(" links {} size {} {content:?}", meta.nlink(), meta.len());
            }
            _ => {}
        }
        let mut list = vec![0; 1000];
        let len = rustix::fs::llistxattr(&path, &mut list[..]).unwrap_or(0);
        let mut names: Vec<&[u8]> = list[..len].split_inclusive(|byte| *byte == 0).collect();
        names.sort_unstable();
        for name in names.iter().map(|name| &name[..name.len() - 1]) {
            let mut value = vec![0; 1000];
            let len = rustix::fs::lgetxattr(&path, name, &mut value[..]).unwrap();
            text += &format!(" {}={:?}", String::from_utf8_lossy(name), &value[..len]);
        }
        let below = path.strip_prefix(dir).unwrap().as_os_str().as_bytes().to_vec();
        found.insert(below, text);
    }
    found
}

/// Says where two manifests differ.
pub(crate) fn assert_same(a: &BTreeMap<Vec<u8>, String>, b: &BTreeMap<Vec<u8>, String>) {
    let differs = |path: &&Vec<u8>| a.get(*path) != b.get(*path);
    let paths: Vec<&Vec<u8>> = a.keys().chain(b.keys()).filter(differs).collect();
    for path in &paths {
        println!("{}:\n  {:?}\n  {:?}", String::from_utf8_lossy(path), a.get(*path), b.get(*path));
    }
    assert!(paths.is_empty());
}

/// Builds an image, with small blocks if nothing else is asked for; returns its path and root digest.
pub(crate) fn pack(source: &Path, image: &Path, extra: &[&str]) -> (PathBuf, String) {
    let small = ["-b", "4K", "-z", "zstd,3"];
    let small = if extra.contains(&"-b") { [].as_slice() } else { small.as_slice() };
    let mut args = vec![OsStr::new("mkimage"), OsStr::new("--quiet")];
    args.extend(small.iter().map(OsStr::new));
    args.extend(extra.iter().map(OsStr::new));
    args.extend([source.as_os_str(), image.as_os_str()]);
    let summary = ashlarfs_mkimage::run(args).unwrap();
    (image.to_owned(), summary.root_digest)
}

/// What `ashlar` did: exit status, output, and lines on standard error.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) status: i32,
    pub(crate) out: Vec<u8>,
    pub(crate) err: String,
}

impl Ran {
    /// The output as text.
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.out).unwrap()
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Ran {
            status: output.status.code().expect("no signal"),
            out: output.stdout,
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// The command, to be given arguments.
pub(crate) fn command() -> Command {
    Command::new(env!("CARGO_BIN_EXE_ashlar"))
}

/// Runs `ashlar`.
pub(crate) fn ashlar<I: AsRef<OsStr>>(args: impl IntoIterator<Item = I>) -> Ran {
    command().args(args).output().unwrap().into()
}
