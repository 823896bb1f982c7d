//! Which failures are told? Each inode's once, and never so many that the log becomes the next problem.

use std::any::Any;
use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use fuser::INodeNo;

use super::counters::Upcall;
use crate::error::Error;

/// Inodes that are remembered as told; when there are more, all are forgotten and may be told again.
const TOLD_MAX: usize = 4096;
/// Most lines in one [`WINDOW`]. A dead disk under a running system would write thousands.
const LINES_MAX: u32 = 20;
/// The time in which lines are counted.
const WINDOW: Duration = Duration::from_mins(1);

/// What was told so far.
#[derive(Debug, Default)]
pub(super) struct Failures(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    told: HashSet<u64>,
    window: Option<Instant>,
    lines: u32,
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
        if self.window.is_none_or(|start| now.saturating_duration_since(start) > WINDOW) {
            self.window = Some(now);
            self.lines = 0;
        }
        if self.lines >= LINES_MAX {
            self.suppressed = self.suppressed.saturating_add(1);
            return Verdict::TooMany;
        }
        if self.told.len() >= TOLD_MAX {
            self.told.clear();
        }
        self.told.insert(ino);
        self.lines = self.lines.saturating_add(1);
        Verdict::Tell { suppressed: std::mem::take(&mut self.suppressed) }
    }
}

impl Failures {
    /// Tells the log that a question about an inode failed.
    pub(super) fn tell(&self, upcall: Upcall, ino: INodeNo, err: &Error) {
        let hint = err.hint().unwrap_or("check the device that holds the image");
        self.tell_line(ino, &format!("{} of inode {ino}: {err} (hint: {hint})", upcall.name()));
    }

    /// Tells the log that answering a question panicked.
    pub(super) fn tell_panic(&self, upcall: Upcall, ino: INodeNo, panic: &(dyn Any + Send)) {
        let words = panic.downcast_ref::<&str>().copied();
        let words = words.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        let words = words.unwrap_or("no words");
        self.tell_line(ino, &format!("{} of inode {ino} panicked: {words}", upcall.name()));
    }

    fn tell_line(&self, ino: INodeNo, line: &str) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let verdict = state.judge(ino.0, Instant::now());
        drop(state);
        if let Verdict::Tell { suppressed } = verdict {
            if suppressed > 0 {
                tracing::error!("{suppressed} failures of other inodes were not logged");
            }
            tracing::error!("{line}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let later = now + WINDOW + Duration::from_secs(1);
        assert_eq!(state.judge(102, later), Verdict::Tell { suppressed: 2 });
    }
}
