//! Directories of this machine go in; what was scanned must be what is there.

use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, XattrFlags, lsetxattr, makedev, mknodat};

use super::*;
use crate::testing::{Listing, Warnings, is_root, list};
use crate::tree::Contents;

fn options<'a>(filter: &'a Filter, image: &'a Path) -> ScanOptions<'a> {
    ScanOptions {
        filter,
        one_file_system: false,
        xattrs: true,
        image,
        ignore_changed: false,
        workers: 2,
    }
}

fn scanned(source: &Path) -> (SourceTree, HostContents) {
    let filter = Filter::default();
    scan(source, &options(&filter, Path::new("/nowhere/image")), &Warnings::default()).unwrap()
}

fn listed(source: &Path) -> Listing {
    let (tree, contents) = scanned(source);
    list(&tree, &contents)
}

#[test]
fn everything_that_a_directory_can_hold() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o1711)).unwrap();
    fs::create_dir(at("d")).unwrap();
    fs::write(at("d/file"), b"content").unwrap();
    fs::set_permissions(at("d/file"), fs::Permissions::from_mode(0o4751)).unwrap();
    fs::hard_link(at("d/file"), at("again")).unwrap();
    symlink("d/\u{e9}", at("link")).unwrap();
    mknodat(CWD, at("pipe"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    fs::write(dir.path().join(std::ffi::OsStr::from_bytes(b"not-utf8-\xff")), b"").unwrap();
    if is_root() {
        let device = makedev(4095, 1_048_575);
        mknodat(CWD, at("tty"), FileType::CharacterDevice, Mode::from_raw_mode(0o620), device)
            .unwrap();
        mknodat(CWD, at("disk"), FileType::BlockDevice, Mode::from_raw_mode(0o600), makedev(8, 1))
            .unwrap();
        std::os::unix::fs::lchown(at("link"), Some(4_000_000_000), Some(7)).unwrap();
    }
    let listing = listed(dir.path());
    let line = |name: &str| listing.get(name).unwrap_or_else(|| panic!("{name} in {listing:#?}"));
    let metadata = fs::metadata(at("again")).unwrap();
    let hash = &blake3::hash(b"content").to_hex()[..16];
    let (sec, nsec) = (metadata.mtime(), metadata.mtime_nsec());
    let owner = format!("{}:{}", metadata.uid(), metadata.gid());
    let expected = format!("File 4751 {owner} {sec}.{nsec:09} 7 {hash} /again None");
    assert_eq!(line("/again"), &expected);
    assert_eq!(line("/d/file"), &expected, "a hard link is the same file");
    assert!(line("/link").contains("-> d/\u{e9}"));
    assert!(line("/link").starts_with("Link 777 "));
    assert!(line("/pipe").starts_with("Fifo 600 "));
    assert!(line("/socket").starts_with("Sock "));
    assert!(line("/not-utf8-\\xff").starts_with("File "));
    assert!(line("").starts_with("Dir 1711 "), "the root's own attributes");
    if is_root() {
        assert!(line("/tty").contains(" 4095:1048575 "));
        assert!(line("/disk").starts_with("Block 600 ") && line("/disk").contains(" 8:1 "));
        assert!(line("/link").contains(" 4000000000:7 "));
    }
}

#[test]
fn extended_attributes_of_every_kind_of_file() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for name in ["one", "two", "other"] {
        fs::write(at(name), b"").unwrap();
    }
    let set =
        |path: &Path, name: &str, value: &[u8]| lsetxattr(path, name, value, XattrFlags::empty());
    if set(&at("one"), "user.b", b"2").is_err() {
        eprintln!("skipped: no extended attributes in {}", dir.path().display());
        return;
    }
    set(&at("one"), "user.a", b"1\0\xff").unwrap();
    set(&at("two"), "user.a", b"1\0\xff").unwrap();
    set(&at("two"), "user.b", b"2").unwrap();
    set(dir.path(), "user.root", b"").unwrap();
    symlink("x", at("link")).unwrap();
    if is_root() {
        set(&at("link"), "trusted.itself", b"t").unwrap();
        set(&at("other"), "security.capability", b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0")
            .unwrap();
    }
    let (tree, contents) = scanned(dir.path());
    let listing = list(&tree, &contents);
    let xattrs =
        |name: &str| listing[name].split_once("Some").map_or("", |(_, set)| set).to_owned();
    assert!(
        xattrs("/one").contains("[117, 115, 101, 114, 46, 97], [49, 0, 255]"),
        "{}",
        xattrs("/one")
    );
    assert_eq!(xattrs("/one"), xattrs("/two"));
    assert!(!xattrs("").is_empty());
    if is_root() {
        assert!(!xattrs("/link").is_empty() && !xattrs("/other").is_empty());
    }
    let sets = tree.xattr_sets.len();
    assert_eq!(sets, if is_root() { 4 } else { 2 }, "each set is kept once");

    let filter = Filter::default();
    let options = ScanOptions { xattrs: false, ..options(&filter, Path::new("/nowhere/image")) };
    let (tree, _) = scan(dir.path(), &options, &Warnings::default()).unwrap();
    assert!(tree.xattr_sets.is_empty());
}

#[test]
fn holes_are_told_and_read_as_zeros() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sparse");
    let file = File::create(&path).unwrap();
    file.set_len(8 << 20).unwrap();
    file.write_all_at(b"data", 5 << 20).unwrap();
    let (_, contents) = scanned(dir.path());
    let mut content = contents.open(1).unwrap();
    let data = content.next_data(0).unwrap();
    assert!(data <= 5 << 20);
    if data == 0 {
        eprintln!("skipped in part: the file system of {} tells of no holes", dir.path().display());
    } else {
        assert_eq!(
            content.next_data((5 << 20) + (1 << 20)).unwrap(),
            8 << 20,
            "none after the last data"
        );
    }
    let mut buf = [1; 8];
    content.read_exact_at(&mut buf, (5 << 20) - 4).unwrap();
    assert_eq!(&buf, b"\0\0\0\0data");
    content.finish().unwrap();
}

