//! What was found when nobody waited for it any more? Whoever lost patience asks again, mostly, and need not wait for the same once more.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Part;

/// How long it is kept.
const KEPT: Duration = Duration::from_mins(1);
/// Most that are kept, and most of their bytes.
const COUNT_MAX: usize = 16;
const LEN_MAX: usize = 4 << 20;

/// True copies that nobody has taken yet, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Late(VecDeque<(Instant, Part, Arc<[u8]>)>);

impl Late {
    /// Keeps one for a while, rather than older ones.
    pub(super) fn keep(&mut self, part: Part, bytes: &Arc<[u8]>, now: Instant) {
        self.0.push_back((now, part, Arc::clone(bytes)));
        while self.0.len() > COUNT_MAX || self.len() > LEN_MAX {
            self.0.pop_front();
        }
    }

    /// Gives one away.
    pub(super) fn take(&mut self, part: Part, now: Instant) -> Option<Arc<[u8]>> {
        self.0.retain(|(since, ..)| now.saturating_duration_since(*since) < KEPT);
        let nth = self.0.iter().position(|(_, of, _)| *of == part)?;
        self.0.remove(nth).map(|(_, _, bytes)| bytes)
    }

    fn len(&self) -> usize {
        self.0.iter().fold(0, |sum, (_, _, bytes)| sum.saturating_add(bytes.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_are_kept_and_not_for_long() {
        let (mut late, now) = (Late::default(), Instant::now());
        let bytes = |len: usize| -> Arc<[u8]> { vec![7; len].into() };
        let part = Part::TablePage;
        for nth in 0..20 {
            late.keep(part(nth), &bytes(1), now);
        }
        assert!(late.take(part(3), now).is_none() && late.take(part(4), now).is_some());
        assert!(late.take(part(4), now).is_none(), "it is given away");
        late.keep(part(30), &bytes(LEN_MAX), now);
        assert!(late.take(part(19), now).is_none(), "there is no room for more");
        assert!(late.take(part(30), now + KEPT).is_none());
        assert_eq!(late.len(), 0);
        late.keep(part(31), &bytes(LEN_MAX + 1), now);
        assert_eq!(late.len(), 0);
    }
}
