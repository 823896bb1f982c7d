//! How many lines may be logged? So many in a minute, and the log does not become the next problem.

use std::time::{Duration, Instant};

/// The time in which lines are counted.
const WINDOW: Duration = Duration::from_mins(1);

/// What was logged in this window.
#[derive(Debug, Default)]
pub(super) struct Allowance {
    begun: Option<Instant>,
    lines: u32,
}

impl Allowance {
    /// Takes a line, if there were not `lines_max` in this minute.
    pub(super) fn take(&mut self, lines_max: u32, now: Instant) -> bool {
        if self.begun.is_none_or(|begun| now.saturating_duration_since(begun) > WINDOW) {
            *self = Allowance { begun: Some(now), lines: 0 };
        }
        let may = self.lines < lines_max;
        self.lines = self.lines.saturating_add(may.into());
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_later_there_may_be_more() {
        let mut lines = Allowance::default();
        let now = Instant::now();
        let taken = |lines: &mut Allowance, now| (0..10).filter(|_| lines.take(3, now)).count();
        assert_eq!(taken(&mut lines, now), 3);
        let later = now.checked_add(WINDOW).unwrap();
        assert_eq!(taken(&mut lines, later), 0);
        let later = later.checked_add(Duration::from_millis(1)).unwrap();
        assert_eq!(taken(&mut lines, later), 3);
    }
}
