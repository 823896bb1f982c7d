//! What should the bytes at a place of the image be? Asked by those who serve, when a digest says that they are not that.
//!
//! A shard is one equation in as many unknowns as there are shards, so one lost byte costs reading the same byte of all
//! shards. Which shards are lost is found first, and costs reading all of the image once; then all of them are restored and
//! kept where that takes no more than 16 MiB, and further questions cost nothing. Of an image with more damage, or longer shards, only the
//! columns that are asked for are read: `len` bytes of every shard.
//!
//! One works at a time, and others wait, but not for ever. Nothing is read over and over for nothing: when nothing came of looking at
//! all shards, nobody looks again for a while.

use std::io;
use std::num::NonZeroUsize;
use std::ops::{Range, RangeInclusive};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::code::{Code, PIECE, strips};
use super::find;
use super::scan::{Damage, Sums, scan};
use crate::error::{Error, Result};
use crate::format::fec::Head;
use crate::format::field::{u64_from_usize, usize_from_u64};
use crate::image::Source;

/// What it may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Bytes of restored shards that are kept.
    pub(super) kept_len: u64,
    /// How long one waits for another one who is at work: those who wait are searches, for which nobody who reads waits so long. To
    /// give up sooner would be to say that what is lost cannot come back.
    pub(super) patience: Duration,
    /// How long nobody looks again when nothing came of it, at least.
    pub(super) rest: Duration,
    /// How often as long as looking took that is, where looking takes long.
    pub(super) rest_factor: u32,
}

const LIMITS: Limits = Limits {
    kept_len: 16 << 20,
    patience: Duration::from_mins(5),
    rest: Duration::from_secs(30),
    rest_factor: 10,
};

/// Computes bytes of an image from its parity. Threads may share it.
#[derive(Debug)]
pub struct Repairer {
    source: Arc<dyn Source>,
    head: Head,
    code: Code,
    pub(super) limits: Limits,
    state: Mutex<State>,
    /// Somebody's work is done.
    done: Condvar,
}

#[derive(Debug, Default)]
struct State {
    known: Option<Arc<Known>>,
    /// Whether somebody is at work: one at a time, for each takes 32 MiB and all processors.
    is_busy: bool,
    /// Until when nobody looks, should it have been in vain.
    rest_until: Option<Instant>,
    /// Why it was, if it was.
    vain: Option<Vain>,
    /// How often all shards were looked at.
    looks: u64,
    /// Whether that was done once more because bytes were wrong. It is not done again for that before the rest is over.
    is_doubted: bool,
}

/// Which look at all shards an answer comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look(u64);

/// Why nothing came of looking at all shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Vain {
    /// More is lost than parity brings back: nobody need ask again.
    TooMuch,
    /// Something was in the way.
    Failed,
}

/// What is known of the shards.
#[derive(Debug)]
struct Known {
    look: Look,
    sums: Sums,
    damage: Damage,
    /// All that are lost, one after the other; nothing where they are too many. One piece of memory: that goes back to the kernel,
    /// which of many small ones is not sure.
    kept: Vec<u8>,
}

/// The right to work, until it is dropped.
struct Turn<'a>(&'a Repairer);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.lock().is_busy = false;
        self.0.done.notify_all();
    }
}

impl Repairer {
    /// For an image that has parity; `None` for one that has none.
    pub fn open(source: Arc<dyn Source>) -> Result<Option<Repairer>> {
        let Some(head) = find(&*source) else { return Ok(None) };
        let workers = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let code = Code::new(head.geometry, workers);
        let (limits, state) = (LIMITS, Mutex::default());
        Ok(Some(Repairer { source, head, code, limits, state, done: Condvar::new() }))
    }

    /// Puts into `buf` what parity says of the bytes at `offset`. Nobody vouches for them: they must be held against a digest
    /// before they are used. When they are wrong, more may have been lost since: see [`Repairer::forget`]. What parity does not know
    /// only now takes too long ([`Error::is_timeout`]); every other error is that it cannot help.
    pub fn repair(&self, offset: u64, buf: &mut [u8]) -> Result<Look> {
        let geometry = self.head.geometry;
        let end = offset.checked_add(u64_from_usize(buf.len())).ok_or(Error::Invalid)?;
        if buf.is_empty() || end > geometry.covered_len() {
            return Err(Error::Invalid);
        }
        let nth =
            |at: u64| at.checked_div(geometry.shard_len()).and_then(|nth| u32::try_from(nth).ok());
        let first = nth(offset).ok_or(Error::Invalid)?;
        let last = nth(end.saturating_sub(1)).ok_or(Error::Invalid)?;
        let mut known = self.known(first..=last)?;
        for shard in first..=last {
            let place = geometry.place(shard);
            let wanted = place.start.max(offset)..place.end.min(end);
            let at = usize_from_u64(wanted.start.saturating_sub(offset));
            let len = usize_from_u64(wanted.end.saturating_sub(wanted.start));
            let to =
                buf.get_mut(at..).and_then(|rest| rest.get_mut(..len)).ok_or(Error::Invalid)?;
            if known.damage.is_lost(shard) {
                let columns = wanted.start.saturating_sub(place.start)
                    ..wanted.end.saturating_sub(place.start);
                known = self.restore(known, shard, columns, to)?;
            } else {
                self.source.read_exact_at(to, wanted.start).map_err(|err| {
                    let start = wanted.start;
                    Error::io(format!("cannot read {len} bytes at offset {start}"), err)
                })?;
            }
        }
        Ok(known.look)
    }

