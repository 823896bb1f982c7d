//! What may be on the disk when the power fails? QEMU notes each write (`blklogwrites`, the format of dm-log-writes); all
//! up to the last flush are there, and of those since any, in whichever order.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::outcome::{Doing, Result, failed};

const MAGIC: u64 = 0x006a_7366_7773_6872;
const SECTOR: usize = 512;
const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;

/// What each block of ext4's journal that is not a copy of another begins with, and the kinds of those that
/// are written with FUA: commits and superblocks.
const JOURNAL_MAGIC: &[u8] = &[0xc0, 0x3b, 0x39, 0x98];
const JOURNAL_KINDS: [u8; 3] = [2, 3, 4];

/// A request to the disk.
#[derive(Debug)]
struct Request {
    flags: u64,
    /// Where on the disk.
    offset: u64,
    /// Where in the log, and how much.
    from: usize,
    len: usize,
}

/// What was written, in the order in which it was done.
#[derive(Debug)]
pub(crate) struct Log {
    bytes: Vec<u8>,
    requests: Vec<Request>,
}

impl Log {
    /// Reads it.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).doing(format!("cannot read {}", path.display()))?;
        let number = |at: usize| -> Option<u64> {
            bytes.get(at..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
        };
        if number(0) != Some(MAGIC) {
            return failed(format!("{} is no log of writes", path.display()));
        }
        let mut requests = Vec::new();
        let mut at = SECTOR;
        while let (Some(sector), Some(sectors), Some(flags)) =
            (number(at), number(at + 8), number(at + 16))
        {
            if (u64::try_from(requests.len()).ok()) == number(16) {
                break;
            }
            let from = at + SECTOR;
            let len = if flags & DISCARD == 0 {
                usize::try_from(sectors).doing("a long write")? * SECTOR
            } else {
                0
            };
            requests.push(Request { flags, offset: sector * 512, from, len });
            at = from + len;
        }
        Ok(Log { bytes, requests })
    }

    /// Moments at which the power may fail, as numbers of requests: some of all, and each around a flush.
    pub(crate) fn moments(&self, some: usize) -> Vec<usize> {
        let len = self.requests.len();
        let flushes =
            (0..len).filter(|at| self.requests.get(*at).is_some_and(|it| it.flags & FLUSH != 0));
        let around = flushes.flat_map(|at| [at, at + 1, at + 2]);
        let mut moments: Vec<usize> =
            (1..=some).map(|nth| nth * len / some).chain(around).filter(|at| *at <= len).collect();
        moments.sort_unstable();
        moments.dedup();
        moments
    }

    /// Whether a write was to be on the disk before it was said to be done. QEMU's `NVMe` disk does not pass that on, so it is
    /// seen from what ext4 writes.
    fn is_fua(&self, request: &Request) -> bool {
        let block = self.bytes.get(request.from..request.from + request.len).unwrap_or_default();
        let is_journal = block.strip_prefix(JOURNAL_MAGIC).is_some_and(|rest| {
            JOURNAL_KINDS.iter().any(|kind| rest.starts_with(&[0, 0, 0, *kind]))
        });
        request.flags & FUA != 0 || is_journal
    }

    /// Makes of the disk as it was what it may be when the power fails after so many requests. `seed` says what of the last
    /// ones is there.
    pub(crate) fn apply(&self, disk: &Path, until: usize, seed: u64) -> Result<()> {
        let doing = format!("cannot write {}", disk.display());
        let file = File::options().write(true).open(disk).doing(&doing)?;
        let done = self.requests.get(..until).unwrap_or(&self.requests);
        let last_flush = done.iter().rposition(|request| request.flags & FLUSH != 0).unwrap_or(0);
        let mut dice = seed | 1;
        for (number, request) in done.iter().enumerate() {
            dice ^= dice << 13;
            dice ^= dice >> 7;
            dice ^= dice << 17;
            let is_there = number <= last_flush || self.is_fua(request) || dice & 0x100 == 0;
            if let Some(bytes) = self.bytes.get(request.from..request.from + request.len)
                && is_there
            {
                file.write_all_at(bytes, request.offset).doing(&doing)?;
            }
        }
        Ok(())
    }
}
