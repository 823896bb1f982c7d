//! What do the names in a directory stand for? Threads ask the kernel, which takes longer than listing the names.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, Scope};

use ashlarfs::format::inode::Kind;
use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, Stat, readlinkat, statat};
use rustix::io::Errno;

use super::{SharedFd, kind, xattr};
use crate::Failure;
use crate::ordered::Ordered;
use crate::tree::XattrSet;

/// Fewest threads that look: on a cold disk they wait more than they work.
const LOOKERS_MIN: usize = 4;
/// Most directories under way, each of them open: of the 1024 files that a process may have by default, this leaves enough.
const UNDER_WAY_MAX: u64 = 128;

/// What a name stands for.
#[derive(Debug)]
pub(super) struct Look {
    pub(super) stat: Stat,
    /// Of a symlink.
    pub(super) target: Box<[u8]>,
    pub(super) xattrs: XattrSet,
}

/// Why there is nothing to be said of a name.
#[derive(Debug)]
pub(super) enum Blind {
    /// It vanished, or became something else.
    Vanished,
    /// The kernel refused. The text begins a message, `cannot read`.
    Refused(&'static str, Errno),
}

/// Names in a directory that are looked at by one thread.
struct Job {
    number: u64,
    directory: SharedFd,
    names: Vec<Box<[u8]>>,
}

/// A name with what was seen of it.
type Named = (Box<[u8]>, Result<Look, Blind>);

/// What was seen of some names.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) looks: Vec<Named>,
    /// Names of attributes that go into no image; each thread tells each once.
    pub(super) ignored: Vec<Vec<u8>>,
}

/// The threads that look. What they see comes out in the order in which it was asked for.
#[derive(Debug)]
pub(super) struct Lookers {
    asked: mpsc::Sender<Job>,
    seen: Ordered<Option<Seen>>,
    number: u64,
    under_way: u64,
    under_way_max: u64,
}

impl Lookers {
    /// Starts them. They end when this is dropped.
    pub(super) fn start<'scope>(
        scope: &'scope Scope<'scope, '_>,
        workers: usize,
        xattrs: bool,
    ) -> Result<Self, Failure> {
        let count = workers.saturating_mul(2).max(LOOKERS_MIN);
        let (asked, jobs) = mpsc::channel::<Job>();
        let jobs = Arc::new(Mutex::new(jobs));
        let (sender, seen) = Ordered::new();
        for _ in 0..count {
            let (jobs, sender) = (Arc::clone(&jobs), sender.clone());
            let work = move || {
                let mut reader = xattrs.then(xattr::Reader::default);
                while let Some(Job { number, directory, names }) = next(&jobs) {
                    let looked = AssertUnwindSafe(|| look_at(&directory, names, &mut reader));
                    // Who waits for it must hear of a panic.
                    if sender.send((number, catch_unwind(looked).ok())).is_err() {
                        return;
                    }
                }
            };
            thread::Builder::new()
                .name("scan".to_owned())
                .spawn_scoped(scope, work)
                .map_err(|err| Failure::io("cannot start a thread", &err))?;
        }
        let under_way_max = (4 * count as u64).min(UNDER_WAY_MAX);
        Ok(Lookers { asked, seen, number: 0, under_way: 0, under_way_max })
    }

    /// Whether what was seen has to be taken in before more is asked: memory and open directories are bounded.
    pub(super) fn are_busy(&self) -> bool {
        self.under_way >= self.under_way_max
    }

    /// Has names looked at.
    pub(super) fn ask(
        &mut self,
        directory: SharedFd,
        names: Vec<Box<[u8]>>,
    ) -> Result<(), Failure> {
        let number = self.number;
        self.number += 1;
        self.under_way += 1;
        self.asked.send(Job { number, directory, names }).map_err(|_| stopped())
    }

    /// Waits for what was seen of the names that were asked for first, of those that are still out.
    pub(super) fn seen(&mut self) -> Result<Seen, Failure> {
        self.under_way -= 1;
        self.seen.next().flatten().ok_or_else(stopped)
    }
}

fn stopped() -> Failure {
    Failure::new("a scanning thread panicked")
}

fn next(jobs: &Mutex<Receiver<Job>>) -> Option<Job> {
    jobs.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

fn look_at(directory: &OwnedFd, names: Vec<Box<[u8]>>, reader: &mut Option<xattr::Reader>) -> Seen {
    let mut looks = Vec::with_capacity(names.len());
    for name in names {
        let seen = look(directory, &name, reader.as_mut());
        looks.push((name, seen));
    }
    let ignored = reader.as_mut().map(xattr::Reader::take_ignored);
    Seen { looks, ignored: ignored.unwrap_or_default() }
}

/// Looks at one name.
pub(super) fn look(
    directory: &OwnedFd,
    name: &[u8],
    reader: Option<&mut xattr::Reader>,
) -> Result<Look, Blind> {
    let gone = |doing| {
        move |err| match err {
            Errno::NOENT => Blind::Vanished,
            err => Blind::Refused(doing, err),
        }
    };
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    let stat = statat(directory, name, flags).map_err(gone("cannot read"))?;
    let target = match kind(&stat) {
        Some(Kind::Link) => match readlinkat(directory, name, Vec::new()) {
            Ok(target) => target.into_bytes(),
            Err(Errno::INVAL) => return Err(Blind::Vanished),
            Err(err) => return Err(gone("cannot read the symlink")(err)),
        },
        _ => Vec::new(),
    };
    let xattrs = match reader {
        Some(reader) => {
            reader.read(directory, name).map_err(gone("cannot read extended attributes of"))?
        }
        None => XattrSet::new(),
    };
    Ok(Look { stat, target: target.into(), xattrs })
}
