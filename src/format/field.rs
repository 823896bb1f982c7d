//! Where do bytes become integers, and back? Only here.

/// One row of a layout table: SPEC's tables are compared with these by a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// Offset from the start of the structure, in bytes.
    pub at: usize,
    /// Length in bytes.
    pub len: usize,
    /// Name, as SPEC spells it.
    pub name: &'static str,
}

/// Shorthand for a row of a layout table.
pub const fn field(at: usize, len: usize, name: &'static str) -> Field {
    Field { at, len, name }
}

/// Copies `N` bytes from `raw` at `at`; bytes past the end read as zero, which no caller relies on: every structure is
/// decoded from an array of its exact length.
fn array<const N: usize>(raw: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    if let Some(from) = raw.get(at..).and_then(|tail| tail.get(..N)) {
        out.copy_from_slice(from);
    }
    out
}

/// The byte at `at`.
pub fn get_u8(raw: &[u8], at: usize) -> u8 {
    u8::from_le_bytes(array(raw, at))
}
/// The 16-bit integer at `at`.
pub fn get_u16(raw: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array(raw, at))
}
/// The 32-bit integer at `at`.
pub fn get_u32(raw: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array(raw, at))
}
/// The 48-bit integer at `at`.
pub fn get_u48(raw: &[u8], at: usize) -> u64 {
    let mut wide = [0; 8];
    put(&mut wide, 0, &array::<6>(raw, at));
    u64::from_le_bytes(wide)
}
/// The 64-bit integer at `at`.
pub fn get_u64(raw: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array(raw, at))
}
/// The signed 64-bit integer at `at`.
pub fn get_i64(raw: &[u8], at: usize) -> i64 {
    i64::from_le_bytes(array(raw, at))
}
/// The 32 bytes at `at`.
pub fn get_32(raw: &[u8], at: usize) -> [u8; 32] {
    array(raw, at)
}
/// Whether `len` bytes at `at` are all zero.
pub fn is_zero(raw: &[u8], at: usize, len: usize) -> bool {
    raw.iter().skip(at).take(len).all(|byte| *byte == 0)
}

/// Writes `bytes` into `raw` at `at`. Encoders write into arrays of the structure's own length, so the bytes fit.
pub fn put(raw: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(to) = raw.get_mut(at..).and_then(|tail| tail.get_mut(..bytes.len())) {
        to.copy_from_slice(bytes);
    }
}

/// A length in memory as a length on disk. Lossless: `usize` is at most 64 bits on every target.
pub fn u64_from_usize(value: usize) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}
/// A 32-bit number as a length in memory. Lossless: `usize` is at least 32 bits on every target (asserted below).
pub fn usize_from_u32(value: u32) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}
/// A 64-bit number as a length in memory; saturates where memory could not hold it anyway.
pub fn usize_from_u64(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}
/// A length in memory as a 32-bit number; saturates.
pub fn u32_from_usize(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}
/// A 64-bit number as a 32-bit one; saturates.
pub fn u32_from_u64(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

const _: () = assert!(usize::BITS >= 32, "an index of the format fits a usize");
