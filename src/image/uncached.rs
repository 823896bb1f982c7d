//! What does the disk itself hold, whatever the page cache says? Bytes that went bad in memory, or on the way there, are good when
//! they are read once more.

use std::fs::{File, OpenOptions};
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{Advice, OFlags};

use super::open_whatever;
use crate::format::field::{u64_from_usize, usize_from_u64};

/// What direct reads are aligned to, in file and memory: enough for every disk of today, and for a disk of tomorrow.
const ALIGNMENTS: [u64; 2] = [4096, 65_536];
/// The page cache forgets whole folios only, and they are no longer than that.
const FOLIO_LEN_MAX: u64 = 2 << 20;

/// A file or block device, to be read past the page cache.
#[derive(Debug)]
pub struct Uncached {
    file: File,
    /// The same without a page cache, on a descriptor of its own: the flag belongs to all who share one. Not every file system
    /// knows that.
    direct: Option<File>,
}

impl Uncached {
    /// Opens it.
    pub fn open(path: &Path) -> io::Result<Self> {
        let (file, kind) = open_whatever(path)?;
        if !kind.is_file() && !kind.is_block_device() {
            return Err(io::Error::other("it is neither a regular file nor a block device"));
        }
        let flags = OFlags::DIRECT | OFlags::NONBLOCK | OFlags::NOCTTY;
        let direct =
            OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path);
        let own = file.metadata()?;
        let is_same = |direct: &File| {
            direct.metadata().is_ok_and(|it| (it.dev(), it.ino()) == (own.dev(), own.ino()))
        };
        Ok(Uncached { file, direct: direct.ok().filter(is_same) })
    }

    /// The same from descriptors of before: any, and the one without a page cache if there is one.
    pub fn from_files(file: File, direct: Option<File>) -> Self {
        Uncached { file, direct }
    }

    /// The descriptor without a page cache.
    pub fn direct(&self) -> Option<&File> {
        self.direct.as_ref()
    }

    /// Reads from the disk. The page cache forgets the place, so that who comes next reads it anew, too.
    pub fn read(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let start = round_down(offset, FOLIO_LEN_MAX);
        let end = offset.saturating_add(u64_from_usize(len)).saturating_add(FOLIO_LEN_MAX);
        let forgotten = NonZeroU64::new(round_down(end, FOLIO_LEN_MAX).saturating_sub(start));
        // It is advice: pages that somebody has mapped stay. A direct read does not look at them.
        rustix::fs::fadvise(&self.file, start, forgotten, Advice::DontNeed).unwrap_or_default();
        for alignment in ALIGNMENTS {
            let Some(direct) = &self.direct else { break };
            match read_direct(direct, offset, len, alignment) {
                // "Not so", or "not here".
                Err(err) if err.kind() == io::ErrorKind::InvalidInput => {}
                read => return read,
            }
        }
        let mut bytes = vec![0; len];
        self.file.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }
}

fn round_down(value: u64, to: u64) -> u64 {
    value.checked_rem(to).map_or(value, |rest| value.saturating_sub(rest))
}

fn read_direct(file: &File, offset: u64, len: usize, alignment: u64) -> io::Result<Vec<u8>> {
    let start = round_down(offset, alignment);
    let before = usize_from_u64(offset.saturating_sub(start));
    let wanted = before.saturating_add(len);
    let align = usize_from_u64(alignment);
    let room = wanted.checked_next_multiple_of(align).ok_or(io::ErrorKind::InvalidInput)?;
    let mut memory = vec![0; room.saturating_add(align)];
    let skipped = memory.as_ptr().align_offset(align);
    let buf = memory.get_mut(skipped..).and_then(|rest| rest.get_mut(..room));
    let buf = buf.ok_or(io::ErrorKind::InvalidInput)?;
    let mut filled = 0_usize;
    while filled < wanted {
        let at = start.saturating_add(u64_from_usize(filled));
        match file.read_at(buf.get_mut(filled..).unwrap_or_default(), at) {
            // A file ends where it likes.
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(more) => filled = filled.saturating_add(more),
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) => return Err(err),
        }
    }
    let bytes = buf.get(before..wanted).ok_or(io::ErrorKind::UnexpectedEof)?;
    Ok(bytes.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_place_and_length_comes_as_it_is() {
        let path = std::env::temp_dir().join(format!("ashlar-uncached-{}", std::process::id()));
        // Neither the file's end nor any of the pieces is aligned to anything.
        let content: Vec<u8> = (0..300_001_u32).map(|n| u8::try_from(n % 251).unwrap()).collect();
        std::fs::write(&path, &content).unwrap();
        let uncached = Uncached::open(&path).unwrap();
        for (offset, len) in
            [(0, 1), (0, 4096), (1, 4096), (4095, 2), (65_537, 131_072), (299_000, 1001)]
        {
            let found = uncached.read(offset, len).unwrap();
            let start = usize::try_from(offset).unwrap();
            assert_eq!(found, content[start..start + len], "{len} at {offset}");
            if let Some(direct) = &uncached.direct {
                let found = read_direct(direct, offset, len, 65_536).unwrap();
                assert_eq!(found, content[start..start + len], "{len} at {offset}");
            }
        }
        for (offset, len) in [(299_000, 1002), (300_001, 1), (1 << 40, 1), (u64::MAX, 4096)] {
            assert!(uncached.read(offset, len).is_err(), "{len} at {offset}");
        }
        assert!(Uncached::open(&std::env::temp_dir()).is_err());
        std::fs::remove_file(path).unwrap();
    }
}
