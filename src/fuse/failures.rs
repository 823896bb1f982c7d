//! Which failures are told? Each inode's once, and never so many that the log becomes the next problem.

use std::any::Any;
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use fuser::INodeNo;

use super::allowance::Allowance;
use super::counters::Upcall;
use crate::error::{Error, Result};
use crate::format::index::InodeIndex;
use crate::fs::Tree;
use crate::fs::walk::Visit;

/// Inodes that are remembered as told; when there are more, all are forgotten and may be told again.
const TOLD_MAX: usize = 4096;
/// Most lines in a minute. A dead disk under a running system would write thousands.
const LINES_MAX: u32 = 20;

/// What was told so far.
#[derive(Debug, Default)]
pub(super) struct Failures {
    state: Mutex<State>,
    /// Whether a name is looked for.
    is_naming: Arc<AtomicBool>,
}

#[derive(Debug, Default)]
struct State {
    told: HashSet<u64>,
    lines: Allowance,
    suppressed: u64,
}

/// Whether a failure is told, and how many were not since the last that was.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Tell { suppressed: u64 },
    Known,
    TooMany,
}

impl State {
    fn judge(&mut self, ino: u64, now: Instant) -> Verdict {
        if self.told.contains(&ino) {
            return Verdict::Known;
        }
        if !self.lines.take(LINES_MAX, now) {
            self.suppressed = self.suppressed.saturating_add(1);
            return Verdict::TooMany;
        }
        if self.told.len() >= TOLD_MAX {
            self.told.clear();
        }
        self.told.insert(ino);
        Verdict::Tell { suppressed: std::mem::take(&mut self.suppressed) }
    }
}

impl Failures {
    /// Tells the log that a question about an inode failed, and then what that inode is called.
    pub(super) fn tell(&self, upcall: Upcall, ino: INodeNo, err: &Error, tree: &Arc<Tree>) {
        let hint = err.hint().unwrap_or("check the device that holds the image");
        let line = format!("{} of inode {ino}: {err} (hint: {hint})", upcall.name());
        if self.tell_line(ino, &line)
            && let Some(naming) = Naming::begin(&self.is_naming)
        {
            name_later(Arc::clone(tree), ino, naming);
        }
    }

    /// Tells the log that answering a question panicked.
    pub(super) fn tell_panic(&self, upcall: Upcall, ino: INodeNo, panic: &(dyn Any + Send)) {
        let words = panic.downcast_ref::<&str>().copied();
        let words = words.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        let words = words.unwrap_or("no words");
        self.tell_line(ino, &format!("{} of inode {ino} panicked: {words}", upcall.name()));
    }

    /// Tells the log that a question is answered with EIO because it ended one server after the other.
    pub(super) fn tell_poison(&self, upcall: Upcall, ino: INodeNo) {
        let line = format!(
            "{} of inode {ino} has ended several servers and is answered with EIO (hint: report it)",
            upcall.name()
        );
        self.tell_line(ino, &line);
    }

    /// Tells a line, unless it is known or there were too many; returns whether it was told.
    fn tell_line(&self, ino: INodeNo, line: &str) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let verdict = state.judge(ino.0, Instant::now());
        drop(state);
        if let Verdict::Tell { suppressed } = verdict {
            if suppressed > 0 {
                tracing::error!("{suppressed} failures of other inodes were not logged");
            }
            tracing::error!("{line}");
            return true;
        }
        false
    }
}

/// The one search for a name, until this is dropped: on a disk that is slow or dead each would be one more thread that waits for it.
#[derive(Debug)]
struct Naming(Arc<AtomicBool>);

impl Naming {
    /// Unless one is under way.
    fn begin(is_naming: &Arc<AtomicBool>) -> Option<Naming> {
        let is_free = !is_naming.swap(true, Ordering::AcqRel);
        is_free.then(|| Naming(Arc::clone(is_naming)))
    }
}

impl Drop for Naming {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// Says how an inode is called. A search through the whole tree finds it, so nobody waits for it.
fn name_later(tree: Arc<Tree>, ino: INodeNo, naming: Naming) {
    let search = move || {
        let Ok(index) = super::convert::inode_index(ino) else { return };
        let visits = tree.walk(InodeIndex::ROOT).map(|(_, visit)| visit);
        if let Some(visit) = find(visits, index) {
            tracing::error!("inode {ino} is /{}", visit.path.escape_ascii());
        }
        drop(naming);
    };
    // Without a thread the line before says enough to find it with `ashlar verify`.
    drop(thread::Builder::new().name("name".to_owned()).spawn(search));
}

/// An inode among visits, unless the disk does not answer in time before it comes: it would be asked for all the rest as well.
fn find(visits: impl Iterator<Item = Result<Visit>>, index: InodeIndex) -> Option<Visit> {
    let is_answered = |visit: &Result<Visit>| !matches!(visit, Err(err) if err.is_timeout());
    visits.take_while(is_answered).filter_map(Result::ok).find(|visit| visit.index == index)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io;

    use super::*;

    #[test]
    fn one_name_is_looked_for_at_a_time() {
        let is_naming = Arc::default();
        let naming = Naming::begin(&is_naming).unwrap();
        assert!(Naming::begin(&is_naming).is_none());
        drop(naming);
        assert!(Naming::begin(&is_naming).is_some());
        // Also behind one that panicked.
        let naming = Naming::begin(&is_naming).unwrap();
        assert!(thread::spawn(move || panic!("{naming:?}")).join().is_err());
        assert!(Naming::begin(&is_naming).is_some());
    }

    #[test]
    fn a_name_is_looked_for_until_the_disk_does_not_answer() {
        let err = |kind: io::ErrorKind| Err(Error::io("cannot read", kind.into()));
        let looked_at = Cell::new(0);
        let look = |kind| {
            looked_at.set(0);
            let visits = std::iter::repeat_with(|| err(kind)).take(100);
            find(visits.inspect(|_| looked_at.set(looked_at.get() + 1)), InodeIndex::ROOT)
        };
        assert!(look(io::ErrorKind::InvalidData).is_none());
        assert_eq!(looked_at.get(), 100, "damage of one directory says nothing of others");
        assert!(look(io::ErrorKind::TimedOut).is_none());
        assert_eq!(looked_at.get(), 1);
    }

    #[test]
    fn each_inode_once_and_no_flood() {
        let mut state = State::default();
        let now = Instant::now();
        assert_eq!(state.judge(1, now), Verdict::Tell { suppressed: 0 });
        assert_eq!(state.judge(1, now), Verdict::Known);
        for ino in 2..=u64::from(LINES_MAX) {
            assert_eq!(state.judge(ino, now), Verdict::Tell { suppressed: 0 });
        }
        assert_eq!(state.judge(100, now), Verdict::TooMany);
        assert_eq!(state.judge(101, now), Verdict::TooMany);
        let later = now + std::time::Duration::from_secs(61);
        assert_eq!(state.judge(102, later), Verdict::Tell { suppressed: 2 });
    }
}
