//! How does a whole image come back? Into a new file: what is there is copied, what is lost computed, and parity made anew.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::AtomicU64;

use super::code::{Code, strips};
use super::progress::{Progress, adding};
use super::scan::{Damage, for_shards};
use super::{Found, encode};
use crate::error::{Error, Result};
use crate::format::fec::Geometry;
use crate::format::field::{u64_from_usize, usize_from_u64};
use crate::image::Source;

/// Bytes that are copied at a time.
const PIECE: usize = 256 << 10;
/// Shards are copied, restored, and parity is made, which reads them twice.
const PHASES: u64 = 4;

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Restored {
    /// Shards of the image that were restored.
    pub data_shards: usize,
    /// Parity shards that were lost.
    pub parity_shards: usize,
    /// How many of both could have been.
    pub shards_max: u32,
    /// Length of a shard in bytes.
    pub shard_len: u64,
}

/// Writes to `out`, which must be open for reading and writing, the file that parity says there was: image, trailer and parity.
/// Whether it is the right one, only the root digest tells. Nothing is synced, and what `out` has reserved stays so.
pub fn restore(
    source: &dyn Source,
    found: &Found,
    out: &File,
    workers: usize,
    progress: Progress<'_>,
) -> Result<Restored> {
    let (geometry, damage) = (found.head.geometry, &found.damage);
    let all = geometry.end();
    // Each phase counts as much as the file is long.
    let phase = |nth: u64, done: u64, total: u64| {
        let share = u128::from(done).saturating_mul(all.into()).checked_div(total.into());
        let share = u64::try_from(share.unwrap_or(0)).unwrap_or(all).min(all);
        let before = all.saturating_mul(nth);
        progress(before.saturating_add(share), all.saturating_mul(PHASES));
    };
    if !damage.is_curable(geometry) {
        return Err(damage.too_much(geometry));
    }
    let wrap = |err| Error::io("cannot write the restored image", err);
    copy(source, geometry, damage, out, workers, &|done, total| phase(0, done, total))?;
    if !damage.data().is_empty() {
        let done = AtomicU64::new(0);
        let tell = |done, total| phase(1, done, total);
        let told = adding(&done, geometry.covered_len(), &tell);
        let code = Code::new(geometry, workers);
        for strip in strips(geometry, 0..geometry.shard_len(), code.workers()) {
            code.solve(source, damage, &strip, &|_| true, &told, &|shard, columns| {
                let place = geometry.place(shard);
                let start = place.start.saturating_add(strip.start);
                let len = usize_from_u64(place.end.saturating_sub(start)).min(columns.len());
                let columns = columns.get(..len).unwrap_or_default();
                out.write_all_at(columns, start).map_err(wrap)
            })?;
        }
    }
    encode(out, geometry, workers, &|done, total| {
        phase(2, done.saturating_mul(2), total);
    })?;
    Ok(Restored {
        data_shards: damage.data().len(),
        parity_shards: damage.parity().len(),
        shards_max: geometry.parity_count(),
        shard_len: geometry.shard_len(),
    })
}

/// Copies all data shards but those that are lost.
fn copy(
    source: &dyn Source,
    geometry: Geometry,
    damage: &Damage,
    out: &File,
    workers: usize,
    progress: Progress<'_>,
) -> Result<()> {
    let done = AtomicU64::new(0);
    let told = adding(&done, geometry.covered_len(), progress);
    for_shards::<()>(geometry.data_count(), workers, |shards, buf| {
        buf.resize(PIECE, 0);
        for shard in shards.filter(|shard| !damage.is_lost(*shard)) {
            let place = geometry.place(shard);
            let mut at = place.start;
            while at < place.end {
                let len = usize_from_u64(place.end.saturating_sub(at)).min(buf.len());
                let piece = buf.get_mut(..len).ok_or(Error::Invalid)?;
                source.read_exact_at(piece, at).map_err(|err| {
                    Error::io(format!("cannot read {len} bytes at offset {at}"), err)
                })?;
                let wrap = |err| Error::io("cannot write the restored image", err);
                out.write_all_at(piece, at).map_err(wrap)?;
                at = at.saturating_add(u64_from_usize(len));
            }
            told(place.end.saturating_sub(place.start));
        }
        Ok(Vec::new())
    })?;
    Ok(())
}
