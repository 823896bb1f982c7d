//! How do the blocks that are missing come? In ranges over a few connections, each block held against its digest before it is
//! written to its place; what fails is asked for again, from the first block that is still missing.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::failed::Failed;
use super::origin::{Origin, Trouble};
use super::part::Part;
use crate::error::Untrusted;
use crate::format::entry::Entry;
use crate::format::field::{u64_from_usize, usize_from_u32};
use crate::format::index::BlockIndex;
use crate::store::parallel::on_threads;
use crate::store::proof::{self, BlockKind};

/// So often in a row nothing may come of an attempt.
const ATTEMPTS: u32 = 8;
/// The first pause before another attempt; each one is twice as long as the one before.
const PAUSE: Duration = Duration::from_millis(250);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(15);

/// How long to wait before the next attempt.
pub(super) fn pause(attempt: u32) -> Duration {
    PAUSE.saturating_mul(1_u32.checked_shl(attempt).unwrap_or(u32::MAX)).min(PAUSE_MAX)
}

/// A block that is missing.
#[derive(Debug, Clone, Copy)]
pub(super) struct Missing {
    pub(super) block: BlockIndex,
    pub(super) kind: BlockKind,
    pub(super) entry: Entry,
}

/// Blocks that are fetched with one question.
type Stretch = Vec<Missing>;

/// Cuts what is missing, in ascending order, into stretches.
fn stretches(missing: Vec<Missing>, gap_max: u64, len_max: u64) -> VecDeque<Stretch> {
    let mut all = VecDeque::new();
    let mut stretch: Stretch = Vec::new();
    for next in missing {
        let fits = match (stretch.first(), stretch.last()) {
            (Some(first), Some(last)) => {
                let gap = next.entry.offset.saturating_sub(last.entry.end());
                let len = next.entry.end().saturating_sub(first.entry.offset);
                gap <= gap_max && len <= len_max
            }
            _ => true,
        };
        if !fits {
            all.push_back(std::mem::take(&mut stretch));
        }
        stretch.push(next);
    }
    all.extend(Some(stretch).filter(|stretch| !stretch.is_empty()));
    all
}

/// What all connections share.
struct Shared<'a> {
    origin: &'a dyn Origin,
    part: &'a Part,
    progress: &'a (dyn Fn(u64) + Sync),
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    todo: VecDeque<Stretch>,
    /// Attempts in a row, on all connections, of which nothing came.
    vain: u32,
    failed: Option<Failed>,
    is_over: bool,
}

