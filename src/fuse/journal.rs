//! What is being answered right now? Written down where it outlives the server, so that its successor knows.
//!
//! The kernel asks a successor again what a dead server left unanswered. If the question itself is what kills servers, that
//! would go on for ever: so whoever was at work in a crash is suspected, answered alone the next time, and with EIO after
//! three crashes. On kernels that cannot ask again (before Linux 6.9) this page is all that is known of those questions.
#![allow(
    unsafe_code,
    reason = "words of a shared page: the one block says why each is there and aligned"
)]

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError};
use std::thread;
use std::time::Duration;

use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::time::ClockId;

use crate::format::field::u64_from_usize;

/// Length of the page in bytes; it is smaller than or equal to every page size of Linux.
const LEN: usize = 4096;
/// What these words mean. A page of another layout is not read.
const LAYOUT: u64 = 2;
/// The bit that the kernel sets in a question that it asks again (`FUSE_UNIQUE_RESEND`, Linux 6.9).
const ASKED_AGAIN: u64 = 1 << 63;

// Words of the page.
const LAYOUT_AT: usize = 0;
const TAKEOVERS_AT: usize = 1;
const SINCE_AT: usize = 2;
const PANICKED_AT: usize = 3;
const SLOTS_AT: usize = 16;
const SUSPECTS_AT: usize = 256;

/// Threads whose work is written down. There are four workers at most unless somebody asks for more.
const SLOT_COUNT: usize = 64;
/// Words of a slot: the question, when it came, and the last one that was ever there.
const SLOT_WORDS: usize = 3;
/// Questions that are suspected at a time: more than can be at work in one crash.
const SUSPECT_COUNT: usize = 64;
/// Words of a suspect: the question, and how much is held against it.
const SUSPECT_WORDS: usize = 2;

/// From here on a question is answered with EIO.
const GUILTY: u64 = 120;
/// From here on a question is answered when nothing else is.
const ALONE: u64 = 40;
/// How long it waits for that, and others for it.
const ALONE_PATIENCE: Duration = Duration::from_secs(1);

/// How a server ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Death {
    /// It crashed: a panic, or a signal of its own doing.
    Crashed,
    /// Somebody ended it, by SIGKILL. So does the kernel when memory is short.
    Killed,
    /// Nobody knows: it was no child of whom it left behind, or it ended by itself without a fault.
    Unknown,
    /// Its holder ended it, because it did not answer. That may be the disk's fault, and says nothing about a question.
    Replaced,
}

impl Death {
    /// What it says against who was at work: three crashes are proof, six deaths of unknown cause, and a hundred and
    /// twenty of the kind that comes from outside.
    fn weight(self) -> u64 {
        match self {
            Death::Crashed => 40,
            Death::Unknown => 20,
            Death::Killed => 1,
            Death::Replaced => 0,
        }
    }
}

thread_local! {
    /// The slot of this thread.
    static SLOT: Cell<Option<usize>> = const { Cell::new(None) };
}

/// The page, and what this process makes of it.
#[derive(Debug)]
pub struct Journal {
    memory: OwnedFd,
    words: MmapRaw,
    slots_given: AtomicUsize,
    /// Whether anybody is suspected. Only then there is a lock to be taken.
    has_suspects: AtomicBool,
    alone: RwLock<()>,
    /// Set when this server makes room for another one: whoever has answered stops.
    is_leaving: AtomicBool,
}

/// A question at work, until this is dropped.
#[derive(Debug)]
pub struct AtWork<'a> {
    journal: &'a Journal,
    slot: Option<usize>,
    suspect: Option<usize>,
    /// Kept, not used: whoever is suspected waits for the others, and they for it.
    others: Option<RwLockReadGuard<'a, ()>>,
    alone: Option<RwLockWriteGuard<'a, ()>>,
}

