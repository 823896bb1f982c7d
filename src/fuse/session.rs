//! How does a tree become a mounted file system, and how does that end?

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::SystemTime;

use fuser::{Config, Session, SessionACL};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags, Timespec};

use super::Server;
use super::counters::Counters;
use super::mount::{self, MountError, Settings};
use super::mountinfo::{self, Device};
use super::placement::Placement;
use super::recorder::Recorder;
use super::status::{Listening, Reporter};
use crate::format::inode::Kind;
use crate::fs::Tree;
use crate::fs::prefetch::PREFETCH_LIST_LEN_MAX;

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
    /// Told what is read.
    pub recorder: Option<Recorder>,
    /// What vouched for the image, for the report.
    pub anchor: &'static str,
}

/// Directory entries that are looked at to find a file for [`warm_up`].
const WARM_UP_VISITS_MAX: usize = 4096;

/// A mounted tree that answers.
#[derive(Debug)]
pub struct Mounted {
    mountpoint: PathBuf,
    device: Device,
    session: JoinHandle<io::Result<()>>,
    /// Reports are told as long as it is there.
    _reports: Option<Listening>,
}

/// Mounts a tree and serves it in threads of its own. When this returns, the mount has answered; when it fails, nothing is
/// left mounted.
pub fn start(tree: Tree, settings: Settings, work: Work) -> Result<Mounted, MountError> {
    let tree = Arc::new(tree);
    follow_list(&tree);
    if tree.store().used_backup() {
        tracing::warn!(
            "the first superblock is damaged, its backup serves: replace the image soon"
        );
    }
    let counters = Arc::new(Counters::default());
    let Work { image, digest_xattr, recorder, readahead_kb, .. } = work;
    let server = Server::new(
        Arc::clone(&tree),
        Arc::clone(&counters),
        image,
        digest_xattr,
        recorder,
        readahead_kb,
    );
    expand_ahead(&tree, server.placement());
    let before = mountinfo::place(&settings.mountpoint).map_err(MountError::Session)?;
    let (fuse_device, mounting) = mount::begin(&settings)?;
    let mut config = Config::default();
    config.n_threads = Some(work.workers.max(1));
    config.acl = SessionACL::All;
    // Who may look is the kernel's to judge (`allow_other`); the library would turn away everyone but us.
    let session =
        Session::from_fd(server, fuse_device, SessionACL::All, config).and_then(|session| {
            let thread = thread::Builder::new().name("session".to_owned());
            thread.spawn(move || session.run())
        });
    // Why it could not be mounted tells more than that nobody asks.
    mounting.finish()?;
    let undo = Undo(Some(settings.mountpoint.clone()));
    let session = session.map_err(MountError::Session)?;
    let place = mountinfo::place(&settings.mountpoint).map_err(MountError::Session)?;
    if place.device == before.device {
        return Err(MountError::Session(io::Error::other("it vanished as soon as it was mounted")));
    }
    if let Some(readahead_kb) = readahead_kb {
        set_readahead(place.device, readahead_kb);
    }
    warm_up(&tree, &settings.mountpoint);
    let reporter = Reporter {
        tree,
        counters,
        image: settings.source,
        mountpoint: settings.mountpoint.clone(),
        anchor: work.anchor,
        since: SystemTime::now(),
    };
    let reports = reporter.serve(place.device).inspect_err(|err| {
        tracing::warn!("`ashlar status` will not work for this mount: {err}");
    });
    undo.forget();
    Ok(Mounted {
        mountpoint: settings.mountpoint,
        device: place.device,
        session,
        _reports: reports.ok(),
    })
}

impl Mounted {
    /// What to call to end it from another thread.
    pub fn stopper(&self) -> Stopper {
        Stopper { mountpoint: self.mountpoint.clone(), device: self.device }
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
