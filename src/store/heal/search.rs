//! How are other copies looked for? By threads of their own: whoever asks does not wait for ever for a disk, a server or a computation.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::calls::Calls;
use super::late::Late;
use super::{Cure, Healer, Healers, Listener, Outcome, Part, Unknown, Wanted};
use crate::error::Error;
use crate::store::lock;

/// How long one who wants bytes waits for the search. It goes on, and who comes later finds what it found out.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long one may take who is asked before others pass it over: its disk may be dead. Half of what one waits who wants
/// bytes, so that the other half is left for those who are asked next.
const HANG: Duration = Duration::from_secs(10);
/// How often it is looked whether one hangs.
const STEP: Duration = Duration::from_millis(200);
/// How long nobody looks again for what nobody has.
const REST: Duration = Duration::from_secs(1);
/// Most searches at once, besides those that parity works for. When all of them wait for something, there is no use in one more.
const SEARCHES_MAX: usize = 8;
/// Stack of a thread that searches, which may speak TLS.
const STACK_LEN: usize = 1 << 20;
/// Parts that are remembered as healed or lost, some 2 MiB; further ones are counted each time.
const REMEMBERED_MAX: usize = 65_536;

/// Who looks, and what came of it so far.
pub(super) struct Healing {
    pub(super) healers: Healers,
    /// Whether an image is being restored. Then another one may say what the superblock is: any file becomes the image that is
    /// wanted, if there is a copy of that, which is good for nobody who looks for it. And nobody but one waits.
    is_restored: bool,
    searches: Mutex<HashMap<Part, Arc<Search>>>,
    /// What was found when nobody waited any more. It is locked while `searches` is, or alone.
    late: Mutex<Late>,
    healed: [AtomicU64; Cure::ALL.len()],
    remembered: Mutex<Remembered>,
    listener: OnceLock<Listener>,
    /// Whether whoever reads has no more patience than usual, whatever was said.
    is_awaited: AtomicBool,
    calls: Calls,
    begun: AtomicU64,
    pub(super) limits: Limits,
}

/// How long somebody is waited for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// The search, by one who wants bytes.
    pub(super) patience: Duration,
    /// A healer, before it is passed over.
    pub(super) hang: Duration,
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
#[derive(Debug)]
struct Search {
    number: u64,
    begun: Instant,
    ended: Mutex<Option<Found>>,
    changed: Condvar,
    /// Whether a second thread looks, for the first one waits for who does not come back.
    has_second: AtomicBool,
    /// Whether one of them knows the end.
    is_concluded: AtomicBool,
}

/// A true copy, if there is one; nothing is known while somebody was passed over or cannot tell, or when others know it already.
type Sought = Result<Option<(Cure, Vec<u8>)>, Unknown>;

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
    fn new(number: u64) -> Self {
        Search {
            number,
            begun: Instant::now(),
            ended: Mutex::default(),
            changed: Condvar::new(),
            has_second: AtomicBool::new(false),
            is_concluded: AtomicBool::new(false),
        }
    }

    fn end(&self, found: Found) {
        lock(&self.ended).get_or_insert(found);
        self.changed.notify_all();
    }

    /// Waits for the end, but not for ever.
    fn wait(&self, patience: Duration) -> Option<Found> {
        let ended = lock(&self.ended);
        let waited = self.changed.wait_timeout_while(ended, patience, |ended| ended.is_none());
        let (ended, _) = waited.unwrap_or_else(PoisonError::into_inner);
        ended.clone()
    }
}

