//! Which signatures does an image carry? A trailer after the image, outside its digest (SPEC §9).

use super::digest::Digest;
use super::field::{self, Field, field};
use super::{SIGNATURE_LEN_MAX, SIGNATURES_MAX};

/// The trailer's first eight bytes.
pub const MAGIC: [u8; 8] = *b"ASHLSIGS";
/// The trailer's last eight bytes.
pub const END_MAGIC: [u8; 8] = *b"ASHLTAIL";
/// Length of the head in bytes.
pub const HEAD_LEN: usize = 48;
/// Length of the foot in bytes.
pub const FOOT_LEN: usize = 16;
/// Longest trailer in bytes.
pub const LEN_MAX: u32 = 64 + SIGNATURES_MAX * (4 + SIGNATURE_LEN_MAX);

const LEN_AT: usize = 0x08;
const COUNT_AT: usize = 0x0c;
/// Where the checksum stands.
pub const CHECKSUM_AT: usize = 0x10;

/// The layout of the head, as SPEC §9 has it.
pub const HEAD_FIELDS: &[Field] = &[
    field(0x00, 8, "magic"),
    field(LEN_AT, 4, "trailer_len"),
    field(COUNT_AT, 4, "count"),
    field(CHECKSUM_AT, 32, "checksum"),
];

/// The layout of the foot, as SPEC §9 has it.
pub const FOOT_FIELDS: &[Field] =
    &[field(0x00, 4, "trailer_len"), field(0x04, 4, "reserved"), field(0x08, 8, "magic")];

/// What the head says, before anything else is read: the trailer's length in bytes.
pub fn decode_len(head: &[u8; HEAD_LEN]) -> Result<u32, &'static str> {
    if !head.starts_with(&MAGIC) {
        return Err("it does not start with its magic");
    }
    let len = field::get_u32(head, LEN_AT);
    let len_min = field::u32_from_usize(HEAD_LEN).saturating_add(field::u32_from_usize(FOOT_LEN));
    if (len_min..=LEN_MAX).contains(&len) { Ok(len) } else { Err("its length is impossible") }
}

/// What the foot says: the trailer's length in bytes, or nothing when it is no foot.
pub fn decode_foot(foot: &[u8; FOOT_LEN]) -> Option<u32> {
    let right = foot.ends_with(&END_MAGIC) && field::is_zero(foot, 0x04, 4);
    right.then(|| field::get_u32(foot, 0x00)).filter(|len| *len <= LEN_MAX)
}

/// Decodes a whole trailer; `checksum` computes the digest of a trailer whose checksum field is zero.
pub fn decode(
    raw: &[u8],
    checksum: impl Fn(&[u8]) -> Digest,
) -> Result<Vec<Vec<u8>>, &'static str> {
    let head: &[u8; HEAD_LEN] = raw.first_chunk().ok_or("it is too short")?;
    let foot: &[u8; FOOT_LEN] = raw.last_chunk().ok_or("it is too short")?;
    let len = decode_len(head)?;
    if field::usize_from_u32(len) != raw.len() || decode_foot(foot) != Some(len) {
        return Err("its head and its end disagree");
    }
    let mut blank = raw.to_vec();
    field::put(&mut blank, CHECKSUM_AT, &[0; 32]);
    if checksum(&blank).0 != field::get_32(raw, CHECKSUM_AT) {
        return Err("its checksum is wrong");
    }
    let count = field::get_u32(head, COUNT_AT);
    if !(1..=SIGNATURES_MAX).contains(&count) {
        return Err("it has an impossible number of signatures");
    }
    let mut rest =
        raw.get(HEAD_LEN..raw.len().saturating_sub(FOOT_LEN)).ok_or("it is too short")?;
    let mut signatures = Vec::new();
    for _ in 0..count {
        let (len, after) = rest.split_first_chunk::<4>().ok_or("a signature is cut off")?;
        let len = u32::from_le_bytes(*len);
        if !(1..=SIGNATURE_LEN_MAX).contains(&len) {
            return Err("a signature has an impossible length");
        }
        let (signature, after) =
            after.split_at_checked(field::usize_from_u32(len)).ok_or("a signature is cut off")?;
        signatures.push(signature.to_vec());
        rest = after;
    }
    if rest.is_empty() { Ok(signatures) } else { Err("it has bytes that belong to no signature") }
}

/// Encodes a trailer, or nothing for no signatures. `None` when there are too many, or one is too long.
pub fn encode(signatures: &[Vec<u8>], checksum: impl Fn(&[u8]) -> Digest) -> Option<Vec<u8>> {
    if signatures.is_empty() {
        return Some(Vec::new());
    }
    let count = u32::try_from(signatures.len()).ok().filter(|count| *count <= SIGNATURES_MAX)?;
    let mut raw = vec![0; HEAD_LEN];
    for signature in signatures {
        let len = u32::try_from(signature.len()).ok()?;
        if !(1..=SIGNATURE_LEN_MAX).contains(&len) {
            return None;
        }
        raw.extend_from_slice(&len.to_le_bytes());
        raw.extend_from_slice(signature);
    }
    let len = u32::try_from(raw.len().saturating_add(FOOT_LEN)).ok()?;
    field::put(&mut raw, 0, &MAGIC);
    field::put(&mut raw, LEN_AT, &len.to_le_bytes());
    field::put(&mut raw, COUNT_AT, &count.to_le_bytes());
    raw.extend_from_slice(&len.to_le_bytes());
    raw.extend_from_slice(&[0; 4]);
    raw.extend_from_slice(&END_MAGIC);
    let sum = checksum(&raw);
    field::put(&mut raw, CHECKSUM_AT, &sum.0);
    Some(raw)
}

/// Length of a trailer that holds these signatures; 0 for none.
pub fn len(signatures: &[Vec<u8>]) -> u64 {
    let ends = if signatures.is_empty() { 0 } else { HEAD_LEN.saturating_add(FOOT_LEN) };
    let each = signatures.iter().map(|signature| signature.len().saturating_add(4));
    field::u64_from_usize(each.fold(ends, usize::saturating_add))
}

/// The text that is signed for an image (SPEC §9).
pub fn signed_text(root_digest: &Digest, image_version: u64) -> String {
    format!("ashlar image\nroot-digest {root_digest}\nimage-version {image_version}\n")
}
