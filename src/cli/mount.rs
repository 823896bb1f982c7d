//! `ashlar mount`: an image becomes a directory.

mod healing;
mod options;
mod takeover;
mod terminal;
mod unmounter;

use std::ffi::OsString;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use clap::Args;
use nix::sys::signal::{SigSet, Signal};
use rustix::fs::{Mode, OFlags};

use self::options::MountOptions;
pub(super) use self::takeover::succeed;
use self::takeover::{guard, inheritance, takes_over};
use self::terminal::{Listener, READY, leave};
use self::unmounter::Stop;
use super::{Failure, Outcome, TrustArgs, log, warn_unauthenticated};
use crate::confine::{Network, quit_privileges};
use crate::fuse::mount::{MountError, Settings, check_mountpoint};
use crate::fuse::recorder::Recorder;
use crate::fuse::session::{self, Mounted, Work};
use crate::heal::corruption::OnCorruption;
use crate::takeover::Guard;
use crate::trust::Anchor;
use crate::{CacheLimits, Options, Tree};

/// Most threads that answer the kernel unless told otherwise: more of them wake each other up for nothing.
const WORKERS_MAX: usize = 4;
/// Fewest blocks of either kind that the cache has room for: with less, threads expand the same blocks again and again.
const CACHE_BLOCKS_MIN: u64 = 4;
/// How far the kernel reads ahead unless told otherwise, in KiB; a whole block where blocks are larger.
const READAHEAD_KB: u32 = 256;
/// Longest trace of reads in bytes: some million lines.
const TRACE_LEN_MAX: usize = 64 << 20;
/// Arguments of `ashlar mount`.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
#[command(after_help = AFTER_HELP)]
pub struct MountArgs {
    #[command(flatten)]
    trust: TrustArgs,
    /// Stay in the foreground and log to standard error; ^C unmounts
    #[arg(short, long)]
    foreground: bool,
    /// Mount options, separated by commas; may be given several times
    #[arg(short = 'o', value_name = "OPTIONS")]
    options: Vec<String>,
    /// What is done about bytes that are not what was sealed: `eio`, an error for whoever asks; `heal`, look for another copy
    /// first; `restart` and `panic`, end the machine where there is none (root only); while somebody who may have one, a server
    /// say, cannot tell, whoever asks gets an error [default: heal]
    #[arg(long, value_name = "HOW")]
    on_corruption: Option<OnCorruption>,
    /// Write down in FILE what is read and in which order, for `mkimage --order`
    #[arg(long, value_name = "FILE")]
    record_trace: Option<PathBuf>,
    /// Called by mount(8), which adds words of its own to the options
    #[arg(long, hide = true)]
    helper: bool,
    /// Ignore options that are not known (mount -s)
    #[arg(long, hide = true)]
    sloppy: bool,
    /// Check everything, but do not mount (mount -f)
    #[arg(long, hide = true)]
    fake: bool,
    /// This is the server; say on standard output when the mount answers, then leave the terminal
    #[arg(long, hide = true)]
    detached: bool,
    /// This unmounts for a server when it asks for it
    #[arg(long, hide = true)]
    unmounter: bool,
    /// The image, a file or a block device
    image: PathBuf,
    /// The directory to mount it on
    mountpoint: PathBuf,
}

const AFTER_HELP: &str = "\
The mount answers when this command returns, and the server ends when it is unmounted (`umount`, or `fusermount3 -u` for \
ordinary users). In /etc/fstab, and for `mount -t ashlar IMAGE DIR -o OPTIONS`, make /sbin/mount.ashlar a link to this \
program.

