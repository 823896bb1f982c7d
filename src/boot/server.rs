//! Who serves the root? A process of its own, which ends only with the machine.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::mount::MountFlags;

use super::{Failed, hygiene, needs, patience, resume};
use crate::confine::{Confinement, Network, quit_privileges};
use crate::format::digest::Digest;
use crate::format::index::InodeIndex;
use crate::fs::stack::Stack;
use crate::fuse::mount::Settings;
use crate::fuse::mountinfo;
use crate::fuse::recorder::Recorder;
use crate::fuse::session::{self, Work};
use crate::heal::Ladder;
use crate::heal::corruption::{LastResort, OnCorruption, last_resort};
use crate::heal::handed::Handed;
use crate::takeover::{Guard, Inheritance, Manner};
use crate::trust::Anchor;
use crate::{Method, Options, Tree};

/// Most threads that answer the kernel, as for `ashlar mount`; and never fewer than two: while one reads for the kernel, what
/// it needs for that may be asked of the other.
const WORKERS: std::ops::RangeInclusive<usize> = 2..=4;
/// How far the kernel reads ahead, in KiB, as for `ashlar mount`.
const READAHEAD_KB: u32 = 256;
/// Longest trace of reads in bytes: half of the memory that the workspace has. A boot has a few thousand lines, some 200 KiB.
const TRACE_LEN_MAX: usize = 512 * 1024;
/// When a machine has booted and has time for what may be needed some day.
const BOOTED: Duration = Duration::from_mins(2);
/// How long a server may not answer before it is replaced, in seconds, as for `ashlar mount`.
const WATCHDOG_SECS: u64 = 120;
/// The name that a server bears. systemd spares processes of the superuser whose name starts with `@` when it ends all
/// others (`docs/ROOT_STORAGE_DAEMONS.md`).
pub(super) const NAME: &str = "@ashlar";
/// What is said when a machine has to live without.
const UNHELD: &str = "the root dies with its server, for nobody can hold it";
/// What is said when the mount answers.
pub(super) const READY: &str = "ready";

/// What a server is told when it is started.
#[derive(Debug, Clone)]
pub struct ServerArgs {
    /// The image.
    pub image: PathBuf,
    /// The root digest that somebody vouched for.
    pub root_digest: Digest,
    /// Who did, for the report.
    pub voucher: String,
    /// Where to mount.
    pub mountpoint: PathBuf,
    /// What the mount table shall show as the source.
    pub source: PathBuf,
    /// The directory that becomes this process's root.
    pub empty: PathBuf,
    /// The first program, if a system shall start from here: it must be whole before anybody depends on it.
    pub init: Option<String>,
    /// Where to write down what is read.
    pub record_trace: Option<PathBuf>,
    /// Whether a second process keeps this one alive.
    pub takeover: bool,
    /// After so many seconds without an answer of the disk a read fails; 0 for never.
    pub io_timeout_secs: u64,
    /// What is done about bytes that are not what was sealed.
    pub on_corruption: OnCorruption,
    /// Whether it keeps its privileges, and may call the kernel as it likes.
    pub unconfined: bool,
    /// Traps that are left open.
    pub without: Vec<String>,
}

