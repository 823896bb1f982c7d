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

/// The first superblock of btrfs, which it writes with FUA, too, and where its magic number is.
const BTRFS_OFFSET: u64 = 0x1_0000;
const BTRFS_MAGIC_AT: usize = 0x40;
const BTRFS_MAGIC: &[u8] = b"_BHRfS_M";

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
    /// seen from what the file system writes.
    fn is_fua(&self, request: &Request) -> bool {
        let block = self.bytes.get(request.from..request.from + request.len).unwrap_or_default();
        let is_journal = block.strip_prefix(JOURNAL_MAGIC).is_some_and(|rest| {
            JOURNAL_KINDS.iter().any(|kind| rest.starts_with(&[0, 0, 0, *kind]))
        });
        let magic = block.get(BTRFS_MAGIC_AT..).unwrap_or_default();
        let is_btrfs = request.offset == BTRFS_OFFSET && magic.starts_with(BTRFS_MAGIC);
        request.flags & FUA != 0 || is_journal || is_btrfs
    }

    /// How many requests there are.
    pub(crate) fn len(&self) -> usize {
        self.requests.len()
    }

    /// What of the requests is on the disk when the power fails after `until` of them.
    pub(crate) fn after(&self, until: usize, fate: Fate) -> Reached {
        let done = self.requests.get(..until).unwrap_or(&self.requests);
        let last_flush = done.iter().rposition(|request| request.flags & FLUSH != 0).unwrap_or(0);
        let is_sure =
            |number: usize, request: &Request| number <= last_flush || self.is_fua(request);
        let mut parts: Vec<(usize, usize)> = Vec::new();
        let mut open: Vec<(usize, usize)> = Vec::new();
        for (number, request) in done.iter().enumerate().filter(|(_, request)| request.len > 0) {
            let part = (number, request.len);
            if is_sure(number, request) { parts.push(part) } else { open.push(part) }
        }
        match fate {
            Fate::All => parts.append(&mut open),
            Fate::Some(seed) => {
                let mut dice = Dice::new(seed);
                open.retain(|_| dice.roll(2) == 0);
                parts.append(&mut open);
            }
            Fate::Reordered(seed) => {
                let mut dice = Dice::new(seed);
                for at in (1..open.len()).rev() {
                    open.swap(at, dice.roll(at + 1));
                }
                open.truncate(dice.roll(open.len() + 1));
                if let Some((_, len)) = open.last_mut() {
                    *len = dice.roll(*len / SECTOR + 1) * SECTOR;
                }
                parts.append(&mut open);
            }
            Fate::Torn(seed) => {
                parts.append(&mut open);
                parts.sort_unstable();
                // The last one, even if it was to be sure: it is not done yet.
                if let Some((number, len)) = parts.last_mut()
                    && *number + 1 == until
                {
                    *len = Dice::new(seed).roll(*len / SECTOR) * SECTOR;
                }
            }
        }
        // No disk puts what is older over what is newer.
        parts.retain(|(_, len)| *len > 0);
        parts.sort_unstable();
        Reached(parts)
    }

    /// Makes of the disk as it was what has reached it.
    pub(crate) fn apply(&self, disk: &Path, reached: &Reached) -> Result<()> {
        let doing = format!("cannot write {}", disk.display());
        let file = File::options().write(true).open(disk).doing(&doing)?;
        for (number, len) in &reached.0 {
            if let Some(request) = self.requests.get(*number)
                && let Some(bytes) = self.bytes.get(request.from..request.from + len)
            {
                file.write_all_at(bytes, request.offset).doing(&doing)?;
            }
        }
        Ok(())
    }
}

/// What has reached the disk: requests by their numbers, and how many bytes of each.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Reached(Vec<(usize, usize)>);

/// What becomes of the requests since the last flush. Numbers are seeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// All of them are on the disk.
    All,
    /// Each is or is not.
    Some(u64),
    /// They went there in another order, until in the midst of one the power was gone.
    Reordered(u64),
    /// All of them are, but of the last request only the first sectors.
    Torn(u64),
}

/// Random numbers, the same for the same seed.
#[derive(Debug)]
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// One below `sides`, or 0.
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        let sides = u64::try_from(sides).unwrap_or(1).max(1);
        usize::try_from((self.0 >> 8) % sides).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two writes, a flush, and three more, each of four sectors of its number.
    fn log() -> Log {
        let mut log = Log { bytes: Vec::new(), requests: Vec::new() };
        for (number, flags) in (0_u8..).zip([0, 0, FLUSH, 0, 0, 0]) {
            let len = if flags == 0 { 4 * SECTOR } else { 0 };
            let from = log.bytes.len();
            log.bytes.resize(from + len, number);
            log.requests.push(Request { flags, offset: 4096 * u64::from(number), from, len });
        }
        log
    }

    #[test]
    fn what_was_flushed_is_there_and_the_rest_as_it_comes() {
        let log = log();
        let flushed = [(0, 2048), (1, 2048)];
        assert_eq!(log.after(3, Fate::Some(1)).0, flushed);
        assert_eq!(log.after(0, Fate::All).0, []);
        assert_eq!(
            log.after(6, Fate::All).0,
            [&flushed[..], &[(3, 2048), (4, 2048), (5, 2048)]].concat()
        );
        let mut missed_one_before_a_later_one = false;
        for seed in 0..100 {
            for fate in [Fate::Some(seed), Fate::Reordered(seed)] {
                let reached = log.after(6, fate).0;
                assert_eq!(reached[..2], flushed);
                assert!(reached.is_sorted());
                missed_one_before_a_later_one |= reached.get(2).is_some_and(|part| part.0 > 3);
            }
            let torn = log.after(6, Fate::Torn(seed)).0;
            assert_eq!(torn[..4], log.after(5, Fate::All).0);
            assert!(torn.get(4).is_none_or(|part| part.1 < 2048 && part.1 % SECTOR == 0));
        }
        assert!(missed_one_before_a_later_one);
    }

    #[test]
    fn what_must_be_there_at_once_is_never_missed() {
        let mut log = log();
        log.requests[4].flags = FUA;
        for seed in 0..20 {
            assert!(log.after(6, Fate::Some(seed)).0.contains(&(4, 2048)));
            assert!(log.after(6, Fate::Reordered(seed)).0.contains(&(4, 2048)));
        }
    }
}
