//! Is a mounted image what it should be, does it end as it should, and what if not?

#[path = "support/mount.rs"]
mod mount;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use mount::{ASHLAR, Image, Mount, ashlar, is_mounted, limited, noise, text, within};
use rustix::fs::{Advice, SeekFrom, XattrFlags};
use rustix::process::{Pid, Signal};

fn fill(tree: &Path) {
    fs::write(tree.join("hello"), "hello").unwrap();
    fs::create_dir(tree.join("sub")).unwrap();
    fs::write(tree.join("sub/large"), noise(1, 400_000)).unwrap();
    symlink("sub/large", tree.join("link")).unwrap();
}

/// What a refused command must look like: one line, one hint, status 1.
fn assert_refused(output: &Output, error: &str, hint: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> =
        stderr.lines().filter(|line| !line.starts_with("ashlar: warning: ")).collect();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert_eq!(lines.len(), 2, "{stderr}");
    assert!(lines[0].starts_with("ashlar: error: ") && lines[0].contains(error), "{stderr}");
    assert!(lines[1].starts_with("ashlar: hint: ") && lines[1].contains(hint), "{stderr}");
    assert!(output.stdout.is_empty(), "{output:?}");
}

#[test]
fn umount_ends_the_server() {
    limited("umount_ends_the_server", 60, || {
        let image = Image::build(&[], fill);
        let mount = image.mount("");
        assert_eq!(fs::read(mount.point.join("link")).unwrap(), noise(1, 400_000));
        let status = mount.status();
        assert_eq!(status["root_digest"], image.digest);
        assert_eq!(status["image"], text(&image.path.canonicalize().unwrap()));
        assert_eq!(status["anchor"], "root-digest");
        assert_eq!(status["failures"], 0);
        assert!(status["blocks_verified"].as_u64().unwrap() > 3);
        let words = ashlar(&["status", text(&mount.point.join("sub"))]);
        assert!(String::from_utf8_lossy(&words.stdout).contains(&image.digest), "{words:?}");
        mount.umount();
        assert!(mount.server_ends());
        assert_refused(&ashlar(&["status", text(&mount.point)]), "not on a mounted image", "find");
    });
}

#[test]
fn what_cannot_be_mounted_says_why() {
    limited("what_cannot_be_mounted_says_why", 60, || {
        let image = Image::build(&[], fill);
        let (path, point) = (text(&image.path).to_owned(), image.mountpoint("mnt"));
        let point = text(&point);
        let digest = format!("root_digest={}", image.digest);
        let file = text(&image.source.join("hello")).to_owned();
        let newer = image.directory.path().join("newer.img");
        let mut bytes = fs::read(&image.path).unwrap();
        bytes[8] = 2;
        fs::write(&newer, bytes).unwrap();
        let wrong = "0".repeat(64);
        // options, image, mount point, error, hint
        let cases: [(&str, &str, &str, &str, &str); 13] = [
            (
                &format!("root_digest={wrong}"),
                &path,
                point,
                "does not have the root digest",
                "check",
            ),
            (&format!("{digest},{digest}x"), &path, point, "root_digest", ""),
            ("", "/no/such.img", point, "/no/such.img", "path of an image"),
            ("", &file, point, "not an ashlar image", "mkimage"),
            ("", text(&newer), point, "version", "newer"),
            (&digest, &path, "/no/such/directory", "/no/such/directory", "make the directory"),
            (&digest, &path, &file, "not a directory", "directory"),
            (&digest, &path, "/proc", "mounted on /proc already", "umount"),
            ("rw", &path, point, "cannot be written", "overlay"),
            ("ro,nonsense", &path, point, "`nonsense`", "--help"),
            ("workers=0", &path, point, "workers=0", "--help"),
            (&format!("{digest},cachesize=64K"), &path, point, "too few", "cachesize=1024K"),
            ("key=/no/such.pub", &path, point, "/no/such.pub", ""),
        ];
        for (options, image, point, error, hint) in cases {
            let output = ashlar(&["mount", "-o", options, image, point]);
            if hint.is_empty() {
                let stderr = String::from_utf8_lossy(&output.stderr);
                assert_eq!(output.status.code(), Some(1), "{stderr}");
                assert!(stderr.contains("ashlar: error: ") && stderr.contains(error), "{stderr}");
            } else {
                assert_refused(&output, error, hint);
            }
        }
        assert!(!is_mounted(Path::new(point)), "a failed mount left something mounted");
    });
}

