//! How are other copies looked for? By threads of their own: whoever asks does not wait for ever for a disk, a server or a computation.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::{Cure, Healer, Listener, Outcome, Part, Wanted};
use crate::error::Error;
use crate::store::lock;

/// How long one who wants bytes waits for the search. It goes on, and who comes later finds what it found out.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long nobody looks again for what nobody has.
const REST: Duration = Duration::from_secs(1);
/// Most searches at once. When all of them wait for something, there is no use in one more.
const SEARCHES_MAX: usize = 8;
/// Stack of a thread that searches, which may speak TLS.
const STACK_LEN: usize = 1 << 20;
/// Parts that are remembered as healed or lost, some 2 MiB; further ones are counted each time.
const REMEMBERED_MAX: usize = 65_536;

/// Who looks, and what came of it so far.
pub(super) struct Healing {
    /// In the order in which they are asked.
    pub(super) healers: Vec<Arc<dyn Healer>>,
    /// Whether an image is being restored. Then another one may say what the superblock is: any file becomes the image that is
    /// wanted, if there is a copy of that, which is good for nobody who looks for it. And nobody but one waits.
    is_restored: bool,
    searches: Mutex<HashMap<Part, Arc<Search>>>,
    healed: [AtomicU64; Cure::ALL.len()],
    remembered: Mutex<Remembered>,
    listener: OnceLock<Listener>,
}

#[derive(Debug, Default)]
struct Remembered {
    parts: HashMap<Part, Last>,
    lost: u64,
}

/// How it ended the last time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Last {
    Healed,
    Lost(Instant),
}

impl Remembered {
    /// Takes an outcome down; whether it is news.
    fn note(&mut self, part: Part, is_lost: bool) -> bool {
        let was_lost = self.parts.get(&part).map(|last| *last != Last::Healed);
        if was_lost.is_some() || self.parts.len() < REMEMBERED_MAX {
            self.parts
                .insert(part, if is_lost { Last::Lost(Instant::now()) } else { Last::Healed });
        }
        match (was_lost, is_lost) {
            (Some(true), false) => self.lost = self.lost.saturating_sub(1),
            (None | Some(false), true) => self.lost = self.lost.saturating_add(1),
            _ => {}
        }
        was_lost != Some(is_lost) && self.parts.contains_key(&part)
    }

    /// Whether it was looked for just now, and nobody had it.
    fn is_given_up(&self, part: Part) -> bool {
        matches!(self.parts.get(&part), Some(Last::Lost(when)) if when.elapsed() < REST)
    }
}

/// A search under way.
#[derive(Debug, Default)]
struct Search {
    ended: Mutex<Option<Found>>,
    changed: Condvar,
}

/// What a search found.
#[derive(Debug, Clone)]
pub(super) enum Found {
    /// A true copy.
    Bytes(Arc<[u8]>),
    /// Nobody has one.
    Nowhere,
    /// It is not known yet.
    NotYet,
}

impl Search {
    fn end(&self, found: Found) {
        lock(&self.ended).get_or_insert(found);
        self.changed.notify_all();
    }

    /// Waits for the end, but not for ever.
    fn wait(&self, patience: Duration) -> Found {
        let ended = lock(&self.ended);
        let waited = self.changed.wait_timeout_while(ended, patience, |ended| ended.is_none());
        let (ended, _) = waited.unwrap_or_else(PoisonError::into_inner);
        ended.clone().unwrap_or(Found::NotYet)
    }
}

impl Healing {
    pub(super) fn new(healers: Vec<Arc<dyn Healer>>, is_restored: bool) -> Self {
        Healing {
            healers,
            is_restored,
            searches: Mutex::default(),
            healed: Default::default(),
            remembered: Mutex::default(),
            listener: OnceLock::new(),
        }
    }

    pub(super) fn listen(&self, listener: Listener) {
        drop(self.listener.set(listener));
    }

    pub(super) fn healed(&self) -> Vec<(Cure, u64)> {
        let counts = self.healed.iter().map(|count| count.load(Ordering::Relaxed));
        Cure::ALL.iter().map(|(cure, _)| *cure).zip(counts).collect()
    }

    pub(super) fn lost(&self) -> u64 {
        lock(&self.remembered).lost
    }

