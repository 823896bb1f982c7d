//! How soon is the next one started? At once, unless one after the other dies by itself.

use std::time::{Duration, Instant};

/// Who lived for so long is no reason to wait.
const LIFE: Duration = Duration::from_secs(2);
/// The first pause, which is doubled from one to the next.
const PAUSE_MIN: Duration = Duration::from_millis(10);
/// The longest pause: whoever waits for an answer waits that much longer.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// What was seen so far.
#[derive(Debug)]
pub(super) struct BackOff {
    pause: Duration,
    started: Instant,
}

impl BackOff {
    pub(super) fn new() -> BackOff {
        BackOff { pause: Duration::ZERO, started: Instant::now() }
    }

    /// One was started.
    pub(super) fn note_start(&mut self) {
        self.started = Instant::now();
    }

    /// One died; returns how long to wait. Who was ended from outside says nothing about the next one.
    pub(super) fn pause(&mut self, was_killed: bool) -> Duration {
        if was_killed || self.started.elapsed() >= LIFE {
            self.pause = Duration::ZERO;
            return Duration::ZERO;
        }
        let pause = self.pause;
        self.pause = pause.saturating_mul(2).clamp(PAUSE_MIN, PAUSE_MAX);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_and_end_with_a_kill() {
        let mut back_off = BackOff::new();
        let pauses: Vec<u128> = (0..10).map(|_| back_off.pause(false).as_millis()).collect();
        assert_eq!(pauses, [0, 10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
        assert_eq!(back_off.pause(true), Duration::ZERO);
        assert_eq!(back_off.pause(false), Duration::ZERO);
    }
}
