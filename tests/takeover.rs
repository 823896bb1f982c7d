//! What if the server dies, or its holder, or both? Nobody who uses the mount may notice, or it ends cleanly.
//!
//! `ASHLAR_KILLS=1000` for as many kills of the server (a tenth of that of the holder), `ASHLAR_UPGRADES=100` for upgrades.

#[path = "support/mount.rs"]
mod mount;
#[path = "support/storm.rs"]
mod storm;

use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use mount::{Image, Mount, ashlar, limited, text, within};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use storm::{Storm, summary};

fn number(name: &str, default: u32) -> u32 {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap())
}

fn pid(status: &serde_json::Value, name: &str) -> Option<Pid> {
    Pid::from_raw(i32::try_from(status[name].as_i64()?).unwrap())
}

/// The processes of a mount, when both are there.
fn both(point: &Path) -> Option<(Pid, Pid)> {
    let output = ashlar(&["status", "--json", text(point)]);
    let report = serde_json::from_slice(&output.stdout).ok()?;
    Some((pid(&report, "server_pid")?, pid(&report, "holder_pid")?))
}

/// Waits until both are there and `is_new` says so.
fn settled(point: &Path, mut is_new: impl FnMut((Pid, Pid)) -> bool) -> (Pid, Pid) {
    let mut found = None;
    assert!(within(Duration::from_secs(20), || {
        found = both(point).filter(|it| is_new(*it));
        found.is_some()
    }));
    found.unwrap()
}

fn kill(process: Pid) -> Instant {
    kill_process(process, Signal::KILL).unwrap();
    Instant::now()
}

fn is_gone(process: Pid) -> bool {
    // A corpse that nobody has buried yet is gone, too.
    test_kill_process(process).is_err()
        || std::fs::read_to_string(format!("/proc/{}/stat", process.as_raw_nonzero()))
            .map_or(true, |stat| stat.contains(") Z "))
}

/// A different pause each time.
fn pause(nth: u32) {
    thread::sleep(Duration::from_millis(u64::from(nth.wrapping_mul(2_654_435_761) >> 26)));
}

fn mounted(options: &str) -> (Image, Mount) {
    let image = Image::build(&[], storm::fill);
    let mount = image.mount(options);
    (image, mount)
}

#[test]
fn nobody_notices_that_the_server_is_killed() {
    let kills = number("ASHLAR_KILLS", 40);
    limited("nobody_notices_that_the_server_is_killed", 60 + u64::from(kills), move || {
        let (image, mount) = mounted("cachesize=4M");
        let storm = Storm::begin(&mount.point, &image.source, true);
        let (mut server, holder) = settled(&mount.point, |_| true);
        let mut killed = Vec::new();
        for nth in 0..kills {
            pause(nth);
            killed.push(kill(server));
            server = settled(&mount.point, |it| it.0 != server).0;
        }
        let log = std::sync::Arc::clone(&storm.log);
        let failures = storm.end();
        let stalls = killed.iter().map(|at| log.stall(*at)).collect();
        let (p50, p99, max) = summary(stalls);
        let count = log.count.load(std::sync::atomic::Ordering::Relaxed);
        println!(
            "{kills} kills of the server, {count} calls, {} failures; stall p50 {p50} ms, p99 {p99} ms, max {max} ms",
            failures.len()
        );
        assert!(failures.is_empty(), "{:?}", &failures[..failures.len().min(10)]);
        let report = mount.status();
        assert_eq!(report["takeovers"], kills);
        assert_eq!(pid(&report, "holder_pid"), Some(holder));
        assert_eq!(report["failures"], 0);
        ends_cleanly(&mount);
    });
}

/// Unmounting ends both processes.
fn ends_cleanly(mount: &Mount) {
    let (server, holder) = settled(&mount.point, |_| true);
    mount.umount();
    assert!(within(Duration::from_secs(10), || is_gone(server) && is_gone(holder)));
}

