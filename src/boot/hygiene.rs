//! How must a process live that `/` hangs from? It may wait for nothing that might wait for it, and nobody may end it.
//!
//! Each line here is a way in which such machines have hung or died: see the reasons beside them.

use std::fs;
use std::io;
use std::os::fd::RawFd;
use std::path::Path;

use nix::sys::signal::SigSet;
use rustix::mm::MlockAllFlags;
use rustix::process::{DumpableBehavior, Resource, Rlimit};
use rustix::thread::CapabilitySet;

use super::Failed;
use crate::fuse::mountinfo::Device;

/// What a score of -1000 is called in proc(5): never chosen when memory is short.
const OOM_SCORE_ADJ_MIN: &str = "-1000";
/// Where the kernel keeps how long a request may take. More than zero, and it aborts the connection of a server that was
/// only waiting for a slow disk (Linux 6.14, `fs/fuse/sysctl.c`).
const TIMEOUTS: [&str; 2] =
    ["/proc/sys/fs/fuse/default_request_timeout", "/proc/sys/fs/fuse/max_request_timeout"];
/// Where control groups may be, and how their root's list of processes is called.
const CGROUPS: [&str; 3] = [
    "/sys/fs/cgroup/cgroup.procs",
    "/sys/fs/cgroup/unified/cgroup.procs",
    "/sys/fs/cgroup/systemd/cgroup.procs",
];

/// Closes what whoever starts us has open besides the standard streams, before anything is opened here: a pipe whose reader
/// waits for its end, or a file on the data partition that is open for writing, and would keep that from being made read-only
/// when the machine ends.
pub fn close_inherited() {
    for number in descriptors().into_iter().filter(|number| *number > 2) {
        // One of them listed the others, and is closed already.
        nix::unistd::close(number).unwrap_or_default();
    }
}

/// Before there are threads, for they inherit all of it.
pub fn first() -> Result<(), Failed> {
    // A hang-up of the console, ^C, a stop from a terminal: all are for the initramfs, not for us. The mask is enough: what
    // is blocked is neither delivered nor fatal, and threads inherit it. SIGKILL is another matter, see `@` in `start`.
    SigSet::all()
        .thread_block()
        .map_err(|err| Failed::io("cannot block signals", io::Error::from(err)))?;
    // It fails only for the leader of a process group, who has no terminal then.
    rustix::process::setsid().map(drop).unwrap_or_default();
    try_to(
        "be spared when memory is short",
        fs::write("/proc/self/oom_score_adj", OOM_SCORE_ADJ_MIN),
    );
    // A core dump is piped to a program on the root that we serve, which then waits for us. A limit of 1 forbids exactly
    // that (`fs/coredump.c`); not to be dumpable forbids all.
    let core = Rlimit { current: Some(1), maximum: Some(1) };
    try_to("forbid core dumps", rustix::process::setrlimit(Resource::Core, core));
    try_to("forbid dumps", rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable));
    // Without a privilege, too: a server that takes over has none.
    let unlimited = Rlimit { current: None, maximum: None };
    let memlock = rustix::process::setrlimit(Resource::Memlock, unlimited);
    try_to("lock as much memory as it needs", memlock);
    // Our own allocations must not wait for file systems to write back: they may wait for us (Linux 5.6).
    try_to("be an I/O flusher", rustix::process::configure_io_flusher_behavior(true));
    // Whatever starts us may be a service that is stopped when the root is switched: out of its group.
    for path in CGROUPS {
        if Path::new(path).exists() {
            try_to("leave the control group", fs::write(path, "0"));
        }
    }
    for path in TIMEOUTS {
        if fs::read_to_string(path).is_ok_and(|text| text.trim() != "0") {
            try_to("lift the kernel's time limit on requests", fs::write(path, "0"));
        }
    }
    std::panic::set_hook(Box::new(|panic| tracing::error!("the server panicked: {panic}")));
    Ok(())
}

