//! What are parity's bytes? The Reed-Solomon code of SPEC §10, over some columns of all shards at a time.
//!
//! What lies at the same place of all shards is one code word. Data shards are taken in groups of as many as parity has positions, and
//! the groups' transforms added up: this is the crate's encoder, taken apart so that it never holds more than a group.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};

use reed_solomon_simd::engine::{DefaultEngine, Engine, ShardsRefMut, utils};

use super::matrix::Matrix;
use super::scan::Damage;
use crate::error::{Error, Result};
use crate::format::fec::{Geometry, UNIT};
use crate::format::field::{u64_from_usize, usize_from_u32, usize_from_u64};
use crate::image::Source;
use crate::store::parallel::on_threads;

/// Columns are worked on in pieces of this many bytes: symbols of 16 bits, 32 low halves and 32 high halves.
pub(super) const PIECE: usize = 64;
const PIECE_LEN: u64 = 64;
/// Memory for shards, with all threads; what is wider is done in several strips.
const MEMORY_MAX: u64 = 32 << 20;

/// Some columns of some shards, one shard after the other.
pub(super) type Columns = Vec<[u8; PIECE]>;

/// Groups of data shards.
fn groups(geometry: Geometry) -> u32 {
    geometry.data_count().div_ceil(geometry.chunk().max(1))
}

/// Cuts columns into strips that fit in memory with so many threads.
pub(super) fn strips(
    geometry: Geometry,
    columns: Range<u64>,
    workers: usize,
) -> impl Iterator<Item = Range<u64>> {
    // No more threads than groups have work. For each of them a group and a sum, and one sum more.
    let workers = u64_from_usize(workers).min(groups(geometry).into());
    let buffers = workers.saturating_mul(2).saturating_add(1);
    let shards = buffers.saturating_mul(geometry.chunk().into()).max(1);
    let width = MEMORY_MAX.checked_div(shards).unwrap_or(0).max(PIECE_LEN);
    // Whole pages, where it can be: two strips that share one would read it twice.
    let grain = if width >= UNIT { UNIT } else { PIECE_LEN };
    let width = width.checked_div(grain).unwrap_or(1).saturating_mul(grain);
    let mut at = columns.start;
    std::iter::from_fn(move || {
        let start = at;
        at = at.saturating_add(width).min(columns.end);
        (start < at).then_some(start..at)
    })
}

/// Pieces in a strip.
fn pieces(strip: &Range<u64>) -> usize {
    usize_from_u64(strip.end.saturating_sub(strip.start).checked_div(PIECE_LEN).unwrap_or(0))
}

/// Reads columns of a shard; what lies behind its end is zero.
pub(super) fn read(
    source: &dyn Source,
    geometry: Geometry,
    shard: u32,
    strip: &Range<u64>,
    into: &mut [[u8; PIECE]],
) -> Result<()> {
    let place = geometry.place(shard);
    let start = place.start.saturating_add(strip.start);
    let there = place.end.saturating_sub(start);
    let into = into.as_flattened_mut();
    let len = usize_from_u64(there).min(into.len());
    let (read, rest) = into.split_at_mut_checked(len).ok_or(Error::Invalid)?;
    rest.fill(0);
    if read.is_empty() {
        return Ok(());
    }
    source
        .read_exact_at(read, start)
        .map_err(|err| Error::io(format!("cannot read {len} bytes at offset {start}"), err))
}

/// What computes; with its tables, which are made once for a process.
pub(super) struct Code {
    engine: DefaultEngine,
    geometry: Geometry,
    workers: usize,
}

impl Code {
    pub(super) fn new(geometry: Geometry, workers: usize) -> Self {
        Code { engine: DefaultEngine::new(), geometry, workers: workers.max(1) }
    }

    pub(super) fn workers(&self) -> usize {
        self.workers
    }