/// Fetches blocks into their places. `progress` is told of bytes that came and are right. Returns how many bytes came in all.
pub(super) fn fetch(
    origin: &dyn Origin,
    part: &Part,
    missing: Vec<Missing>,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<u64, Failed> {
    let todo = stretches(missing, origin.gap_max(), origin.range_len_max());
    let connections = origin.connections().min(todo.len()).max(1);
    let state = Mutex::new(State { todo, ..State::default() });
    let shared = Shared { origin, part, progress, state, changed: Condvar::new() };
    let came = on_threads(connections, || shared.work());
    let mut bytes = 0_u64;
    for came in came {
        let came = came.map_err(|_| Failed::new("a thread that fetches panicked"))?;
        bytes = bytes.saturating_add(came);
    }
    match shared.lock().failed.take() {
        Some(failed) => Err(failed),
        None => Ok(bytes),
    }
}

impl Shared<'_> {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> Option<Stretch> {
        let mut state = self.lock();
        if state.is_over { None } else { state.todo.pop_front() }
    }

    /// Fetches stretch after stretch; returns how many bytes came.
    fn work(&self) -> u64 {
        let mut came = 0_u64;
        while let Some(mut stretch) = self.next() {
            while !stretch.is_empty() {
                let before = stretch.len();
                let read = self.read(&stretch, &mut came);
                stretch.drain(..read.done.min(before));
                if let Err(trouble) = read.result
                    && !self.may_go_on(trouble, read.done > 0)
                {
                    return came;
                }
            }
        }
        came
    }

    /// Whether another attempt is worth it, after a pause if nothing came of the last one.
    fn may_go_on(&self, trouble: Trouble, is_progress: bool) -> bool {
        let mut state = self.lock();
        let failed = match trouble {
            Trouble::Final(failed) => failed,
            Trouble::Passing(failed) if is_progress => {
                tracing::debug!("{failed}: going on from there");
                state.vain = 0;
                return !state.is_over;
            }
            Trouble::Passing(failed) if state.vain < ATTEMPTS => {
                tracing::info!("{failed}: trying again");
                let pause = pause(state.vain);
                state.vain = state.vain.saturating_add(1);
                // Who fails for good ends the pause of all others.
                let waited = self.changed.wait_timeout_while(state, pause, |state| !state.is_over);
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
                return !state.is_over;
            }
            Trouble::Passing(failed) => {
                let hint =
                    "what came so far is kept: the next `ashlar update install` goes on from there";
                if failed.hint.is_some() { failed } else { failed.hint(hint) }
            }
        };
        state.is_over = true;
        state.failed.get_or_insert(failed);
        self.changed.notify_all();
        false
    }

    /// Fetches a stretch, as far as it comes.
    fn read(&self, stretch: &Stretch, came: &mut u64) -> Read {
        let (Some(first), Some(last)) = (stretch.first(), stretch.last()) else {
            return Read { done: 0, result: Ok(()) };
        };
        let range = first.entry.offset..last.entry.end();
        let mut landing = Landing {
            shared: self,
            stretch,
            at: range.start,
            done: 0,
            stored: Vec::new(),
            wrong: None,
        };
        let read = self.origin.read(range, &mut |piece| {
            *came = came.saturating_add(u64_from_usize(piece.len()));
            landing.take(piece)
        });
        let (done, wrong) = (landing.done, landing.wrong.take());
        let result = match (wrong, read) {
            // The server, or something on the way, gave other bytes.
            (Some(untrusted), _) => {
                let failed = Failed::about(self.origin.shown(), untrusted.into());
                let is_final = self.origin.is_local();
                Err(if is_final { Trouble::Final(failed) } else { Trouble::Passing(failed) })
            }
            (None, Ok(())) if done < stretch.len() => {
                let failed = Failed::new(format_args!(
                    "{}: less came than was asked for",
                    self.origin.shown()
                ));
                Err(Trouble::Passing(failed))
            }
            (None, read) => read,
        };
        Read { done, result }
    }
}

/// What came of a question.
struct Read {
    /// Blocks from the stretch's beginning that are in their places.
    done: usize,
    result: Result<(), Trouble>,
}

/// Bytes on their way to their places.
struct Landing<'a> {
    shared: &'a Shared<'a>,
    stretch: &'a Stretch,
    /// Where in the image the next byte belongs.
    at: u64,
    done: usize,
    /// What is there of the block that comes now.
    stored: Vec<u8>,
    wrong: Option<Untrusted>,
}

impl Landing<'_> {
    fn take(&mut self, mut piece: &[u8]) -> Result<(), Failed> {
        while let (false, Some(missing)) = (piece.is_empty(), self.stretch.get(self.done)) {
            let Missing { block, kind, entry } = *missing;
            // Between two blocks that are missing there may be some that are not.
            let skipped =
                usize::try_from(entry.offset.saturating_sub(self.at)).unwrap_or(usize::MAX);
            let skipped = skipped.min(piece.len());
            piece = piece.get(skipped..).unwrap_or_default();
            let wanted = usize_from_u32(entry.stored_len).saturating_sub(self.stored.len());
            let (now, rest) = piece.split_at(wanted.min(piece.len()));
            self.stored.extend_from_slice(now);
            piece = rest;
            self.at = self.at.saturating_add(u64_from_usize(skipped.saturating_add(now.len())));
            if self.stored.len() < usize_from_u32(entry.stored_len) {
                return Ok(());
            }
            let found = proof::hash_block(kind, &self.stored);
            if found != entry.digest {
                let Entry { offset, digest: expected, .. } = entry;
                let wrong = Untrusted::Block { block, offset, expected, found };
                let failed = Failed::new(&wrong);
                self.wrong = Some(wrong);
                return Err(failed);
            }
            self.shared.part.write(&self.stored, entry.offset)?;
            (self.shared.progress)(u64::from(entry.stored_len));
            self.stored.clear();
            self.done = self.done.saturating_add(1);
        }
        Ok(())
    }
}
