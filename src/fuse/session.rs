//! How does a tree become a mounted file system, and how does that end?

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::thread::{self, JoinHandle};
use std::time::{SystemTime, UNIX_EPOCH};

use fuser::{Config, Session, SessionACL};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags, Timespec};

use super::connection::{Before, Connection, Facts};
use super::counters::Counters;
use super::heals;
use super::journal::Journal;
use super::mount::{self, MountError, Settings};
use super::mountinfo::{self, Device};
use super::placement::Placement;
pub use super::placement::proc;
use super::recorder::Recorder;
use super::status::{Listening, Reporter};
use super::{Server, adopt};
use crate::format::inode::Kind;
use crate::fs::Tree;
use crate::fs::prefetch::PREFETCH_LIST_LEN_MAX;
use crate::heal::corruption::LastResort;

/// How the server behind a mount works.
#[derive(Debug)]
pub struct Work {
    /// Threads that answer the kernel.
    pub workers: usize,
    /// How far the kernel reads ahead, in KiB; it is also the largest READ. Only the superuser can set it.
    pub readahead_kb: Option<u32>,
    /// Whether the root digest is an xattr of the root directory even in an image that has no xattrs.
    pub digest_xattr: bool,
    /// The image file, if its file system's free space is to be told as ours.
    pub image: Option<OwnedFd>,
    /// `/proc` ([`proc`]), where it is seen on which processor clients run.
    pub proc: Option<OwnedFd>,
    /// Told what is read.
    pub recorder: Option<Recorder>,
    /// What vouched for the image, for the report: `root-digest`, `key`, or `nothing`.
    pub anchor: String,
    /// What is done about bytes that nobody has, besides an error.
    pub last_resort: Option<LastResort>,
    /// What each thread does first that answers the kernel or works for those: it gives up its privileges, say.
    pub first: fn(),
}

/// Directory entries that are looked at to find a file for [`warm_up`].
const WARM_UP_VISITS_MAX: usize = 4096;

/// A mounted tree that answers.
#[derive(Debug)]
pub struct Mounted {
    connection: Arc<Connection>,
    session: JoinHandle<io::Result<()>>,
    /// Reports are told as long as it is there.
    _reports: Option<Listening>,
}

/// Mounts a tree and serves it in threads of its own. When this returns, the mount has answered; when it fails, nothing is
/// left mounted.
pub fn start(tree: Tree, settings: &Settings, work: Work) -> Result<Mounted, MountError> {
    let tree = Arc::new(tree);
    heals::tell(&tree, work.first);
    if tree.store().used_backup() {
        tracing::warn!(
            "the first superblock is damaged, its backup serves: replace the image soon"
        );
    }
    let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let journal = Arc::new(Journal::create(since).map_err(MountError::Session)?);
    let counters = Arc::new(Counters::default());
    let (workers, readahead_kb, first) = (work.workers, work.readahead_kb, work.first);
    let anchor = work.anchor.clone();
    let server = Server::new(Arc::clone(&tree), Arc::clone(&counters), Arc::clone(&journal), work);
    work_ahead(&tree, server.placement(), first);
    let before = mountinfo::place(&settings.mountpoint).map_err(MountError::Session)?;
    let (fuse_device, mounting) = mount::begin(settings)?;
    let session = adopt::hear(&fuse_device).and_then(|greeting| {
        #[cfg(feature = "without-cures")]
        let greeting = adopt::as_of_an_old_kernel(greeting);
        let config = config(workers);
        let session = adopt::session(server, fuse_device.as_fd(), &greeting, true, config)?;
        Ok((run(session, first)?, greeting))
    });
    // Why it could not be mounted tells more than that nobody asks.
    mounting.finish()?;
    let undo = Undo(Some(settings.mountpoint.clone()));
    let (session, greeting) = session.map_err(MountError::Session)?;
    let place = mountinfo::place(&settings.mountpoint).map_err(MountError::Session)?;
    if place.device == before.device {
        return Err(MountError::Session(io::Error::other("it vanished as soon as it was mounted")));
    }
    if let Some(readahead_kb) = readahead_kb {
        set_readahead(place.device, readahead_kb);
    }
    warm_up(&tree, &settings.mountpoint);
    let facts = Facts {
        greeting,
        mountpoint: settings.mountpoint.as_os_str().as_bytes().to_vec(),
        source: settings.source.as_os_str().as_bytes().to_vec(),
        device: (place.device.0, place.device.1),
        anchor,
    };
    let connection =
        Arc::new(Connection { device: fuse_device, facts, journal, holder: AtomicU32::new(0) });
    let reporter = Reporter { tree, counters, connection: Arc::clone(&connection) };
    let reports = report(reporter, first);
    undo.forget();
    Ok(Mounted { connection, session, _reports: reports })
}

