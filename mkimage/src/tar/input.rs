//! Where do an archive's bytes come from, and where is content found again when its turn comes?
//!
//! Content is read in the plan's order, not the archive's. An archive that is a plain file is read in place; anything
//! else passes by once, and its content is kept in a temporary file without a name.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

use rustix::fs::fstat;

use super::header::{Header, RECORD_LEN};
use crate::Failure;
use crate::scan::Stamp;

/// The archive as a stream of records.
pub(super) struct Input {
    source: Source,
    /// How the archive is called in messages.
    name: String,
    /// Bytes of the archive (expanded) that were read so far.
    position: u64,
}

enum Source {
    /// `stamp` is from before the first byte was read: headers and content must be of one state.
    InPlace {
        reader: BufReader<File>,
        end: u64,
        start: u64,
        stamp: Stamp,
    },
    Stream {
        reader: Box<dyn Read>,
        spool: BufWriter<File>,
        spooled: u64,
    },
}

/// Where content is found again.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) file: File,
    /// Of an archive that is read in place, and may change meanwhile.
    pub(super) stamp: Option<Stamp>,
    pub(super) name: String,
}

/// How an archive is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Packing {
    None,
    Gzip,
    Xz,
    Zstd,
}

const BUF_LEN: usize = 256 * 1024;

/// What other things start with that people may give, and what makes an archive of them.
const OTHERS: [(&[u8], &str, &str); 7] = [
    (b"BZh", "packed with bzip2", "bzip2 -dc"),
    (b"\x04\x22\x4d\x18", "packed with lz4", "lz4 -dc"),
    (b"LZIP", "packed with lzip", "lzip -dc"),
    (b"\x5d\0\0", "packed with lzma", "xz -dc --format=lzma"),
    (b"\x1f\x9d", "packed with compress", "gzip -dc"),
    (b"PK\x03\x04", "a zip archive", "bsdtar -cf - @"),
    (b"07070", "a cpio archive", "bsdtar -cf - @"),
];

/// Largest window of zstd: what `zstd --long=31` makes can be read too.
const ZSTD_WINDOW_LOG_MAX: u32 = 31;