    /// Told that bytes were wrong: forgets which shards are lost, so that the next question looks at all of them again. Once: if they
    /// are wrong then, too, it is no fault of the look, which is as good for others as it was, until the rest is over.
    pub fn forget(&self, wrong: Look) {
        let mut state = self.lock();
        let is_known = state.known.as_ref().is_some_and(|known| known.look == wrong);
        let is_resting = state.rest_until > Some(Instant::now());
        if is_known && !(state.is_doubted && is_resting) {
            state.known = None;
            state.is_doubted = true;
        }
    }

    /// Nobody looks again for a while.
    fn give_up(&self) {
        let mut state = self.lock();
        state.known = None;
        state.vain = Some(Vain::Failed);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for others to be done, but not for ever.
    fn turn(&self) -> Result<Turn<'_>> {
        let state = self.lock();
        let waited =
            self.done.wait_timeout_while(state, self.limits.patience, |state| state.is_busy);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if state.is_busy {
            return Err(not_now("parity is at work for somebody else"));
        }
        state.is_busy = true;
        Ok(Turn(self))
    }

    /// What is known of the shards, in which these are what they are now.
    fn known(&self, shards: RangeInclusive<u32>) -> Result<Arc<Known>> {
        let known = self.look()?;
        if !self.is_stale(&known, shards) {
            return Ok(known);
        }
        self.look_again(&known)
    }

    /// Looks at all shards once more, unless somebody did since this was known.
    fn look_again(&self, known: &Arc<Known>) -> Result<Arc<Known>> {
        let mut state = self.lock();
        state.known = state.known.take().filter(|now| !Arc::ptr_eq(now, known));
        drop(state);
        self.look()
    }

    /// Looks at all shards, unless somebody did.
    fn look(&self) -> Result<Arc<Known>> {
        let is_known = || self.lock().known.clone();
        if let Some(known) = is_known() {
            return Ok(known);
        }
        let turn = self.turn()?;
        if let Some(known) = is_known() {
            return Ok(known);
        }
        let now = Instant::now();
        let resting = |state: &State| state.vain.filter(|_| state.rest_until > Some(now));
        match resting(&self.lock()) {
            Some(Vain::TooMuch) => return Err(cannot("too many shards were lost a moment ago")),
            Some(Vain::Failed) => {
                return Err(not_now("nothing came of looking at all shards a moment ago"));
            }
            None => {}
        }
        let found = self.scan();
        let mut state = self.lock();
        state.is_doubted &= state.rest_until > Some(now);
        state.looks = state.looks.saturating_add(1);
        state.vain = found.as_ref().err().map(|(vain, _)| *vain);
        let rest = now.elapsed().saturating_mul(self.limits.rest_factor).max(self.limits.rest);
        state.rest_until = Instant::now().checked_add(rest);
        let known = found.map_err(|(_, err)| err)?;
        let known = Arc::new(Known { look: Look(state.looks), ..known });
        state.known = Some(Arc::clone(&known));
        drop(state);
        drop(turn);
        Ok(known)
    }

    fn scan(&self) -> Result<Known, (Vain, Error)> {
        let geometry = self.head.geometry;
        let failed = |err| (Vain::Failed, not_now(err));
        let sums = Sums::read(&*self.source, &self.head);
        let damage = scan(&*self.source, &self.head, self.code.workers(), &|_, _| {});
        let damage = damage.map_err(failed)?;
        if !damage.is_curable(geometry) {
            return Err((Vain::TooMuch, damage.too_much(geometry)));
        }
        let lost_len = u64_from_usize(damage.data().len()).saturating_mul(geometry.shard_len());
        let kept = if lost_len <= self.limits.kept_len && lost_len > 0 {
            self.solve(&damage, 0..geometry.shard_len(), damage.data()).map_err(failed)?
        } else {
            Vec::new()
        };
        Ok(Known { look: Look(0), sums, damage, kept })
    }

