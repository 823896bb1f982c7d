//! Can a server that serves do anything else? Looked at from outside, and tried from inside.

#[path = "confine/inside.rs"]
mod inside;
#[path = "support/mount.rs"]
mod mount;

use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use mount::{ASHLAR, Image, ashlar, is_mounted, limited, noise, text, within};
use rustix::process::{Pid, Signal};

fn fill(tree: &Path) {
    for number in 0..64_u64 {
        fs::write(tree.join(number.to_string()), noise(number, 50_000)).unwrap();
    }
    symlink("1", tree.join("link")).unwrap();
}

/// The status of each thread of a process: name and fields.
fn threads(process: Pid) -> Vec<(String, String)> {
    let tasks = format!("/proc/{}/task", process.as_raw_nonzero());
    let mut found = Vec::new();
    for task in fs::read_dir(tasks).unwrap() {
        let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        found.push((field(&status, "Name").to_owned(), status));
    }
    found
}

fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    value.unwrap_or_else(|| panic!("no {name} in {status}")).trim()
}

/// Fields that say what a thread may do, and what they say of one that may do nothing special.
const BARE: [(&str, &str); 7] = [
    ("CapInh", "0000000000000000"),
    ("CapPrm", "0000000000000000"),
    ("CapEff", "0000000000000000"),
    ("CapBnd", "0000000000000000"),
    ("CapAmb", "0000000000000000"),
    ("NoNewPrivs", "1"),
    ("Seccomp", "2"),
];

fn assert_bare(process: Pid) {
    for (name, status) in threads(process) {
        for (what, wanted) in BARE {
            assert_eq!(field(&status, what), wanted, "{what} of thread {name}");
        }
    }
}

#[test]
fn no_thread_of_a_server_has_a_privilege() {
    limited("no_thread_of_a_server_has_a_privilege", 60, || {
        let image = Image::build(&[], fill);
        for options in ["", "method=mmap", "workers=7,allow_other", "io_timeout=60"] {
            // What is to be waited for is read by a thread of its own, also before anything is mounted.
            let is_forgotten = forget(&image.path);
            let mount = image.mount(options);
            let names = || threads(mount.server).into_iter().map(|it| it.0).collect::<Vec<_>>();
            // Each kind of thread is there: what answers, reports, expands ahead, logs and waits for signals. One that has just
            // begun has not said its name yet.
            for kind in ["fuser-0", "session", "status", "prefetch", "log", "signals"] {
                let is_there = || names().iter().any(|name| name == kind);
                assert!(within(Duration::from_secs(5), is_there), "no {kind} in {:?}", names());
            }
            let names = names();
            let reads = names.iter().any(|name| name == "read");
            assert_eq!(reads, options == "io_timeout=60" && is_forgotten, "{names:?}");
            assert_bare(mount.server);
            // It serves all the same, and threads that were started meanwhile have nothing either.
            for number in 0..64 {
                let path = mount.point.join(number.to_string());
                assert_eq!(fs::read(path).unwrap(), noise(number, 50_000));
            }
            assert_bare(mount.server);
        }
    });
}

/// Takes a file out of the page cache; returns whether that was so, for not every file system does it.
fn forget(path: &Path) -> bool {
    let file = fs::File::open(path).unwrap();
    rustix::fs::fsync(&file).unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    let mut bytes = [0; 4096];
    let into = &mut [std::io::IoSliceMut::new(&mut bytes)];
    let flags = rustix::io::ReadWriteFlags::NOWAIT;
    rustix::io::preadv2(&file, into, 0, flags) == Err(rustix::io::Errno::AGAIN)
}

#[test]
fn a_list_of_what_is_wanted_first_gives_no_thread_a_privilege() {
    limited("a_list_of_what_is_wanted_first_gives_no_thread_a_privilege", 60, || {
        // Two threads more, which are started before anything is mounted.
        let order = tempfile::NamedTempFile::new().unwrap();
        fs::write(order.path(), "/3\n/1\n").unwrap();
        let image = Image::build(&["--order", text(order.path())], fill);
        let mount = image.mount("");
        assert_bare(mount.server);
        assert_eq!(fs::read(mount.point.join("3")).unwrap(), noise(3, 50_000));
    });
}