#[test]
fn nobody_notices_that_the_holder_is_killed() {
    let kills = number("ASHLAR_KILLS", 40).div_ceil(10);
    limited("nobody_notices_that_the_holder_is_killed", 60 + u64::from(kills), move || {
        let (image, mount) = mounted("cachesize=4M");
        let storm = Storm::begin(&mount.point, &image.source, true);
        let (server, mut holder) = settled(&mount.point, |_| true);
        for nth in 0..kills {
            pause(nth);
            kill(holder);
            holder = settled(&mount.point, |it| it.1 != holder).1;
        }
        // The one that came last does what the first would have done.
        kill(server);
        settled(&mount.point, |it| it.0 != server);
        let failures = storm.end();
        println!("{kills} kills of the holder, {} failures", failures.len());
        assert!(failures.is_empty(), "{:?}", &failures[..failures.len().min(10)]);
        assert_eq!(mount.status()["takeovers"], 1);
        ends_cleanly(&mount);
    });
}

#[test]
fn when_both_are_killed_at_once_it_survives_or_ends_cleanly() {
    let rounds = number("ASHLAR_KILLS", 40).div_ceil(50).max(3);
    limited("when_both_are_killed_at_once_it_survives_or_ends_cleanly", 240, move || {
        let (mut survived, mut ended) = (0, 0);
        for nth in 0..rounds {
            let (_image, mount) = mounted("");
            let (server, holder) = settled(&mount.point, |_| true);
            if nth % 2 == 0 {
                kill(server);
                thread::sleep(Duration::from_micros(u64::from(nth) * 700));
                kill(holder);
            } else {
                kill(holder);
                thread::sleep(Duration::from_micros(u64::from(nth) * 700));
                kill(server);
            }
            // It lives when both are there again. It has ended when whoever asks hears that there is nobody, at once.
            let (mut lives, mut has_ended) = (false, false);
            assert!(within(Duration::from_secs(20), || {
                let asked = std::fs::read_dir(mount.point.join("d3"));
                let nobody = Some(rustix::io::Errno::NOTCONN.raw_os_error());
                has_ended = asked.is_err_and(|err| err.raw_os_error() == nobody);
                lives = both(&mount.point).is_some_and(|it| it.0 != server && it.1 != holder);
                lives || has_ended
            }));
            if lives {
                survived += 1;
                let large = mount.point.join("large0");
                assert_eq!(std::fs::read(large).unwrap().len(), 3_000_000);
                ends_cleanly(&mount);
            } else {
                ended += 1;
                // And it can be unmounted.
                mount.umount();
                assert!(within(Duration::from_secs(5), || is_gone(server) && is_gone(holder)));
            }
        }
        println!("{rounds} times both: {survived} survived, {ended} ended with ENOTCONN");
    });
}

#[test]
fn nobody_notices_an_upgrade() {
    let upgrades = number("ASHLAR_UPGRADES", 10);
    limited("nobody_notices_an_upgrade", 60 + 3 * u64::from(upgrades), move || {
        let (image, mount) = mounted("cachesize=4M");
        let storm = Storm::begin(&mount.point, &image.source, true);
        let (mut server, mut holder) = settled(&mount.point, |_| true);
        for nth in 0..upgrades {
            pause(nth);
            let output = ashlar(&["upgrade-daemon", text(&mount.point)]);
            assert!(output.status.success(), "{output:?}");
            let now = settled(&mount.point, |it| it.0 != server && it.1 != holder);
            let said = String::from_utf8(output.stdout).unwrap();
            assert!(said.contains(&format!("process {} serves", now.0.as_raw_nonzero())), "{said}");
            assert!(within(Duration::from_secs(10), || is_gone(server) && is_gone(holder)));
            (server, holder) = now;
        }
        let failures = storm.end();
        println!("{upgrades} upgrades, {} failures", failures.len());
        assert!(failures.is_empty(), "{:?}", &failures[..failures.len().min(10)]);
        // Nobody died.
        assert_eq!(mount.status()["takeovers"], 0);
        kill(server);
        settled(&mount.point, |it| it.0 != server);
        ends_cleanly(&mount);
    });
}

#[test]
fn a_program_that_is_none_changes_nothing() {
    limited("a_program_that_is_none_changes_nothing", 120, || {
        let (_image, mount) = mounted("");
        let before = settled(&mount.point, |_| true);
        for program in ["/bin/false", "/etc/passwd"] {
            let output = ashlar(&["upgrade-daemon", "--program", program, text(&mount.point)]);
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{stderr}");
            assert!(stderr.contains("goes on as it was"), "{stderr}");
        }
        assert_eq!(settled(&mount.point, |_| true), before);
        assert_eq!(std::fs::read(mount.point.join("large0")).unwrap().len(), 3_000_000);
        ends_cleanly(&mount);
    });
}