Options for -o:
  root_digest=HEX       as --root-digest
  key=FILE              as --key
  signature=FILE        as --signature
  cachesize=SIZE        memory for expanded blocks, for example 64M [default: 32M]; room for four of each
                        kind, data and metadata, is the least
  workers=N             threads that answer the kernel [default: two per processor, at most 4]
  readahead=KB          how far the kernel reads ahead [default: 256, or a block]; root only
  method=pread|mmap     how the image file is read [default: pread, which was measured to be faster
                        cold, and leaves no mapped pages in this process's account]
  on_corruption=HOW     as --on-corruption
  heal_from=PATH        an image, or a directory of images, to heal from besides the images (*.img, *.ashlar)
                        beside this one; may be given several times
  heal_url=URL          an image on a web server, which is asked last [default: none is]
  digest_xattr          make the root digest an xattr even in an image without xattrs, see below
  allow_other           let other users look; always so for root
  takeover, notakeover  have a second process start another server when this one dies, without anybody noticing
                        [default: yes, in the foreground no]
  watchdog=SECONDS      replace a server that has not answered for so long; 0 for never [default: 120]
  io_timeout=SECONDS    answer with an error when the disk has not answered for so long [default: 0, which is never]
  log=LEVEL             error, warn, info or debug [default: info]
  noconfine             let the server keep its capabilities, and all system calls
  ro, nosuid, nodev, noexec, noatime, nosymfollow  as in mount(8); ordinary users always get nosuid,nodev

A block that is not what was sealed, or cannot be read, is healed: it is read once more past the page cache, then looked for in other \
images, in the image's parity (`mkimage --fec`), and on the server, if one is named. Whatever comes is held against the image's own digests, so nobody need trust \
those. The log names each block with its files once, `ashlar status` counts them, and `ashlar verify --repair` mends the image.

The root digest is the xattr user.ashlar.root_digest of the mount's root directory (getfattr -n), if the image has any \
xattrs. If it has none, the kernel is told so once and never asks for one again, which saves a question at each start of \
a program; then `ashlar status` shows the digest, or mount with -o digest_xattr.";

/// Runs it.
pub fn run(mut args: MountArgs) -> Outcome {
    if args.unmounter {
        return unmounter::run(&args.mountpoint);
    }
    let mut options = MountOptions { helper: args.helper, ..MountOptions::default() };
    for text in &args.options {
        options.parse(text, &mut args.trust, args.sloppy)?;
    }
    options.on_corruption = args.on_corruption.unwrap_or(options.on_corruption);
    healing::check(&options)?;
    if args.trust.root_digest.is_some() && !args.trust.key.is_empty() {
        return Err(Failure::new("a root digest and a key exclude each other")
            .hint("give one of the two: the key, if images change and their signer does not"));
    }
    let unauthenticated = args.trust.root_digest.is_none() && args.trust.key.is_empty();
    if unauthenticated && !args.detached {
        warn_unauthenticated(&args.image);
    }
    if args.foreground || args.detached || args.fake {
        serve(&args, &options)
    } else {
        start_server()
    }
}

/// Starts this program once more as the server, and returns when the mount answers. The server says itself what is wrong.
///
/// A second program rather than a fork: threads, locks and the allocator start afresh, and it is safe code.
fn start_server() -> Outcome {
    let args = super::called_as(std::env::args_os().collect());
    let mut rest = args.iter().skip(1).skip_while(|arg| *arg != "mount");
    let mut server = Command::new("/proc/self/exe")
        .arg0("ashlar")
        .args(rest.next())
        .arg("--detached")
        .args(rest)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|err| Failure::new(format!("cannot start the server: {err}")))?;
    let mut word = Vec::new();
    if let Some(mut stdout) = server.stdout.take() {
        stdout
            .read_to_end(&mut word)
            .map_err(|err| Failure::new(format!("cannot hear the server: {err}")))?;
    }
    if word == READY {
        return Ok(ExitCode::SUCCESS);
    }
    let status = server.wait().map_err(|err| Failure::new(format!("the server is lost: {err}")))?;
    match status.code().and_then(|code| u8::try_from(code).ok()) {
        // It has said why.
        Some(code) if code != 0 => Ok(ExitCode::from(code)),
        _ => Err(Failure::new(match status.signal() {
            Some(signal) => format!("the server was ended by signal {signal}"),
            None => "the server ended before the mount answered".to_owned(),
        })),
    }
}

