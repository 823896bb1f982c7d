//! Which block will be wanted next? Whoever reads one block after another gets the following ones expanded on another
//! processor meanwhile.
//!
//! This is about small files, which share blocks in the order of directories: their next block is known before the kernel
//! knows their next file. Whole blocks of large files are not noted here; of those the kernel itself asks for several at a
//! time (with them noted, reading the 8 biggest files of a Debian root took 1.7 times as long as with EROFS, without 1.0).

pub(super) mod idle;
pub(super) mod list;

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Weak};

use super::Store;
use crate::format::index::{BlockIndex, NONE};

/// How many blocks ahead are expanded at most. Eight of 128 KiB are what a processor expands in a millisecond: more would be
/// expanded for nothing whenever a reader stops.
const AHEAD_MAX: u32 = 8;
/// A reader who skips no more than this is still reading in order: the kernel has some pages already.
const STRIDE_MAX: u32 = 2;

/// Notices sequential reading.
#[derive(Debug)]
pub(super) struct Prefetch {
    last: AtomicU32,
    /// How many blocks in a row were asked for in order, the first not counted.
    run: AtomicU32,
    wanted: SyncSender<Wish>,
    is_eager: Arc<AtomicBool>,
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
    /// Up to here it was done last: those blocks need not be looked at again.
    done: u32,
    is_eager: Arc<AtomicBool>,
}

impl Prefetch {
    /// One who notices, and the work that comes of it.
    pub(super) fn new(store: &Arc<Store>) -> (Self, Ahead) {
        // One place: what is wanted now, not what was wanted a while ago.
        let (wanted, wants) = sync_channel(1);
        let is_eager = Arc::new(AtomicBool::new(false));
        let theirs = Arc::clone(&is_eager);
        let prefetch =
            Prefetch { last: AtomicU32::new(NONE), run: AtomicU32::new(0), wanted, is_eager };
        (prefetch, Ahead { store: Arc::downgrade(store), wants, done: 0, is_eager: theirs })
    }

    /// A block was asked for.
    pub(super) fn note(&self, block: BlockIndex) {
        let last = self.last.swap(block.0, Ordering::Relaxed);
        let stride = block.0.wrapping_sub(last);
        if stride == 0 {
            return;
        }
        if !(1..=STRIDE_MAX).contains(&stride) {
            self.run.store(0, Ordering::Relaxed);
            return;
        }
        let run = self.run.fetch_add(1, Ordering::Relaxed);
        self.want(Wish { block, count: ahead(run) });
    }

    /// Whether whole blocks of large files should be noted, too.
    pub(super) fn is_eager(&self) -> bool {
        self.is_eager.load(Ordering::Relaxed)
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
        self.is_eager.store(is_eager, Ordering::Relaxed);
    }

    fn grant(&mut self, wish: &Wish) -> bool {
        let Some(store) = self.store.upgrade() else { return false };
        let first = wish.block.0.saturating_add(1);
        let count = wish.count.min(store.prefetch_count_max());
        let end = first.saturating_add(count).min(store.superblock().data_block_count);
        let start = if (first..end).contains(&self.done) { self.done } else { first };
        for block in start..end {
            // A failure is nobody's yet: whoever asks for the block meets it again and is told.
            if store.get_ahead(BlockIndex(block)).is_err() {
                break;
            }
            self.done = block.saturating_add(1);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is wanted after each of these blocks was asked for, as block and count.
    fn wishes(asked: &[u32]) -> Vec<Option<(u32, u32)>> {
        let (wanted, wants) = sync_channel(1);
        let (last, run) = (AtomicU32::new(NONE), AtomicU32::new(0));
        let prefetch = Prefetch { last, run, wanted, is_eager: Arc::default() };
        let wish = |block: &u32| {
            prefetch.note(BlockIndex(*block));
            wants.try_recv().ok().map(|wish| (wish.block.0, wish.count))
        };
        asked.iter().map(wish).collect()
    }

    #[test]
    fn the_longer_somebody_reads_in_order_the_more_is_expanded() {
        let run = [(6, 1), (7, 2), (9, 4), (10, 8), (11, 8)].map(Some);
        assert_eq!(wishes(&[5, 6, 7, 9, 10, 11]), [&[None], &run[..]].concat());
    }

    #[test]
    fn who_jumps_about_gets_nothing_and_who_stays_loses_nothing() {
        assert_eq!(wishes(&[5, 8, 7, 90, 0, 5]), [None; 6]);
        assert_eq!(wishes(&[5, 6, 6, 6, 7]), [None, Some((6, 1)), None, None, Some((7, 2))]);
        assert_eq!(wishes(&[5, 6, 7, 50, 51]).last(), Some(&Some((51, 1))));
    }
}