    /// Whether one of these shards was lost since all of them were looked at.
    fn is_stale(&self, known: &Known, mut shards: RangeInclusive<u32>) -> bool {
        let (source, geometry) = (&*self.source, self.head.geometry);
        let mut buf = Vec::new();
        shards.any(|shard| {
            !known.damage.is_lost(shard) && !known.sums.is_whole(source, geometry, shard, &mut buf)
        })
    }

    /// Restores columns of a lost shard; returns what is known then.
    fn restore(
        &self,
        known: Arc<Known>,
        shard: u32,
        columns: Range<u64>,
        to: &mut [u8],
    ) -> Result<Arc<Known>> {
        let restored = self.restore_knowing(&known, shard, columns.clone(), to)?;
        // One that was whole when all were looked at can be read no more: it is lost, too.
        let Err(unread) = restored else { return Ok(known) };
        tracing::debug!("all shards are looked at again: {unread}");
        let known = self.look_again(&known)?;
        self.restore_knowing(&known, shard, columns, to)?.map_err(|unread| {
            self.give_up();
            not_now(unread)
        })?;
        Ok(known)
    }

    /// The same with what is known; the inner error is that of a shard that could not be read.
    fn restore_knowing(
        &self,
        known: &Known,
        shard: u32,
        columns: Range<u64>,
        to: &mut [u8],
    ) -> Result<Result<()>> {
        let shard_len = self.head.geometry.shard_len();
        if !known.kept.is_empty() {
            let nth = known.damage.data().binary_search(&shard).map_err(|_| Error::Invalid)?;
            let start = u64_from_usize(nth).saturating_mul(shard_len).saturating_add(columns.start);
            let kept = known.kept.get(usize_from_u64(start)..);
            to.copy_from_slice(kept.and_then(|kept| kept.get(..to.len())).ok_or(Error::Invalid)?);
            return Ok(Ok(()));
        }
        let piece = u64_from_usize(PIECE);
        let start = columns.start.saturating_sub(columns.start.checked_rem(piece).unwrap_or(0));
        let rounded = start..columns.end.next_multiple_of(piece).min(shard_len);
        let turn = self.turn()?;
        let solved = self.solve(&known.damage, rounded, &[shard]);
        drop(turn);
        let found = match solved {
            Ok(found) => found,
            // Of a disk that does not answer in time nothing more would be learnt.
            Err(err) if matches!(err, Error::Io { .. }) && !err.is_timeout() => {
                return Ok(Err(err));
            }
            Err(err) => return Err(err),
        };
        let from = usize_from_u64(columns.start.saturating_sub(start));
        let found =
            found.get(from..).and_then(|rest| rest.get(..to.len())).ok_or(Error::Invalid)?;
        to.copy_from_slice(found);
        Ok(Ok(()))
    }

    /// Columns of these shards, which are lost and in ascending order, one after the other.
    fn solve(&self, damage: &Damage, columns: Range<u64>, shards: &[u32]) -> Result<Vec<u8>> {
        // What is not lost is not computed.
        if !shards.iter().all(|shard| damage.is_lost(*shard)) {
            return Err(Error::Invalid);
        }
        let width = usize_from_u64(columns.end.saturating_sub(columns.start));
        let len = width.checked_mul(shards.len()).ok_or(Error::Invalid)?;
        let found = Mutex::new(vec![0; len]);
        let is_wanted = |shard| shards.binary_search(&shard).is_ok();
        for strip in strips(self.head.geometry, columns.clone(), self.code.workers()) {
            let from = usize_from_u64(strip.start.saturating_sub(columns.start));
            let take = |shard: u32, bytes: &[u8]| {
                let nth = shards.binary_search(&shard).map_err(|_| Error::Invalid)?;
                let start = nth.saturating_mul(width).saturating_add(from);
                let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                let to = found.get_mut(start..).and_then(|rest| rest.get_mut(..bytes.len()));
                to.ok_or(Error::Invalid)?.copy_from_slice(bytes);
                Ok(())
            };
            self.code.solve(&*self.source, damage, &strip, &is_wanted, &|_| {}, &take)?;
        }
        Ok(found.into_inner().unwrap_or_else(PoisonError::into_inner))
    }
}

fn cannot(why: &'static str) -> Error {
    Error::io("cannot restore what is damaged", io::Error::other(why))
}

/// The same, but later it may be possible.
fn not_now(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::io("cannot restore what is damaged", io::Error::new(io::ErrorKind::TimedOut, why))
}
