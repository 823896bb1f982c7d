//! Which blocks are kept? The least recently used ones go, counted in bytes; and one thread expands a block while others
//! that want the same one wait for it (single flight).

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use lru::LruCache;

use super::block::{Block, Pool};
use super::{copy, lock};
use crate::error::Result;
use crate::format::index::BlockIndex;

/// Nobody waits longer than this for somebody else's expansion: a thread of real-time priority may keep that one from its
/// processor for ever. It is a hundred times what an expansion takes.
const PATIENCE: Duration = Duration::from_millis(100);

/// Blocks kept in memory.
#[derive(Debug)]
pub(super) struct Cache {
    bytes_max: usize,
    pool: Arc<Pool>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    blocks: LruCache<BlockIndex, Kept>,
    bytes: usize,
    flights: HashMap<BlockIndex, Arc<Flight>>,
}

/// A block that is kept.
#[derive(Debug)]
struct Kept {
    block: Block,
    /// Bytes of it that went to readers, counted as often as they did.
    used: usize,
}

impl State {
    /// Takes a block out; whoever gets it drops it when the lock is let go.
    fn take(&mut self, index: BlockIndex) -> Option<Kept> {
        let gone = self.blocks.pop(&index)?;
        self.bytes = self.bytes.saturating_sub(gone.block.memory());
        Some(gone)
    }

    /// Whether this is the expansion of a block that counts: one may have been overtaken.
    fn is_current(&self, index: BlockIndex, flight: &Arc<Flight>) -> bool {
        self.flights.get(&index).is_some_and(|current| Arc::ptr_eq(current, flight))
    }
}

/// One expansion under way.
#[derive(Debug, Default)]
struct Flight {
    /// Whether it is made in idle time, which may take for ever: nobody waits for it.
    idle: bool,
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
    /// Waits for the end. Nothing when that does not come.
    fn wait(&self) -> Option<Landed> {
        let deadline = Instant::now().checked_add(PATIENCE)?;
        let mut landed = lock(&self.landed);
        while landed.is_none() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            let waited = self.changed.wait_timeout(landed, left);
            landed = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        landed.clone()
    }
}

