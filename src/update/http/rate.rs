//! How fast may bytes come, and how slowly?

use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::format::field::u64_from_usize;

/// Most bytes that are read at once.
const PIECE_MAX: u64 = 64 << 10;
/// Fewest bytes that must come in the time in which some must: who sends less has stopped, whatever trickles in.
const TRICKLE: u64 = 4 << 10;

/// Most bytes in a second, on all connections together. What was not used in one second is not made up for in the next.
#[derive(Debug)]
pub(super) struct Rate {
    bytes_per_second: u64,
    /// When everything that came is paid for.
    paid_at: Mutex<Instant>,
}

impl Rate {
    pub(super) fn new(bytes_per_second: u64) -> Rate {
        Rate { bytes_per_second: bytes_per_second.max(1), paid_at: Mutex::new(Instant::now()) }
    }

    /// Bytes that are worth one pause: an eighth of a second.
    fn piece_len(&self) -> u64 {
        self.bytes_per_second.checked_div(8).unwrap_or(0).clamp(1, PIECE_MAX)
    }

    /// Bytes that come in about twenty seconds.
    pub(super) fn range_len(&self) -> u64 {
        self.bytes_per_second.saturating_mul(20)
    }

    /// Waits as long as the bytes that just came should have taken.
    pub(super) fn pay(&self, bytes: usize) {
        let nanoseconds = u64_from_usize(bytes).saturating_mul(1_000_000_000);
        let cost = Duration::from_nanos(
            nanoseconds.checked_div(self.bytes_per_second).unwrap_or_default(),
        );
        let now = Instant::now();
        let paid_at = {
            let mut paid_at = self.paid_at.lock().unwrap_or_else(PoisonError::into_inner);
            let from = (*paid_at).max(now);
            *paid_at = from.checked_add(cost).unwrap_or(from);
            *paid_at
        };
        thread::sleep(paid_at.saturating_duration_since(now));
    }
}

/// How many bytes are read at once.
pub(super) fn piece_len(rate: Option<&Rate>) -> usize {
    usize::try_from(rate.map_or(PIECE_MAX, Rate::piece_len)).unwrap_or(1)
}

/// Whether a server still sends.
#[derive(Debug)]
pub(super) struct Pace {
    timeout: Duration,
    waited: Duration,
    bytes: u64,
}

impl Pace {
    pub(super) fn new(timeout: Duration) -> Pace {
        Pace { timeout, waited: Duration::ZERO, bytes: 0 }
    }

    /// Bytes came after we had waited for them. Returns whether that is too slow.
    pub(super) fn is_stalled(&mut self, waited: Duration, bytes: usize) -> bool {
        self.waited = self.waited.saturating_add(waited);
        self.bytes = self.bytes.saturating_add(u64_from_usize(bytes));
        if self.waited < self.timeout {
            return false;
        }
        let is_stalled = self.bytes < TRICKLE;
        *self = Pace::new(self.timeout);
        is_stalled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_take_their_time_whoever_reads_them() {
        let rate = Rate::new(1_000_000);
        let start = Instant::now();
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..5).for_each(|_| rate.pay(10_000)));
            }
        });
        let took = start.elapsed();
        assert!(took >= Duration::from_millis(200), "{took:?}");
        assert!(took < Duration::from_millis(400), "{took:?}");
    }

    #[test]
    fn a_trickle_is_a_stall() {
        let (second, mut pace) = (Duration::from_secs(1), Pace::new(Duration::from_secs(10)));
        let stalled: Vec<bool> = (0..10).map(|_| pace.is_stalled(second, 100)).collect();
        assert_eq!(stalled.iter().position(|stalled| *stalled), Some(9));
        assert!((0..100).all(|_| !pace.is_stalled(second, 1000)));
    }

    #[test]
    fn pieces_are_worth_reading() {
        assert_eq!(piece_len(None), 64 << 10);
        assert_eq!(piece_len(Some(&Rate::new(0))), 1);
        assert_eq!(piece_len(Some(&Rate::new(80_000))), 10_000);
        assert_eq!(Rate::new(u64::MAX).range_len(), u64::MAX);
    }
}