#[test]
fn a_signature_vouches_and_a_wrong_key_is_refused() {
    limited("a_signature_vouches_and_a_wrong_key_is_refused", 60, || {
        let keys = tempfile::tempdir().unwrap();
        let [good, bad] = ["good", "bad"].map(|name| {
            let secret = keys.path().join(name);
            let output = ashlar(&["key", "generate", "--no-password", text(&secret)]);
            assert!(output.status.success(), "{output:?}");
            text(&secret).to_owned()
        });
        let image = Image::build(&["--sign-key", &good], fill);
        let point = image.mountpoint("mnt");
        let mount = |key: &str| {
            let option = format!("key={key}.pub");
            ashlar(&["mount", "-o", &option, text(&image.path), text(&point)])
        };
        assert_refused(&mount(&bad), "sign", "check the key");
        let output = mount(&good);
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        let mount = Mount::found(point.clone());
        assert_eq!(mount.status()["anchor"], "key");
        assert_eq!(fs::read(mount.point.join("hello")).unwrap(), b"hello");
    });
}

#[test]
fn a_mount_point_in_use_is_refused() {
    limited("a_mount_point_in_use_is_refused", 60, || {
        let image = Image::build(&[], fill);
        let mount = image.mount("");
        let output = ashlar(&[
            "mount",
            "--root-digest",
            &image.digest,
            text(&image.path),
            text(&mount.point),
        ]);
        assert_refused(&output, "mounted on", "umount");
        assert_eq!(fs::read(mount.point.join("hello")).unwrap(), b"hello");
    });
}

#[test]
fn nothing_that_vouches_is_said_aloud() {
    limited("nothing_that_vouches_is_said_aloud", 60, || {
        let image = Image::build(&[], fill);
        let point = image.mountpoint("mnt");
        let output = ashlar(&["mount", text(&image.path), text(&point)]);
        assert!(output.status.success());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(stderr.matches("ashlar: warning: ").count(), 1, "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert_eq!(Mount::found(point).status()["anchor"], "nothing");
    });
}

#[test]
fn mount_8_finds_its_helper() {
    limited("mount_8_finds_its_helper", 60, || {
        let image = Image::build(&[], fill);
        let helper = image.directory.path().join("mount.ashlar");
        symlink(ASHLAR, &helper).unwrap();
        let point = image.mountpoint("mnt");
        let options = format!("rw,nosuid,noauto,x-systemd.automount,root_digest={}", image.digest);
        let call = |extra: &[&str]| {
            let output = Command::new(&helper)
                .args([text(&image.path), text(&point)])
                .args(extra)
                .args(["-o", &options])
                .output()
                .unwrap();
            assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        };
        call(&["-f", "-t", "ashlar"]);
        assert!(!is_mounted(&point), "-f means: only pretend");
        call(&["-n", "-v"]);
        let mount = Mount::found(point);
        let table = fs::read_to_string("/proc/self/mounts").unwrap();
        let line = table.lines().find(|line| line.contains(text(&mount.point))).unwrap();
        assert!(line.contains(" fuse.ashlar ro,nosuid,"), "{line}");
        assert!(line.starts_with(text(&image.path.canonicalize().unwrap())), "{line}");
    });
}

#[test]
fn in_the_foreground_a_signal_unmounts() {
    limited("in_the_foreground_a_signal_unmounts", 60, || {
        let image = Image::build(&[], fill);
        let point = image.mountpoint("mnt");
        let digest = format!("--root-digest={}", image.digest);
        let start = || {
            let server = Command::new(ASHLAR)
                .args(["mount", "--foreground", &digest, text(&image.path), text(&point)])
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            assert!(within(Duration::from_secs(10), || is_mounted(&point)));
            (server, Mount::found(point.clone()))
        };
        let signal = |server: &std::process::Child, signal| {
            let pid = Pid::from_raw(server.id().try_into().unwrap()).unwrap();
            rustix::process::kill_process(pid, signal).unwrap();
        };
        for which in [Signal::TERM, Signal::INT] {
            let (mut server, _undo) = start();
            signal(&server, which);
            let status = server.wait().unwrap();
            assert_eq!(status.code(), Some(0), "{which:?}");
            assert!(!is_mounted(&point));
            let mut log = String::new();
            server.stderr.take().unwrap().read_to_string(&mut log).unwrap();
            assert!(log.contains("is mounted on") && log.contains("unmounted"), "{log}");
        }
        // Who still reads may go on; the name is gone at once.
        let (mut server, _undo) = start();
        let open = File::open(point.join("sub/large")).unwrap();
        signal(&server, Signal::TERM);
        assert!(within(Duration::from_secs(10), || !is_mounted(&point)));
        let mut content = vec![0; 400_000];
        open.read_exact_at(&mut content, 0).unwrap();
        assert_eq!(content, noise(1, 400_000));
        assert!(server.try_wait().unwrap().is_none());
        drop(open);
        assert_eq!(server.wait().unwrap().code(), Some(0));
    });
}

#[test]
fn a_server_that_nobody_waits_for_leaves_no_mount() {
    limited("a_server_that_nobody_waits_for_leaves_no_mount", 60, || {
        let image = Image::build(&[], fill);
        let point = image.mountpoint("mnt");
        let mut server = Command::new(ASHLAR)
            .args(["mount", "--detached", "--root-digest", &image.digest])
            .args([text(&image.path), text(&point)])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(server.stdout.take());
        let output = server.wait_with_output().unwrap();
        // A mount without a server would not show in `ashlar status`.
        let table = fs::read_to_string("/proc/self/mounts").unwrap();
        let left = table.contains(text(&point));
        rustix::mount::unmount(&point, rustix::mount::UnmountFlags::DETACH).ok();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains("ashlar: error: cannot leave the terminal"), "{stderr}");
        assert!(!left, "{table}");
    });
}

