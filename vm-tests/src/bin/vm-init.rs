//! What does a shutdown do to a root on FUSE? PID 1 of the trap cases: it does what systemd does, step by step, in the
//! order that the kernel command line says (`vm.steps=`), and speaks. Called with arguments it is a small probe.
#![allow(clippy::print_stdout, reason = "a probe speaks to who called it")]

#[path = "../noise.rs"]
mod noise;

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::thread;
use std::time::Duration;

use rustix::io::Errno;
use rustix::mm::MlockAllFlags;
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::process::{Pid, Signal};
use rustix::system::RebootCommand;

use self::noise::{FRESH_COUNT, FRESH_LEN, noise};

type Outcome<T = ()> = Result<T, String>;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let outcome = match args.as_slice() {
        [] if rustix::process::getpid() == Pid::INIT => init(),
        ["as", uid, program, rest @ ..] => run_as(uid, program, rest),
        ["status", field] => status(field),
        ["xattr", path, name] => xattr(path, name),
        ["pivot", newroot, init] => pivot(newroot, init),
        _ => Err(format!("vm-init: what is {args:?}?")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            println!("{why}");
            ExitCode::FAILURE
        }
    }
}

/// Says what failed, and why.
fn doing<T, E: std::fmt::Display>(what: &str, result: Result<T, E>) -> Outcome<T> {
    result.map_err(|err| format!("{what}: {err}"))
}

/// Becomes another user, without capabilities, and runs a program.
fn run_as(uid: &str, program: &str, args: &[&str]) -> Outcome {
    let uid: u32 = doing("uid", uid.parse())?;
    let err = Command::new(program).args(args).uid(uid).gid(uid).exec();
    Err(format!("{program}: {err}"))
}