/// What a successor has to do that was started by one who lives like this. The rest is handed down: its control group, the
/// directory that it is shut in, how it is spared when memory is short, that its allocations do not wait for file systems
/// (prctl(2); it takes a privilege to ask for that again), what is limited, and what it may do (`confine`).
pub fn again() -> Result<(), Failed> {
    SigSet::all()
        .thread_block()
        .map_err(|err| Failed::io("cannot block signals", io::Error::from(err)))?;
    rustix::process::setsid().map(drop).unwrap_or_default();
    try_to("forbid dumps", rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable));
    std::panic::set_hook(Box::new(|panic| tracing::error!("the server panicked: {panic}")));
    if let Err(err) = super::resume::watch(|| {}) {
        tracing::warn!("whoever stops this process stops it for good: {err}");
    }
    let sets = rustix::thread::capabilities(None);
    last(None, sets.is_ok_and(|it| it.effective.contains(CapabilitySet::IPC_LOCK)))
}

/// When everything is open that is ever needed: from then on nothing is found by a path.
///
/// `is_privileged` says whether this process may lock memory beyond a limit, also later.
pub fn last(empty: Option<&Path>, is_privileged: bool) -> Result<(), Failed> {
    // Whoever calls pivot_root(2) moves the root of every process that has the old one, and so into its own mount; not of
    // one whose root is a directory of its own.
    if let Some(empty) = empty {
        let wrap = |err: rustix::io::Errno| {
            Failed::io(format_args!("cannot shut the server in at {}", empty.display()), err.into())
        };
        rustix::process::chdir(empty).map_err(wrap)?;
        rustix::process::chroot(".").map_err(wrap)?;
        rustix::process::chdir("/").map_err(wrap)?;
    }
    // A page of ours that was swapped out would be read back through whatever waits for us. What is not in memory yet is
    // locked as it comes. Where there is a limit for who has no privilege, it would have no more memory from there on.
    let limit = rustix::process::getrlimit(Resource::Memlock);
    if !is_privileged && limit.current.is_some() {
        tracing::warn!(
            "the server does not lock its memory: there is a limit that it may not lift"
        );
        return Ok(());
    }
    let all = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
    try_to("lock its memory", rustix::mm::mlockall(all));
    Ok(())
}

/// What is not as it must be, found by looking at ourselves.
///
/// Call it before [`last`], for it needs `/proc`.
pub fn faults(mount: Device) -> Vec<String> {
    let mut faults = Vec::new();
    let mut expect = |good: bool, what: &str| {
        if !good {
            faults.push(what.to_owned());
        }
    };
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap_or_default();
    let blocked = u64::from_str_radix(blocked.trim(), 16).unwrap_or_default();
    // All 31 but SIGKILL (9) and SIGSTOP (19), which nobody can block.
    let wanted = 0x7fff_ffff_u64 & !(1 << 8) & !(1 << 18);
    expect(blocked & wanted == wanted, "signals are not blocked");
    let adj = fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
    expect(adj.trim() == OOM_SCORE_ADJ_MIN, "it may be ended when memory is short");
    let core = rustix::process::getrlimit(Resource::Core);
    expect(core.current.is_some_and(|limit| limit <= 1), "it may dump core into a program");
    let flusher = rustix::process::is_io_flusher().unwrap_or(false);
    expect(flusher, "its allocations may wait for file systems");
    let name = fs::read("/proc/self/cmdline").unwrap_or_default();
    expect(
        name.first() == Some(&b'@'),
        "its name does not start with `@`, so systemd would end it",
    );
    for path in TIMEOUTS {
        let limit = fs::read_to_string(path).unwrap_or_else(|_| "0".to_owned());
        expect(limit.trim() == "0", "the kernel limits how long a request may take");
    }
    for descriptor in descriptors_on(mount) {
        expect(false, &format!("descriptor {descriptor} is on its own mount"));
    }
    faults
}

/// Our descriptors.
fn descriptors() -> Vec<RawFd> {
    let numbers = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    numbers
        .filter_map(|entry| entry.file_name().to_str().and_then(|name| name.parse().ok()))
        .collect()
}

/// Those that are open on a file system.
fn descriptors_on(mount: Device) -> Vec<RawFd> {
    descriptors()
        .into_iter()
        .filter(|number| {
            let path = format!("/proc/self/fd/{number}");
            crate::fuse::mountinfo::place(Path::new(&path)).is_ok_and(|it| it.device == mount)
        })
        .collect()
}

/// Does what is worth doing and not worth failing for.
fn try_to<T, E: Into<io::Error>>(what: &str, result: Result<T, E>) {
    if let Err(err) = result {
        let err: io::Error = err.into();
        tracing::warn!("the server could not {what}: {err}");
    }
}