/// Serves until the mount is gone, which on a running machine it never is.
///
/// It says `ready` on standard output, or why not, in two lines: the error and what to do about it.
pub fn run(args: &ServerArgs) -> Result<(), Failed> {
    // Started through /proc/self/exe, it would be called `exe`.
    rustix::thread::set_name(c"ashlar").unwrap_or_default();
    hygiene::close_inherited();
    super::kmsg::start(tracing::level_filters::LevelFilter::INFO, false);
    hygiene::first()?;
    #[cfg(feature = "without-cures")]
    crate::fuse::BRIEFLY.store(is_open(&args.without, "ttl"), std::sync::atomic::Ordering::Relaxed);
    let io_timeout = Duration::from_secs(args.io_timeout_secs);
    let io_timeout = Some(io_timeout).filter(|patience| !patience.is_zero());
    // All that is needed for it is opened now: later nothing is found by a path.
    let first: fn() = if args.unconfined { || {} } else { quit_privileges };
    let ladder = Ladder {
        prepare_after: Some((BOOTED, first)),
        ..Ladder::as_wanted(args.on_corruption, &args.image)
    };
    let last_resort = despair(args.on_corruption);
    let handed = Handed::of(args.on_corruption, &ladder, last_resort.as_ref(), None)
        .inspect_err(|err| tracing::warn!("the next server will heal nothing: {err}"))
        .unwrap_or_default();
    let mut options = Options::new(Anchor::RootDigest(args.root_digest));
    options.method = Method::Pread;
    options.io_timeout = io_timeout;
    options.healers = ladder.into_healers();
    options.heal_until = patience::to_heal();
    options.first = first;
    let tree = crate::open(&args.image, &options)?;
    if let Some(init) = &args.init {
        let read = needs::read(Stack(&[&tree]), init).map_err(Failed::new)?;
        tracing::info!(
            "{} files ({} bytes) that are needed to boot are whole",
            read.files,
            read.bytes
        );
    }
    let root = tree.attr(InodeIndex::ROOT)?;
    let path_only = OFlags::PATH | OFlags::CLOEXEC;
    let beside = rustix::fs::open(&args.image, path_only, Mode::empty()).map_err(|err| {
        Failed::io(format_args!("cannot open {}", args.image.display()), err.into())
    })?;
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let block_kb = tree.superblock().block_size() / 1024;
    let settings = Settings {
        source: args.source.clone(),
        mountpoint: args.mountpoint.clone(),
        root_permissions: root.permissions,
        flags: MountFlags::empty(),
        allow_other: true,
    };
    let confinement = (!args.unconfined).then(|| Confinement::prepare(Network::Closed));
    let work = Work {
        workers: processors.clamp(*WORKERS.start(), *WORKERS.end()),
        readahead_kb: Some(READAHEAD_KB.max(block_kb)),
        digest_xattr: false,
        image: Some(beside),
        proc: session::proc(),
        recorder: args.record_trace.as_deref().and_then(recorder),
        anchor: args.voucher.clone(),
        last_resort,
        first,
    };
    let inheritance = args.takeover.then(|| inheritance(&tree, &options, &work, handed)).flatten();
    let null = File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map_err(|err| Failed::io("cannot open /dev/null", err))?;
    let mounted = session::start(tree, &settings, work)?;
    let device = mountinfo::place(&args.mountpoint)
        .map_err(|err| Failed::io("cannot look at the mount", err))?
        .device;
    for fault in hygiene::faults(device) {
        tracing::warn!("the server is not as it must be: {fault}");
    }
    if !is_open(&args.without, "resume")
        && let Err(err) = resume::watch(first)
    {
        tracing::warn!(
            "the server is not as it must be: whoever stops it stops it for good: {err}"
        );
    }
    let is_shut_in = !is_open(&args.without, "chroot");
    hygiene::last(Some(args.empty.as_path()).filter(|_| is_shut_in), args.unconfined)?;
    for fault in confinement.map(Confinement::close).unwrap_or_default() {
        tracing::warn!("the server is not as confined as it should be: {fault}");
    }
    say_ready(&null).map_err(|err| Failed::io("cannot say that the mount is ready", err))?;
    // Until now whoever started us may have ended us. What is started from here on is as confined as we are: a holder, and
    // what that starts, needs nothing more than a server does.
    let guard = inheritance.and_then(|inheritance| {
        Guard::begin(mounted.connection(), inheritance)
            .inspect_err(|err| tracing::warn!("{UNHELD}: {err}"))
            .ok()
    });
    let ended = mounted.wait();
    // What ended by a fault goes on with a successor.
    if let (Some(guard), Ok(())) = (guard, &ended) {
        guard.over();
    }
    match &ended {
        Ok(()) => tracing::info!("{} is unmounted", args.mountpoint.display()),
        Err(err) => tracing::error!("{}: {err}", args.mountpoint.display()),
    }
    Ok(ended?)
}

/// What a successor will need. A machine boots without it, too.
fn inheritance(tree: &Tree, options: &Options, work: &Work, handed: Handed) -> Option<Inheritance> {
    let manner = Manner {
        name: NAME.into(),
        log_level: "info".to_owned(),
        log: super::kmsg::open().map(OwnedFd::from),
        is_root: true,
        is_foreground: false,
        watchdog_secs: WATCHDOG_SECS,
    };
    Inheritance::take(tree, options, work, handed, manner)
        .inspect_err(|err| tracing::warn!("{UNHELD}: {err}"))
        .ok()
}

/// What is done about bytes that nobody has. A machine that cannot end itself boots, too.
fn despair(on_corruption: OnCorruption) -> Option<LastResort> {
    let last = last_resort(on_corruption).inspect_err(|err| {
        tracing::warn!(
            "on-corruption={on_corruption} cannot be had, whoever reads what is lost gets an error: {err} (hint: the kernel needs \
             CONFIG_MAGIC_SYSRQ)"
        );
    });
    last.unwrap_or_default()
}

/// Writes down what is read. A machine boots without it, too.
fn recorder(path: &Path) -> Option<Recorder> {
    Recorder::create(path, TRACE_LEN_MAX)
        .inspect_err(|err| tracing::warn!("no trace of reads in {}: {err}", path.display()))
        .ok()
}

/// Whether a trap is left open, which is for the tests of its cure and never built otherwise.
pub(super) fn is_open(without: &[String], trap: &str) -> bool {
    cfg!(feature = "without-cures") && without.iter().any(|it| it == trap)
}

/// Tells the one who started us; from then on nobody listens here.
fn say_ready(null: &File) -> io::Result<()> {
    let mut stdout = io::stdout();
    writeln!(stdout, "{READY}")?;
    stdout.flush()?;
    rustix::stdio::dup2_stdin(null)?;
    rustix::stdio::dup2_stdout(null)?;
    rustix::stdio::dup2_stderr(null)?;
    Ok(())
}