/// Names whose path no system call would take.
#[test]
fn trees_deeper_than_paths_can_be() {
    let dir = tempfile::tempdir().unwrap();
    let name = "n".repeat(200);
    let mut at: SharedFd = Arc::new(
        rustix::fs::open(dir.path(), rustix::fs::OFlags::DIRECTORY, Mode::empty()).unwrap(),
    );
    for _ in 0..100 {
        rustix::fs::mkdirat(&at, name.as_str(), Mode::RWXU).unwrap();
        let flags = rustix::fs::OFlags::DIRECTORY;
        at = Arc::new(rustix::fs::openat(&at, name.as_str(), flags, Mode::empty()).unwrap());
    }
    let flags = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY;
    let file = rustix::fs::openat(&at, "bottom", flags, Mode::RUSR).unwrap();
    rustix::io::write(&file, b"found").unwrap();
    let (tree, contents) = scanned(dir.path());
    assert_eq!(tree.nodes.len(), 102);
    let mut buf = [0; 5];
    // More directories than stay open lie between the root and the file.
    contents.open(101).unwrap().read_exact_at(&mut buf, 0).unwrap();
    assert_eq!(&buf, b"found");
    let excluded = vec![name.as_bytes().to_vec(); 100].join(&b'/');
    let filter = Filter::new(&[[&excluded[..], b"/bottom"].concat()], &[]).unwrap();
    let (tree, _) =
        scan(dir.path(), &options(&filter, Path::new("/nowhere/image")), &Warnings::default())
            .unwrap();
    assert_eq!(tree.nodes.len(), 101);
}

#[test]
fn what_is_excluded_is_not_even_read() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir_all(at("var/cache/deep")).unwrap();
    fs::create_dir_all(at("usr/cache")).unwrap();
    fs::write(at("usr/a.pyc"), b"").unwrap();
    fs::write(at("usr/a.py"), b"").unwrap();
    let filter =
        Filter::new(&[b"var/cache".to_vec(), b"typo".to_vec()], &["\\.pyc$".into()]).unwrap();
    let (tree, contents) =
        scan(dir.path(), &options(&filter, Path::new("/nowhere/image")), &Warnings::default())
            .unwrap();
    let listing = list(&tree, &contents);
    let paths: Vec<_> = listing.keys().map(String::as_str).collect();
    assert_eq!(paths, ["", "/usr", "/usr/a.py", "/usr/cache", "/var"]);
    assert_eq!(filter.unmatched().collect::<Vec<_>>(), [b"typo"]);
}

#[test]
fn the_image_is_not_part_of_itself() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("out")).unwrap();
    fs::write(dir.path().join("out/root.img"), b"old").unwrap();
    fs::write(dir.path().join("root.img"), b"another file of that name").unwrap();
    let warnings = Warnings::default();
    let filter = Filter::default();
    // Known by where it is, not by how that is spelt.
    let image = dir.path().join("out/../out/root.img");
    let (tree, contents) = scan(dir.path(), &options(&filter, &image), &warnings).unwrap();
    let listing = list(&tree, &contents);
    let paths: Vec<_> = listing.keys().map(String::as_str).collect();
    assert_eq!(paths, ["", "/out", "/root.img"]);
    assert_eq!(warnings.0.borrow().len(), 1);
}

