//! What does a program name? Its interpreter and its libraries.

use std::io::{self, Read, Seek, SeekFrom};

use elf::ElfStream;
use elf::abi::{DT_NEEDED, DT_NULL, DT_RPATH, DT_RUNPATH, PT_INTERP};
use elf::endian::AnyEndian;
use elf::parse::ParseError;

use crate::format::field::{u64_from_usize, usize_from_u64};
use crate::fs::file::FileReader;

/// Longest program that is looked into. No table of it is longer, and four of them are held in memory.
const LEN_MAX: u64 = 32 << 20;
/// Most entries of a dynamic section that are looked at, and longest name; a program of systemd has some forty.
const ENTRIES_MAX: usize = 1024;
const NAME_MAX: usize = 4096;
/// Longest first line of a script that the kernel reads (`BINPRM_BUF_SIZE`).
const LINE_MAX: u64 = 256;

/// What a program names.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) interpreter: Option<Vec<u8>>,
    pub(super) libraries: Vec<Vec<u8>>,
    pub(super) search: Vec<Vec<u8>>,
}

/// What a program's bytes name. What is no program names nothing; the bytes are the image's own, but nobody says that they
/// are well formed.
pub(super) fn names(mut content: impl Read + Seek) -> io::Result<Named> {
    let mut line = Vec::new();
    content.by_ref().take(LINE_MAX).read_to_end(&mut line)?;
    if let Some(line) = line.strip_prefix(b"#!") {
        let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
        let interpreter = words.next().map(<[u8]>::to_vec);
        return Ok(Named { interpreter, ..Named::default() });
    }
    if content.seek(SeekFrom::End(0))? > LEN_MAX {
        return Ok(Named::default());
    }
    match elf_names(content) {
        Ok(named) => Ok(named),
        Err(ParseError::IOError(err)) => Err(err),
        Err(_) => Ok(Named::default()),
    }
}

fn elf_names(content: impl Read + Seek) -> Result<Named, ParseError> {
    let mut file = ElfStream::<AnyEndian, _>::open_stream(content)?;
    let mut named = Named::default();
    let segment = file.segments().iter().find(|segment| segment.p_type == PT_INTERP).copied();
    if let Some(segment) = segment {
        let data = file.segment_data(&segment).unwrap_or_default();
        let name = data.split(|byte| *byte == 0).next();
        named.interpreter =
            name.filter(|it| (1..=NAME_MAX).contains(&it.len())).map(<[u8]>::to_vec);
    }
    let Some(dynamic) = file.dynamic()? else { return Ok(named) };
    let dynamic: Vec<_> =
        dynamic.iter().take_while(|entry| entry.d_tag != DT_NULL).take(ENTRIES_MAX).collect();
    let Some((_, strings)) = file.dynamic_symbol_table()? else { return Ok(named) };
    for entry in dynamic {
        let text = || {
            let text = strings.get_raw(usize_from_u64(entry.d_val())).ok();
            text.filter(|text| text.len() <= NAME_MAX).map(<[u8]>::to_vec)
        };
        match entry.d_tag {
            DT_NEEDED => named.libraries.extend(text()),
            DT_RPATH | DT_RUNPATH => {
                let paths = text().unwrap_or_default();
                named.search.extend(paths.split(|byte| *byte == b':').map(<[u8]>::to_vec));
            }
            _ => {}
        }
    }
    Ok(named)
}

/// A file of an image as the standard library has files.
pub(super) struct Content<'a> {
    reader: FileReader<'a>,
    at: u64,
}

impl<'a> Content<'a> {
    pub(super) fn new(reader: FileReader<'a>) -> Self {
        Content { reader, at: 0 }
    }
}

impl Read for Content<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = self.reader.read_at(self.at, buf).map_err(io::Error::other)?;
        self.at = self.at.saturating_add(u64_from_usize(len));
        Ok(len)
    }
}

impl Seek for Content<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.reader.size().checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn named(content: &[u8]) -> Named {
        names(Cursor::new(content)).unwrap()
    }

    #[test]
    fn a_script_names_its_interpreter() {
        assert_eq!(named(b"#! /bin/sh -e\nx").interpreter.unwrap(), b"/bin/sh");
        assert_eq!(named(b"#!\n"), Named::default());
        assert_eq!(named(b""), Named::default());
    }

    #[test]
    fn a_program_names_its_loader_and_libraries() {
        let own = std::fs::read("/bin/sh").unwrap();
        let named = named(&own);
        assert!(named.interpreter.unwrap().starts_with(b"/lib"));
        assert!(named.libraries.iter().any(|library| library.starts_with(b"libc.so")));
    }

    #[test]
    fn no_cut_of_a_program_panics() {
        let own = std::fs::read("/bin/sh").unwrap();
        for len in (0..own.len()).step_by(own.len() / 300 + 1) {
            // A file that ends too early is an error of reading to some, and none to others.
            drop(names(Cursor::new(&own[..len])));
            let mut bent = own.clone();
            bent[len] ^= 0xff;
            drop(names(Cursor::new(&bent)));
        }
    }
}
