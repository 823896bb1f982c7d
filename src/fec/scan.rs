//! Which shards are not what they were? Their checksums tell; two copies of them are stored, and either may be damaged, too.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::progress::{Progress, adding};
use crate::error::{Error, Result};
use crate::format::fec::{Geometry, Head, SUM_LEN};
use crate::format::field::{u64_from_usize, usize_from_u32, usize_from_u64};
use crate::image::Source;
use crate::store::parallel::on_threads;
use crate::store::proof::{self, ShardHasher};
use crate::store::read_pages;

/// Bytes that are read at a time: a shard may be as long as a 32,768th of the image.
const PIECE: usize = 256 << 10;
/// Shards that a thread takes at a time: neighbours in the file.
const SHARDS_AT_A_TIME: u32 = 64;

/// The checksum of a shard.
pub(super) type Sum = [u8; SUM_LEN];

/// What is lost, by number: data shards, and parity shards.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Damage {
    data: Vec<u32>,
    parity: Vec<u32>,
}

impl Damage {
    /// Data shards that are lost, in ascending order.
    pub fn data(&self) -> &[u32] {
        &self.data
    }

    /// Parity shards that are lost, in ascending order.
    pub fn parity(&self) -> &[u32] {
        &self.parity
    }

    /// Whether nothing is lost.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty() && self.parity.is_empty()
    }

    /// Whether a data shard is lost.
    pub fn is_lost(&self, data_shard: u32) -> bool {
        self.data.binary_search(&data_shard).is_ok()
    }

    /// Whether parity brings back what is lost.
    pub fn is_curable(&self, geometry: Geometry) -> bool {
        self.data.len().saturating_add(self.parity.len()) <= usize_from_u32(geometry.parity_count())
    }

    /// Parity shards that are not lost.
    pub(super) fn parity_left(&self, geometry: Geometry) -> impl Iterator<Item = u32> {
        (0..geometry.parity_count()).filter(|nth| self.parity.binary_search(nth).is_err())
    }

    /// Why it cannot be undone.
    pub fn too_much(&self, geometry: Geometry) -> Error {
        let (data, parity) = (self.data.len(), self.parity.len());
        let (of, most) = (geometry.data_count(), geometry.parity_count());
        let what = format!(
            "{data} of {of} shards and {parity} of {most} parity shards are damaged: parity undoes damage to {most} together"
        );
        Error::io("cannot restore what is damaged", std::io::Error::other(what))
    }
}

/// The checksums that are stored.
#[derive(Debug)]
pub(super) struct Sums {
    tables: Vec<Vec<u8>>,
}

impl Sums {
    /// Reads them. One that is proved is enough; of two that are not, either may be right about a shard.
    pub(super) fn read(source: &dyn Source, head: &Head) -> Self {
        let geometry = head.geometry;
        let mut tables = Vec::new();
        for offset in [geometry.table_offset(), geometry.second_table_offset()] {
            // At most 144 KiB, whatever the head says.
            let mut table = vec![0; usize_from_u64(geometry.table_len())];
            read_pages(source, &mut table, offset);
            if proof::hash_parity_table(&table) == head.table_digest {
                return Sums { tables: vec![table] };
            }
            tables.push(table);
        }
        Sums { tables }
    }

    /// Whether a shard may have this checksum.
    fn has(&self, shard: u32, sum: Sum) -> bool {
        self.tables
            .iter()
            .any(|table| table.as_chunks::<SUM_LEN>().0.get(usize_from_u32(shard)) == Some(&sum))
    }

    /// Whether a shard is what it was.
    pub(super) fn is_whole(
        &self,
        source: &dyn Source,
        geometry: Geometry,
        shard: u32,
        buf: &mut Vec<u8>,
    ) -> bool {
        sum(source, geometry.place(shard), buf).is_ok_and(|sum| self.has(shard, sum))
    }
}

/// The checksum of the bytes of a shard.
pub(super) fn sum(source: &dyn Source, place: Range<u64>, buf: &mut Vec<u8>) -> Result<Sum> {
    buf.resize(PIECE, 0);
    let mut hasher = ShardHasher::default();
    let mut at = place.start;
    while at < place.end {
        let len = usize_from_u64(place.end.saturating_sub(at)).min(buf.len());
        let piece = buf.get_mut(..len).ok_or(Error::Invalid)?;
        source
            .read_exact_at(piece, at)
            .map_err(|err| Error::io(format!("cannot read {len} bytes at offset {at}"), err))?;
        hasher.update(piece);
        at = at.saturating_add(u64_from_usize(len));
    }
    Ok(hasher.finish())
}

/// Holds all shards against their checksums. What cannot be read is lost.
pub fn scan(
    source: &dyn Source,
    head: &Head,
    workers: usize,
    progress: Progress<'_>,
) -> Result<Damage> {
    let geometry = head.geometry;
    let sums = Sums::read(source, head);
    let total = u64::from(geometry.count()).saturating_mul(geometry.shard_len());
    let done = AtomicU64::new(0);
    let told = adding(&done, total, progress);
    let lost = for_shards(geometry.count(), workers, |shards, buf| {
        let len = u64_from_usize(shards.len()).saturating_mul(geometry.shard_len());
        let lost = shards.filter(|shard| !sums.is_whole(source, geometry, *shard, buf)).collect();
        told(len);
        Ok(lost)
    })?;
    let (data, parity) = lost.into_iter().partition(|shard| *shard < geometry.data_count());
    let parity: Vec<u32> = parity;
    let nth = |shard: u32| shard.saturating_sub(geometry.data_count());
    Ok(Damage { data, parity: parity.into_iter().map(nth).collect() })
}

/// Shares shards out among threads; returns what `work` has of them, in the order of the shards.
pub(super) fn for_shards<T: Send>(
    count: u32,
    workers: usize,
    work: impl Fn(Range<u32>, &mut Vec<u8>) -> Result<Vec<T>> + Sync,
) -> Result<Vec<T>> {
    let next = AtomicU32::new(0);
    let take = || -> Result<Vec<(u32, Vec<T>)>> {
        let (mut buf, mut all) = (Vec::new(), Vec::new());
        loop {
            let first = next.fetch_add(SHARDS_AT_A_TIME, Ordering::Relaxed);
            if first >= count {
                return Ok(all);
            }
            let end = first.saturating_add(SHARDS_AT_A_TIME).min(count);
            all.push((first, work(first..end, &mut buf)?));
        }
    };
    let mut all = Vec::new();
    for done in on_threads(workers.max(1), take) {
        all.append(&mut done.unwrap_or(Err(Error::Invalid))?);
    }
    all.sort_unstable_by_key(|(first, _)| *first);
    Ok(all.into_iter().flat_map(|(_, found)| found).collect())
}
