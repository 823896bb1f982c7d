//! Does a program run in an initramfs, where there is no loader and no library? Looks at its ELF header (elf(5)).

use std::path::Path;

use super::obstacle::Obstacle;

/// The segment that names the loader.
const INTERPRETER_SEGMENT: u32 = 3;

/// Offsets of what is looked at, for one of the two word sizes.
struct Layout {
    header_offset: usize,
    header_entry_len: usize,
    header_count: usize,
    segment_offset: usize,
    segment_len: usize,
    word_len: usize,
}

const LAYOUT_64: Layout = Layout {
    header_offset: 32,
    header_entry_len: 54,
    header_count: 56,
    segment_offset: 8,
    segment_len: 32,
    word_len: 8,
};
const LAYOUT_32: Layout = Layout {
    header_offset: 28,
    header_entry_len: 42,
    header_count: 44,
    segment_offset: 4,
    segment_len: 16,
    word_len: 4,
};

/// Reads little-endian and big-endian numbers.
struct Numbers<'a> {
    bytes: &'a [u8],
    big: bool,
}

impl Numbers<'_> {
    fn read(&self, at: usize, len: usize) -> Option<u64> {
        let bytes = self.bytes.get(at..at.checked_add(len)?)?;
        let add = |sum: u64, byte: &u8| sum << 8 | u64::from(*byte);
        Some(if self.big { bytes.iter().fold(0, add) } else { bytes.iter().rev().fold(0, add) })
    }

    fn size(&self, at: usize, len: usize) -> Option<usize> {
        self.read(at, len).and_then(|number| usize::try_from(number).ok())
    }
}

/// How a program is linked.
#[derive(Debug, PartialEq, Eq)]
enum Linkage {
    /// It needs nothing but the kernel.
    Static,
    /// It asks for a loader.
    Dynamic(String),
}

/// How a program is linked; nothing for what is no program.
fn linkage(program: &[u8]) -> Option<Linkage> {
    let (layout, big) = match program.get(..6)? {
        [0x7f, b'E', b'L', b'F', 2, order] => (LAYOUT_64, order),
        [0x7f, b'E', b'L', b'F', 1, order] => (LAYOUT_32, order),
        _ => return None,
    };
    let numbers = Numbers { bytes: program, big: *big == 2 };
    let first = numbers.size(layout.header_offset, layout.word_len)?;
    let entry_len = numbers.size(layout.header_entry_len, 2)?;
    let count = numbers.size(layout.header_count, 2)?;
    for nth in 0..count {
        let at = nth.checked_mul(entry_len)?.checked_add(first)?;
        if numbers.read(at, 4)? != u64::from(INTERPRETER_SEGMENT) {
            continue;
        }
        let offset = numbers.size(at.checked_add(layout.segment_offset)?, layout.word_len)?;
        let len = numbers.size(at.checked_add(layout.segment_len)?, layout.word_len)?;
        let name = program.get(offset..offset.checked_add(len)?)?;
        let name = name.strip_suffix(b"\0").unwrap_or(name);
        return Some(Linkage::Dynamic(String::from_utf8_lossy(name).into_owned()));
    }
    Some(Linkage::Static)
}

/// Reads the program at `path`; unless `allow_dynamic`, it has to be a static one.
pub fn read(path: &Path, allow_dynamic: bool) -> Result<Vec<u8>, Obstacle> {
    let content = std::fs::read(path).map_err(|err| Obstacle::from_io("read", path, err))?;
    match linkage(&content) {
        None => Err(Obstacle::NoProgram { path: path.to_owned() }),
        Some(Linkage::Dynamic(interpreter)) if !allow_dynamic => {
            Err(Obstacle::Dynamic { path: path.to_owned(), interpreter })
        }
        Some(_) => Ok(content),
    }
}

#[cfg(test)]
mod tests {
    use super::{Linkage, linkage};

    #[test]
    fn tells_static_from_dynamic() {
        // This test itself is linked like any program here.
        let own = std::fs::read("/proc/self/exe").unwrap();
        match linkage(&own).unwrap() {
            Linkage::Dynamic(loader) => assert!(loader.starts_with('/')),
            Linkage::Static => {}
        }

        // 32 bits, big-endian, one segment that names a loader.
        let mut small = vec![0; 52 + 32];
        small[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', 1, 2]);
        small[31] = 52;
        small[43] = 32;
        small[45] = 1;
        small[55] = 3;
        small[59] = 84;
        small[71] = 8;
        small.extend(b"/lib/ld\0");
        assert_eq!(linkage(&small), Some(Linkage::Dynamic("/lib/ld".to_owned())));
        small[55] = 1;
        assert_eq!(linkage(&small), Some(Linkage::Static));
    }

    #[test]
    fn what_is_cut_off_is_no_program() {
        let own = std::fs::read("/proc/self/exe").unwrap();
        for len in 0..64 {
            assert_eq!(linkage(&own[..len]), None, "{len} bytes");
        }
        assert_eq!(linkage(b"#!/bin/sh\n"), None);
    }
}