/// Opens, mounts, and serves until it is unmounted.
fn serve(args: &MountArgs, mount_options: &MountOptions) -> Outcome {
    let first: fn() = if mount_options.confine { quit_privileges } else { || {} };
    if args.detached {
        log::to_syslog(mount_options.log, first)
            .map_err(|err| Failure::new(format!("cannot start a thread: {err}")))?;
    } else {
        log::to_stderr(mount_options.log);
    }
    let mountpoint = check_mountpoint(&args.mountpoint)?;
    let takes_over = takes_over(args, mount_options, &mountpoint)?;
    let mut options = args.trust.options(&args.image)?;
    options.method = mount_options.method.into();
    let io_timeout = Duration::from_secs(mount_options.io_timeout_secs);
    options.io_timeout = Some(io_timeout).filter(|patience| !patience.is_zero());
    options.first = first;
    if let Some(bytes) = mount_options.cache_bytes {
        options.cache = cache_limits(bytes);
    }
    let ladder = healing::ladder(&args.image, mount_options)?;
    let last_resort = healing::despair(mount_options)?;
    let handed = healing::handed(mount_options, &ladder, last_resort.as_ref())?;
    options.healers = ladder.into_healers();
    let tree = crate::open(&args.image, &options).map_err(|err| open_failure(&args.image, &err))?;
    if let Some(bytes) = mount_options.cache_bytes {
        let superblock = tree.superblock();
        check_cache(bytes, superblock.block_size(), superblock.metadata_block_size())?;
    }
    if args.fake {
        return Ok(ExitCode::SUCCESS);
    }
    let root = tree.attr(crate::format::index::InodeIndex::ROOT)?;
    let settings = Settings {
        source: args.image.canonicalize().unwrap_or_else(|_| args.image.clone()),
        mountpoint,
        root_permissions: root.permissions,
        flags: mount_options.flags,
        allow_other: mount_options.allow_other,
    };
    let mut work = work(&args.image, &tree, &options, mount_options, first);
    let trace = args.record_trace.as_deref();
    work.recorder = trace.map(|path| recorder(path, &args.image)).transpose()?;
    work.last_resort = last_resort;
    // Before there are threads, so that all of them leave these signals to one.
    let signals = block_signals()?;
    if args.detached {
        leave()?;
    }
    let label = describe(&tree, &settings);
    let inheritance = if takes_over {
        Some(inheritance(args, &tree, &options, mount_options, &work, handed)?)
    } else {
        None
    };
    let mounted = session::start(tree, &settings, work).inspect_err(|_| log::flush())?;
    tracing::info!("{label}");
    let stop = Arc::new(Stop::new(mounted.stopper(), None));
    let ready = || -> Result<Option<Arc<Guard>>, Failure> {
        let wrap = |err| Failure::new(format!("cannot leave the terminal: {err}"));
        let listener = args.detached.then(Listener::leave).transpose().map_err(wrap)?;
        // What is opened for writing is open by now. A holder is started afterwards, so that it is as confined as this process,
        // and as each server that it will start.
        if mount_options.confine {
            let is_local = mount_options.heal_url.is_none();
            stop.confine(&args.image, if is_local { Network::Closed } else { Network::Open });
        }
        let begin = || -> Result<Option<Arc<Guard>>, Failure> {
            let guard = inheritance.map(|it| guard(&mounted, it, &stop)).transpose()?;
            listen(signals, Arc::clone(&stop), guard.clone())?;
            Ok(guard)
        };
        let guard = begin().inspect_err(|_| listener.iter().for_each(Listener::come_back))?;
        if let Some(listener) = listener {
            listener.say_ready().map_err(wrap)?;
        }
        Ok(guard)
    };
    let ready = ready();
    match ready {
        Ok(guard) => finish(mounted, guard.as_deref()),
        Err(failure) => {
            undo(mounted, &stop, &failure);
            Err(failure)
        }
    }
}

/// Unmounts what nobody was told of: once this process ends, its mount would answer with errors only.
fn undo(mounted: Mounted, stop: &Stop, failure: &Failure) {
    tracing::error!("{}: unmounting", failure.message);
    let stopped = stop.stop().map_err(|err| format!("cannot unmount: {err}"));
    // Where it is still mounted, nothing would end the wait.
    let ended = stopped.and_then(|()| mounted.wait().map_err(|err| err.to_string()));
    if let Err(err) = ended {
        tracing::error!("{err}");
    }
    log::flush();
}

