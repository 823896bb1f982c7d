//! Which interpreter does a program ask for? As little of ELF as answers that, for any class and byte order.

/// Length of the part of a program that is needed to find its program headers.
pub(crate) const HEADER_LEN: usize = 64;
/// Longest path of an interpreter (`PATH_MAX` of Linux).
const INTERPRETER_LEN_MAX: u64 = 4096;
/// Most program headers that are looked at; programs have a dozen.
const HEADERS_MAX: u64 = 512;

const EXECUTABLE: u64 = 2;
const SHARED: u64 = 3;
const INTERPRETER: u64 = 3;

/// What a file that starts with ELF's magic is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Elf {
    /// A program that the kernel starts by itself.
    Static,
    /// A program that this one starts.
    Dynamic(Vec<u8>),
    /// Not a program, or a mangled one.
    Wrong(&'static str),
}

/// Whether a file is ELF's.
pub(crate) fn is_elf(start: &[u8]) -> bool {
    start.starts_with(b"\x7fELF")
}

/// Looks at a program of which `read` gives bytes by offset and length. `None` when they could not be had.
pub(crate) fn interpreter(
    start: &[u8],
    read: &dyn Fn(u64, usize) -> Option<Vec<u8>>,
) -> Option<Elf> {
    let is_wide = start.get(4) == Some(&2);
    let is_big = start.get(5) == Some(&2);
    let word = |raw: &[u8], at: usize, len: usize| number(raw, at, len, is_big);
    let header = |wide: usize, narrow: usize, len: usize| {
        word(start, if is_wide { wide } else { narrow }, len)
    };
    let offset_len = if is_wide { 8 } else { 4 };
    let fields =
        (word(start, 16, 2), header(32, 28, offset_len), header(54, 42, 2), header(56, 44, 2));
    let (Some(kind), Some(at), Some(entry_len), Some(count)) = fields else {
        return Some(Elf::Wrong("ends in the middle of its ELF header"));
    };
    if kind != EXECUTABLE && kind != SHARED {
        return Some(Elf::Wrong("is an ELF file, but no program"));
    }
    let expected = if is_wide { 56 } else { 32 };
    if entry_len != expected || count == 0 || count > HEADERS_MAX {
        return Some(Elf::Wrong("has no ELF program headers that could be right"));
    }
    let table_len = usize::try_from(entry_len.saturating_mul(count)).ok()?;
    let table = read(at, table_len)?;
    if table.len() < table_len {
        return Some(Elf::Wrong("ends in the middle of its ELF program headers"));
    }
    let mut entries = table.chunks_exact(if is_wide { 56 } else { 32 });
    let Some(entry) = entries.find(|entry| word(entry, 0, 4) == Some(INTERPRETER)) else {
        return Some(Elf::Static);
    };
    let place = if is_wide { (8, 32) } else { (4, 16) };
    let (path_at, path_len) =
        (word(entry, place.0, offset_len)?, word(entry, place.1, offset_len)?);
    if !(2..=INTERPRETER_LEN_MAX).contains(&path_len) {
        return Some(Elf::Wrong("names an ELF interpreter of no possible length"));
    }
    let mut path = read(path_at, usize::try_from(path_len).ok()?)?;
    path.truncate(path.iter().position(|byte| *byte == 0).unwrap_or(path.len()));
    Some(if path.starts_with(b"/") {
        Elf::Dynamic(path)
    } else {
        Elf::Wrong("names an ELF interpreter that is no absolute path")
    })
}

/// The number in `len` bytes of `raw` at `at`.
fn number(raw: &[u8], at: usize, len: usize, is_big: bool) -> Option<u64> {
    let bytes = raw.get(at..)?.get(..len)?;
    let add = |sum: u64, byte: &u8| (sum << 8) | u64::from(*byte);
    Some(if is_big { bytes.iter().fold(0, add) } else { bytes.iter().rev().fold(0, add) })
}