impl Input {
    /// Opens an archive; `-` is standard input. Content that must be kept is kept in `tmpdir`.
    pub(super) fn open(source: &Path, tmpdir: &Path) -> Result<Input, Failure> {
        let is_stdin = source.as_os_str() == "-";
        let name = if is_stdin { "standard input".into() } else { source.display().to_string() };
        let failure = |err: &io::Error| Failure::io(format!("cannot open {name}"), err);
        let mut file = if is_stdin {
            let fd = rustix::io::dup(rustix::stdio::stdin()).map_err(|err| failure(&err.into()))?;
            File::from(fd)
        } else {
            File::open(source).map_err(|err| failure(&err))?
        };
        let stamp = Stamp::of(&fstat(&file).map_err(|err| failure(&err.into()))?);
        let metadata = file.metadata().map_err(|err| failure(&err))?;
        if metadata.is_dir() {
            return Err(Failure::new(format!("{name} is a directory, --tar needs an archive"))
                .hint("a directory is packed without --tar"));
        }
        if is_stdin && rustix::termios::isatty(&file) {
            return Err(Failure::new("standard input is a terminal, --tar needs an archive").hint(
                "tar --format=posix --xattrs --acls -C DIR -cf - . | mkimage --tar - IMAGE",
            ));
        }
        let mut head = Vec::new();
        let start = if metadata.is_file() {
            file.stream_position().map_err(|err| failure(&err))?
        } else {
            0
        };
        (&mut file)
            .take(RECORD_LEN as u64)
            .read_to_end(&mut head)
            .map_err(|err| Failure::io(format!("cannot read {name}"), &err))?;
        let packing = packing(&head, &name)?;
        let source = if metadata.is_file() {
            file.seek(SeekFrom::Start(start)).map_err(|err| failure(&err))?;
            if packing == Packing::None {
                let reader = BufReader::with_capacity(BUF_LEN, file);
                Source::InPlace { reader, end: stamp.size, start, stamp }
            } else {
                stream(file, packing, tmpdir)?
            }
        } else {
            stream(io::Cursor::new(head).chain(file), packing, tmpdir)?
        };
        Ok(Input { source, name, position: 0 })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The next record; `None` where the archive ends.
    pub(super) fn record(&mut self) -> Result<Option<[u8; RECORD_LEN]>, Failure> {
        let mut record = [0; RECORD_LEN];
        match self.read(&mut record)? {
            0 => Ok(None),
            RECORD_LEN => Ok(Some(record)),
            _ => Err(self.cut_off()),
        }
    }

    /// So many bytes, and what fills their last record.
    pub(super) fn bytes(&mut self, len: u64) -> Result<Vec<u8>, Failure> {
        let padded = usize::try_from(padded(len)).map_err(|_| self.cut_off())?;
        let mut bytes = vec![0; padded];
        if self.read(&mut bytes)? < padded {
            return Err(self.cut_off());
        }
        bytes.truncate(usize::try_from(len).unwrap_or(padded));
        Ok(bytes)
    }

    /// Passes over content and what fills its last record; tells where it is found again.
    pub(super) fn keep(&mut self, len: u64) -> Result<u64, Failure> {
        let fill = padded(len) - len;
        match &mut self.source {
            Source::InPlace { end, start, .. } => {
                let at = *start + self.position;
                if at.checked_add(len + fill).is_none_or(|after| after > *end) {
                    return Err(self.cut_off());
                }
                self.pass(len + fill)?;
                Ok(at)
            }
            Source::Stream { reader, spool, spooled } => {
                let at = *spooled;
                let copied = copy(reader, spool, len).map_err(|err| match err {
                    Copy::Reading(err) => Failure::io(format!("cannot read {}", self.name), &err),
                    Copy::Writing(err) => {
                        Failure::io("cannot keep content in a temporary file", &err)
                            .hint("give a directory with more room: --tmpdir DIR")
                    }
                })?;
                *spooled += copied;
                self.position += copied;
                if copied < len {
                    return Err(self.cut_off());
                }
                self.pass(fill)?;
                Ok(at)
            }
        }
    }

    /// Passes over content that is of no use, and what fills its last record.
    pub(super) fn keep_nothing(&mut self, len: u64) -> Result<(), Failure> {
        self.pass(padded(len))
    }

    /// Passes over bytes that are of no use.
    fn pass(&mut self, len: u64) -> Result<(), Failure> {
        let wrap = |err| Failure::io(format!("cannot read {}", self.name), &err);
        let passed = match &mut self.source {
            Source::InPlace { reader, end, start, .. } => {
                let left = end.saturating_sub(*start + self.position);
                let step = i64::try_from(len.min(left)).unwrap_or(i64::MAX);
                reader.seek_relative(step).map_err(wrap)?;
                len.min(left)
            }
            Source::Stream { reader, .. } => {
                io::copy(&mut reader.take(len), &mut io::sink()).map_err(wrap)?
            }
        };
        self.position += passed;
        if passed < len { Err(self.cut_off()) } else { Ok(()) }
    }

    /// Reads to the end, so that a packed archive's checksums are checked. Tells whether more than zeros followed.
    pub(super) fn drain(&mut self) -> Result<bool, Failure> {
        let mut buf = vec![0; 64 * 1024];
        let mut more = false;
        loop {
            let len = self.read(&mut buf)?;
            more |= buf[..len].iter().any(|byte| *byte != 0);
            if len == 0 || (more && matches!(self.source, Source::InPlace { .. })) {
                return Ok(more);
            }
        }
    }

    /// Turns to what was kept.
    pub(super) fn finish(self) -> Result<Kept, Failure> {
        let wrap = |err: io::Error| Failure::io("cannot keep content in a temporary file", &err);
        Ok(match self.source {
            Source::InPlace { reader, stamp, .. } => {
                Kept { file: reader.into_inner(), stamp: Some(stamp), name: self.name }
            }
            Source::Stream { spool, .. } => {
                let file = spool.into_inner().map_err(|err| wrap(err.into_error()))?;
                Kept { file, stamp: None, name: self.name }
            }
        })
    }

    pub(super) fn cut_off(&self) -> Failure {
        self.damaged("it is cut off")
    }

    pub(super) fn damaged(&self, what: impl std::fmt::Display) -> Failure {
        Failure::new(format!("{}, at byte {}: {what}", self.name, self.position))
            .hint("the archive is damaged: get or make it again")
    }

    /// Fills `buf`, less at the end of the archive only.
    fn read(&mut self, buf: &mut [u8]) -> Result<usize, Failure> {
        let mut done = 0;
        while done < buf.len() {
            let result = match &mut self.source {
                Source::InPlace { reader, .. } => reader.read(&mut buf[done..]),
                Source::Stream { reader, .. } => reader.read(&mut buf[done..]),
            };
            match result {
                Ok(0) => break,
                Ok(len) => done += len,
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) if err.kind() == io::ErrorKind::UnexpectedEof => {
                    return Err(self.cut_off());
                }
                Err(err) => return Err(Failure::io(format!("cannot read {}", self.name), &err)),
            }
        }
        self.position += done as u64;
        Ok(done)
    }
}