#[test]
fn a_server_that_is_killed_is_noticed() {
    limited("a_server_that_is_killed_is_noticed", 60, || {
        let image = Image::build(&[], fill);
        let mount = image.mount("notakeover");
        rustix::process::kill_process(mount.server, Signal::KILL).unwrap();
        assert!(mount.server_ends());
        // What the kernel remembers of the root is answered by the kernel, so only the socket tells.
        let output = ashlar(&["status", text(&mount.point)]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains("ashlar: error: "), "{stderr}");
    });
}

#[test]
fn holes_are_told_truthfully() {
    limited("holes_are_told_truthfully", 60, || {
        const BLOCK: u64 = 128 * 1024;
        let image = Image::build(&["--block-size", "128K"], |tree| {
            let file = File::create(tree.join("sparse")).unwrap();
            file.write_all_at(&noise(1, 100), BLOCK).unwrap();
            file.write_all_at(&noise(2, 300_000), 4 * BLOCK).unwrap();
            file.set_len(20 * BLOCK).unwrap();
        });
        let mount = image.mount("");
        let file = File::open(mount.point.join("sparse")).unwrap();
        let seek = |to| rustix::fs::seek(&file, to);
        assert_eq!(seek(SeekFrom::Data(0)), Ok(BLOCK));
        assert_eq!(seek(SeekFrom::Hole(BLOCK)), Ok(2 * BLOCK));
        assert_eq!(seek(SeekFrom::Data(2 * BLOCK)), Ok(4 * BLOCK));
        let end = seek(SeekFrom::Hole(4 * BLOCK)).unwrap();
        assert!((4 * BLOCK + 300_000..=7 * BLOCK).contains(&end), "{end}");
        assert_eq!(seek(SeekFrom::Data(7 * BLOCK)), Err(rustix::io::Errno::NXIO));
        assert_eq!(seek(SeekFrom::Hole(8 * BLOCK)), Ok(8 * BLOCK));
        assert_eq!(file.metadata().unwrap().len(), 20 * BLOCK);
    });
}