impl Cache {
    /// A cache that takes up to `bytes_max` bytes of memory, for blocks that have up to `block_len` bytes each.
    pub(super) fn new(bytes_max: usize, block_len: usize) -> Self {
        // A quarter of the cache's memory, and some for those who expand right now.
        let free_max = (bytes_max / 4).checked_div(block_len).unwrap_or(0).saturating_add(4);
        let state = State { blocks: LruCache::unbounded(), bytes: 0, flights: HashMap::new() };
        Cache { bytes_max, pool: Pool::new(block_len, free_max), state: Mutex::new(state) }
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

    /// The same for one who expands ahead of others: nothing is done when somebody is at it already.
    pub(super) fn get_ahead(
        &self,
        index: BlockIndex,
        make: impl FnOnce() -> Result<Block>,
    ) -> Result<()> {
        self.unless_begun(index, Flight::default(), make)
    }

    /// The same for one who has time: nobody waits for it, either.
    pub(super) fn get_in_idle_time(
        &self,
        index: BlockIndex,
        make: impl FnOnce() -> Result<Block>,
    ) -> Result<()> {
        self.unless_begun(index, Flight { idle: true, ..Flight::default() }, make)
    }

    fn unless_begun(
        &self,
        index: BlockIndex,
        flight: Flight,
        make: impl FnOnce() -> Result<Block>,
    ) -> Result<()> {
        let flight = Arc::new(flight);
        {
            let mut state = lock(&self.state);
            let is_begun = |begun: &Arc<Flight>| flight.idle || !begun.idle;
            if state.blocks.contains(&index) || state.flights.get(&index).is_some_and(is_begun) {
                return Ok(());
            }
            state.flights.insert(index, Arc::clone(&flight));
        }
        let landing = Landing { cache: self, index, flight };
        let block = make()?;
        let is_current = lock(&self.state).is_current(index, &landing.flight);
        if is_current {
            self.keep(index, &block);
        }
        landing.land(block);
        Ok(())
    }

    /// The same for one who wants the content in a place of their own, where `make` puts it. It is not kept, and not any more
    /// when it was.
    pub(super) fn get_into(
        &self,
        index: BlockIndex,
        content: &mut [u8],
        make: impl FnOnce(&mut [u8]) -> Result<()>,
    ) -> Result<bool> {
        match self.find_or_begin(index) {
            Begin::Here(block) => {
                copy(&block, content)?;
                let gone = lock(&self.state).take(index);
                drop(gone);
                Ok(true)
            }
            Begin::Ours(landing) => {
                make(content)?;
                if landing.is_awaited() {
                    landing.land(self.pool.block(content.len(), |buf| copy(content, buf))?);
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
        let mut stuck: Option<Arc<Flight>> = None;
        loop {
            let mut state = lock(&self.state);
            if let Some(kept) = state.blocks.get(&index) {
                return Begin::Here(kept.block.clone());
            }
            // One that was waited for in vain is overtaken, as one of idle time is at once.
            let is_awaitable = |flight: &&Arc<Flight>| {
                !flight.idle && !stuck.as_ref().is_some_and(|stuck| Arc::ptr_eq(stuck, flight))
            };
            let Some(flight) = state.flights.get(&index).filter(is_awaitable).cloned() else {
                let flight = Arc::new(Flight::default());
                state.flights.insert(index, Arc::clone(&flight));
                return Begin::Ours(Landing { cache: self, index, flight });
            };
            drop(state);
            match flight.wait() {
                Some(Landed::With(block)) => return Begin::Here(block),
                Some(Landed::Empty) => {}
                None => stuck = Some(flight),
            }
        }
    }

    fn keep(&self, index: BlockIndex, block: &Block) {
        if block.memory() > self.bytes_max {
            return;
        }
        // Dropped when the lock is let go.
        let mut gone = Vec::new();
        let mut state = lock(&self.state);
        gone.extend(state.take(index));
        state.bytes = state.bytes.saturating_add(block.memory());
        state.blocks.put(index, Kept { block: block.clone(), used: 0 });
        while state.bytes > self.bytes_max {
            let Some((_, oldest)) = state.blocks.pop_lru() else { break };
            state.bytes = state.bytes.saturating_sub(oldest.block.memory());
            gone.push(oldest);
        }
        drop(state);
    }

    /// So many bytes of a block that is here were used; it goes when as many were as it has.
    pub(super) fn used(&self, index: BlockIndex, len: usize) {
        let mut state = lock(&self.state);
        let Some(kept) = state.blocks.peek_mut(&index) else { return };
        kept.used = kept.used.saturating_add(len);
        if kept.used >= kept.block.len() {
            let gone = state.take(index);
            drop(state);
            drop(gone);
        }
    }

    /// Where blocks that may be kept get their memory.
    pub(super) fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Bytes of memory that may be taken.
    pub(super) fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// Bytes of memory that are taken now.
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
        {
            let mut state = lock(&self.cache.state);
            if state.is_current(self.index, &self.flight) {
                state.flights.remove(&self.index);
            }
        }
        lock(&self.flight.landed).get_or_insert(Landed::Empty);
        self.flight.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn block(len: usize) -> Block {
        Pool::new(len, 0).block(len, |_| Ok::<_, Error>(())).unwrap()
    }

    #[test]
    fn the_oldest_bytes_go_first() {
        let cache = Cache::new(100, 128);
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
    fn what_was_used_to_the_end_goes() {
        let cache = Cache::new(1000, 40);
        cache.get(BlockIndex(1), || Ok(block(40))).unwrap();
        cache.used(BlockIndex(1), 30);
        assert!(cache.has(BlockIndex(1)));
        cache.used(BlockIndex(1), 10);
        cache.used(BlockIndex(2), 10);
        assert!(!cache.has(BlockIndex(1)));
        assert_eq!(cache.bytes(), 0);
    }

    #[test]
    fn nobody_waits_for_what_is_made_in_idle_time() {
        let cache = Cache::new(1000, 10);
        let made = || {
            // Somebody asks meanwhile, and is not kept waiting.
            let (found, hit) = cache.get(BlockIndex(1), || Ok(block(10))).unwrap();
            assert_eq!((found.len(), hit), (10, false));
            cache.used(BlockIndex(1), 10);
            Ok(block(10))
        };
        cache.get_in_idle_time(BlockIndex(1), made).unwrap();
        assert!(!cache.has(BlockIndex(1)), "it was asked for and used meanwhile");
        cache.get_in_idle_time(BlockIndex(1), || Ok(block(10))).unwrap();
        cache.get_in_idle_time(BlockIndex(1), || panic!("it is here")).unwrap();
        assert!(cache.get_in_idle_time(BlockIndex(2), || Err(Error::NotFound)).is_err());
        assert!(!cache.get(BlockIndex(2), || Ok(block(1))).unwrap().1);
    }

    #[test]
    fn nobody_waits_for_ever() {
        let cache = Cache::new(1000, 10);
        let made = || {
            let begin = Instant::now();
            let (_, hit) = cache.get(BlockIndex(1), || Ok(block(10))).unwrap();
            assert!(!hit && begin.elapsed() >= PATIENCE);
            // Who expands ahead waits for nobody at all.
            cache.get_ahead(BlockIndex(1), || panic!("it is here")).unwrap();
            Ok(block(10))
        };
        assert!(!cache.get(BlockIndex(1), made).unwrap().1);
        let made = || {
            cache.get_ahead(BlockIndex(2), || panic!("it is under way")).unwrap();
            Ok(block(10))
        };
        cache.get_ahead(BlockIndex(2), made).unwrap();
        assert!(cache.has(BlockIndex(2)));
    }

    #[test]
    fn many_who_ask_cause_one_expansion() {
        let cache = Cache::new(1000, 128);
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
        let cache = Cache::new(0, 128);
        let made = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let mut content = [0; 10];
                    let make = |content: &mut [u8]| {
                        made.fetch_add(1, Ordering::SeqCst);
                        std::thread::sleep(std::time::Duration::from_millis(50));
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
        let cache = Cache::new(1000, 128);
        assert!(cache.get(BlockIndex(0), || Err(Error::NotFound)).is_err());
        assert!(cache.get(BlockIndex(0), || Ok(block(1))).is_ok());
    }
}