/// A length with what fills its last record.
fn padded(len: u64) -> u64 {
    len.saturating_add(RECORD_LEN as u64 - 1) / RECORD_LEN as u64 * RECORD_LEN as u64
}

fn packing(head: &[u8], name: &str) -> Result<Packing, Failure> {
    match head {
        [] => return Err(Failure::new(format!("{name} is empty, and no tar archive"))),
        [0x1f, 0x8b, ..] => return Ok(Packing::Gzip),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => return Ok(Packing::Xz),
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
            return Ok(Packing::Zstd);
        }
        _ => {}
    }
    let header = head.first_chunk().map(Header);
    if header.is_some_and(|header| header.is_header() || header.is_zero()) {
        return Ok(Packing::None);
    }
    if let Some((_, what, command)) = OTHERS.iter().find(|(magic, ..)| head.starts_with(magic)) {
        return Err(Failure::new(format!("{name} is {what}"))
            .hint(format!("{command} FILE | mkimage --tar - IMAGE")));
    }
    Err(Failure::new(format!("{name} is no tar archive"))
        .hint("plain archives are read, and those packed with gzip, xz or zstd"))
}

fn stream(raw: impl Read + 'static, packing: Packing, tmpdir: &Path) -> Result<Source, Failure> {
    let raw = BufReader::with_capacity(BUF_LEN, raw);
    let reader: Box<dyn Read> = match packing {
        Packing::None => Box::new(raw),
        Packing::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(raw)),
        Packing::Xz => Box::new(lzma_rust2::XzReader::new(raw, true)),
        Packing::Zstd => {
            let wrap = |err| Failure::io("cannot start zstd", &err);
            let mut decoder = zstd::Decoder::with_buffer(raw).map_err(wrap)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(wrap)?;
            Box::new(decoder)
        }
    };
    let spool = tempfile::tempfile_in(tmpdir).map_err(|err| {
        Failure::io(format!("cannot make a temporary file in {}", tmpdir.display()), &err)
            .hint("content of a packed or piped archive is kept there; choose with --tmpdir DIR")
    })?;
    Ok(Source::Stream { reader, spool: BufWriter::with_capacity(BUF_LEN, spool), spooled: 0 })
}

enum Copy {
    Reading(io::Error),
    Writing(io::Error),
}

/// Copies up to `len` bytes; tells which side failed.
fn copy(reader: &mut dyn Read, writer: &mut impl Write, len: u64) -> Result<u64, Copy> {
    let mut buf = vec![0; usize::try_from(len).unwrap_or(BUF_LEN).min(BUF_LEN)];
    let mut copied = 0;
    while copied < len {
        let want = usize::try_from(len - copied).unwrap_or(BUF_LEN).min(BUF_LEN);
        match reader.read(&mut buf[..want]) {
            Ok(0) => break,
            Ok(read) => {
                writer.write_all(&buf[..read]).map_err(Copy::Writing)?;
                copied += read as u64;
            }
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) if err.kind() == io::ErrorKind::UnexpectedEof => break,
            Err(err) => return Err(Copy::Reading(err)),
        }
    }
    Ok(copied)
}