impl Journal {
    /// A new page. `since` is when it was mounted, in seconds since 1970-01-01 UTC.
    pub fn create(since: u64) -> io::Result<Journal> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let memory = rustix::fs::memfd_create(c"ashlar-journal", flags)?;
        rustix::fs::ftruncate(&memory, u64_from_usize(LEN))?;
        let journal = Journal::open(memory)?;
        journal.word(SINCE_AT).store(since, Ordering::Relaxed);
        journal.word(LAYOUT_AT).store(LAYOUT, Ordering::Relaxed);
        Ok(journal)
    }

    /// The page that a predecessor wrote; [`inherit`](Self::inherit) is to be called before anything is answered.
    pub fn open(memory: OwnedFd) -> io::Result<Journal> {
        // A page that could shrink would end us by SIGBUS.
        rustix::fs::fcntl_add_seals(&memory, SealFlags::SHRINK | SealFlags::GROW)?;
        let len = rustix::fs::fstat(&memory)?.st_size;
        if u64::try_from(len).unwrap_or(0) < u64_from_usize(LEN) {
            return Err(io::Error::other("the journal is too short"));
        }
        let words = MmapOptions::new().len(LEN).map_raw(&memory)?;
        Ok(Journal {
            memory,
            words,
            slots_given: AtomicUsize::new(0),
            has_suspects: AtomicBool::new(false),
            alone: RwLock::new(()),
            is_leaving: AtomicBool::new(false),
        })
    }

    /// A new page with what this one says of the mount: for a server that comes while another one still writes here.
    pub fn fresh(&self) -> io::Result<Journal> {
        let fresh = Journal::create(self.since())?;
        fresh.word(TAKEOVERS_AT).store(self.takeovers(), Ordering::Relaxed);
        Ok(fresh)
    }

    /// The page's memory, for a successor.
    pub fn memory(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }

    /// How often a server was replaced that had died.
    pub fn takeovers(&self) -> u64 {
        self.word(TAKEOVERS_AT).load(Ordering::Relaxed)
    }

    /// When it was mounted, in seconds since 1970-01-01 UTC.
    pub fn since(&self) -> u64 {
        self.word(SINCE_AT).load(Ordering::Relaxed)
    }

    /// Writes down that this process panics and is about to end.
    pub fn note_panic(&self) {
        self.word(PANICKED_AT).store(1, Ordering::Release);
    }

    /// Takes over what a dead server left: suspects whoever was at work. Returns the questions that may be unanswered: these, and those
    /// that were suspected before, for whoever was answered is not.
    pub fn inherit(&self, death: Death) -> Vec<u64> {
        if self.word(LAYOUT_AT).load(Ordering::Relaxed) != LAYOUT {
            // Another program's page: what it says of time and number of deaths is lost with the rest.
            (0..LEN / 8).for_each(|nth| self.word(nth).store(0, Ordering::Relaxed));
            self.word(LAYOUT_AT).store(LAYOUT, Ordering::Relaxed);
        }
        let panicked = self.word(PANICKED_AT).swap(0, Ordering::AcqRel) != 0;
        let death = if panicked { Death::Crashed } else { death };
        self.word(TAKEOVERS_AT).fetch_add(1, Ordering::Relaxed);
        for slot in 0..SLOT_COUNT {
            let unique = self.slot(slot, 0).swap(0, Ordering::AcqRel);
            if unique != 0 {
                self.suspect(unique, death.weight());
            }
        }
        let suspects = (0..SUSPECT_COUNT).map(|nth| self.suspected(nth, 0).load(Ordering::Relaxed));
        let left: Vec<u64> = suspects.filter(|unique| *unique != 0).collect();
        self.has_suspects.store(!left.is_empty(), Ordering::Release);
        left
    }

    /// Writes down that a question is at work. `None` when it has ended too many servers: then it is answered with EIO.
    pub fn enter(&self, unique: u64) -> Option<AtWork<'_>> {
        let plain = unique & !ASKED_AGAIN;
        let mut at_work =
            AtWork { journal: self, slot: None, suspect: None, others: None, alone: None };
        if self.has_suspects.load(Ordering::Acquire) {
            at_work.suspect = self.find(plain);
            let score =
                at_work.suspect.map_or(0, |nth| self.suspected(nth, 1).load(Ordering::Relaxed));
            if score >= GUILTY {
                return None;
            }
            // Not for ever: what one question waits for may be another one's answer.
            if score >= ALONE {
                at_work.alone = soon(|| self.alone.try_write());
            } else {
                at_work.others = soon(|| self.alone.try_read());
            }
        }
        at_work.slot = self.own_slot();
        if let Some(slot) = at_work.slot {
            self.slot(slot, 1).store(now_ms(), Ordering::Relaxed);
            self.slot(slot, 2).store(plain, Ordering::Relaxed);
            self.slot(slot, 0).store(plain, Ordering::Release);
        }
        Some(at_work)
    }

    /// The latest question that anybody has written down here. The kernel numbers them in the order in which it asks.
    pub fn latest(&self) -> u64 {
        (0..SLOT_COUNT).map(|slot| self.slot(slot, 2).load(Ordering::Relaxed)).max().unwrap_or(0)
    }

    /// The questions that have been at work for longer than so, and for how long.
    pub fn older_than(&self, patience: Duration) -> impl Iterator<Item = (u64, Duration)> {
        let now = now_ms();
        let ages = (0..SLOT_COUNT).filter_map(move |slot| {
            let unique = self.slot(slot, 0).load(Ordering::Acquire);
            let since = self.slot(slot, 1).load(Ordering::Relaxed);
            (unique != 0).then(|| (unique, Duration::from_millis(now.saturating_sub(since))))
        });
        ages.filter(move |(_, age)| *age > patience)
    }

    /// From now on no thread of this process reads another question when it has answered one; returns when none is at
    /// work any more, or when `patience` is over.
    pub fn leave(&self, patience: Duration) {
        self.is_leaving.store(true, Ordering::SeqCst);
        let step = Duration::from_millis(1);
        let mut left = patience;
        // Who was between reading a question and writing it down has done so by then.
        thread::sleep(step);
        while self.is_at_work() && !left.is_zero() {
            thread::sleep(step);
            left = left.saturating_sub(step);
        }
    }

    fn is_at_work(&self) -> bool {
        let given = self.slots_given.load(Ordering::Relaxed).min(SLOT_COUNT);
        (0..given).any(|slot| self.slot(slot, 0).load(Ordering::Acquire) != 0)
    }

    /// This thread's slot; `None` where there are more threads than slots.
    fn own_slot(&self) -> Option<usize> {
        let slot = SLOT.get().unwrap_or_else(|| {
            let slot = self.slots_given.fetch_add(1, Ordering::Relaxed);
            SLOT.set(Some(slot));
            slot
        });
        (slot < SLOT_COUNT).then_some(slot)
    }

    fn find(&self, unique: u64) -> Option<usize> {
        (0..SUSPECT_COUNT).find(|nth| self.suspected(*nth, 0).load(Ordering::Relaxed) == unique)
    }

    /// Holds something against a question. Where too many are suspected, the least suspicious is forgotten.
    fn suspect(&self, unique: u64, weight: u64) {
        let score = |nth: &usize| self.suspected(*nth, 1).load(Ordering::Relaxed);
        let known = self.find(unique);
        let free = || self.find(0);
        let least = || (0..SUSPECT_COUNT).min_by_key(score);
        let Some(nth) = known.or_else(free).or_else(least) else { return };
        let before = if known.is_some() { score(&nth) } else { 0 };
        self.suspected(nth, 1).store(before.saturating_add(weight), Ordering::Relaxed);
        self.suspected(nth, 0).store(unique, Ordering::Relaxed);
    }

    fn slot(&self, slot: usize, word: usize) -> &AtomicU64 {
        self.word(SLOTS_AT.saturating_add(slot.saturating_mul(SLOT_WORDS)).saturating_add(word))
    }

    fn suspected(&self, nth: usize, word: usize) -> &AtomicU64 {
        self.word(
            SUSPECTS_AT.saturating_add(nth.saturating_mul(SUSPECT_WORDS)).saturating_add(word),
        )
    }

    /// A word of the page; what would lie outside is its last.
    fn word(&self, nth: usize) -> &AtomicU64 {
        let nth = nth.min(LEN / 8 - 1);
        #[expect(clippy::cast_ptr_alignment, reason = "a map begins at a page")]
        let first = self.words.as_mut_ptr().cast::<u64>();
        // SAFETY: the map has `LEN` bytes, is writable, begins at a page and lives as long as `self`; the file is sealed
        // against shrinking. `nth` is clamped, so the word is inside and aligned. It is only ever used as an atomic, by
        // every process that has the page.
        unsafe { AtomicU64::from_ptr(first.add(nth)) }
    }
}

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        let journal = self.journal;
        if let Some(nth) = self.suspect {
            // It was answered, so it was not this one.
            journal.suspected(nth, 1).store(0, Ordering::Relaxed);
            journal.suspected(nth, 0).store(0, Ordering::Relaxed);
            let is_suspected = |nth| journal.suspected(nth, 0).load(Ordering::Relaxed) != 0;
            if !(0..SUSPECT_COUNT).any(is_suspected) {
                journal.has_suspects.store(false, Ordering::Release);
            }
        }
        if let Some(slot) = self.slot {
            journal.slot(slot, 0).store(0, Ordering::Release);
        }
        if journal.is_leaving.load(Ordering::SeqCst) {
            // Whoever comes after us reads the next one. This process ends soon.
            self.others = None;
            self.alone = None;
            loop {
                thread::park();
            }
        }
    }
}