/// Every way in which a file can change between the scan and the end of its reading.
#[test]
fn changes_are_told_with_the_name() {
    type Change = fn(&Path);
    let cases: [(&str, Change, &str); 7] = [
        (
            "appended",
            |path| fs::write(path, b"longer than before").unwrap(),
            "its size was 6 bytes and is 18",
        ),
        ("cut", |path| fs::write(path, b"cut").unwrap(), "its size was 6 bytes and is 3"),
        ("rewritten", |path| fs::write(path, b"after!").unwrap(), "it was written to"),
        ("gone", |path| fs::remove_file(path).unwrap(), "vanished"),
        (
            "chmod",
            |path| fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap(),
            "attributes",
        ),
        (
            "replaced",
            |path| {
                let other = path.with_extension("new");
                fs::write(&other, b"before").unwrap();
                fs::rename(other, path).unwrap();
            },
            "replaced",
        ),
        (
            "pipe",
            |path| {
                fs::remove_file(path).unwrap();
                mknodat(CWD, path, FileType::Fifo, Mode::RUSR, 0).unwrap();
            },
            "vanished",
        ),
    ];
    for (name, change, said) in cases {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        fs::write(&path, b"before").unwrap();
        let (_, contents) = scanned(dir.path());
        // Times have the grain of the kernel's clock ticks.
        std::thread::sleep(std::time::Duration::from_millis(20));
        change(&path);
        let mut content = contents.open(1).unwrap();
        let mut buf = [1; 6];
        content.read_exact_at(&mut buf, 0).unwrap();
        if name == "cut" {
            assert_eq!(&buf, b"cut\0\0\0", "what is missing reads as zeros");
        }
        let told = content.finish().unwrap_err();
        assert!(told.contains(said) && told.contains(name), "{name}: {told}");
    }
}

#[test]
fn a_change_while_it_is_read_is_told_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    fs::write(&path, [7; 10_000]).unwrap();
    let (_, contents) = scanned(dir.path());
    let mut content = contents.open(1).unwrap();
    let mut buf = [0; 5000];
    content.read_exact_at(&mut buf, 0).unwrap();
    File::options().append(true).open(&path).unwrap().set_len(10_001).unwrap();
    content.read_exact_at(&mut buf, 5000).unwrap();
    assert!(content.finish().unwrap_err().contains("its size was 10000 bytes and is 10001"));
}

#[test]
fn a_directory_below_a_symlink_or_file_is_no_source() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), b"").unwrap();
    let filter = Filter::default();
    let options = options(&filter, Path::new("/nowhere/image"));
    let failure = scan(&dir.path().join("file"), &options, &Warnings::default()).unwrap_err();
    assert!(failure.hint.is_some_and(|hint| hint.contains("--tar")));
    assert!(scan(&dir.path().join("none"), &options, &Warnings::default()).is_err());
    // The source itself may be a symlink to a directory.
    fs::create_dir(dir.path().join("d")).unwrap();
    symlink("d", dir.path().join("l")).unwrap();
    assert!(scan(&dir.path().join("l"), &options, &Warnings::default()).is_ok());
}

/// `-x` leaves a mount point in place, empty.
#[test]
fn other_file_systems_can_be_left_out() {
    let filter = Filter::default();
    let options = ScanOptions {
        one_file_system: true,
        xattrs: false,
        ..options(&filter, Path::new("/nowhere/image"))
    };
    let dev = |path: &str| fs::metadata(path).map(|metadata| metadata.dev());
    if !matches!((dev("/dev"), dev("/dev/shm")), (Ok(a), Ok(b)) if a != b) {
        eprintln!("skipped: /dev/shm is no file system of its own");
        return;
    }
    let probe = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
    let (tree, contents) = match scan(Path::new("/dev"), &options, &Warnings::default()) {
        Ok(found) => found,
        Err(failure) => {
            eprintln!("skipped: /dev cannot be scanned: {}", failure.message);
            return;
        }
    };
    let listing = list(&tree, &contents);
    assert!(listing.contains_key("/shm"));
    let name = probe.path().file_name().unwrap().to_string_lossy();
    assert!(!listing.contains_key(&format!("/shm/{name}")));
}
