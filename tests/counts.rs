//! How often does the kernel ask? What it was told once, it must never ask again.

#[path = "support/mount.rs"]
mod mount;

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use mount::{Image, Mount, limited, noise};

const FILES: usize = 300;

fn fill(tree: &Path) {
    fs::create_dir_all(tree.join("many")).unwrap();
    for n in 0..FILES {
        fs::write(tree.join(format!("many/file number {n:03}")), noise(1, n)).unwrap();
    }
    fs::create_dir_all(tree.join("a/b/c")).unwrap();
    fs::write(tree.join("a/b/c/large"), noise(2, 700_000)).unwrap();
    symlink("b/c/large", tree.join("a/link")).unwrap();
    fs::copy("/bin/true", tree.join("true")).unwrap();
}

fn with_xattr(tree: &Path) {
    fill(tree);
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(tree.join("a"), "user.note", b"yes", flags).unwrap();
}

fn run(program: impl AsRef<std::ffi::OsStr>, args: &[&str]) {
    let status = Command::new(&program).args(args).stdout(Stdio::null()).status().unwrap();
    assert!(status.success(), "{} {args:?}", program.as_ref().display());
}

/// Everything a machine does all day, done once; `ls -lR` apart.
fn use_it(point: &Path) {
    let file = point.join("a/link");
    assert_eq!(fs::read(&file).unwrap().len(), 700_000);
    fs::read_link(&file).unwrap();
    fs::metadata(&file).unwrap();
    assert_eq!(fs::metadata(point.join("no such name")).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(fs::read_dir(point.join("many")).unwrap().count(), FILES);
    run("stat", &["--", point.join("true").to_str().unwrap()]);
}

fn list(point: &Path) {
    run("ls", &["-lR", "--", point.to_str().unwrap()]);
}

#[test]
fn without_xattrs_nothing_is_asked_twice() {
    limited("without_xattrs_nothing_is_asked_twice", 60, || {
        let image = Image::build(&["--no-xattrs"], fill);
        let mount = image.mount("");
        use_it(&mount.point);
        list(&mount.point);
        run(mount.point.join("true"), &[]);
        assert_eq!(mount.cost(|| use_it(&mount.point)), [""; 0]);
        assert_eq!(mount.cost(|| list(&mount.point)), [""; 0]);
        assert_eq!(mount.cost(|| run(mount.point.join("true"), &[])), [""; 0]);
    });
}

#[test]
fn with_xattrs_an_exec_is_one_question() {
    limited("with_xattrs_an_exec_is_one_question", 60, || {
        let image = Image::build(&[], with_xattr);
        let mount = image.mount("");
        use_it(&mount.point);
        list(&mount.point);
        run(mount.point.join("true"), &[]);
        assert_eq!(mount.cost(|| use_it(&mount.point)), [""; 0]);
        assert_eq!(mount.cost(|| run(mount.point.join("true"), &[])), ["getxattr 1"]);
        // One for a label and one for an ACL, however many files there are: `ls` hears that there are none of either.
        let cost = mount.cost(|| list(&mount.point));
        assert!(cost.is_empty() || cost == ["getxattr 1"] || cost == ["getxattr 2"], "{cost:?}");
    });
}

#[test]
fn the_first_user_of_a_mount_is_asked_for_nothing_but_content() {
    limited("the_first_user_of_a_mount_is_asked_for_nothing_but_content", 60, || {
        let image = Image::build(&["--no-xattrs"], fill);
        let mount = image.mount("");
        let open = ["open 1", "flush 1", "opendir 1", "getxattr 1", "listxattr 1"];
        let asked: Vec<String> =
            mount.upcalls().into_iter().map(|(kind, count)| format!("{kind} {count}")).collect();
        assert!(open.iter().all(|kind| asked.iter().any(|it| it == kind)), "{asked:?}");
        let cost = mount.cost(|| run(mount.point.join("true"), &[]));
        assert!(
            cost.iter().all(|it| it.starts_with("lookup ") || it.starts_with("read ")),
            "{cost:?}"
        );
    });
}

/// Questions of each kind in a cost.
fn count(cost: &[String], kind: &str) -> u64 {
    let prefix = format!("{kind} ");
    cost.iter().find_map(|it| it.strip_prefix(&prefix)).map_or(0, |count| count.parse().unwrap())
}

fn cold_listing_costs(mount: &Mount, list: impl FnOnce(&Path)) {
    let many = mount.point.join("many");
    // The directory's own name, so that what follows is about what is in it.
    fs::metadata(&many).unwrap();
    let cost = mount.cost(|| list(&many));
    assert_eq!(count(&cost, "lookup") + count(&cost, "getattr"), 0, "{cost:?}");
    let pieces = count(&cost, "readdirplus");
    assert!((2..=20).contains(&pieces), "{cost:?}");
    let cost = mount.cost(|| {
        for n in 0..FILES {
            fs::metadata(many.join(format!("file number {n:03}"))).unwrap();
        }
    });
    assert_eq!(cost, [""; 0], "each name was told with the listing");
}

#[test]
fn a_cold_listing_is_a_few_questions_and_no_lookup() {
    limited("a_cold_listing_is_a_few_questions_and_no_lookup", 60, || {
        let image = Image::build(&["--no-xattrs"], fill);
        let mount = image.mount("");
        cold_listing_costs(&mount, |many| run("ls", &["-l", many.to_str().unwrap()]));
        mount.umount();
        assert!(mount.server_ends());
        drop(mount);
        // A listing that looks at names alone tells the attributes, too, also from its second piece on.
        let mount = image.mount("");
        cold_listing_costs(&mount, |many| {
            assert_eq!(fs::read_dir(many).unwrap().count(), FILES);
        });
    });
}