/// Waits for the end. What a mount ends with is worth a line in the log, for nobody hears the exit status.
fn finish(mounted: Mounted, guard: Option<&Guard>) -> Outcome {
    let ended = mounted.wait();
    // What ended by a fault goes on with a successor.
    if let (Some(guard), Ok(())) = (guard, &ended) {
        guard.over();
    }
    match &ended {
        Ok(()) => tracing::info!("unmounted"),
        Err(err) => tracing::error!("{err}"),
    }
    log::flush();
    Ok(ended.map(|()| ExitCode::SUCCESS)?)
}

fn describe(tree: &Tree, settings: &Settings) -> String {
    let (image, mountpoint) = (settings.source.display(), settings.mountpoint.display());
    format!("{image} is mounted on {mountpoint}, root digest {}", tree.root_digest())
}

fn open_failure(image: &Path, err: &crate::Error) -> Failure {
    match err {
        // It names the file itself.
        crate::Error::Io { doing, .. } if doing.starts_with("cannot open") => {
            let failure = Failure::new(err);
            failure.hint("give the path of an image; `mkimage SOURCE IMAGE` makes one")
        }
        _ => Failure::about(image.display(), err),
    }
}

fn work(
    image: &Path,
    tree: &Tree,
    options: &Options,
    mount_options: &MountOptions,
    first: fn(),
) -> Work {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let block_kb = tree.superblock().block_size() / 1024;
    // Beside a block device there is no free space to tell of: its directory is in memory.
    let is_device = image.metadata().is_ok_and(|it| it.file_type().is_block_device());
    let path_only = OFlags::PATH | OFlags::CLOEXEC;
    let beside = rustix::fs::open(image, path_only, Mode::empty()).ok();
    Work {
        workers: mount_options.workers.unwrap_or(processors.saturating_mul(2).min(WORKERS_MAX)),
        readahead_kb: Some(mount_options.readahead_kb.unwrap_or(READAHEAD_KB.max(block_kb))),
        digest_xattr: mount_options.digest_xattr,
        image: beside.filter(|_| !is_device),
        proc: session::proc(),
        recorder: None,
        last_resort: None,
        anchor: String::from(match options.anchor {
            Anchor::RootDigest(_) => "root-digest",
            Anchor::Keys(_) => "key",
            Anchor::Unauthenticated => "nothing",
        }),
        first,
    }
}

fn recorder(path: &Path, image: &Path) -> Result<Recorder, Failure> {
    let is_image =
        path.canonicalize().is_ok_and(|it| image.canonicalize().is_ok_and(|image| it == image));
    if is_image || path.metadata().is_ok_and(|metadata| !metadata.is_file()) {
        let what = if is_image { "the image itself" } else { "no regular file" };
        return Err(Failure::new(format!(
            "cannot write the trace {}: it is {what}",
            path.display()
        )));
    }
    Recorder::create(path, TRACE_LEN_MAX)
        .map_err(|err| Failure::new(format!("cannot write the trace {}: {err}", path.display())))
}

/// A quarter of the cache is for metadata, which is asked for again more often.
fn cache_limits(bytes: u64) -> CacheLimits {
    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
    let metadata_bytes_max = bytes / 4;
    CacheLimits { data_bytes_max: bytes.saturating_sub(metadata_bytes_max), metadata_bytes_max }
}

/// Whether [`cache_limits`] leaves room for enough blocks of both kinds.
fn check_cache(bytes: u64, block_size: u32, metadata_block_size: u32) -> Result<(), Failure> {
    let data_min = CACHE_BLOCKS_MIN.saturating_mul(block_size.into()).saturating_mul(4).div_ceil(3);
    let metadata_min =
        CACHE_BLOCKS_MIN.saturating_mul(metadata_block_size.into()).saturating_mul(4);
    let min_kb = data_min.max(metadata_min).div_ceil(1024);
    if bytes >= min_kb.saturating_mul(1024) {
        return Ok(());
    }
    Err(Failure::new(format!("mount option `cachesize`: {bytes} bytes are too few for this image"))
        .hint(format!(
            "its blocks need at least cachesize={min_kb}K; without the option it is 32M"
        )))
}

