//! How does a file get its parity? It is computed of what is there, and written behind it.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::AtomicU64;

use super::code::{Code, Columns, strips};
use super::progress::{Progress, adding};
use super::scan::{Damage, for_shards, sum};
use crate::error::{Error, Result};
use crate::format::fec::{Geometry, Head};
use crate::format::field::{u64_from_usize, usize_from_u64};
use crate::image::Source;
use crate::image::pread::Pread;
use crate::store::proof;

/// Writes parity behind what `file` covers, and cuts off what lies behind that. Reads what is covered twice. The same bytes always
/// get the same parity. Nothing is synced.
pub fn encode(
    file: &File,
    geometry: Geometry,
    workers: usize,
    progress: Progress<'_>,
) -> Result<Head> {
    let wrap = |err| Error::io("cannot write parity", err);
    let clone = file.try_clone().map_err(wrap)?;
    let source = Pread::new(clone).map_err(wrap)?;
    if source.len() < geometry.covered_len() {
        return Err(wrap(io::ErrorKind::UnexpectedEof.into()));
    }
    // All of the section is written, zeros as well: what is reserved for it stays reserved.
    file.set_len(geometry.end()).map_err(wrap)?;
    for zeros in geometry.zeros() {
        let len = usize_from_u64(zeros.end.saturating_sub(zeros.start));
        file.write_all_at(&vec![0; len], zeros.start).map_err(wrap)?;
    }
    // Parity is made of what is covered, and checksums of that and of parity.
    let total = geometry.covered_len().saturating_add(geometry.second_table_offset());
    let done = AtomicU64::new(0);
    let told = adding(&done, total, progress);
    let code = Code::new(geometry, workers);
    let nothing = Damage::default();
    for strip in strips(geometry, 0..geometry.shard_len(), code.workers()) {
        let parity = code.parity(&source, &nothing, &strip, &told)?;
        write_parity(file, geometry, &strip, &parity).map_err(wrap)?;
    }
    let sums = for_shards(geometry.count(), workers, |shards, buf| {
        let sums = shards.clone().map(|shard| sum(&source, geometry.place(shard), buf));
        let sums = sums.collect();
        told(u64_from_usize(shards.len()).saturating_mul(geometry.shard_len()));
        sums
    })?;
    let table = sums.as_flattened();
    let head = Head { geometry, table_digest: proof::hash_parity_table(table) };
    let raw = head.encode(proof::hash_parity_head);
    for (bytes, offset) in [
        (raw.as_slice(), geometry.section_offset()),
        (table, geometry.table_offset()),
        (table, geometry.second_table_offset()),
        (&raw, geometry.second_head_offset()),
    ] {
        file.write_all_at(bytes, offset).map_err(wrap)?;
    }
    Ok(head)
}

/// Writes a strip of all parity shards to its places.
fn write_parity(
    file: &File,
    geometry: Geometry,
    strip: &Range<u64>,
    parity: &Columns,
) -> io::Result<()> {
    let len = usize_from_u64(strip.end.saturating_sub(strip.start)).max(1);
    let first = geometry.data_count();
    if u64_from_usize(len) == geometry.shard_len() {
        return file.write_all_at(parity.as_flattened(), geometry.parity_offset());
    }
    for (shard, columns) in (first..).zip(parity.as_flattened().chunks(len)) {
        file.write_all_at(columns, geometry.place(shard).start.saturating_add(strip.start))?;
    }
    Ok(())
}