fn report(reporter: Reporter, first: fn()) -> Option<Listening> {
    let reports = reporter.serve(first).inspect_err(|err| {
        tracing::warn!("`ashlar status` will not work for this mount: {err}");
    });
    reports.ok()
}

/// Serves a mount that another server served before, in threads of its own.
pub fn take_up(
    tree: Tree,
    device: OwnedFd,
    facts: Facts,
    journal: Journal,
    before: Before,
    work: Work,
) -> io::Result<Mounted> {
    let tree = Arc::new(tree);
    heals::tell(&tree, work.first);
    let (journal, left) = match before {
        Before::Dead(death) => {
            let left = journal.inherit(death);
            (journal, left)
        }
        // It writes on its own page to the end.
        Before::Leaving => (journal.fresh()?, Vec::new()),
    };
    let journal = Arc::new(journal);
    let counters = Arc::new(Counters::default());
    let (config, first) = (config(work.workers), work.first);
    let server = Server::new(Arc::clone(&tree), Arc::clone(&counters), Arc::clone(&journal), work);
    expand_ahead(&tree, server.placement());
    let session = adopt::session(server, device.as_fd(), &facts.greeting, false, config)?;
    let connection = Arc::new(Connection { device, facts, journal, holder: AtomicU32::new(0) });
    if before != Before::Leaving {
        ask_again(&connection, &left)?;
    }
    let reporter = Reporter { tree, counters, connection: Arc::clone(&connection) };
    let session = run(session, first)?;
    Ok(Mounted { connection, session, _reports: report(reporter, first) })
}

/// Has the kernel ask again what a dead server left. Where it cannot, that is answered with errors: `left`, and what it had read
/// and not written down. Nobody else may answer meanwhile.
pub fn ask_again(connection: &Connection, left: &[u64]) -> io::Result<()> {
    let device = connection.device.as_fd();
    if connection.facts.can_ask_again() && adopt::ask_again(device)? {
        return Ok(());
    }
    tracing::warn!(
        "this kernel cannot ask again what the last server left (Linux 6.9 can): those answers are errors"
    );
    adopt::give_up_all(device, left, connection.journal.latest());
    Ok(())
}

fn config(workers: usize) -> Config {
    let mut config = Config::default();
    config.n_threads = Some(workers.max(1));
    config.acl = SessionACL::All;
    config
}

fn run(session: Session<Server>, first: fn()) -> io::Result<JoinHandle<io::Result<()>>> {
    thread::Builder::new().name("session".to_owned()).spawn(move || {
        first();
        session.run()
    })
}

impl Mounted {
    /// The connection, to be handed to others.
    pub fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// What to call to end it from another thread.
    pub fn stopper(&self) -> Stopper {
        Stopper {
            mountpoint: self.connection.mountpoint().to_owned(),
            device: self.connection.device_number(),
        }
    }

    /// Waits until it is unmounted.
    pub fn wait(self) -> Result<(), MountError> {
        let ended = self.session.join().unwrap_or_else(|_| Err(io::Error::other("it panicked")));
        ended.map_err(MountError::Session)
    }
}

/// Ends a mount.
#[derive(Debug, Clone)]
pub struct Stopper {
    mountpoint: PathBuf,
    device: Device,
}

impl Stopper {
    /// Where it is mounted.
    pub fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }

    /// The file system that it ends.
    pub fn device(&self) -> Device {
        self.device
    }

    /// Unmounts, unless what is mounted there now is another file system.
    pub fn stop(&self) -> io::Result<()> {
        if mountinfo::place(&self.mountpoint)?.device != self.device {
            return Ok(());
        }
        mount::unmount(&self.mountpoint)
    }
}

