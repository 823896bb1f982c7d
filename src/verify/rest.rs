//! What follows the image? A trailer, parity, nothing, or on a block device anything (S-04, S-80, S-82).

use std::ops::Range;

use super::Check;
use crate::error::{Error, Result, Untrusted};
use crate::format::fec::{self, Geometry, Head, SUM_LEN};
use crate::format::field::{u64_from_usize, usize_from_u32, usize_from_u64};
use crate::format::superblock::Superblock;
use crate::format::trailer;
use crate::image::Source;
use crate::store::proof::{self, ShardHasher};
use crate::store::{self, parity_behind, parity_head, read_pages};
use crate::trust;

/// Bytes of parity that are read at a time.
const PIECE: usize = 256 << 10;

impl Check<'_> {
    /// Accounts for what follows the image.
    pub(super) fn check_rest(&mut self, superblock: &Superblock) {
        let (source, start) = (&**self.source, superblock.image_len);
        // Where there is parity, what lies before it is the trailer's, damaged as that may be.
        let claimed = store::covered_len(source).max(start);
        match trust::read_trailer(source, start) {
            Ok(signatures) => {
                let trailer_len = trailer::len(&signatures);
                self.account.add(start, trailer_len);
                self.report.signatures = signatures;
                let mut at = start.saturating_add(trailer_len);
                if trailer_len == 0
                    && let Some(end) = end_of_maimed_trailer(source, at..claimed)
                {
                    let what = "its head is not what it was";
                    self.account.add(at, end.saturating_sub(at));
                    self.findings.push(Untrusted::Trailer { what }.into(), None, Some(at));
                    at = end;
                }
                self.check_behind(at);
            }
            Err(err) => {
                if err.is_damage() && !source.has_slack() {
                    self.account.add(start, claimed.saturating_sub(start));
                }
                self.findings.push(err, None, Some(start));
                if claimed < source.len() {
                    self.check_behind(claimed);
                }
            }
        }
    }

    /// What follows image and trailer.
    fn check_behind(&mut self, start: u64) {
        let source = &**self.source;
        let len = source.len().saturating_sub(start);
        if len == 0 {
            return;
        }
        let Some(head) = parity_behind(source, start) else {
            let what = "neither of its heads is what it was";
            let error = match is_maimed_parity(source, start) {
                Ok(false) if source.has_slack() => {
                    self.report.slack_bytes = len;
                    return;
                }
                Ok(false) => Untrusted::Trailing { offset: start, len }.into(),
                Ok(true) => Untrusted::Parity { what }.into(),
                Err(err) => err,
            };
            // On a device nobody knows how far it went.
            if matches!(error, Error::Untrusted(Untrusted::Parity { .. })) && !source.has_slack() {
                self.account.add(start, len);
            }
            self.findings.push(error, None, Some(start));
            return;
        };
        let end = head.geometry.end();
        self.account.add(start, end.min(source.len()).saturating_sub(start));
        if let Err(err) = check_parity(source, &head) {
            self.findings.push(err, None, Some(start));
        }
        match source.len().checked_sub(end) {
            None | Some(0) => {}
            Some(len) if source.has_slack() => self.report.slack_bytes = len,
            Some(len) => {
                let trailing = Untrusted::Trailing { offset: end, len };
                self.findings.push(trailing.into(), None, Some(end));
            }
        }
    }
}

/// Where bytes end that are no trailer and were one: by a foot that says how far in front of it the trailer starts; or, in a
/// file, with all that is there, if that starts or ends as a trailer does.
fn end_of_maimed_trailer(source: &dyn Source, behind: Range<u64>) -> Option<u64> {
    let len = behind.end.saturating_sub(behind.start);
    let mut raw = vec![0; usize_from_u64(len.min(trailer::LEN_MAX.into()))];
    read_pages(source, &mut raw, behind.start);
    let mut ends = (trailer::FOOT_LEN..).zip(raw.windows(trailer::FOOT_LEN));
    let is_foot = |(end, foot): &(usize, &[u8])| {
        let foot: Option<&[u8; trailer::FOOT_LEN]> = foot.first_chunk();
        foot.and_then(trailer::decode_foot).map(usize_from_u32) == Some(*end)
    };
    if let Some((end, _)) = ends.find(is_foot) {
        return behind.start.checked_add(u64_from_usize(end));
    }
    let end = behind.end.checked_sub(u64_from_usize(trailer::END_MAGIC.len()));
    let is_maimed = !source.has_slack()
        && len >= u64_from_usize(trailer::MAGIC.len())
        && (is_at(source, Some(behind.start), trailer::MAGIC)
            || is_at(source, end, trailer::END_MAGIC));
    is_maimed.then_some(behind.end)
}