#[test]
fn it_can_be_switched_off() {
    limited("it_can_be_switched_off", 60, || {
        let image = Image::build(&[], fill);
        let mount = image.mount("noconfine");
        let first = both(&mount.point, |_| true);
        rustix::process::kill_process(first.0, Signal::KILL).unwrap();
        let (server, holder) = both(&mount.point, |it| it.0 != first.0);
        for (name, status) in threads(server).into_iter().chain(threads(holder)) {
            assert_eq!(field(&status, "Seccomp"), "0", "{name}");
            assert_ne!(field(&status, "CapEff"), "0000000000000000", "{name}");
        }
        assert_eq!(unmounters(&mount.point), [""; 0]);
        rustix::process::kill_process(server, Signal::TERM).unwrap();
        assert!(within(Duration::from_secs(10), || !is_mounted(&mount.point)));
    });
}

/// The server and the holder of a mount, when both are there and `is_new` says so.
fn both(point: &Path, is_new: impl Fn((Pid, Pid)) -> bool) -> (Pid, Pid) {
    let mut found = None;
    let pid = |report: &serde_json::Value, name: &str| {
        Pid::from_raw(i32::try_from(report[name].as_i64()?).unwrap())
    };
    let look = || -> Option<(Pid, Pid)> {
        let output = ashlar(&["status", "--json", text(point)]);
        let report = serde_json::from_slice(&output.stdout).ok()?;
        Some((pid(&report, "server_pid")?, pid(&report, "holder_pid")?))
    };
    assert!(within(Duration::from_secs(20), || {
        found = look().filter(|it| is_new(*it));
        found.is_some()
    }));
    found.unwrap()
}

#[test]
fn successors_and_holders_are_as_confined_and_serve_and_unmount() {
    limited("successors_and_holders_are_as_confined_and_serve_and_unmount", 120, || {
        let image = Image::build(&[], fill);
        for options in ["", "method=mmap,io_timeout=60,watchdog=30"] {
            let mount = image.mount(options);
            let mut now = both(&mount.point, |_| true);
            for round in 0..20_u64 {
                let dies = if round % 2 == 0 { now.0 } else { now.1 };
                rustix::process::kill_process(dies, Signal::KILL).unwrap();
                now = both(&mount.point, |it| it.0 != dies && it.1 != dies);
                // Threads that were not there at first as well.
                let path = mount.point.join(round.to_string());
                assert_eq!(fs::read(path).unwrap(), noise(round, 50_000));
                assert_bare(now.0);
                assert_bare(now.1);
                // It is one filter, whoever started whom.
                for (name, status) in threads(now.0).into_iter().chain(threads(now.1)) {
                    assert_eq!(field(&status, "Seccomp_filters"), "1", "{name}");
                }
            }
            let report = mount.status();
            assert_eq!((&report["takeovers"], &report["failures"]), (&10.into(), &0.into()));
            // By then all who were there when it was mounted are gone, but for one.
            assert_eq!(unmounters(&mount.point).len(), 1);
            rustix::process::kill_process(now.0, Signal::TERM).unwrap();
            assert!(within(Duration::from_secs(10), || !is_mounted(&mount.point)));
            assert!(within(Duration::from_secs(10), || unmounters(&mount.point).is_empty()));
        }
    });
}

#[test]
fn without_who_unmounts_a_signal_changes_nothing() {
    limited("without_who_unmounts_a_signal_changes_nothing", 60, || {
        let image = Image::build(&[], fill);
        let mount = image.mount("");
        let [beside] = &*unmounters(&mount.point) else { panic!() };
        let beside = Pid::from_raw(field(beside, "Pid").parse().unwrap()).unwrap();
        rustix::process::kill_process(beside, Signal::KILL).unwrap();
        rustix::process::kill_process(mount.server, Signal::TERM).unwrap();
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(fs::read(mount.point.join("3")).unwrap(), noise(3, 50_000));
        mount.umount();
        assert!(mount.server_ends());
    });
}

