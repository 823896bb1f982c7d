//! How does a tree come out of an image? File by file, every byte verified, and nothing outside the target directory.
//!
//! First directories, symlinks and special files are made, and regular files are handed to workers; then come hard links,
//! when it is known which files are whole; at last directories are given what is theirs, the innermost first. Until then
//! new ones are closed to others (mode 0700), and those that were there before stay open to whom they were. Earlier, their times would not last, their modes could lock an ordinary user
//! out, and their default ACLs would be inherited.
//!
//! The target is only ever named by one name relative to an open directory, and no symlink in it is followed.

mod attributes;
mod content;
mod place;
mod selection;
mod way;

use std::collections::{HashMap, HashSet};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;

use rustix::fd::OwnedFd;

use crate::error::{Error, Result};
use crate::format::index::InodeIndex;
use crate::format::inode::{Body, Inode, Kind};
use crate::fs::Tree;
use crate::fs::walk::Visit;
use attributes::Who;
use content::Queue;
use place::{Place, Target};
use selection::Selection;
use way::Way;

/// What to take out of an image, and how.
#[derive(Debug, Clone)]
pub struct Options {
    /// Paths in the image that are wanted, with everything below them; none means all. Symlinks on the way to them are
    /// followed; they appear at their real path.
    pub paths: Vec<Vec<u8>>,
    /// Whether owners are restored.
    pub owners: bool,
    /// Whether extended attributes are restored.
    pub xattrs: bool,
    /// Whether the target may have files already, which are replaced.
    pub force: bool,
    /// How many threads expand and write files; at most 32 are used.
    pub workers: NonZeroUsize,
}

/// What was left out because this process may not make it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Skipped {
    /// A device node.
    Device,
    /// An owner or group other than the process's own; with it set-user-ID and set-group-ID.
    Owner,
    /// An extended attribute.
    Xattr,
}

/// Somebody who looks on, and is told from several threads.
pub trait Watch: Sync {
    /// More bytes of regular files are done, holes included.
    fn progress(&self, bytes: u64);
    /// A path could not be extracted, or not wholly.
    fn failed(&self, path: &[u8], err: &Error);
    /// Something was left out.
    fn skipped(&self, path: &[u8], what: Skipped);
}

/// What was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Summary {
    /// Directories, the target itself included.
    pub directories: u64,
    /// Regular files.
    pub files: u64,
    /// Their bytes, holes included.
    pub bytes: u64,
    /// Further names of files.
    pub hard_links: u64,
    /// Symlinks.
    pub symlinks: u64,
    /// Devices, pipes and sockets.
    pub special: u64,
    /// Paths that could not be extracted, or not wholly.
    pub failed: u64,
    /// Devices that were left out.
    pub skipped_devices: u64,
    /// Files whose owner was left out.
    pub skipped_owners: u64,
    /// Extended attributes that were left out.
    pub skipped_xattrs: u64,
}

/// The same while several threads count.
#[derive(Debug, Default)]
struct Counts {
    directories: AtomicU64,
    files: AtomicU64,
    bytes: AtomicU64,
    hard_links: AtomicU64,
    symlinks: AtomicU64,
    special: AtomicU64,
    failed: AtomicU64,
    skipped_devices: AtomicU64,
    skipped_owners: AtomicU64,
    skipped_xattrs: AtomicU64,
}

fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

impl Counts {
    fn summary(&self) -> Summary {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Summary {
            directories: get(&self.directories),
            files: get(&self.files),
            bytes: get(&self.bytes),
            hard_links: get(&self.hard_links),
            symlinks: get(&self.symlinks),
            special: get(&self.special),
            failed: get(&self.failed),
            skipped_devices: get(&self.skipped_devices),
            skipped_owners: get(&self.skipped_owners),
            skipped_xattrs: get(&self.skipped_xattrs),
        }
    }
}