impl Healing {
    pub(super) fn new(healers: Healers, is_restored: bool) -> Self {
        // Nobody else waits for who restores an image, and who does can stop it.
        let limits = if is_restored {
            Limits { patience: Duration::MAX, hang: Duration::MAX }
        } else {
            Limits { patience: PATIENCE, hang: HANG }
        };
        Healing {
            healers,
            calls: Calls::default(),
            begun: AtomicU64::new(0),
            limits,
            is_restored,
            searches: Mutex::default(),
            late: Mutex::default(),
            healed: Default::default(),
            remembered: Mutex::default(),
            listener: OnceLock::new(),
            is_awaited: AtomicBool::new(false),
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

    /// From now on nobody waits longer than usual.
    pub(super) fn end_patience(&self) {
        self.is_awaited.store(true, Ordering::Relaxed);
    }

    /// How long one waits who wants bytes now.
    fn patience(&self) -> Duration {
        let is_patient = !self.is_awaited.load(Ordering::Relaxed);
        let until = self.healers.patient_until.filter(|_| is_patient);
        let more = until.map(|until| until.saturating_duration_since(Instant::now()));
        self.limits.patience.max(more.unwrap_or_default())
    }

    /// Looks for a true copy, or waits for who does; `err` is what was wrong with the image's own.
    pub(super) fn find(self: &Arc<Self>, wanted: &Wanted, err: &Error) -> Found {
        let (patience, hang) = (self.patience(), self.limits.hang);
        let hangs = |search: &Search| self.calls.holds_up(search.number, hang);
        let mut searches = lock(&self.searches);
        let known = searches.get(&wanted.part).cloned();
        let is_new = known.is_none();
        if is_new && let Some(bytes) = lock(&self.late).take(wanted.part, Instant::now()) {
            return Found::Bytes(bytes);
        }
        // Those that hang are none that others have to wait for, nor are those that parity works for: both have limits of their own.
        let counts = |search: &&Arc<Search>| !hangs(search) && !self.calls.is_long(search.number);
        if is_new && searches.values().filter(counts).count() >= SEARCHES_MAX {
            return Found::NotYet;
        }
        let search = known
            .unwrap_or_else(|| Arc::new(Search::new(self.begun.fetch_add(1, Ordering::Relaxed))));
        if is_new {
            searches.insert(wanted.part, Arc::clone(&search));
        }
        drop(searches);
        if is_new {
            self.begin(wanted, err, &search, true);
        }
        let begun = Instant::now();
        loop {
            if hangs(&search) && !search.has_second.swap(true, Ordering::AcqRel) {
                self.begin(wanted, err, &search, false);
            }
            let left = patience.saturating_sub(begun.elapsed());
            match search.wait(left.min(STEP)) {
                Some(found) => return found,
                None if left.is_zero() => return Found::NotYet,
                None => {}
            }
        }
    }

    /// Has a thread look, the first one or a second one.
    fn begin(self: &Arc<Self>, wanted: &Wanted, err: &Error, search: &Arc<Search>, is_first: bool) {
        let (healing, search, wanted) = (Arc::clone(self), Arc::clone(search), *wanted);
        let first = self.healers.first;
        // Ends it whatever happens, also when there is no thread.
        let ending = Ending { healing, part: wanted.part, search, is_first, is_due: is_first };
        let (why, is_unread) = (err.to_string(), matches!(err, Error::Io { .. }));
        let thread = thread::Builder::new().name("heal".to_owned()).stack_size(STACK_LEN);
        if let Err(err) = thread.spawn(move || {
            first();
            ending.run(&wanted, why, is_unread);
        }) {
            tracing::warn!("cannot look for another copy: {err}");
        }
    }

    /// The first copy that is true. What could not be read is not read once more before everybody else was asked: a bad sector
    /// takes half a minute. Who hangs is passed over, and asked last if that was no more than slowness.
    fn search(&self, wanted: &Wanted, is_unread: bool, search: &Search) -> Sought {
        let is_own = |cure| matches!(cure, Cure::Reread | Cure::Fec);
        let is_late = |cure| is_unread && cure == Cure::Reread;
        let all = self.healers.all.iter().enumerate();
        let mut order: Vec<(usize, &Arc<dyn Healer>)> = all.collect();
        order.retain(|(_, healer)| {
            wanted.part != Part::Superblock || self.is_restored || is_own(healer.cure())
        });
        order.sort_by_key(|(_, healer)| is_late(healer.cure()));
        let mut passed_over = Vec::new();
        // What one does not know, the next one may have.
        let mut nobody = Ok(None);
        for (nth, healer) in order {
            if self.calls.has_hung(nth, self.limits.hang) {
                passed_over.push((nth, healer));
                continue;
            }
            match self.ask(nth, healer, wanted, search) {
                Ok(None) => {}
                Ok(found) => return Ok(found),
                Err(Unknown) => nobody = Err(Unknown),
            }
        }
        let (begun, patience) = (Instant::now(), self.patience());
        for (nth, healer) in passed_over {
            while self.calls.has_hung(nth, self.limits.hang) {
                if begun.elapsed() >= patience {
                    return Err(Unknown);
                }
                thread::sleep(STEP);
            }
            match self.ask(nth, healer, wanted, search) {
                Ok(None) => {}
                Ok(found) => return Ok(found),
                Err(Unknown) => nobody = Err(Unknown),
            }
        }
        nobody
    }

    fn ask(
        &self,
        nth: usize,
        healer: &Arc<dyn Healer>,
        wanted: &Wanted,
        search: &Search,
    ) -> Sought {
        // The other thread of this search may have been sooner.
        if search.is_concluded.load(Ordering::Acquire) {
            return Err(Unknown);
        }
        let cure = healer.cure();
        // Parity may take minutes, and has a patience of its own. It reads no disk but that of the image itself.
        let under_way = match cure {
            Cure::Fec => self.calls.begin_long(nth, search.number).ok_or(Unknown)?,
            _ => self.calls.begin(nth, search.number),
        };
        let is_true = |bytes: &Vec<u8>| bytes.len() == wanted.len && wanted.judge(bytes).is_ok();
        let mut nothing = Ok(None);
        for copy in healer.copies(wanted) {
            match copy {
                Ok(bytes) if is_true(&bytes) => return Ok(Some((cure, bytes))),
                Ok(_) => {}
                Err(Unknown) => nothing = Err(Unknown),
            }
        }
        drop(under_way);
        nothing
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
    /// Whether this is the thread that the search began with.
    is_first: bool,
    /// Whether the search ends with this: a second thread that finds nothing leaves it to the first one.
    is_due: bool,
}

impl Ending {
    fn run(mut self, wanted: &Wanted, why: String, is_unread: bool) {
        let begun = Instant::now();
        let Ok(found) = self.healing.search(wanted, is_unread, &self.search) else {
            self.is_due &= !self.search.is_concluded.load(Ordering::Acquire);
            if !self.is_first {
                // Who asks later has somebody look again.
                self.search.has_second.store(false, Ordering::Release);
            }
            return;
        };
        self.is_due = !self.search.is_concluded.swap(true, Ordering::AcqRel);
        if !self.is_due {
            return;
        }
        let cure = found.as_ref().map(|(cure, _)| *cure);
        self.healing.conclude(Outcome { wanted: *wanted, why, cure, took: begun.elapsed() });
        self.end(found.map_or(Found::Nowhere, |(_, bytes)| Found::Bytes(bytes.into())));
    }

    /// Who comes after this begins anew, so nobody may find it any more when it has ended.
    fn end(&self, found: Found) {
        let mut searches = lock(&self.healing.searches);
        // Whoever caused the search waits no more, or not much longer.
        let is_late =
            self.search.begun.elapsed().saturating_add(STEP) >= self.healing.limits.patience;
        if let Found::Bytes(bytes) = &found
            && is_late
        {
            lock(&self.healing.late).keep(self.part, bytes, Instant::now());
        }
        if searches.get(&self.part).is_some_and(|search| Arc::ptr_eq(search, &self.search)) {
            searches.remove(&self.part);
        }
        drop(searches);
        self.search.end(found);
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        if self.is_due {
            self.end(Found::NotYet);
        }
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
