//! Which block will be wanted next? Whoever reads one block after another gets the following ones expanded on another
//! processor meanwhile.
//!
//! This is about small files, which share blocks in the order of directories: their next block is known before the kernel
//! knows their next file. Whole blocks of large files are noted only where the thread that expands has a processor of its own;
//! of those the kernel itself asks for several at a time, and both processors are at work without us.

pub(crate) mod idle;
pub(super) mod list;
mod streams;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Mutex, Weak};

use self::streams::Streams;
use super::{Store, lock};
use crate::format::index::BlockIndex;

/// How many blocks ahead are expanded at most. Eight of 128 KiB are what a processor expands in a millisecond: more would be
/// expanded for nothing whenever a reader stops.
const AHEAD_MAX: u32 = 8;

/// Notices sequential reading.
#[derive(Debug)]
pub(super) struct Prefetch {
    wanted: SyncSender<Wish>,
    known: Arc<Known>,
}

/// What both sides know.
#[derive(Debug, Default)]
struct Known {
    streams: Mutex<Streams>,
    /// Whether the thread that expands has a processor of its own.
    is_eager: AtomicBool,
}

/// Blocks to be expanded: those that follow one.
#[derive(Debug)]
struct Wish {
    block: BlockIndex,
    count: u32,
}

/// What is to be expanded ahead, for the one thread that does so.
#[derive(Debug)]
pub struct Ahead {
    store: Weak<Store>,
    wants: Receiver<Wish>,
    known: Arc<Known>,
}

impl Prefetch {
    /// One who notices, and the work that comes of it.
    pub(super) fn new(store: &Arc<Store>) -> (Self, Ahead) {
        // One place: what is wanted now, not what was wanted a while ago.
        let (wanted, wants) = sync_channel(1);
        let known = Arc::<Known>::default();
        let prefetch = Prefetch { wanted, known: Arc::clone(&known) };
        (prefetch, Ahead { store: Arc::downgrade(store), wants, known })
    }

    /// A block was asked for.
    pub(super) fn note(&self, block: BlockIndex) {
        let run = lock(&self.known.streams).note(block);
        if let Some(run) = run {
            self.want(Wish { block, count: ahead(run) });
        }
    }

    /// Whether whole blocks of large files should be noted, too.
    pub(super) fn is_eager(&self) -> bool {
        self.known.is_eager.load(Ordering::Relaxed)
    }

    /// Has [`Ahead::wait`] return though nothing is wanted.
    pub(super) fn wake(&self) {
        self.want(Wish { block: BlockIndex(0), count: 0 });
    }

    fn want(&self, wish: Wish) {
        // A full channel means that the thread is at work on what was wanted just before.
        self.wanted.try_send(wish).unwrap_or_default();
    }
}

/// How many blocks are worth expanding after `run` steps in order: the longer somebody has read in order, the more likely
/// it goes on. A booting machine often takes two neighbours and then something else: with all at once, a third of what was
/// expanded while a Debian booted was expanded for nothing.
fn ahead(run: u32) -> u32 {
    1_u32.checked_shl(run).unwrap_or(AHEAD_MAX).min(AHEAD_MAX)
}

impl Ahead {
    /// Sleeps until something is wanted, and does it. `false` when the store is gone and nothing will ever be.
    pub fn wait(&mut self) -> bool {
        self.wants.recv().is_ok_and(|wish| self.grant(&wish))
    }

    /// Does what is wanted now, if anything is. `false` when the store is gone.
    pub fn work(&mut self) -> bool {
        match self.wants.try_recv() {
            Ok(wish) => self.grant(&wish),
            Err(TryRecvError::Empty) => true,
            Err(TryRecvError::Disconnected) => false,
        }
    }

    /// Whether the thread has a processor of its own now. If so, more is given to it: whole blocks of large files.
    pub fn be_eager(&self, is_eager: bool) {
        self.known.is_eager.store(is_eager, Ordering::Relaxed);
    }

    fn grant(&mut self, wish: &Wish) -> bool {
        let Some(store) = self.store.upgrade() else { return false };
        let first = wish.block.0.saturating_add(1);
        let count = wish.count.min(store.prefetch_count_max());
        let end = first.saturating_add(count).min(store.superblock().data_block_count);
        for block in (first..end).map(BlockIndex) {
            // Who has asked for it meanwhile, or before, will hardly do so again.
            if lock(&self.known.streams).was_asked(block) {
                continue;
            }
            // A failure is nobody's yet: whoever asks for the block meets it again and is told.
            if store.get_ahead(block).is_err() {
                break;
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longer_somebody_reads_in_order_the_more_is_expanded() {
        assert_eq!([0, 1, 2, 3, 4, 31, 32, u32::MAX].map(ahead), [1, 2, 4, 8, 8, 8, 8, 8]);
    }
}
