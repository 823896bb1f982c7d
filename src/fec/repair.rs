//! What should the bytes at a place of the image be? Asked by those who serve, when a digest says that they are not that.
//!
//! A shard is one equation in as many unknowns as there are shards, so one lost byte costs reading the same byte of all
//! shards. Which shards are lost is found first, and costs reading all of the image once; then all of them are restored and
//! kept where that takes no more than 16 MiB, and further questions cost nothing. Of an image with more damage, or longer shards, only the
//! columns that are asked for are read: `len` bytes of every shard.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use super::code::{Code, PIECE, strips};
use super::find;
use super::scan::{Damage, Sums, scan};
use crate::error::{Error, Result};
use crate::format::fec::{Geometry, Head};
use crate::format::field::{u64_from_usize, usize_from_u64};
use crate::image::Source;

/// Restored shards that are kept.
const KEPT_LEN_MAX: u64 = 16 << 20;

/// Computes bytes of an image from its parity. Threads may share it; one works while the others wait.
#[derive(Debug)]
pub struct Repairer {
    source: Arc<dyn Source>,
    head: Head,
    code: Code,
    state: Mutex<Option<State>>,
}

/// What is known of the shards.
#[derive(Debug)]
struct State {
    sums: Sums,
    damage: Damage,
    kept: BTreeMap<u32, Vec<u8>>,
}

impl Repairer {
    /// For an image that has parity; `None` for one that has none.
    pub fn open(source: Arc<dyn Source>) -> Result<Option<Repairer>> {
        let Some(head) = find(&*source) else { return Ok(None) };
        let workers = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let code = Code::new(head.geometry, workers);
        Ok(Some(Repairer { source, head, code, state: Mutex::new(None) }))
    }

    /// Puts into `buf` what parity says of the bytes at `offset`. Nobody vouches for them: they must be held against a digest
    /// before they are used. When they are wrong, more may have been lost since: see [`Repairer::forget`].
    pub fn repair(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let geometry = self.head.geometry;
        let end = offset.checked_add(u64_from_usize(buf.len())).ok_or(Error::Invalid)?;
        if buf.is_empty() || end > geometry.covered_len() {
            return Err(Error::Invalid);
        }
        let nth =
            |at: u64| at.checked_div(geometry.shard_len()).and_then(|nth| u32::try_from(nth).ok());
        let first = nth(offset).ok_or(Error::Invalid)?;
        let last = nth(end.saturating_sub(1)).ok_or(Error::Invalid)?;
        let mut guard = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if guard.as_ref().is_some_and(|state| self.is_stale(state, first..=last)) {
            *guard = None;
        }
        if guard.is_none() {
            let sums = Sums::read(&*self.source, &self.head)?;
            let damage = scan(&*self.source, &self.head, self.code.workers(), &|_, _| {})?;
            *guard = Some(State { sums, damage, kept: BTreeMap::new() });
        }
        let state = guard.as_mut().ok_or(Error::Invalid)?;
        if !state.damage.is_curable(geometry) {
            return Err(state.damage.too_much(geometry));
        }
        for shard in first..=last {
            let place = geometry.place(shard);
            let wanted = place.start.max(offset)..place.end.min(end);
            let at = usize_from_u64(wanted.start.saturating_sub(offset));
            let len = usize_from_u64(wanted.end.saturating_sub(wanted.start));
            let to =
                buf.get_mut(at..).and_then(|rest| rest.get_mut(..len)).ok_or(Error::Invalid)?;
            if state.damage.is_lost(shard) {
                let columns = wanted.start.saturating_sub(place.start)
                    ..wanted.end.saturating_sub(place.start);
                self.restore(state, shard, columns, to)?;
            } else {
                self.source.read_exact_at(to, wanted.start).map_err(|err| {
                    let start = wanted.start;
                    Error::io(format!("cannot read {len} bytes at offset {start}"), err)
                })?;
            }
        }
        Ok(())
    }

    /// Forgets which shards are lost: the next question looks at all of them again.
    pub fn forget(&self) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Whether one of these shards was lost since all of them were looked at.
    fn is_stale(&self, state: &State, mut shards: std::ops::RangeInclusive<u32>) -> bool {
        let (source, geometry) = (&*self.source, self.head.geometry);
        let mut buf = Vec::new();
        shards.any(|shard| {
            !state.damage.is_lost(shard) && !state.sums.is_whole(source, geometry, shard, &mut buf)
        })
    }

    /// Restores columns of a lost shard.
    fn restore(
        &self,
        state: &mut State,
        shard: u32,
        columns: Range<u64>,
        to: &mut [u8],
    ) -> Result<()> {
        let shard_len = self.head.geometry.shard_len();
        let lost_len = u64_from_usize(state.damage.data().len()).saturating_mul(shard_len);
        let from = usize_from_u64(columns.start);
        if lost_len <= KEPT_LEN_MAX {
            if state.kept.is_empty() {
                state.kept = self.restore_all(&state.damage)?;
            }
            let kept = state.kept.get(&shard).and_then(|kept| kept.get(from..));
            to.copy_from_slice(kept.and_then(|kept| kept.get(..to.len())).ok_or(Error::Invalid)?);
            return Ok(());
        }
        let piece = u64_from_usize(PIECE);
        let start = columns.start.saturating_sub(columns.start.checked_rem(piece).unwrap_or(0));
        let rounded = start..columns.end.next_multiple_of(piece).min(shard_len);
        let found = self.solve(&state.damage, rounded, Some(shard))?;
        let found = found.get(&shard).ok_or(Error::Invalid)?;
        let from = usize_from_u64(columns.start.saturating_sub(start));
        let found =
            found.get(from..).and_then(|rest| rest.get(..to.len())).ok_or(Error::Invalid)?;
        to.copy_from_slice(found);
        Ok(())
    }

    fn restore_all(&self, damage: &Damage) -> Result<BTreeMap<u32, Vec<u8>>> {
        self.solve(damage, 0..self.head.geometry.shard_len(), None)
    }

    /// Columns of one lost shard, or of all of them.
    fn solve(
        &self,
        damage: &Damage,
        columns: Range<u64>,
        only: Option<u32>,
    ) -> Result<BTreeMap<u32, Vec<u8>>> {
        let geometry: Geometry = self.head.geometry;
        let found = Mutex::new(BTreeMap::<u32, Vec<u8>>::new());
        for strip in strips(geometry, columns, self.code.workers()) {
            let is_wanted = |shard| only.is_none_or(|only| only == shard);
            self.code.solve(
                &*self.source,
                damage,
                &strip,
                &is_wanted,
                &|_| {},
                &|shard, bytes| {
                    let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                    found.entry(shard).or_default().extend_from_slice(bytes);
                    Ok(())
                },
            )?;
        }
        Ok(found.into_inner().unwrap_or_else(PoisonError::into_inner))
    }
}
