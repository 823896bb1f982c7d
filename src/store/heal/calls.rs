//! Who was asked for a copy and does not come back? A directory may be on a disk or a server that is dead, and waits for ever.
//! Parity may take minutes and is no reason for worry.

use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::store::lock;

/// Most calls at once that may take as long as they take: each is a thread that waits, mostly for another one of them.
const LONG_MAX: usize = 32;

/// Calls under way.
#[derive(Debug, Default)]
pub(super) struct Calls(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    calls: Vec<Call>,
    begun: u64,
}

/// Somebody is asked.
#[derive(Debug)]
struct Call {
    id: u64,
    /// Whose turn it is.
    healer: usize,
    /// The search that asks.
    search: u64,
    /// Nothing where it may take as long as it takes.
    since: Option<Instant>,
}

/// A call under way, until this is dropped.
pub(super) struct UnderWay<'a> {
    calls: &'a Calls,
    id: u64,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        lock(&self.calls.0).calls.retain(|call| call.id != self.id);
    }
}

impl Calls {
    /// One begins.
    pub(super) fn begin(&self, healer: usize, search: u64) -> UnderWay<'_> {
        let since = Some(Instant::now());
        self.add(lock(&self.0), &Call { id: 0, healer, search, since })
    }

    /// One begins that may take as long as it takes; `None` when there are too many of these.
    pub(super) fn begin_long(&self, healer: usize, search: u64) -> Option<UnderWay<'_>> {
        let state = lock(&self.0);
        let count = state.calls.iter().filter(|call| call.since.is_none()).count();
        let call = Call { id: 0, healer, search, since: None };
        (count < LONG_MAX).then(|| self.add(state, &call))
    }

    fn add(&self, mut state: MutexGuard<'_, State>, call: &Call) -> UnderWay<'_> {
        let id = state.begun;
        state.begun = id.wrapping_add(1);
        state.calls.push(Call { id, ..*call });
        UnderWay { calls: self, id }
    }

    /// Whether a search waits for one that may take as long as it takes.
    pub(super) fn is_long(&self, search: u64) -> bool {
        lock(&self.0).calls.iter().any(|call| call.search == search && call.since.is_none())
    }

    /// Whether a healer has not come back from a call for so long.
    pub(super) fn has_hung(&self, healer: usize, patience: Duration) -> bool {
        self.any(patience, |call| call.healer == healer)
    }

    /// Whether somebody whom a search asked has not come back for so long.
    pub(super) fn holds_up(&self, search: u64, patience: Duration) -> bool {
        self.any(patience, |call| call.search == search)
    }

    fn any(&self, patience: Duration, which: impl Fn(&Call) -> bool) -> bool {
        let is_over = |since: Instant| since.elapsed() > patience;
        lock(&self.0).calls.iter().any(|call| which(call) && call.since.is_some_and(is_over))
    }
}