/// What all threads of an extraction know.
struct Job<'a> {
    tree: &'a Tree,
    options: &'a Options,
    watch: &'a dyn Watch,
    who: Who,
    /// Whether the target was there before: what is made there may inherit ACLs.
    existed: bool,
    counts: Counts,
    /// Inodes that are not there: neither are their further names, nor what would be in them.
    lost: Mutex<HashSet<InodeIndex>>,
    /// Directories that were there before and only lie on the way to what is wanted: they stay as they are.
    kept: Mutex<HashSet<InodeIndex>>,
    /// Why there is no sense in going on.
    fatal: OnceLock<Error>,
}

impl Job<'_> {
    /// Tells that a path is not there, and goes on.
    fn fail(&self, path: &[u8], err: Error) {
        add(&self.counts.failed, 1);
        self.watch.failed(path, &err);
        if let Error::Io { source, .. } = err
            && place::is_fatal(&source)
        {
            // The first reason is the one to tell.
            self.fatal.get_or_init(|| Error::io("gave up, nothing more can be written", source));
        }
    }

    fn lose(&self, visit: &Visit, err: Error) {
        self.lost().insert(visit.index);
        self.fail(&visit.path, err);
    }

    fn lost(&self) -> MutexGuard<'_, HashSet<InodeIndex>> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kept(&self) -> MutexGuard<'_, HashSet<InodeIndex>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn made_directory(
        &self,
        directory: &OwnedFd,
        existed: bool,
        visit: &Visit,
        selection: &Selection<'_>,
    ) {
        if existed && !selection.has(&visit.path) {
            self.kept().insert(visit.index);
            return;
        }
        if existed {
            place::let_in(directory);
        } else {
            place::settle(directory);
        }
        add(&self.counts.directories, 1);
    }

    fn skip(&self, path: &[u8], what: Skipped) {
        add(
            match what {
                Skipped::Device => &self.counts.skipped_devices,
                Skipped::Owner => &self.counts.skipped_owners,
                Skipped::Xattr => &self.counts.skipped_xattrs,
            },
            1,
        );
        self.watch.skipped(path, what);
    }
}

/// Extracts a tree into the directory at `target`, which is made if it is missing.
///
/// An error means that nothing was extracted, or that there was no sense in going on (the disk is full). What concerns one
/// path only is told to `watch` and counted.
pub fn extract(
    tree: &Tree,
    target: &Path,
    options: &Options,
    watch: &dyn Watch,
) -> Result<Summary> {
    let selection = Selection::new(tree, &options.paths)?;
    let place = Place::open(target, options.force)?;
    let root = tree.inode(InodeIndex::ROOT)?;
    let job = Job {
        tree,
        options,
        watch,
        who: Who::am_i(),
        existed: place.existed,
        counts: Counts::default(),
        lost: Mutex::default(),
        kept: Mutex::default(),
        fatal: OnceLock::new(),
    };
    let mut links = HardLinks::default();
    let mut reached = 0;
    let made = thread::scope(|scope| {
        let mut queue = Queue::start(scope, &job, options.workers.get());
        let made = make_all(&job, &selection, &place, root, &mut queue, &mut links, &mut reached);
        queue.finish();
        made
    });
    if made.is_ok() && job.fatal.get().is_none() {
        make_links(&job, &place, &links);
    }
    // Whatever happened, what was made is not left closed.
    let finished = finish_directories(&job, &selection, &place, root, reached);
    made.and(finished)?;
    let summary = job.counts.summary();
    match job.fatal.into_inner() {
        Some(err) => Err(err),
        None => Ok(summary),
    }
}

/// Inodes with several names.
#[derive(Debug, Default)]
struct HardLinks {
    /// The first name of each: the one that it is made with.
    first: HashMap<InodeIndex, Vec<u8>>,
    /// All other names.
    further: Vec<Visit>,
}

