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

/// So often in a row nothing may come of an attempt, on each connection.
const ATTEMPTS: u32 = 8;
/// The longest pause before another attempt.
const PAUSE_MAX: Duration = Duration::from_secs(15);
/// What may be wrong when bytes are.
pub(super) const DAMAGED: &str = "what is offered there is damaged, or was damaged on the way";
/// Bytes without which an attempt came to nothing: a block that is not whole yet goes on from there, but nobody asks for each
/// of its bytes.
pub(super) const PROGRESS: u64 = 16 << 10;

/// How long to wait before the next attempt, if it was `first` before the second one.
pub(super) fn pause(first: Duration, attempt: u32) -> Duration {
    first.saturating_mul(1_u32.checked_shl(attempt).unwrap_or(u32::MAX)).min(PAUSE_MAX)
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
    /// How many fail at once when the server does: that is one attempt.
    connections: u32,
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
    let shared = Shared {
        origin,
        part,
        progress,
        connections: u32::try_from(connections).unwrap_or(u32::MAX),
        state,
        changed: Condvar::new(),
    };
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
        let mut came = 0;
        while let Some(stretch) = self.next() {
            let mut landing = Landing::new(self, stretch);
            while !landing.is_done() {
                let (done, before) = (landing.done, landing.came);
                let result = self.read(&mut landing);
                let now = landing.came.saturating_sub(before);
                came = u64::saturating_add(came, now);
                let is_wrong = landing.wrong.take().is_some();
                let progress = if landing.done > done {
                    Progress::Blocks
                } else if !is_wrong && now >= PROGRESS {
                    Progress::Bytes
                } else {
                    Progress::None
                };
                if let Err(trouble) = result
                    && !self.may_go_on(trouble, progress)
                {
                    return came;
                }
            }
        }
        came
    }

    /// Whether another attempt is worth it, after a pause if nothing came of the last one.
    fn may_go_on(&self, trouble: Trouble, progress: Progress) -> bool {
        let mut state = self.lock();
        let attempts = ATTEMPTS.saturating_mul(self.connections);
        let failed = match trouble {
            Trouble::Final(failed) => failed,
            Trouble::Passing(failed) if progress != Progress::None => {
                tracing::debug!("{failed}: going on from there");
                // Bytes that are in no block yet may be wrong: they are no reason to have more patience.
                if progress == Progress::Blocks {
                    state.vain = 0;
                }
                return !state.is_over;
            }
            Trouble::Passing(failed) if state.vain < attempts => {
                tracing::info!("{failed}: trying again");
                let attempt = state.vain.checked_div(self.connections).unwrap_or(0);
                let pause = pause(self.origin.pause(), attempt);
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

    /// Fetches what is missing of a stretch, as far as it comes.
    fn read(&self, landing: &mut Landing<'_>) -> Result<(), Trouble> {
        let Some(last) = landing.stretch.last() else { return Ok(()) };
        let read = self.origin.read(landing.at..last.entry.end(), &mut |piece| landing.take(piece));
        match (&landing.wrong, read) {
            // The server, or something on the way, gave other bytes.
            (Some(untrusted), _) => {
                let failed = Failed::new(format_args!("{}: {untrusted}", self.origin.shown()));
                let failed = failed.hint(DAMAGED);
                let is_final = self.origin.is_local();
                Err(if is_final { Trouble::Final(failed) } else { Trouble::Passing(failed) })
            }
            (None, Ok(())) if !landing.is_done() => {
                let failed = Failed::new(format_args!(
                    "{}: less came than was asked for",
                    self.origin.shown()
                ));
                Err(Trouble::Passing(failed))
            }
            (None, read) => read,
        }
    }
}

/// What came of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// Nothing of use.
    None,
    /// Bytes of a block that is not whole.
    Bytes,
    /// Blocks, which are in their places.
    Blocks,
}

/// Bytes on their way to their places.
struct Landing<'a> {
    shared: &'a Shared<'a>,
    stretch: Stretch,
    /// Where in the image the next byte belongs.
    at: u64,
    /// Blocks from the stretch's beginning that are in their places.
    done: usize,
    /// What is there of the block that comes now.
    stored: Vec<u8>,
    /// Bytes in all.
    came: u64,
    wrong: Option<Untrusted>,
}

impl<'a> Landing<'a> {
    fn new(shared: &'a Shared<'a>, stretch: Stretch) -> Landing<'a> {
        let at = stretch.first().map_or(0, |first| first.entry.offset);
        Landing { shared, stretch, at, done: 0, stored: Vec::new(), came: 0, wrong: None }
    }

    fn is_done(&self) -> bool {
        self.done >= self.stretch.len()
    }

    fn take(&mut self, mut piece: &[u8]) -> Result<(), Failed> {
        self.came = self.came.saturating_add(u64_from_usize(piece.len()));
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
                self.stored.clear();
                self.at = offset;
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
