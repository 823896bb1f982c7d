//! Who reads in order? Several may, side by side; and whoever reads files that are a little longer than a block jumps between
//! their whole blocks and the one that their tails share.

use std::num::NonZeroUsize;

use lru::LruCache;

use crate::format::index::BlockIndex;

/// Readers that are told apart.
const STREAMS_MAX: usize = 4;
/// A reader who skips no more than this is still reading in order: the kernel has some pages already.
const STRIDE_MAX: u32 = 2;
/// Blocks that are remembered as asked for: more than lie between a tail and the file it belongs to.
const ASKED_MAX: NonZeroUsize = NonZeroUsize::new(128).unwrap();

/// Where blocks were asked for lately.
#[derive(Debug)]
pub(super) struct Streams {
    /// The one that went on last comes first.
    streams: Vec<Stream>,
    asked: LruCache<BlockIndex, ()>,
}

#[derive(Debug, Clone, Copy)]
struct Stream {
    last: BlockIndex,
    /// How many blocks in a row were asked for in order, the first not counted.
    run: u32,
}

impl Default for Streams {
    fn default() -> Self {
        Streams { streams: Vec::with_capacity(STREAMS_MAX), asked: LruCache::new(ASKED_MAX) }
    }
}

impl Streams {
    /// A block is asked for. How long its reader has gone on in order before, if this is the next step.
    pub(super) fn note(&mut self, block: BlockIndex) -> Option<u32> {
        self.asked.put(block, ());
        let stride = |stream: &Stream| block.0.wrapping_sub(stream.last.0);
        // The same block again, as when many small files lie in it, is no step.
        if self.streams.iter().any(|stream| stride(stream) == 0) {
            return None;
        }
        let goes_on = |stream: &Stream| (1..=STRIDE_MAX).contains(&stride(stream));
        let nth = (0..self.streams.len())
            .filter(|nth| self.streams.get(*nth).is_some_and(goes_on))
            .max_by_key(|nth| self.streams.get(*nth).map(|stream| stream.run));
        let before = nth.map(|nth| self.streams.remove(nth).run);
        self.streams.truncate(STREAMS_MAX.saturating_sub(1));
        let run = before.map_or(0, |run| run.saturating_add(1));
        self.streams.insert(0, Stream { last: block, run });
        before
    }

    /// Whether a block was asked for lately.
    pub(super) fn was_asked(&self, block: BlockIndex) -> bool {
        self.asked.contains(&block)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs<const N: usize>(asked: [u32; N]) -> [Option<u32>; N] {
        let mut streams = Streams::default();
        asked.map(|block| streams.note(BlockIndex(block)))
    }

    #[test]
    fn who_reads_in_order_goes_on() {
        assert_eq!(runs([5, 6, 7, 9, 10, 11]), [None, Some(0), Some(1), Some(2), Some(3), Some(4)]);
        assert_eq!(runs([5, 6, 6, 6, 7]), [None, Some(0), None, None, Some(1)]);
    }

    #[test]
    fn a_jump_to_a_tail_and_back_is_no_end() {
        // Whole blocks 1 to 7, and tails in block 5 that were asked for before.
        assert_eq!(
            runs([1, 2, 5, 3, 4, 5, 6, 7]),
            [None, Some(0), None, Some(1), Some(2), None, Some(3), Some(4)]
        );
    }

    #[test]
    fn several_go_on_side_by_side() {
        assert_eq!(
            runs([1, 100, 200, 2, 101, 201, 3, 102]),
            [None, None, None, Some(0), Some(0), Some(0), Some(1), Some(1)]
        );
    }

    #[test]
    fn who_jumps_about_never_goes_on() {
        assert_eq!(runs([5, 8, 3, 90, 0, 7, 40, 20]), [None; 8]);
        let mut streams = Streams::default();
        streams.note(BlockIndex(10));
        (0..STREAMS_MAX).for_each(|nth| {
            streams.note(BlockIndex(1000 + 10 * nth as u32));
        });
        assert_eq!(streams.note(BlockIndex(11)), None, "so many readers are not told apart");
    }

    #[test]
    fn what_was_asked_for_is_remembered_for_a_while() {
        let mut streams = Streams::default();
        (0..1000).for_each(|block| {
            streams.note(BlockIndex(block));
        });
        assert!(streams.was_asked(BlockIndex(999)) && streams.was_asked(BlockIndex(900)));
        assert!(!streams.was_asked(BlockIndex(800)) && !streams.was_asked(BlockIndex(1000)));
    }
}