fn make_all<'a>(
    job: &Job<'a>,
    selection: &Selection<'a>,
    place: &Place,
    root: Inode,
    queue: &mut Queue,
    links: &mut HardLinks,
    reached: &mut usize,
) -> Result<()> {
    let mut way = Way::new(place, root)?;
    let mut hidden: Option<Vec<u8>> = None;
    for (path, visit) in selection.visits() {
        if job.fatal.get().is_some() {
            break;
        }
        *reached = reached.saturating_add(1);
        if hidden.as_ref().is_some_and(|above| is_below(&path, above)) {
            continue;
        }
        let visit = match visit {
            Ok(visit) => visit,
            Err(err) => {
                job.fail(&path, err);
                continue;
            }
        };
        let (above, name) = split(&visit.path);
        while !way.is_at(above) {
            way.leave()?;
        }
        if visit.path.is_empty() {
            job.made_directory(way.here(), place.existed, &visit, selection);
            continue;
        }
        if visit.inode.kind != Kind::Dir && visit.inode.nlink > 1 {
            if links.first.contains_key(&visit.index) {
                links.further.push(visit);
                continue;
            }
            links.first.insert(visit.index, visit.path.clone());
        }
        let target = Target { directory: way.here(), name, force: job.options.force };
        let made = match visit.inode.kind {
            Kind::Dir => target.make_directory().and_then(|(fd, existed)| {
                job.made_directory(&fd, existed, &visit, selection);
                way.enter(fd, visit.clone())
            }),
            Kind::File => queue.make(job, &target, visit.clone()),
            _ => attributes::make_other(job, &target, &visit),
        };
        if let Err(err) = made {
            hidden = Some(visit.path.clone());
            job.lose(&visit, err);
        }
    }
    Ok(())
}

fn make_links(job: &Job<'_>, place: &Place, links: &HardLinks) {
    for visit in &links.further {
        let Some(first) = links.first.get(&visit.index) else { continue };
        if !job.lost().contains(&visit.index) {
            match place.link(first, &visit.path, job.options.force) {
                Ok(()) => add(&job.counts.hard_links, 1),
                Err(err) => job.fail(&visit.path, err),
            }
        } else if matches!(visit.inode.body, Body::Device { .. }) {
            job.skip(&visit.path, Skipped::Device);
        } else {
            let first = String::from_utf8_lossy(first).into_owned();
            let missing = std::io::ErrorKind::NotFound.into();
            job.fail(&visit.path, Error::io(format!("the same file as {first}"), missing));
        }
    }
}

/// Gives directories what is theirs, among the first `reached` visits.
fn finish_directories<'a>(
    job: &Job<'a>,
    selection: &Selection<'a>,
    place: &Place,
    root: Inode,
    reached: usize,
) -> Result<()> {
    let mut way = Way::new(place, root)?;
    let mut hidden: Option<Vec<u8>> = None;
    for (path, visit) in selection.visits().take(reached) {
        // What could not be read was told when all was made.
        let Some(visit) = visit.ok().filter(|visit| visit.inode.kind == Kind::Dir) else {
            continue;
        };
        if visit.path.is_empty() || hidden.as_ref().is_some_and(|above| is_below(&path, above)) {
            continue;
        }
        let (above, name) = split(&visit.path);
        while !way.is_at(above) {
            attributes::finish_directory(job, &way.leave()?);
        }
        if job.lost().contains(&visit.index) {
            hidden = Some(visit.path);
            continue;
        }
        let target = Target { directory: way.here(), name, force: false };
        match target.open_directory() {
            Ok(directory) => way.enter(directory, visit.clone())?,
            Err(err) => {
                job.lose(&visit, err);
                hidden = Some(visit.path);
            }
        }
    }
    while !way.is_at(b"") {
        attributes::finish_directory(job, &way.leave()?);
    }
    attributes::finish_directory(job, &way.into_root());
    Ok(())
}

/// A path as the directory it is in, and its name there.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    let slash = path.iter().rposition(|byte| *byte == b'/');
    match slash.and_then(|at| Some((path.get(..at)?, path.get(at.saturating_add(1)..)?))) {
        Some(halves) => halves,
        None => (b"", path),
    }
}

/// Whether a path is below another one. Everything is below the root, which is empty.
fn is_below(path: &[u8], above: &[u8]) -> bool {
    match path.strip_prefix(above) {
        Some(rest) => rest.starts_with(b"/") || (above.is_empty() && !rest.is_empty()),
        None => false,
    }
}