/// Whether what is behind so many bytes was parity of them: where its first head was, or where the file ends. A place that cannot
/// be read may have been one.
fn is_maimed_parity(source: &dyn Source, covered_len: u64) -> Result<bool> {
    let end = source.len().checked_sub(u64_from_usize(fec::END_MAGIC.len()));
    if !source.has_slack() && is_at(source, end, fec::END_MAGIC) {
        return Ok(true);
    }
    let front = covered_len.checked_next_multiple_of(fec::UNIT).ok_or(Error::Invalid)?;
    let mut head = [0; fec::HEAD_LEN];
    let there = usize_from_u64(source.len().saturating_sub(front)).min(head.len());
    if there == 0 {
        return Ok(false);
    }
    let head = read(source, head.get_mut(..there).unwrap_or_default(), front)?;
    Ok(head.starts_with(&fec::MAGIC) || head.ends_with(&fec::END_MAGIC))
}

fn is_at(source: &dyn Source, offset: Option<u64>, magic: [u8; 8]) -> bool {
    let mut found = [0; 8];
    offset.is_some_and(|offset| source.read_exact_at(&mut found, offset).is_ok()) && found == magic
}

/// Finds all bytes of parity as they were written: both heads, both tables, zeros, and the parity shards. What it is parity of
/// is held against the root digest, not against this.
fn check_parity(source: &dyn Source, head: &Head) -> Result<()> {
    let geometry = head.geometry;
    let wrong = |what| Err(Error::from(Untrusted::Parity { what }));
    if geometry.end() > source.len() {
        return wrong("it is cut off");
    }
    for offset in [geometry.section_offset(), geometry.second_head_offset()] {
        if parity_head(source, offset)? != *head {
            return wrong("its two heads disagree");
        }
    }
    let mut buf = vec![0; PIECE];
    for zeros in geometry.zeros() {
        let len = usize_from_u64(zeros.end.saturating_sub(zeros.start)).min(PIECE);
        let zeros = read(source, buf.get_mut(..len).unwrap_or_default(), zeros.start)?;
        if zeros.iter().any(|byte| *byte != 0) {
            return wrong("a byte that is not used is not zero");
        }
    }
    // At most 144 KiB, whatever the head says.
    let mut table = vec![0; usize_from_u64(geometry.table_len())];
    for offset in [geometry.second_table_offset(), geometry.table_offset()] {
        if proof::hash_parity_table(read(source, &mut table, offset)?) != head.table_digest {
            return wrong("a table of checksums is not what it was");
        }
    }
    let (sums, _) = table.as_chunks::<SUM_LEN>();
    let sums = sums.get(usize_from_u32(geometry.data_count())..).unwrap_or_default();
    for (shard, expected) in (geometry.data_count()..).zip(sums) {
        if sum(source, geometry, shard, &mut buf)? != *expected {
            return wrong("a parity shard is not what it was");
        }
    }
    Ok(())
}

fn sum(
    source: &dyn Source,
    geometry: Geometry,
    shard: u32,
    buf: &mut [u8],
) -> Result<[u8; SUM_LEN]> {
    let mut place = geometry.place(shard);
    let mut hasher = ShardHasher::default();
    while !place.is_empty() {
        let len = usize_from_u64(place.end.saturating_sub(place.start)).min(buf.len()).max(1);
        let piece = read(source, buf.get_mut(..len).unwrap_or_default(), place.start)?;
        hasher.update(piece);
        place.start = place.start.saturating_add(u64_from_usize(len));
    }
    Ok(hasher.finish())
}

fn read<'a>(source: &dyn Source, buf: &'a mut [u8], offset: u64) -> Result<&'a [u8]> {
    let len = buf.len();
    source
        .read_exact_at(buf, offset)
        .map_err(|err| Error::io(format!("cannot read {len} bytes at offset {offset}"), err))?;
    Ok(buf)
}
