//! Which bytes of the image will be wanted next? The kernel guesses for each open file, from what was read last. Several
//! threads that read one file side by side, or from its end to its start as programs do that walk a tree with several threads,
//! look to it like one who jumps about. Then it brings in nothing ahead, and they all wait for the disk: three thousand small
//! reads in the place of some hundred, and a quarter more time.
//!
//! Here it is places that are watched, and not a reader: where several blocks of one stretch are wanted within a short time, the
//! rest of it will be, and then the next stretch on that side.

use std::num::NonZeroUsize;
use std::sync::Mutex;

use lru::LruCache;

use super::lock;
use crate::image::Source;

/// The length of a stretch, in bytes. Two of them are what a disk of 50 MB/s brings while two processors expand one.
const STRETCH: u64 = 512 << 10;
/// So many blocks of a stretch are wanted before the rest of it is asked for.
const TOUCHES: u8 = 3;
/// So many stretches are remembered. With more, who jumps about long enough would come back to one of them by chance.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(16).unwrap();

/// Notices where the image is read, by whomever.
#[derive(Debug)]
pub(super) struct Readahead {
    stretches: Mutex<LruCache<u64, State>>,
}

/// What is known of a stretch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// So many of its blocks were wanted.
    Touched(u8),
    /// It was asked for because of the one beside it, and nothing of it was wanted so far.
    Ahead(Side),
    /// It was asked for.
    Asked,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Up,
    Down,
}

impl Side {
    fn of(self, stretch: u64) -> Option<u64> {
        match self {
            Side::Up => stretch.checked_add(1),
            Side::Down => stretch.checked_sub(1),
        }
    }

    fn other(self) -> Self {
        match self {
            Side::Up => Side::Down,
            Side::Down => Side::Up,
        }
    }
}

impl Readahead {
    pub(super) fn new() -> Self {
        Readahead { stretches: Mutex::new(LruCache::new(REMEMBERED)) }
    }

    /// Told of each block before its stored bytes at `offset` are read.
    pub(super) fn note(&self, source: &dyn Source, offset: u64) {
        let stretches = self.wanted(offset.checked_div(STRETCH).unwrap_or(0));
        for stretch in stretches.into_iter().flatten() {
            source.will_need(stretch.saturating_mul(STRETCH), STRETCH);
        }
    }

    /// The stretches to ask for, now that a block of this one is wanted.
    fn wanted(&self, stretch: u64) -> [Option<u64>; 2] {
        let mut stretches = lock(&self.stretches);
        let state = *stretches.get_or_insert(stretch, || State::Touched(0));
        let (this, side) = match state {
            State::Asked => return [None; 2],
            State::Ahead(side) => (None, Some(side)),
            State::Touched(times) => {
                let is_asked = |side: Side| {
                    let beside = side.of(stretch).and_then(|beside| stretches.peek(&beside));
                    beside == Some(&State::Asked)
                };
                let from = [Side::Up, Side::Down].into_iter().find(|side| is_asked(*side));
                let times = times.saturating_add(1);
                if from.is_none() && times < TOUCHES {
                    stretches.put(stretch, State::Touched(times));
                    return [None; 2];
                }
                (Some(stretch), from.map(Side::other))
            }
        };
        stretches.put(stretch, State::Asked);
        let next = side.and_then(|side| Some((side, side.of(stretch)?)));
        let is_fresh = |next: &u64| !matches!(stretches.peek(next), Some(State::Asked));
        let next = next.filter(|(_, next)| is_fresh(next));
        if let Some((side, next)) = next {
            stretches.put(next, State::Ahead(side));
        }
        [this, next.map(|(_, next)| next)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is asked for when blocks of these stretches are wanted one after another.
    fn asked(stretches: impl IntoIterator<Item = u64>) -> Vec<u64> {
        let readahead = Readahead::new();
        stretches.into_iter().flat_map(|stretch| readahead.wanted(stretch)).flatten().collect()
    }

    #[test]
    fn who_reads_in_order_has_the_next_stretch_in_front() {
        let up = (50..60).flat_map(|stretch| [stretch; 8]);
        assert_eq!(asked(up.clone()), (50..=60).collect::<Vec<_>>());
        assert_eq!(asked(up.rev()), (49..60).rev().collect::<Vec<_>>());
        assert_eq!(asked([2, 2, 2, 1, 0, 0]), [2, 1, 0], "there is nothing in front of the first");
    }

    #[test]
    fn several_who_read_do_not_hinder_each_other() {
        let one = (10..20).flat_map(|stretch| [stretch; 8]);
        let other = (900..910).rev().flat_map(|stretch| [stretch; 8]);
        let both = asked(one.zip(other).flat_map(|(one, other)| [one, other]));
        assert_eq!(both.len(), 22);
        assert!((10..=20).chain(899..910).all(|stretch| both.contains(&stretch)));
    }

    #[test]
    fn who_jumps_about_gets_nothing() {
        assert_eq!(asked((0..5000).map(|nth: u64| nth * 7919 % 499)), [0_u64; 0]);
        assert_eq!(asked([1, 1, 9, 2, 2, 8, 3, 3]), [0_u64; 0]);
    }
}