#[test]
fn xattrs_and_the_root_digest() {
    limited("xattrs_and_the_root_digest", 60, || {
        const ROOT_DIGEST: &str = "user.ashlar.root_digest";
        let read = |path: &Path, name: &str| {
            let mut value = [0; 256];
            let len = rustix::fs::getxattr(path, name, &mut value[..])?;
            Ok::<_, rustix::io::Errno>(value[..len].to_vec())
        };
        let names = |path: &Path| {
            let mut list = [0; 256];
            let len = rustix::fs::listxattr(path, &mut list[..]).unwrap();
            String::from_utf8(list[..len].to_vec()).unwrap()
        };
        let image = Image::build(&[], |tree| {
            fill(tree);
            let set = |name, value: &[u8]| {
                rustix::fs::setxattr(tree.join("hello"), name, value, XattrFlags::empty()).unwrap();
            };
            set("user.note", b"a\0b");
            set("user.empty", b"");
            set("trusted.secret", b"x");
        });
        let mount = image.mount("");
        let hello = mount.point.join("hello");
        assert_eq!(read(&hello, "user.note").unwrap(), b"a\0b");
        assert_eq!(read(&hello, "user.empty").unwrap(), b"");
        assert_eq!(read(&hello, "user.none"), Err(rustix::io::Errno::NODATA));
        assert_eq!(read(&hello, ROOT_DIGEST), Err(rustix::io::Errno::NODATA));
        assert_eq!(names(&hello), "trusted.secret\0user.empty\0user.note\0");
        let mut short = [0; 1];
        let too_short = rustix::fs::getxattr(&hello, "user.note", &mut short[..]);
        assert_eq!(too_short, Err(rustix::io::Errno::RANGE));
        assert_eq!(read(&mount.point, ROOT_DIGEST).unwrap(), image.digest.as_bytes());
        assert_eq!(names(&mount.point), "", "a copy of the tree must equal the tree");
        let bare = Image::build(&["--no-xattrs"], fill);
        let mount = bare.mount("");
        assert_eq!(read(&mount.point, ROOT_DIGEST), Err(rustix::io::Errno::OPNOTSUPP));
        drop(mount);
        let mount = bare.mount("digest_xattr");
        assert_eq!(read(&mount.point, ROOT_DIGEST).unwrap(), bare.digest.as_bytes());
    });
}

#[test]
fn free_space_is_that_beside_the_image() {
    limited("free_space_is_that_beside_the_image", 60, || {
        let image = Image::build(&[], fill);
        let mount = image.mount("");
        let beside = rustix::fs::statvfs(&image.path).unwrap();
        let ours = rustix::fs::statvfs(&mount.point).unwrap();
        let (free, expected) = (ours.f_bavail * ours.f_frsize, beside.f_bavail * beside.f_frsize);
        // Others write to that disk meanwhile.
        assert!(free.abs_diff(expected) < (2 << 30), "{free} {expected}");
        let used = (ours.f_blocks - ours.f_bfree) * ours.f_frsize;
        let len = fs::metadata(&image.path).unwrap().len();
        assert_eq!(used, len.next_multiple_of(4096));
        assert_eq!(ours.f_namemax, 255);
        assert_eq!(ours.f_files - ours.f_ffree, 5);
    });
}

#[test]
fn handles_outlive_the_kernels_memory() {
    limited("handles_outlive_the_kernels_memory", 120, || {
        // open_by_handle_at(2), as an NFS server does it: for a file and a directory that the kernel has forgotten.
        const SCRIPT: &str = r"
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
class Handle(ctypes.Structure):
    _fields_ = [('len', ctypes.c_uint), ('type', ctypes.c_int), ('bytes', ctypes.c_ubyte * 128)]
def handle(path):
    h, mount = Handle(len=128), ctypes.c_int()
    if libc.name_to_handle_at(-100, path.encode(), ctypes.byref(h), ctypes.byref(mount), 0):
        raise OSError(ctypes.get_errno(), 'name_to_handle_at')
    return h
root = sys.argv[1]
file, directory = handle(root + '/sub/large'), handle(root + '/sub')
open('/proc/sys/vm/drop_caches', 'w').write('2')
mount = os.open(root, os.O_RDONLY)
def reopen(h, flags):
    fd = libc.open_by_handle_at(mount, ctypes.byref(h), flags)
    if fd < 0:
        raise OSError(ctypes.get_errno(), 'open_by_handle_at')
    return fd
print(os.fstat(reopen(file, os.O_RDONLY)).st_size, os.listdir(reopen(directory, os.O_RDONLY)))
";
        let image = Image::build(&[], fill);
        let mount = image.mount("");
        let output =
            Command::new("python3").args(["-c", SCRIPT, text(&mount.point)]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "400000 ['large']\n", "{output:?}");
    });
}