/// Unmounts when dropped.
struct Undo(Option<PathBuf>);

impl Undo {
    fn forget(mut self) {
        self.0 = None;
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        if let Some(mountpoint) = self.0.take()
            && let Err(err) = mount::unmount(&mountpoint)
        {
            tracing::error!("cannot unmount {}: {err}", mountpoint.display());
        }
    }
}

/// Starts the threads that expand ahead. A thread has what the one had that started it, so one is in between that has done
/// first what all shall do first.
fn work_ahead(tree: &Tree, placement: Arc<Placement>, first: fn()) {
    thread::scope(|scope| {
        let between = thread::Builder::new().spawn_scoped(scope, move || {
            first();
            follow_list(tree);
            expand_ahead(tree, placement);
        });
        if let Err(err) = between {
            tracing::warn!("cannot start a thread, nothing is expanded ahead: {err}");
        }
    });
}

/// Has blocks expanded ahead of those who read in order, on a thread that ends with the store.
fn expand_ahead(tree: &Tree, placement: Arc<Placement>) {
    let Some(ahead) = tree.store().prefetch() else { return };
    let thread = thread::Builder::new().name("prefetch".to_owned());
    if let Err(err) = thread.spawn(move || placement.run(ahead)) {
        tracing::warn!("cannot start a thread, reading will be slower: {err}");
    }
}

/// Has what the image says will be wanted first expanded in idle time. What is wrong with the list harms nobody.
fn follow_list(tree: &Tree) {
    let list = tree.prefetch_list().take(PREFETCH_LIST_LEN_MAX).collect::<crate::Result<Vec<_>>>();
    if let Err(err) = list.and_then(|list| tree.store().follow_list(list)) {
        tracing::warn!("the image's prefetch list is not followed: {err}");
    }
}

/// READs are as long as the kernel reads ahead, and that is set here, not where the protocol says (it may only be lowered
/// there).
fn set_readahead(device: Device, readahead_kb: u32) {
    let path = format!("/sys/class/bdi/{device}/read_ahead_kb");
    if let Err(err) = std::fs::write(&path, readahead_kb.to_string()) {
        tracing::debug!("cannot write {readahead_kb} to {path}: {err}");
    }
}

/// Asks each question that is answered with ENOSYS once, so that nobody else will ever have to wait for one.
///
/// That it fails now and then (no file in the tree, or none that we may open) only means that the first user asks.
fn warm_up(tree: &Tree, mountpoint: &Path) {
    let open = |path: &Path, flags| {
        let flags = flags | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        rustix::fs::openat(CWD, path, flags, Mode::empty())
    };
    // STATX is asked for the time of birth only; FSYNC, FSYNCDIR and POLL by whoever does so.
    let ask = |opened: rustix::io::Result<OwnedFd>| {
        let opened = opened?;
        rustix::fs::statx(&opened, c"", AtFlags::EMPTY_PATH, StatxFlags::BTIME)?;
        rustix::fs::fsync(&opened)?;
        let mut polled = [PollFd::new(&opened, PollFlags::IN)];
        rustix::event::poll(&mut polled, Some(&Timespec::default())).map(drop)
    };
    let done = [
        ask(open(mountpoint, OFlags::DIRECTORY)),
        rustix::fs::getxattr(mountpoint, super::ROOT_DIGEST_XATTR, &mut [0_u8; 0]).map(drop),
        rustix::fs::listxattr(mountpoint, &mut [0_u8; 0]).map(drop),
    ];
    let file = tree
        .walk(crate::format::index::InodeIndex::ROOT)
        .take(WARM_UP_VISITS_MAX)
        .filter_map(|(_, visit)| visit.ok())
        .find(|visit| visit.inode.kind == Kind::File && visit.inode.permissions & 0o444 == 0o444);
    let opened = file.map(|file| {
        use std::os::unix::ffi::OsStrExt;
        let path = mountpoint.join(std::ffi::OsStr::from_bytes(&file.path));
        ask(open(&path, OFlags::empty()))
    });
    tracing::debug!("warm-up: {done:?} {opened:?}");
}