    /// Parity of a strip, of all data shards but those that are lost, which count as zeros. The shards follow each other.
    pub(super) fn parity(
        &self,
        source: &dyn Source,
        damage: &Damage,
        strip: &Range<u64>,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<Columns> {
        let (width, chunk) = (pieces(strip), usize_from_u32(self.geometry.chunk()));
        let len = width.checked_mul(chunk).ok_or(Error::Invalid)?;
        let groups = groups(self.geometry);
        let next = AtomicU32::new(0);
        let work = || -> Result<Columns> {
            let mut group = vec![[0; PIECE]; len];
            let mut sum = vec![[0; PIECE]; len];
            loop {
                let nth = next.fetch_add(1, Ordering::Relaxed);
                if nth >= groups {
                    return Ok(sum);
                }
                let count = self.read_group(source, damage, strip, nth, &mut group)?;
                // The group's positions start behind those of parity and of the groups before it.
                let place = usize_from_u32(nth).saturating_add(1).saturating_mul(chunk);
                let mut shards = ShardsRefMut::new(chunk, width, &mut group);
                self.engine.ifft(&mut shards, 0, chunk, count, place);
                utils::xor(&mut sum, &group);
                progress(u64_from_usize(count.saturating_mul(width).saturating_mul(PIECE)));
            }
        };
        let workers = self.workers.min(usize_from_u32(groups));
        let mut parity = vec![[0; PIECE]; len];
        for sum in on_threads(workers, work) {
            utils::xor(&mut parity, &sum.map_err(|_| Error::Invalid)??);
        }
        let count = usize_from_u32(self.geometry.parity_count());
        let mut shards = ShardsRefMut::new(chunk, width, &mut parity);
        self.engine.fft(&mut shards, 0, chunk, count, 0);
        parity.truncate(width.saturating_mul(count));
        Ok(parity)
    }

    /// Reads a group of shards; returns how many there are.
    fn read_group(
        &self,
        source: &dyn Source,
        damage: &Damage,
        strip: &Range<u64>,
        nth: u32,
        group: &mut [[u8; PIECE]],
    ) -> Result<usize> {
        let first = nth.saturating_mul(self.geometry.chunk());
        let mut count = 0_usize;
        for (shard, columns) in (first..).zip(group.chunks_mut(pieces(strip).max(1))) {
            if shard >= self.geometry.data_count() || damage.is_lost(shard) {
                columns.fill([0; PIECE]);
            } else {
                read(source, self.geometry, shard, strip, columns)?;
            }
            if shard < self.geometry.data_count() {
                count = count.saturating_add(1);
            }
        }
        Ok(count)
    }

    /// Computes a strip of lost data shards, of which `is_wanted` says which, and gives them to `take`.
    /// There must not be more of them than parity shards that are left.
    pub(super) fn solve(
        &self,
        source: &dyn Source,
        damage: &Damage,
        strip: &Range<u64>,
        is_wanted: &(dyn Fn(u32) -> bool + Sync),
        progress: &(dyn Fn(u64) + Sync),
        take: &(dyn Fn(u32, &[u8]) -> Result<()> + Sync),
    ) -> Result<()> {
        let (width, geometry) = (pieces(strip), self.geometry);
        let used: Vec<u32> = damage.parity_left(geometry).take(damage.data().len()).collect();
        let mut differences = self.parity(source, damage, strip, progress)?;
        // What is computed of what is there, less what it was: the part of what is lost.
        let mut stored = vec![[0; PIECE]; width];
        for nth in &used {
            read(source, geometry, geometry.data_count().saturating_add(*nth), strip, &mut stored)?;
            utils::xor(shard_of(&mut differences, *nth, width)?, &stored);
        }
        let position = |shard: u32| u16::try_from(shard).map_err(|_| Error::Invalid);
        let lost =
            damage.data().iter().map(|shard| position(geometry.chunk().saturating_add(*shard)));
        let lost = lost.collect::<Result<Vec<u16>>>()?;
        let places = used.iter().map(|nth| position(*nth)).collect::<Result<Vec<u16>>>()?;
        let matrix = Matrix::new(position(geometry.chunk())?, lost, places);
        let next = AtomicU32::new(0);
        let work = || -> Result<()> {
            let mut product = vec![[0; PIECE]; width];
            let mut sum = vec![[0; PIECE]; width];
            loop {
                let nth = usize_from_u32(next.fetch_add(1, Ordering::Relaxed));
                let Some(shard) = damage.data().get(nth) else { return Ok(()) };
                if !is_wanted(*shard) {
                    continue;
                }
                sum.fill([0; PIECE]);
                for (factor, from) in matrix.row(nth).into_iter().zip(&used) {
                    let start = usize_from_u32(*from).saturating_mul(width);
                    let from = differences.get(start..).and_then(|rest| rest.get(..width));
                    product.copy_from_slice(from.ok_or(Error::Invalid)?);
                    self.engine.mul(&mut product, factor);
                    utils::xor(&mut sum, &product);
                }
                take(*shard, sum.as_flattened())?;
            }
        };
        on_threads(self.workers, work)
            .into_iter()
            .try_for_each(|done| done.unwrap_or(Err(Error::Invalid)))
    }
}

/// One of the shards that follow each other.
fn shard_of(shards: &mut Columns, nth: u32, width: usize) -> Result<&mut [[u8; PIECE]]> {
    let start = usize_from_u32(nth).saturating_mul(width);
    shards.get_mut(start..).and_then(|rest| rest.get_mut(..width)).ok_or(Error::Invalid)
}

impl std::fmt::Debug for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Code").field("geometry", &self.geometry).finish_non_exhaustive()
    }
}
