//! Who was asked for a copy and does not come back? A directory may be on a disk or a server that is dead, and waits for ever.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::store::lock;

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
    since: Instant,
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
        let mut state = lock(&self.0);
        let id = state.begun;
        state.begun = id.wrapping_add(1);
        state.calls.push(Call { id, healer, search, since: Instant::now() });
        UnderWay { calls: self, id }
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
        lock(&self.0).calls.iter().any(|call| which(call) && call.since.elapsed() > patience)
    }
}
