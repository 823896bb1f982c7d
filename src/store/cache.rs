//! Which blocks are kept? The least recently used ones go, counted in bytes; and one thread expands a block while others
//! that want the same one wait for it (single flight).

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use lru::LruCache;

use super::block::Block;
use crate::error::{Error, Result};
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
    landed: Mutex<Option<Landed>>,
    changed: Condvar,
}

/// How an expansion ended.
#[derive(Debug, Clone)]
enum Landed {
    /// With this block, whether it is kept or not.
    With(Block),
    /// With nothing for those who waited.
    Empty,
}

impl Flight {
    /// Waits for the end; the block, if there is one for us.
    fn wait(&self) -> Option<Block> {
        let mut landed = lock(&self.landed);
        loop {
            match &*landed {
                Some(Landed::With(block)) => return Some(block.clone()),
                Some(Landed::Empty) => return None,
                None => {
                    landed = self.changed.wait(landed).unwrap_or_else(PoisonError::into_inner);
                }
            }
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

    /// The block, made with `make` by one of those who ask at the same time; `true` when it was here or another made it.
    ///
    /// A failure is told only to the one whose attempt failed. Those who waited try themselves.
    pub(super) fn get(
        &self,
        index: BlockIndex,
        make: impl FnOnce() -> Result<Block>,
    ) -> Result<(Block, bool)> {
        match self.find_or_begin(index) {
            Begin::Here(block) => Ok((block, true)),
            Begin::Ours(landing) => {
                let block = make()?;
                self.keep(index, &block);
                landing.land(block.clone());
                Ok((block, false))
            }
        }
    }

    /// The same for one who wants the content in a place of their own, where `make` puts it; it is not kept.
    pub(super) fn get_into(
        &self,
        index: BlockIndex,
        content: &mut [u8],
        make: impl FnOnce(&mut [u8]) -> Result<()>,
    ) -> Result<bool> {
        match self.find_or_begin(index) {
            Begin::Here(block) => {
                if block.len() != content.len() {
                    return Err(Error::Invalid);
                }
                content.copy_from_slice(&block);
                Ok(true)
            }
            Begin::Ours(landing) => {
                make(content)?;
                if landing.is_awaited() {
                    landing.land(Block::new((&*content).into()));
                }
                Ok(false)
            }
        }
    }

    /// Whether the block is here now.
    #[cfg(test)]
    fn has(&self, index: BlockIndex) -> bool {
        lock(&self.state).blocks.contains(&index)
    }

    /// The block if it is here or just being made; else it is ours to make.
    fn find_or_begin(&self, index: BlockIndex) -> Begin<'_> {
        loop {
            let mut state = lock(&self.state);
            if let Some(block) = state.blocks.get(&index) {
                return Begin::Here(block.clone());
            }
            let Some(flight) = state.flights.get(&index).cloned() else {
                let flight = Arc::new(Flight::default());
                state.flights.insert(index, Arc::clone(&flight));
                return Begin::Ours(Landing { cache: self, index, flight });
            };
            drop(state);
            if let Some(block) = flight.wait() {
                return Begin::Here(block);
            }
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

    /// Bytes of content that may be kept.
    pub(super) fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// Bytes of content kept now.
    pub(super) fn bytes(&self) -> usize {
        lock(&self.state).bytes
    }
}

enum Begin<'a> {
    Here(Block),
    Ours(Landing<'a>),
}

/// Ends an expansion, also when it failed or panicked: nobody waits for ever.
struct Landing<'a> {
    cache: &'a Cache,
    index: BlockIndex,
    flight: Arc<Flight>,
}

impl Landing<'_> {
    /// Gives the block to those who wait.
    fn land(&self, block: Block) {
        *lock(&self.flight.landed) = Some(Landed::With(block));
    }

    /// Whether somebody waits: besides us and the table of flights.
    fn is_awaited(&self) -> bool {
        Arc::strong_count(&self.flight) > 2
    }
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        lock(&self.cache.state).flights.remove(&self.index);
        lock(&self.flight.landed).get_or_insert(Landed::Empty);
        self.flight.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
        assert!(!cache.has(BlockIndex(1)));
        assert!(cache.has(BlockIndex(2)));
        cache.get(BlockIndex(9), || Ok(block(101))).unwrap();
        assert!(!cache.has(BlockIndex(9)), "larger than the whole cache");
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
    fn what_is_not_kept_is_still_made_once() {
        let cache = Cache::new(0);
        let made = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let mut content = [0; 10];
                    let make = |content: &mut [u8]| {
                        made.fetch_add(1, Ordering::SeqCst);
                        std::thread::sleep(std::time::Duration::from_millis(100));
                        content.fill(7);
                        Ok(())
                    };
                    cache.get_into(BlockIndex(3), &mut content, make).unwrap();
                    assert_eq!(content, [7; 10]);
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