#[test]
fn a_server_that_does_not_answer_is_replaced() {
    limited("a_server_that_does_not_answer_is_replaced", 60, || {
        let (_image, mount) = mounted("watchdog=1");
        let (server, _) = settled(&mount.point, |_| true);
        kill_process(server, Signal::STOP).unwrap();
        settled(&mount.point, |it| it.0 != server);
        assert_eq!(std::fs::read(mount.point.join("large1")).unwrap().len(), 3_000_000);
        ends_cleanly(&mount);
    });
}

#[test]
fn sigterm_ends_both() {
    limited("sigterm_ends_both", 60, || {
        let (_image, mount) = mounted("");
        let (first, holder) = settled(&mount.point, |_| true);
        kill(first);
        let (server, _) = settled(&mount.point, |it| it.0 != first);
        kill_process(server, Signal::TERM).unwrap();
        assert!(within(Duration::from_secs(10), || is_gone(server) && is_gone(holder)));
        assert!(!mount::is_mounted(&mount.point));
    });
}

#[cfg(feature = "without-cures")]
#[test]
fn a_question_that_ends_servers_is_answered_with_an_error_and_all_others_are_served() {
    limited("poison", 120, || {
        let (image, mount) = mounted("cachesize=4M");
        let storm = Storm::begin(&mount.point, &image.source, true);
        settled(&mount.point, |_| true);
        for round in 1..=3 {
            let err = std::fs::metadata(mount.point.join("ashlar-poison")).unwrap_err();
            assert_eq!(err.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()));
            settled(&mount.point, |_| true);
            // How the first server died nobody knows, for it was nobody's child: that counts half.
            let takeovers = mount.status()["takeovers"].as_u64().unwrap();
            assert!((3 * round..=3 * round + 1).contains(&takeovers), "{takeovers}");
        }
        let failures = storm.end();
        assert!(failures.is_empty(), "{:?}", &failures[..failures.len().min(10)]);
        ends_cleanly(&mount);
    });
}

/// Before Linux 6.9 the kernel cannot ask again: what a dead server had read is answered with errors.
#[cfg(feature = "without-cures")]
#[test]
fn on_an_old_kernel_calls_fail_and_nobody_waits_for_ever() {
    let kills = number("ASHLAR_KILLS", 40);
    limited("on_an_old_kernel", 60 + u64::from(kills), move || {
        let image = Image::build(&[], storm::fill);
        let point = image.mountpoint("mnt");
        let options = format!("root_digest={},cachesize=4M", image.digest);
        let mut command = Command::new(mount::ASHLAR);
        command.args(["mount", "-o", &options, text(&image.path), text(&point)]);
        assert!(command.env("ASHLAR_OLD_KERNEL", "1").status().unwrap().success());
        let mount = Mount::found(point);
        let storm = Storm::begin(&mount.point, &image.source, true);
        let (mut server, _) = settled(&mount.point, |_| true);
        for nth in 0..kills {
            pause(nth);
            kill(server);
            server = settled(&mount.point, |it| it.0 != server).0;
        }
        let refused = ashlar(&["upgrade-daemon", text(&mount.point)]);
        assert!(String::from_utf8_lossy(&refused.stderr).contains("cannot ask again"));
        // It ends: nobody waits.
        let failures = storm.end();
        let wrong: Vec<&String> = failures.iter().filter(|it| it.starts_with("wrong")).collect();
        println!("{kills} kills on an old kernel, {} failures", failures.len());
        assert!(wrong.is_empty(), "{wrong:?}");
        ends_cleanly(&mount);
    });
}

