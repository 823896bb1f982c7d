//! How long may a boot wait for its disk? One that is dying answers late or never, and behind each image is one more.

use std::time::{Duration, Instant};

use super::Failed;

/// How long a server may take until its mount answers. It reads a few MiB; a disk that needs longer than this is dying, and
/// another image, on another part of it, may still be read.
const EACH: Duration = Duration::from_mins(2);
/// So much earlier than that it gives up what it looks for elsewhere, which may take parity all of that: so that it is its own
/// error that is told.
const BEFORE_THAT: Duration = Duration::from_secs(10);
/// After this no further image is tried: three that did not answer are no accident, and whoever waits for the machine, a
/// person or a watchdog, must learn of it.
const ALL: Duration = Duration::from_mins(6);

/// Until when bytes are waited for that an image does not have any more, by one who opens it now. Nobody uses it yet whom an error
/// would help more, and without these bytes the image is given up.
pub(super) fn to_heal() -> Option<Instant> {
    Instant::now().checked_add(EACH.saturating_sub(BEFORE_THAT))
}

/// What is left of it.
#[derive(Debug, Clone, Copy)]
pub struct Patience(Instant);

impl Patience {
    /// All of it, from now on.
    pub fn begin() -> Patience {
        Patience(Instant::now())
    }

    /// How long the next server may take.
    pub fn left(self) -> Result<Duration, Failed> {
        left(self.0.elapsed()).ok_or_else(|| {
            Failed::new(format_args!("the disk took more than {} min already", ALL.as_secs() / 60))
        })
    }
}

fn left(passed: Duration) -> Option<Duration> {
    ALL.checked_sub(passed).filter(|left| !left.is_zero()).map(|left| left.min(EACH))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_ends_however_many_images_there_are() {
        let mut passed = Duration::ZERO;
        let mut tried = 0;
        while let Some(wait) = left(passed) {
            assert!(wait <= EACH);
            passed += wait;
            tried += 1;
        }
        assert_eq!((tried, passed), (3, ALL));
        // The last one that is tried gets what is left.
        let second = Duration::from_secs(1);
        assert_eq!(left(ALL.saturating_sub(second)), Some(second));
        assert_eq!(left(ALL + EACH), None);
        assert!(Patience::begin().left().is_ok());
    }
}