/// A lock, if it can be had in [`ALONE_PATIENCE`].
fn soon<T>(attempt: impl Fn() -> Result<T, TryLockError<T>>) -> Option<T> {
    let step = Duration::from_millis(1);
    let mut left = ALONE_PATIENCE;
    loop {
        match attempt() {
            Ok(lock) => return Some(lock),
            Err(TryLockError::Poisoned(lock)) => return Some(lock.into_inner()),
            Err(TryLockError::WouldBlock) if left.is_zero() => return None,
            Err(TryLockError::WouldBlock) => {
                thread::sleep(step);
                left = left.saturating_sub(step);
            }
        }
    }
}

/// Milliseconds of the coarse clock that stands still while the machine sleeps.
fn now_ms() -> u64 {
    let now = rustix::time::clock_gettime(ClockId::MonotonicCoarse);
    let secs = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(now.tv_nsec).unwrap_or(0);
    secs.saturating_mul(1000).saturating_add(nanos / 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same page for another process.
    fn successor(journal: &Journal) -> Journal {
        SLOT.set(None);
        Journal::open(journal.memory.try_clone().unwrap()).unwrap()
    }

    #[test]
    fn who_was_at_work_in_three_crashes_is_answered_with_an_error() {
        let mut journal = Journal::create(7).unwrap();
        for crash in 0..3 {
            let at_work = journal.enter(4 | if crash == 0 { 0 } else { ASKED_AGAIN });
            std::mem::forget(at_work.expect("not yet"));
            let next = successor(&journal);
            assert_eq!(next.inherit(Death::Crashed), [4]);
            journal = next;
        }
        assert!(journal.enter(4 | ASKED_AGAIN).is_none());
        assert!(journal.enter(6).is_some());
        assert_eq!((journal.takeovers(), journal.since()), (3, 7));
    }

    #[test]
    fn the_latest_question_is_known_when_it_was_answered() {
        let journal = Journal::create(0).unwrap();
        assert_eq!(journal.latest(), 0);
        drop(journal.enter(8 | ASKED_AGAIN));
        drop(journal.enter(4));
        assert_eq!(journal.latest(), 4, "of one thread");
        std::thread::scope(|scope| scope.spawn(|| drop(journal.enter(6))).join().unwrap());
        let next = successor(&journal);
        assert!(next.inherit(Death::Killed).is_empty());
        assert_eq!(next.latest(), 6);
    }

    #[test]
    fn who_was_answered_is_not_suspected_any_more() {
        let mut journal = Journal::create(0).unwrap();
        for _ in 0..10 {
            std::mem::forget(journal.enter(4).unwrap());
            journal = successor(&journal);
            journal.inherit(Death::Crashed);
            drop(journal.enter(4).expect("answered each second time"));
        }
        assert_eq!(journal.find(4), None);
    }

    #[test]
    fn a_kill_says_little_and_a_panic_is_a_crash() {
        let mut journal = Journal::create(0).unwrap();
        for _ in 0..119 {
            std::mem::forget(journal.enter(4).unwrap());
            journal = successor(&journal);
            journal.inherit(Death::Killed);
        }
        assert!(journal.enter(4).is_some());
        let mut journal = Journal::create(0).unwrap();
        for _ in 0..3 {
            std::mem::forget(journal.enter(8).unwrap());
            journal.note_panic();
            journal = successor(&journal);
            journal.inherit(Death::Killed);
        }
        assert!(journal.enter(8).is_none());
    }

    #[test]
    fn a_server_that_was_replaced_says_nothing_about_its_questions() {
        let mut journal = Journal::create(0).unwrap();
        for _ in 0..1000 {
            std::mem::forget(journal.enter(4).unwrap());
            journal = successor(&journal);
            assert_eq!(journal.inherit(Death::Replaced), [4]);
        }
        assert!(journal.enter(4).unwrap().alone.is_none());
        assert!(!journal.has_suspects.load(Ordering::Relaxed), "it was answered");
    }

    #[test]
    fn a_suspect_does_not_wait_for_ever() {
        let journal = Journal::create(0).unwrap();
        std::mem::forget(journal.enter(4).unwrap());
        let next = successor(&journal);
        next.inherit(Death::Crashed);
        let _other = next.enter(6).unwrap();
        assert!(next.enter(4).unwrap().alone.is_none());
    }

    #[test]
    fn a_suspect_is_alone() {
        let journal = Journal::create(0).unwrap();
        std::mem::forget(journal.enter(4).unwrap());
        let next = successor(&journal);
        next.inherit(Death::Crashed);
        let other = next.enter(6).unwrap();
        thread::scope(|scope| {
            let alone = scope.spawn(|| {
                let _at_work = next.enter(4).unwrap();
                let busy = |slot| next.slot(slot, 0).load(Ordering::Relaxed) != 0;
                (0..SLOT_COUNT).filter(|slot| busy(*slot)).count()
            });
            thread::sleep(Duration::from_millis(50));
            assert!(!alone.is_finished());
            drop(other);
            assert_eq!(alone.join().unwrap(), 1);
        });
    }

    #[test]
    fn a_page_of_another_program_is_not_believed() {
        let journal = Journal::create(9).unwrap();
        std::mem::forget(journal.enter(4).unwrap());
        journal.word(LAYOUT_AT).store(99, Ordering::Relaxed);
        let next = successor(&journal);
        assert!(next.inherit(Death::Crashed).is_empty());
        assert!(next.enter(4).is_some());
    }

    #[test]
    fn the_age_of_questions() {
        let journal = Journal::create(0).unwrap();
        assert_eq!(journal.older_than(Duration::ZERO).next(), None);
        let _at_work = journal.enter(4);
        thread::sleep(Duration::from_millis(60));
        let old: Vec<(u64, Duration)> = journal.older_than(Duration::from_millis(20)).collect();
        assert_eq!((old.len(), old[0].0), (1, 4));
        assert!(old[0].1 >= Duration::from_millis(40));
        assert_eq!(journal.older_than(Duration::from_mins(1)).next(), None);
    }
}