/// Asks for an upgrade as anybody could who has the network in common, with `seen` for the name space of mounts.
fn ask_for_upgrade(point: &Path, seen: &Path) -> String {
    use std::io::Read;
    use std::os::fd::AsFd;
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixStream};
    let device = std::os::unix::fs::MetadataExt::dev(&std::fs::metadata(point).unwrap());
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let name = format!("ashlar/{major}:{minor}/upgrade");
    let address = SocketAddr::from_abstract_name(name).unwrap();
    let mut stream = UnixStream::connect_addr(&address).unwrap();
    let (program, seen) =
        (std::fs::File::open("/bin/true").unwrap(), std::fs::File::open(seen).unwrap());
    let descriptors = [program.as_fd(), seen.as_fd()];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = rustix::net::SendAncillaryBuffer::new(&mut space);
    assert!(control.push(rustix::net::SendAncillaryMessage::ScmRights(&descriptors)));
    let text = [std::io::IoSlice::new(b"upgrade")];
    rustix::net::sendmsg(&stream, &text, &mut control, rustix::net::SendFlags::empty()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn who_is_elsewhere_cannot_replace_a_server() {
    limited("who_is_elsewhere_cannot_replace_a_server", 60, || {
        let (image, mount) = mounted("");
        let before = settled(&mount.point, |_| true);
        for elsewhere in [Path::new("/proc/self/ns/net"), &*image.source, &*mount.point] {
            let answer = ask_for_upgrade(&mount.point, elsewhere);
            assert!(answer.contains("another name space"), "{answer}");
        }
        let inside = Command::new("unshare")
            .args(["--mount", mount::ASHLAR, "upgrade-daemon", text(&mount.point)])
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&inside.stderr);
        assert!(stderr.contains("another name space"), "{stderr}");
        // And a program that somebody could change is not taken from anybody.
        let answer = ask_for_upgrade(&mount.point, Path::new("/proc/self/ns/mnt"));
        assert!(answer.contains("no sealed copy"), "{answer}");
        assert_eq!(settled(&mount.point, |_| true), before);
        ends_cleanly(&mount);
    });
}

/// No test: what runs when this file's program is sent as a server. It says that it is ready, and is gone.
#[test]
fn succeed_by_saying_so() {
    use std::os::fd::AsFd;
    let stdin = std::io::stdin();
    let kind = rustix::net::sockopt::socket_type(stdin.as_fd());
    if kind == Ok(rustix::net::SocketType::SEQPACKET) {
        // Whoever goes without having read what was said takes back its own words, too.
        rustix::io::read(stdin.as_fd(), &mut vec![0; 64 * 1024]).unwrap();
        rustix::io::write(stdin.as_fd(), b"\"Ready\"").unwrap();
        std::process::exit(0);
    }
}

#[test]
fn a_program_that_dies_when_it_should_serve_changes_nothing() {
    limited("a_program_that_dies_when_it_should_serve_changes_nothing", 60, || {
        let (image, mount) = mounted("cachesize=4M");
        let before = settled(&mount.point, |_| true);
        let storm = Storm::begin(&mount.point, &image.source, true);
        let program = std::env::current_exe().unwrap();
        for _ in 0..5 {
            let output =
                ashlar(&["upgrade-daemon", "--program", text(&program), text(&mount.point)]);
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert!(stderr.contains("it found no holder"), "{stderr}");
        }
        let failures = storm.end();
        assert!(failures.is_empty(), "{:?}", &failures[..failures.len().min(10)]);
        assert_eq!(settled(&mount.point, |_| true), before);
        ends_cleanly(&mount);
    });
}

#[test]
fn an_image_below_its_own_mount_point_is_served_on() {
    limited("an_image_below_its_own_mount_point_is_served_on", 60, || {
        let image = Image::build(&[], storm::fill);
        let point = image.mountpoint("above");
        let below = point.join("a.img");
        std::fs::copy(&image.path, &below).unwrap();
        let options = format!("root_digest={},takeover", image.digest);
        let output = ashlar(&["mount", "-o", &options, text(&below), text(&point)]);
        assert!(output.status.success(), "{output:?}");
        let mount = Mount::found(point);
        let (server, _) = settled(&mount.point, |_| true);
        kill(server);
        settled(&mount.point, |it| it.0 != server);
        ends_cleanly(&mount);
    });
}