/// An ordinary user, in a mount namespace of its own where the device is open to all, as it is on most systems.
fn as_user(image: &Image, script: &str) -> Output {
    const PROLOGUE: &str = "set -e; cd /; device=$1; shift
mknod $device c 10 229; chmod 666 $device; mount --bind $device /dev/fuse
exec setpriv --reuid=65534 --regid=65534 --clear-groups sh -c \"$0\" sh \"$@\"";
    let directory = image.directory.path();
    for path in [directory, &image.path] {
        let mode = rustix::fs::Mode::from_raw_mode(0o755);
        rustix::fs::chmod(path, mode).unwrap();
    }
    let point = image.mountpoint("user");
    let nobody = (rustix::fs::Uid::from_raw(65534), rustix::fs::Gid::from_raw(65534));
    rustix::fs::chown(&point, Some(nobody.0), Some(nobody.1)).unwrap();
    let device = directory.join("fuse");
    fs::remove_file(&device).ok();
    Command::new("unshare")
        .args(["-m", "sh", "-c", PROLOGUE, script, text(&device)])
        .args([ASHLAR, text(&image.path), text(&point), &image.digest])
        .output()
        .unwrap()
}

#[test]
fn an_ordinary_user_mounts_and_unmounts() {
    limited("an_ordinary_user_mounts_and_unmounts", 60, || {
        if Command::new("fusermount3").arg("-V").output().is_err() {
            eprintln!("skipped: an_ordinary_user_mounts_and_unmounts: no fusermount3");
            return;
        }
        let image = Image::build(&[], fill);
        let output = as_user(
            &image,
            "set -e
            $1 mount --root-digest $4 $2 $3
            cat $3/hello; echo; grep fuse.ashlar /proc/self/mounts
            $1 status --json $3
            pid=$($1 status --json $3 | sed -n 's/.*\"pid\": \\([0-9]*\\).*/\\1/p')
            fusermount3 -u $3
            for i in $(seq 100); do kill -0 $pid 2>/dev/null || { echo ended; break; }; sleep 0.1; done",
        );
        let stdout = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{output:?}");
        assert!(stdout.starts_with("hello\n"), "{stdout}");
        assert!(stdout.contains(" fuse.ashlar ro,nosuid,nodev,"), "{stdout}");
        assert!(stdout.contains(&image.digest), "{stdout}");
        assert!(stdout.ends_with("ended\n"), "{stdout}");

        let refused = as_user(&image, "exec $1 mount --root-digest $4 -o allow_other $2 $3");
        if !fs::read_to_string("/etc/fuse.conf")
            .is_ok_and(|it| it.lines().any(|it| it == "user_allow_other"))
        {
            assert_refused(&refused, "user_allow_other", "fuse.conf");
        }
        let refused = as_user(&image, "PATH=/nowhere; exec $1 mount --root-digest $4 $2 $3");
        assert_refused(&refused, "fusermount3", "fuse3");
        let output = Command::new("unshare")
            .args([
                "-m",
                "sh",
                "-c",
                "mount -t tmpfs none /dev; mknod /dev/null c 1 3; exec \"$@\"",
                "sh",
            ])
            .args([ASHLAR, "mount", "--root-digest", &image.digest, text(&image.path)])
            .arg(image.mountpoint("none"))
            .output()
            .unwrap();
        assert_refused(&output, "/dev/fuse", "modprobe");
    });
}

