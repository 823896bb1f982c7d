//! Which blocks are kept? The least recently used ones go, counted in bytes; and one thread expands a block while others
//! that want the same one wait for it (single flight).

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use lru::LruCache;

use super::block::Block;
use crate::error::Result;
use crate::format::index::BlockIndex;

/// Blocks kept in memory.
#[derive(Debug)]
pub(super) struct Cache {
    bytes_max: usize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    blocks: LruCache<BlockIndex, Block>,
    bytes: usize,
    flights: HashMap<BlockIndex, Arc<Flight>>,
}

/// One expansion under way.
#[derive(Debug, Default)]
struct Flight {
    landed: Mutex<bool>,
    changed: Condvar,
}

impl Flight {
    fn wait(&self) {
        let mut landed = lock(&self.landed);
        while !*landed {
            landed = self.changed.wait(landed).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// A lock whose holder panicked still guards sound data: every change below is complete before the lock is let go.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Cache {
    /// A cache that keeps up to `bytes_max` bytes of content.
    pub(super) fn new(bytes_max: usize) -> Self {
        let state = State { blocks: LruCache::unbounded(), bytes: 0, flights: HashMap::new() };
        Cache { bytes_max, state: Mutex::new(state) }
    }

    /// The block if it is here, or if somebody is just making it.
    pub(super) fn peek_or_wait(&self, index: BlockIndex) -> Option<Block> {
        let mut state = lock(&self.state);
        if let Some(block) = state.blocks.get(&index) {
            return Some(block.clone());
        }
        let flight = state.flights.get(&index).cloned()?;
        drop(state);
        flight.wait();
        lock(&self.state).blocks.get(&index).cloned()
    }

    /// The block, made with `make` by one of those who ask at the same time; `true` when it was here or another made it.
    ///
    /// A failure is told only to the one whose attempt failed. Those who waited try themselves.
    pub(super) fn get(
        &self,
        index: BlockIndex,
        make: impl Fn() -> Result<Block>,
    ) -> Result<(Block, bool)> {
        loop {
            let mut state = lock(&self.state);
            if let Some(block) = state.blocks.get(&index) {
                return Ok((block.clone(), true));
            }
            if let Some(flight) = state.flights.get(&index).cloned() {
                drop(state);
                flight.wait();
                continue;
            }
            let flight = Arc::new(Flight::default());
            state.flights.insert(index, Arc::clone(&flight));
            drop(state);
            // Lands even if `make` panics: nobody waits for ever.
            let landing = Landing { cache: self, index, flight };
            let block = make()?;
            self.keep(index, &block);
            drop(landing);
            return Ok((block, false));
        }
    }

    fn keep(&self, index: BlockIndex, block: &Block) {
        if block.len() > self.bytes_max {
            return;
        }
        let mut state = lock(&self.state);
        state.bytes = state.bytes.saturating_add(block.len());
        if let Some(old) = state.blocks.put(index, block.clone()) {
            state.bytes = state.bytes.saturating_sub(old.len());
        }
        while state.bytes > self.bytes_max {
            let Some((_, gone)) = state.blocks.pop_lru() else { break };
            state.bytes = state.bytes.saturating_sub(gone.len());
        }
    }

    /// Bytes of content kept now.
    pub(super) fn bytes(&self) -> usize {
        lock(&self.state).bytes
    }
}

struct Landing<'a> {
    cache: &'a Cache,
    index: BlockIndex,
    flight: Arc<Flight>,
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        lock(&self.cache.state).flights.remove(&self.index);
        *lock(&self.flight.landed) = true;
        self.flight.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn block(len: usize) -> Block {
        Block::new(vec![1; len].into())
    }

    #[test]
    fn the_oldest_bytes_go_first() {
        let cache = Cache::new(100);
        for index in 0..4 {
            cache.get(BlockIndex(index), || Ok(block(40))).unwrap();
        }
        assert_eq!(cache.bytes(), 80);
        assert!(cache.peek_or_wait(BlockIndex(1)).is_none());
        assert!(cache.peek_or_wait(BlockIndex(2)).is_some());
        cache.get(BlockIndex(9), || Ok(block(101))).unwrap();
        assert!(cache.peek_or_wait(BlockIndex(9)).is_none(), "larger than the whole cache");
        assert_eq!(cache.bytes(), 80);
    }

    #[test]
    fn many_who_ask_cause_one_expansion() {
        let cache = Cache::new(1000);
        let made = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let make = || {
                        made.fetch_add(1, Ordering::SeqCst);
                        std::thread::sleep(std::time::Duration::from_millis(20));
                        Ok(block(10))
                    };
                    cache.get(BlockIndex(3), make).unwrap();
                });
            }
        });
        assert_eq!(made.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_failure_is_not_kept_and_blocks_nobody() {
        let cache = Cache::new(1000);
        assert!(cache.get(BlockIndex(0), || Err(Error::NotFound)).is_err());
        assert!(cache.get(BlockIndex(0), || Ok(block(1))).is_ok());
    }
}