/// As where it is mounted on `/run`, which the way to the system's log leads through.
#[test]
fn a_successor_does_not_wait_for_a_log_below_the_mount() {
    // In a name space of mounts of its own, where `/dev` has little more than that way.
    const SCRIPT: &str = r#"
        set -e
        ashlar=$1 point=$2 image=$3 options=$4 file=$5
        mkdir "$point.dev"
        mount -t tmpfs dev "$point.dev"
        for name in fuse null; do
            touch "$point.dev/$name"
            mount --bind "/dev/$name" "$point.dev/$name"
        done
        ln -s "$point/log" "$point.dev/log"
        mount --rbind "$point.dev" /dev
        "$ashlar" mount -o "$options" "$image" "$point"
        trap 'umount --lazy "$point"' EXIT
        server() { "$ashlar" status --json "$point" | grep -o '"server_pid": *[0-9]*' | grep -o '[0-9]*$'; }
        first=$(server)
        # The kernel knows by now that the image has no such name.
        echo 2 > /proc/sys/vm/drop_caches
        kill -9 "$first"
        timeout 20 cmp "$point/large0" "$file"
        [ "$(server)" != "$first" ]
    "#;
    limited("a_successor_does_not_wait_for_a_log_below_the_mount", 60, || {
        let image = Image::build(&[], storm::fill);
        let point = image.mountpoint("above");
        let options = format!("root_digest={},takeover", image.digest);
        let output = Command::new("unshare")
            .args(["--mount", "sh", "-c", SCRIPT, "sh", mount::ASHLAR])
            .args([text(&point), text(&image.path), &options, text(&image.source.join("large0"))])
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    });
}

/// The next server would look for them where it is to serve.
#[test]
fn a_mount_that_covers_the_libraries_has_no_other_server() {
    limited("a_mount_that_covers_the_libraries_has_no_other_server", 60, || {
        let image = Image::build(&[], storm::fill);
        let point = image.mountpoint("libraries");
        let used = Command::new("ldd").arg(mount::ASHLAR).output().unwrap().stdout;
        let used = String::from_utf8(used).unwrap();
        let paths = used.lines().filter_map(|line| line.split_once("=> /"));
        let paths: Vec<String> = paths
            .map(|(_, path)| format!("/{}", path.split(' ').next().unwrap_or_default()))
            .collect();
        assert!(!paths.is_empty(), "{used}");
        for path in &paths {
            let name = Path::new(path).file_name().unwrap();
            std::fs::copy(path, point.join(name)).unwrap();
        }
        let mount = |options: &str| {
            let options = format!("root_digest={}{options}", image.digest);
            Command::new(mount::ASHLAR)
                .args(["mount", "-o", &options, text(&image.path), text(&point)])
                .env("LD_LIBRARY_PATH", &point)
                .stdin(std::process::Stdio::null())
                .output()
                .unwrap()
        };
        let refused = mount(",takeover");
        assert!(String::from_utf8_lossy(&refused.stderr).contains("static"), "{refused:?}");
        assert!(!refused.status.success());
        let output = mount("");
        assert!(output.status.success(), "{output:?}");
        let mount = Mount::found(point.clone());
        assert_eq!(mount.status()["holder_pid"].as_i64(), None);
        mount.umount();
    });
}

#[test]
fn who_is_idle_costs_nothing() {
    limited("who_is_idle_costs_nothing", 60, || {
        let (_image, mount) = mounted("watchdog=2");
        let (server, holder) = settled(&mount.point, |_| true);
        let switches = |process: Pid| -> u64 {
            let tasks =
                std::fs::read_dir(format!("/proc/{}/task", process.as_raw_nonzero())).unwrap();
            let of = |task: std::io::Result<std::fs::DirEntry>| {
                let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
                let counts = status.lines().filter(|line| line.contains("ctxt_switches"));
                counts
                    .map(|line| line.rsplit('\t').next().unwrap().parse::<u64>().unwrap())
                    .sum::<u64>()
            };
            tasks.map(of).sum()
        };
        thread::sleep(Duration::from_secs(1));
        let before = switches(server) + switches(holder);
        thread::sleep(Duration::from_secs(8));
        let more = switches(server) + switches(holder) - before;
        // Two words and their answers a second, and some for whoever looks after the caches.
        assert!(more < 400, "{more} switches in 8 s");
        ends_cleanly(&mount);
    });
}