fn termination() -> SigSet {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals
}

fn block_signals() -> Result<SigSet, Failure> {
    let signals = termination();
    signals.thread_block().map_err(|err| Failure::new(format!("cannot block signals: {err}")))?;
    Ok(signals)
}

/// The first signal unmounts; a second one does not wait for those who still look.
fn listen(signals: SigSet, stop: Arc<Stop>, guard: Option<Arc<Guard>>) -> Result<(), Failure> {
    let wait = move || {
        let Ok(signal) = signals.wait() else { return };
        tracing::info!("{signal}: unmounting");
        if let Err(err) = stop.stop() {
            tracing::error!("cannot unmount: {err}");
        }
        if let Ok(signal) = signals.wait() {
            tracing::warn!("{signal}: ending at once");
            if let Some(guard) = guard {
                guard.over();
            }
            log::flush();
            std::process::exit(1);
        }
    };
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(wait)
        .map_err(|err| Failure::new(format!("cannot start a thread: {err}")))?;
    Ok(())
}

/// Arguments of `mount.ashlar SPEC DIR [-sfnv] [-o options] [-t type]` (mount(8)) in our own words. What is none of these
/// stays as it is, so `-N namespace`, for a mount in another namespace, is refused as an argument that is not known.
pub(super) fn from_helper_args(args: Vec<OsString>) -> Vec<OsString> {
    let mut own: Vec<OsString> = vec!["ashlar".into(), "mount".into(), "--helper".into()];
    let mut args = args.into_iter().skip(1);
    while let Some(arg) = args.next() {
        let flags = arg.as_bytes().strip_prefix(b"-").filter(|flags| !flags.starts_with(b"-"));
        match flags {
            Some(b"t") => drop(args.next()),
            Some(b"o") => {
                own.push("-o".into());
                own.extend(args.next());
            }
            Some(flags) if flags.iter().all(|flag| b"sfnv".contains(flag)) => {
                let known = [(b's', "--sloppy"), (b'f', "--fake")];
                let wanted = known.iter().filter(|(flag, _)| flags.contains(flag));
                own.extend(wanted.map(|(_, word)| OsString::from(word)));
            }
            _ => own.push(arg),
        }
    }
    own
}

impl From<MountError> for Failure {
    fn from(err: MountError) -> Self {
        let failure = Failure::new(&err);
        match err.hint() {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_has_room_for_some_blocks() {
        for (block, metadata_block) in [(128 << 10, 64 << 10), (1 << 20, 4 << 10), (4096, 4096)] {
            let failure = check_cache(0, block, metadata_block).unwrap_err();
            let hint = failure.hint.unwrap();
            let (_, rest) = hint.split_once("cachesize=").unwrap();
            let min = rest.split_once('K').unwrap().0.parse::<u64>().unwrap() * 1024;
            assert!(check_cache(min - 1, block, metadata_block).is_err());
            assert!(check_cache(min, block, metadata_block).is_ok());
            let limits = cache_limits(min);
            assert!(limits.data_bytes_max >= 4 * usize::try_from(block).unwrap());
            assert!(limits.metadata_bytes_max >= 4 * usize::try_from(metadata_block).unwrap());
        }
    }

    #[test]
    fn the_words_of_mount_8() {
        let given = [
            "mount.ashlar",
            "a.img",
            "/mnt",
            "-sn",
            "-o",
            "rw,x=y",
            "-t",
            "ashlar",
            "-f",
            "-N",
            "1",
        ];
        let own = from_helper_args(given.map(OsString::from).into());
        let expected = [
            "ashlar", "mount", "--helper", "a.img", "/mnt", "--sloppy", "-o", "rw,x=y", "--fake",
            "-N", "1",
        ];
        assert_eq!(own, expected.map(OsString::from));
    }
}