/// A field of this process's status, as the kernel has it.
fn status(field: &str) -> Outcome {
    let text = doing("status", fs::read_to_string("/proc/self/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    println!("{}", line.ok_or("no such field")?.trim());
    Ok(())
}

/// An extended attribute.
fn xattr(path: &str, name: &str) -> Outcome {
    let mut value = [0; 1000];
    let len = doing(path, rustix::fs::lgetxattr(path, name, &mut value))?;
    println!("{}", String::from_utf8_lossy(value.get(..len).unwrap_or_default()));
    Ok(())
}

/// Switches to a new root as systemd does where the kernel lets it (7.x): `pivot_root`, which takes along every process
/// whose root is the old one.
fn pivot(newroot: &str, init: &str) -> Outcome {
    doing("chdir", rustix::process::chdir(newroot))?;
    doing("pivot_root", rustix::process::pivot_root(".", "."))?;
    doing("umount", rustix::mount::unmount(".", UnmountFlags::DETACH))?;
    let err = Command::new(init).exec();
    Err(format!("{init}: {err}"))
}

/// The console, open from the start: while everybody is stopped, there may be no way to it.
struct Voice(File);

impl Voice {
    fn say(&mut self, words: &str) {
        // One line, one message: the kernel's own do not come between. Nobody hears it when it fails.
        drop(self.0.write_all(format!("<1>ASHLAR-VM: {words}\n").as_bytes()));
    }
}

/// What PID 1 does. When it returns, the kernel panics.
fn init() -> Outcome {
    let kmsg = File::options().write(true).open("/dev/kmsg");
    let mut voice = Voice(doing("/dev/kmsg", kmsg)?);
    let cmdline = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let argument = |name: &str| {
        let words = cmdline.split_whitespace();
        words.filter_map(|word| word.strip_prefix(name)).next_back().unwrap_or_default()
    };
    // As systemd-shutdown does: its own text is not to be read from the root that it takes apart.
    if let Err(err) = rustix::mm::mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE) {
        voice.say(&format!("fail mlockall: {err}"));
    }
    let mut sound = true;
    for name in argument("vm.steps=").split(',') {
        voice.say(&format!("step {name}"));
        if let Err(why) = step(name) {
            voice.say(&format!("fail {name}: {why}"));
            sound = false;
            break;
        }
    }
    if sound {
        voice.say(&format!("ok {}", argument("vm.case=")));
    }
    rustix::fs::sync();
    doing("poweroff", rustix::system::reboot(RebootCommand::PowerOff))
}

fn step(name: &str) -> Outcome {
    match name.split_once(':').unwrap_or((name, "")) {
        // Reads files that nobody has read, so that the server must answer.
        ("fresh", first) => fresh(first.parse().unwrap_or(0)),
        ("spree", _) => spree(false),
        // The same, and the kernel forgets every name and page that it can.
        ("amnesia", _) => spree(true),
        ("terminate", _) => terminate(),
        ("force", _) => force_umount(),
        ("readonly", _) => remount_read_only(),
        ("daemon", _) => daemon(),
        ("confined", _) => confined(),
        ("succeed", _) => succeed(),
        _ => Err("no such step".to_owned()),
    }
}

/// Whether no thread of any server has a privilege, or all system calls.
fn confined() -> Outcome {
    const NONE: &str = "0000000000000000";
    let bare = [
        ("CapPrm", NONE),
        ("CapEff", NONE),
        ("CapBnd", NONE),
        ("NoNewPrivs", "1"),
        ("Seccomp", "2"),
    ];
    let mut threads = 0_u32;
    for pid in processes()? {
        let cmdline = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if !cmdline.starts_with(b"@ashlar") {
            continue;
        }
        for task in list(&format!("/proc/{pid}/task"))? {
            let path = format!("/proc/{pid}/task/{task}/status");
            let status = doing(&path, fs::read_to_string(&path))?;
            for (name, wanted) in bare {
                let found =
                    status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
                let found = found.map_or("not there", str::trim);
                if found != wanted {
                    return Err(format!("{name} of the server is {found}"));
                }
            }
            threads = threads.saturating_add(1);
        }
    }
    // The one that serves, one that reports, one that lets it go on, and the first.
    if threads < 4 { Err(format!("it has {threads} threads")) } else { Ok(()) }
}

/// Ends the server, and then its holder, and waits until each has a successor.
fn succeed() -> Outcome {
    for name in ["@ashlar", "@ashlar-holder"] {
        let before = called(name)?;
        for pid in &before {
            let pid = i32::try_from(*pid).ok().and_then(Pid::from_raw).ok_or("no number")?;
            doing("kill", rustix::process::kill_process(pid, Signal::KILL))?;
        }
        let mut patience = 200_u32;
        while called(name)?.iter().all(|pid| before.contains(pid)) {
            patience = patience.checked_sub(1).ok_or_else(|| format!("nobody succeeds {name}"))?;
            thread::sleep(Duration::from_millis(50));
        }
        // It is there; it has to read its letter, too.
        thread::sleep(Duration::from_secs(1));
    }
    Ok(())
}

/// Processes that live, by their first argument.
fn called(name: &str) -> Outcome<Vec<u32>> {
    let has_name = |pid: &u32| {
        let cmdline = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        cmdline.split(|byte| *byte == 0).next() == Some(name.as_bytes())
    };
    Ok(processes()?.into_iter().filter(has_name).collect())
}

/// Four of the files below /fresh, from a number on; each step of a case has its own.
fn fresh(first: u64) -> Outcome {
    for number in (first..FRESH_COUNT).take(4) {
        let path = format!("/fresh/{number}");
        let content = doing(&path, fs::read(&path))?;
        if content != noise(number, FRESH_LEN) {
            return Err(format!("{path} is not what was put there"));
        }
    }
    Ok(())
}

/// Stops everybody, looks at everybody, and lets them go on: `broadcast_signal` of systemd.
fn spree(with_amnesia: bool) -> Outcome {
    // Any machine that shuts down has listed its root long before: answers that hold for a second hold no more.
    let before = list("/")?;
    thread::sleep(Duration::from_secs(2));
    signal_all(Signal::STOP)?;
    let looked = if with_amnesia { look_around_forgetful(&before) } else { look_around(&before) };
    signal_all(Signal::CONT)?;
    looked
}

/// What systemd 252 looks for at this point (`in_initrd`), and anything else that nobody remembers.
fn look_around_forgetful(root_before: &[String]) -> Outcome {
    doing("drop_caches", fs::write("/proc/sys/vm/drop_caches", "3"))?;
    match fs::metadata("/etc/initrd-release") {
        Err(err) if err.kind() == io::ErrorKind::NotFound => {}
        found => return Err(format!("/etc/initrd-release: {found:?}")),
    }
    fresh(20)?;
    look_around(root_before)
}

fn look_around(root_before: &[String]) -> Outcome {
    let own_root = doing("/proc/1/root", fs::metadata("/proc/1/root"))?;
    for pid in processes()? {
        for file in ["cmdline", "status", "cgroup", "stat"] {
            let path = format!("/proc/{pid}/{file}");
            doing(&path, fs::read(&path))?;
        }
        // It has none when it is a thread of the kernel.
        if let Ok(root) = fs::metadata(format!("/proc/{pid}/root")) {
            let _same = (root.dev(), root.ino()) == (own_root.dev(), own_root.ino());
        }
    }
    doing("/dev/console", File::options().write(true).open("/dev/console"))?;
    if list("/")? != root_before {
        return Err("/ has changed".to_owned());
    }
    Ok(())
}

fn list(directory: &str) -> Outcome<Vec<String>> {
    let entries = doing(directory, fs::read_dir(directory))?;
    let names = entries.map(|entry| entry.map(|it| it.file_name().to_string_lossy().into_owned()));
    doing(directory, names.collect())
}

fn processes() -> Outcome<Vec<u32>> {
    Ok(list("/proc")?.iter().filter_map(|name| name.parse().ok()).collect())
}

/// To everybody but this process.
fn signal_all(signal: Signal) -> Outcome {
    doing("kill(-1)", rustix::process::kill_process_group(Pid::INIT, signal)).map(drop)
}

/// The two sprees of a shutdown: whoever is no storage daemon is asked to end, then made to. The rule is systemd's: a
/// process of root whose first argument starts with `@` is left alone.
fn terminate() -> Outcome {
    for signal in [Signal::TERM, Signal::KILL] {
        signal_all(Signal::STOP)?;
        let hit = signal_others(signal);
        signal_all(Signal::CONT)?;
        hit?;
        thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

fn signal_others(signal: Signal) -> Outcome {
    for pid in processes()? {
        let cmdline = doing("cmdline", fs::read(format!("/proc/{pid}/cmdline")))?;
        let uid = doing("uid", fs::metadata(format!("/proc/{pid}")))?.uid();
        // A thread of the kernel has no command line.
        let spared = cmdline.is_empty() || (uid == 0 && cmdline.starts_with(b"@")) || pid == 1;
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        if let (false, Some(pid)) = (spared, pid) {
            doing("kill", rustix::process::kill_process(pid, signal))?;
        }
    }
    Ok(())
}

/// Mount points in the order in which they were mounted, with their options.
fn mounts() -> Outcome<Vec<(String, String)>> {
    let text = doing("mountinfo", fs::read_to_string("/proc/self/mountinfo"))?;
    let fields = text.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(4);
        Some((words.next()?.to_owned(), words.next()?.to_owned()))
    });
    Ok(fields.collect())
}

/// What systemd-shutdown leaves alone: the root, and the kernel's own filesystems.
fn is_kept(path: &str) -> bool {
    let below = |top: &str| path == top || path.starts_with(&format!("{top}/"));
    ["/", "/usr", "/run"].contains(&path)
        || ["/proc", "/sys", "/dev", "/run/initramfs"].iter().any(|top| below(top))
}

/// Unmounts as systemd-shutdown does, which aborts the connection of a FUSE filesystem wherever it is seen, before it asks
/// whether it is busy.
fn force_umount() -> Outcome {
    for (path, _) in mounts()?.iter().rev().filter(|(path, _)| !is_kept(path)) {
        let unmounted =
            rustix::mount::unmount(path.as_str(), UnmountFlags::FORCE | UnmountFlags::NOFOLLOW);
        // What is busy is made read-only later.
        match unmounted {
            Ok(()) | Err(Errno::BUSY) => {}
            Err(err) => return Err(format!("cannot unmount {path}: {err}")),
        }
    }
    Ok(())
}

/// Makes everything read-only that can hold data, as the last thing before the power goes.
fn remount_read_only() -> Outcome {
    let api = |path: &str| {
        ["/proc", "/sys", "/dev"].iter().any(|top| path.starts_with(top)) || path == "/run"
    };
    for (path, options) in mounts()?.iter().rev() {
        if !api(path) && options.split(',').any(|option| option == "rw") {
            doing(path, rustix::mount::mount_remount(path.as_str(), MountFlags::RDONLY, ""))?;
        }
    }
    Ok(())
}

/// Holds that the server is there, and that its root is not what it serves.
fn daemon() -> Outcome {
    let root = doing("/", fs::metadata("/"))?;
    let mut found = 0_u32;
    for pid in processes()? {
        let cmdline = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if !cmdline.starts_with(b"@ashlar") {
            continue;
        }
        found = found.saturating_add(1);
        for link in ["root", "cwd"] {
            let path = format!("/proc/{pid}/{link}");
            let its = doing(&path, fs::metadata(&path))?;
            if (its.dev(), its.ino()) == (root.dev(), root.ino()) {
                return Err(format!("the server has its {link} on its own mount"));
            }
        }
    }
    if found == 0 { Err("there is no server".to_owned()) } else { Ok(()) }
}
