//! Which block will be wanted next? Whoever reads one block after another gets the following ones expanded on another
//! processor meanwhile.
//!
//! This is about small files, which share blocks in the order of directories: their next block is known before the kernel
//! knows their next file. Whole blocks of large files are not noted here; of those the kernel itself asks for several at a
//! time (with them noted, reading the 8 biggest files of a Debian root took 1.7 times as long as with EROFS, without 1.0).

pub(super) mod idle;
pub(super) mod list;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Weak};
use std::thread;

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
}

/// Blocks to be expanded: those that follow one.
#[derive(Debug)]
struct Wish {
    block: BlockIndex,
    count: u32,
}

impl Prefetch {
    /// Starts the thread that expands ahead. It ends with the store.
    pub(super) fn start(store: &Arc<Store>) -> std::io::Result<Self> {
        // One place: what is wanted now, not what was wanted a while ago.
        let (wanted, wants) = sync_channel(1);
        let store = Arc::downgrade(store);
        thread::Builder::new().name("prefetch".into()).spawn(move || run(&store, &wants))?;
        Ok(Prefetch { last: AtomicU32::new(NONE), run: AtomicU32::new(0), wanted })
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
        // A full channel means that the thread is at work on what was wanted just before.
        self.wanted.try_send(Wish { block, count: ahead(run) }).unwrap_or_default();
    }
}

/// How many blocks are worth expanding after `run` steps in order: the longer somebody has read in order, the more likely
/// it goes on. A booting machine often takes two neighbours and then something else: with all at once, a third of what was
/// expanded while a Debian booted was expanded for nothing.
fn ahead(run: u32) -> u32 {
    1_u32.checked_shl(run).unwrap_or(AHEAD_MAX).min(AHEAD_MAX)
}

fn run(store: &Weak<Store>, wants: &Receiver<Wish>) {
    // What was expanded ahead last: blocks up to here need not be looked at again.
    let mut done = 0_u32;
    for Wish { block, count } in wants {
        let Some(store) = store.upgrade() else { return };
        let first = block.0.saturating_add(1);
        let count = count.min(store.prefetch_count_max());
        let end = first.saturating_add(count).min(store.superblock().data_block_count);
        let start = if (first..end).contains(&done) { done } else { first };
        for ahead in start..end {
            // A failure is nobody's yet: whoever asks for the block meets it again and is told.
            if store.get_ahead(BlockIndex(ahead)).is_err() {
                break;
            }
            done = ahead.saturating_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is wanted after each of these blocks was asked for, as block and count.
    fn wishes(asked: &[u32]) -> Vec<Option<(u32, u32)>> {
        let (wanted, wants) = sync_channel(1);
        let prefetch = Prefetch { last: AtomicU32::new(NONE), run: AtomicU32::new(0), wanted };
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