#[test]
fn a_signal_ends_the_mount_of_an_ordinary_user() {
    limited("a_signal_ends_the_mount_of_an_ordinary_user", 60, || {
        if Command::new("fusermount3").arg("-V").output().is_err() {
            eprintln!("skipped: a_signal_ends_the_mount_of_an_ordinary_user: no fusermount3");
            return;
        }
        // It may start no program that gains privileges, so fusermount3 is another's to start.
        let image = Image::build(&[], fill);
        let output = as_user(
            &image,
            "set -e
            $1 mount --root-digest $4 $2 $3
            pid=$($1 status --json $3 | sed -n 's/.*\"pid\": \\([0-9]*\\).*/\\1/p')
            grep -h -e ^NoNewPrivs -e ^Seccomp: /proc/$pid/task/*/status | sort -u
            kill $pid
            for i in $(seq 100); do kill -0 $pid 2>/dev/null || { echo ended; break; }; sleep 0.1; done
            grep \" $3 fuse.ashlar\" /proc/self/mounts || echo unmounted",
        );
        let stdout = String::from_utf8_lossy(&output.stdout);
        assert_eq!(stdout, "NoNewPrivs:\t1\nSeccomp:\t2\nended\nunmounted\n", "{output:?}");
    });
}

/// Files for the tests that damage the image under the mount.
const FILES: u64 = 48;
const FILE_LEN: usize = 300_000;

fn many_files(tree: &Path) {
    for n in 0..FILES {
        fs::write(tree.join(n.to_string()), noise(n, FILE_LEN)).unwrap();
    }
}

/// Reads a file from the server, not from the kernel's memory. Wrong bytes fail the test; an error is `false`.
fn reads_true(point: &Path, n: u64) -> bool {
    let Ok(mut file) = File::open(point.join(n.to_string())) else { return false };
    rustix::fs::fadvise(&file, 0, None, Advice::DontNeed).unwrap();
    let mut content = Vec::new();
    match file.read_to_end(&mut content) {
        Ok(_) => {
            assert!(content == noise(n, FILE_LEN), "file {n} has wrong bytes");
            true
        }
        Err(err) => {
            assert_eq!(err.raw_os_error(), Some(5), "{err}");
            // What came before the error must be right, too.
            assert!(noise(n, FILE_LEN).starts_with(&content), "file {n} has wrong bytes");
            false
        }
    }
}

/// Reads with three readers while `damage` is done; returns how many reads were right and how many failed.
fn readers(point: &Path, damage: impl FnOnce()) -> (u64, u64) {
    let (right, failed) = (AtomicU64::new(0), AtomicU64::new(0));
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for seed in 0..3 {
            let (right, failed, stop) = (&right, &failed, &stop);
            scope.spawn(move || {
                let mut n = seed * 7;
                while !stop.load(Ordering::Relaxed) {
                    n = (n * 5 + 13) % FILES;
                    let counter = if reads_true(point, n) { right } else { failed };
                    counter.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        damage();
        stop.store(true, Ordering::Relaxed);
    });
    (right.into_inner(), failed.into_inner())
}

#[test]
fn an_image_that_shrinks_costs_its_own_bytes_only() {
    limited("an_image_that_shrinks_costs_its_own_bytes_only", 120, || {
        for method in ["mmap", "pread"] {
            let image = Image::build(&[], many_files);
            // Little cache, so that reads reach the image; enough for the metadata, which lie at its end.
            let mount = image.mount(&format!("method={method},cachesize=1M"));
            for n in 0..FILES {
                assert!(reads_true(&mount.point, n));
            }
            let len = fs::metadata(&image.path).unwrap().len();
            let (right, failed) = readers(&mount.point, || {
                thread::sleep(Duration::from_millis(300));
                File::options().write(true).open(&image.path).unwrap().set_len(len / 2).unwrap();
                thread::sleep(Duration::from_millis(700));
            });
            assert!(right > 10 && failed > 0, "{method}: {right} right, {failed} failed");
            let served = (0..FILES).filter(|n| reads_true(&mount.point, *n)).count();
            assert!((15..40).contains(&served), "{method}: {served} of {FILES} files are served");
            assert!(mount.server_lives());
            let status = mount.status();
            assert!(status["failures"].as_u64().unwrap() > 0, "{status}");
            mount.umount();
            assert!(mount.server_ends());
        }
    });
}

#[test]
fn an_image_that_is_rewritten_never_shows() {
    limited("an_image_that_is_rewritten_never_shows", 120, || {
        for method in ["mmap", "pread"] {
            let image = Image::build(&[], many_files);
            let mount = image.mount(&format!("method={method},cachesize=1M"));
            for n in 0..FILES {
                assert!(reads_true(&mount.point, n));
            }
            let good = fs::read(&image.path).unwrap();
            let file = File::options().write(true).open(&image.path).unwrap();
            let (right, failed) = readers(&mount.point, || {
                let end = Instant::now() + Duration::from_millis(1500);
                let mut seed = 0;
                while Instant::now() < end {
                    // One stretch after the other is overwritten, and then restored.
                    seed += 1;
                    let at = (seed * 7_919_773) % (good.len() - 200_000);
                    file.write_all_at(&noise(seed as u64, 100_000), at as u64).unwrap();
                    thread::sleep(Duration::from_millis(5));
                    file.write_all_at(&good[at..at + 100_000], at as u64).unwrap();
                }
            });
            assert!(right > 10 && failed > 0, "{method}: {right} right, {failed} failed");
            for n in 0..FILES {
                assert!(reads_true(&mount.point, n), "{method}: file {n} is whole again");
            }
            assert!(mount.server_lives());
        }
    });
}

#[test]
fn a_superblock_that_only_the_backup_replaces_is_told() {
    limited("a_superblock_that_only_the_backup_replaces_is_told", 60, || {
        let image = Image::build(&[], fill);
        let sound = image.mount("");
        assert_eq!(sound.status()["used_backup"], false);
        let words = ashlar(&["status", text(&sound.point)]);
        assert!(!String::from_utf8_lossy(&words.stdout).contains("superblock"), "{words:?}");
        drop(sound);
        let file = File::options().write(true).open(&image.path).unwrap();
        file.write_all_at(&[0xff; 64], 1024).unwrap();
        let mount = image.mount("");
        assert_eq!(mount.status()["used_backup"], true);
        let words = ashlar(&["status", text(&mount.point)]);
        assert!(String::from_utf8_lossy(&words.stdout).contains("its backup serves"), "{words:?}");
        assert_eq!(fs::read(mount.point.join("hello")).unwrap(), b"hello");
    });
}

#[test]
fn a_damaged_block_is_logged_once() {
    limited("a_damaged_block_is_logged_once", 60, || {
        let image = Image::build(&[], many_files);
        let mut bytes = fs::read(&image.path).unwrap();
        bytes[4096 + 1000] ^= 1;
        let mut file = File::create(&image.path).unwrap();
        file.write_all(&bytes).unwrap();
        let point = image.mountpoint("mnt");
        let log: PathBuf = image.directory.path().join("log");
        let mut server = Command::new(ASHLAR)
            .args(["mount", "-f", "--root-digest", &image.digest])
            .args([text(&image.path), text(&point)])
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        assert!(within(Duration::from_secs(10), || is_mounted(&point)));
        let mount = Mount::found(point);
        let bad: Vec<u64> = (0..FILES).filter(|n| !reads_true(&mount.point, *n)).collect();
        assert_eq!(bad.len(), 1, "{bad:?}");
        for _ in 0..20 {
            assert!(!reads_true(&mount.point, bad[0]));
        }
        let named = format!(" is /{}\n", bad[0]);
        // By two threads that nobody waits for.
        let is_named = || {
            let log = fs::read_to_string(&log).unwrap();
            log.contains(&named) && log.contains("block 0 is lost")
        };
        assert!(within(Duration::from_secs(10), is_named), "{}", fs::read_to_string(&log).unwrap());
        mount.umount();
        assert_eq!(server.wait().unwrap().code(), Some(0));
        let log = fs::read_to_string(&log).unwrap();
        let told: Vec<&str> = log.lines().filter(|line| line.contains("ERROR")).collect();
        let count = |words: &str| told.iter().filter(|line| line.contains(words)).count();
        assert_eq!(count("read of inode"), 1, "{log}");
        assert_eq!(count(named.trim_end()), 1, "{log}");
        assert_eq!(count("block 0 is lost"), 1, "{log}");
        assert_eq!(told.len(), 3, "{log}");
    });
}