/// Processes that unmount for servers of this mount point.
fn unmounters(point: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap() {
        let directory = entry.unwrap().path();
        let cmdline = fs::read(directory.join("cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = cmdline.split(|byte| *byte == 0).collect();
        if words.contains(&&b"--unmounter"[..]) && words.contains(&text(point).as_bytes()) {
            found.push(fs::read_to_string(directory.join("status")).unwrap_or_default());
        }
    }
    found
}

#[test]
fn a_signal_still_unmounts() {
    limited("a_signal_still_unmounts", 60, || {
        let image = Image::build(&[], fill);
        for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
            let mount = image.mount("");
            let beside = unmounters(&mount.point);
            assert_eq!(beside.len(), 1, "{beside:?}");
            // CAP_DAC_READ_SEARCH (2) and CAP_SYS_ADMIN (21).
            assert_eq!(field(&beside[0], "CapEff"), "0000000000200004");
            rustix::process::kill_process(mount.server, signal).unwrap();
            assert!(within(Duration::from_secs(10), || !is_mounted(&mount.point)));
            assert!(mount.server_ends());
            assert!(within(Duration::from_secs(10), || unmounters(&mount.point).is_empty()));
        }
    });
}

#[test]
fn a_busy_mount_is_detached_by_a_signal() {
    limited("a_busy_mount_is_detached_by_a_signal", 60, || {
        let image = Image::build(&[], fill);
        let mount = image.mount("");
        let mut used = fs::File::open(mount.point.join("5")).unwrap();
        rustix::process::kill_process(mount.server, Signal::TERM).unwrap();
        assert!(within(Duration::from_secs(10), || !is_mounted(&mount.point)));
        let mut content = Vec::new();
        used.read_to_end(&mut content).unwrap();
        assert_eq!(content, noise(5, 50_000));
        drop(used);
        assert!(mount.server_ends());
    });
}

#[test]
fn nobody_is_left_when_a_server_ends() {
    limited("nobody_is_left_when_a_server_ends", 60, || {
        let image = Image::build(&[], fill);
        let mount = image.mount("");
        mount.umount();
        assert!(mount.server_ends());
        assert!(within(Duration::from_secs(10), || unmounters(&mount.point).is_empty()));
        let mount = image.mount("notakeover");
        rustix::process::kill_process(mount.server, Signal::KILL).unwrap();
        assert!(within(Duration::from_secs(10), || unmounters(&mount.point).is_empty()));
    });
}

#[test]
fn who_unmounts_leaves_other_mounts_alone() {
    limited("who_unmounts_leaves_other_mounts_alone", 60, || {
        let image = Image::build(&[], fill);
        let mount = image.mount("");
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let mut unmounter = Command::new(ASHLAR)
            .args(["mount", "--unmounter", "--", text(&image.path), text(&mount.point)])
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .spawn()
            .unwrap();
        // The device of a mount that was there before.
        ours.write_all(b"7 0:1\n").unwrap();
        ours.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        ours.read_to_string(&mut answer).unwrap();
        assert_eq!((unmounter.wait().unwrap().code(), &*answer), (Some(0), "7 done\n"));
        assert!(is_mounted(&mount.point));
    });
}

/// Runs a case of [`inside`] in a process of its own, which may end up confined.
fn inside(case: &str) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "inside::in_a_process_of_its_own", "--ignored", "--nocapture"])
        .env("ASHLAR_INSIDE", case)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let text = format!("{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("1 passed"), "{case}: {text}");
}

#[test]
fn what_no_server_needs_is_refused() {
    inside("refused");
}

#[test]
fn what_a_server_needs_is_allowed() {
    inside("allowed");
}

#[test]
fn with_a_network_nothing_more_than_that_is_allowed() {
    inside("network");
}

#[test]
fn a_successor_starts_and_is_as_confined() {
    inside("successor");
}

#[test]
fn a_thread_that_was_there_before_is_confined_with_the_others() {
    inside("threads");
}