    /// Whether a part was looked for just now, and nobody had it.
    pub(super) fn has_given_up(&self, part: Part) -> bool {
        lock(&self.remembered).is_given_up(part)
    }

    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        lock(&self.searches).is_empty()
    }

    /// Takes down that nobody is there to be asked.
    pub(super) fn lose(&self, wanted: &Wanted, err: &Error) {
        let (why, took) = (err.to_string(), Duration::ZERO);
        self.conclude(Outcome { wanted: *wanted, why, cure: None, took });
    }

    /// Looks for a true copy, or waits for who does; `err` is what was wrong with the image's own.
    pub(super) fn find(self: &Arc<Self>, wanted: &Wanted, err: &Error) -> Found {
        let patience = if self.is_restored { Duration::MAX } else { PATIENCE };
        let begun = {
            let mut searches = lock(&self.searches);
            if let Some(search) = searches.get(&wanted.part) {
                let search = Arc::clone(search);
                drop(searches);
                return search.wait(patience);
            }
            if searches.len() >= SEARCHES_MAX {
                return Found::NotYet;
            }
            let search = Arc::<Search>::default();
            searches.insert(wanted.part, Arc::clone(&search));
            search
        };
        let (healing, wanted) = (Arc::clone(self), *wanted);
        // Ends it whatever happens, also when there is no thread.
        let ending = Ending { healing, part: wanted.part, search: Arc::clone(&begun) };
        let (why, is_unread) = (err.to_string(), matches!(err, Error::Io { .. }));
        let thread = thread::Builder::new().name("heal".to_owned()).stack_size(STACK_LEN);
        if let Err(err) = thread.spawn(move || ending.run(&wanted, why, is_unread)) {
            tracing::warn!("cannot look for another copy: {err}");
        }
        begun.wait(patience)
    }

    /// The first copy that is true. What could not be read is not read once more before everybody else was asked: a bad sector
    /// takes half a minute.
    fn search(&self, wanted: &Wanted, is_unread: bool) -> Option<(Cure, Vec<u8>)> {
        let is_true = |bytes: &Vec<u8>| bytes.len() == wanted.len && wanted.judge(bytes).is_ok();
        let is_own = |cure| matches!(cure, Cure::Reread | Cure::Fec);
        let may_say = |healer: &&Arc<dyn Healer>| {
            wanted.part != Part::Superblock || self.is_restored || is_own(healer.cure())
        };
        let is_late = |healer: &&Arc<dyn Healer>| is_unread && healer.cure() == Cure::Reread;
        let soon = self.healers.iter().filter(|healer| !is_late(healer));
        let late = self.healers.iter().filter(is_late);
        soon.chain(late).filter(may_say).find_map(|healer| {
            healer.copies(wanted).find(is_true).map(|bytes| (healer.cure(), bytes))
        })
    }

    fn conclude(&self, outcome: Outcome) {
        let (part, cure) = (outcome.wanted.part, outcome.cure);
        let counter = Cure::ALL.iter().zip(&self.healed).find(|((of, _), _)| Some(*of) == cure);
        if let Some((_, counter)) = counter {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        if !lock(&self.remembered).note(part, cure.is_none()) {
            return;
        }
        match (self.listener.get(), cure) {
            (Some(listener), _) => listener(outcome),
            (None, Some(cure)) => {
                let why = outcome.why;
                tracing::warn!(source = cure.name(), "{part} is healed: {why}");
            }
            // Whoever asked is told.
            (None, None) => {}
        }
    }
}

/// Ends a search, also one that panicked: nobody waits for ever.
struct Ending {
    healing: Arc<Healing>,
    part: Part,
    search: Arc<Search>,
}

impl Ending {
    fn run(self, wanted: &Wanted, why: String, is_unread: bool) {
        let begun = Instant::now();
        let found = self.healing.search(wanted, is_unread);
        let cure = found.as_ref().map(|(cure, _)| *cure);
        self.healing.conclude(Outcome { wanted: *wanted, why, cure, took: begun.elapsed() });
        self.end(found.map_or(Found::Nowhere, |(_, bytes)| Found::Bytes(bytes.into())));
    }

    /// Who comes after this begins anew, so nobody may find it any more when it has ended.
    fn end(&self, found: Found) {
        let mut searches = lock(&self.healing.searches);
        if searches.get(&self.part).is_some_and(|search| Arc::ptr_eq(search, &self.search)) {
            searches.remove(&self.part);
        }
        drop(searches);
        self.search.end(found);
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.end(Found::NotYet);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_lost_is_news_once_and_rests() {
        let mut remembered = Remembered::default();
        let part = Part::TablePage(1);
        assert!(!remembered.is_given_up(part));
        assert!(remembered.note(part, true) && !remembered.note(part, true));
        assert!(remembered.is_given_up(part) && !remembered.is_given_up(Part::PageList));
        assert!(remembered.note(part, false));
        assert!(!remembered.is_given_up(part));
        assert_eq!(remembered.lost, 0);
    }
}
