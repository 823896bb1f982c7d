//! What does an xattr set say? (SPEC §8)

use super::defect::Corrupt;
use super::field::{self, Field, field};
use super::{XATTR_LIST_MAX, XATTR_VALUE_MAX};

/// Length of an attribute's head in bytes: all but its name and value.
pub const HEAD_LEN: usize = 8;
/// Length of the count that starts a set.
pub const COUNT_LEN: usize = 2;
/// Names start with one of these.
pub const PREFIXES: [&[u8]; 4] = [b"user.", b"trusted.", b"security.", b"system."];
/// What the names of POSIX ACLs start with.
pub const POSIX_ACL_PREFIX: &[u8] = b"system.posix_acl_";

/// The layout of the head, as SPEC §8 has it.
pub const FIELDS: &[Field] =
    &[field(0x00, 1, "name_len"), field(0x01, 3, "reserved"), field(0x04, 4, "value_len")];

/// One attribute's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Length of the name in bytes.
    pub name_len: u8,
    /// Length of the value in bytes, at most 65,536.
    pub value_len: u32,
}

impl Head {
    /// Decodes the head of an attribute of the set at `set`.
    pub fn decode(raw: &[u8; HEAD_LEN], set: u32) -> Result<Self, Corrupt> {
        if !field::is_zero(raw, 0x01, 3) {
            return Err(Corrupt::XattrReserved { at: set });
        }
        let head =
            Head { name_len: field::get_u8(raw, 0x00), value_len: field::get_u32(raw, 0x04) };
        if head.value_len > XATTR_VALUE_MAX {
            return Err(Corrupt::XattrSize { at: set });
        }
        Ok(head)
    }
}

/// Checks rule S-71 for one name.
pub fn check_name(name: &[u8], set: u32) -> Result<(), Corrupt> {
    let known = PREFIXES.iter().any(|prefix| name.starts_with(prefix) && name.len() > prefix.len());
    if known && !name.contains(&0) { Ok(()) } else { Err(Corrupt::XattrName { at: set }) }
}

/// Encodes a set of attributes in ascending order of their names. `None` when it breaks the rules of SPEC §8.
pub fn encode(set: &[(Vec<u8>, Vec<u8>)]) -> Option<Vec<u8>> {
    let list_len =
        set.iter().fold(0_usize, |len, (name, _)| len.saturating_add(name.len()).saturating_add(1));
    let ascending = set.windows(2).all(|pair| matches!(pair, [(a, _), (b, _)] if a < b));
    if set.is_empty() || list_len > XATTR_LIST_MAX || !ascending {
        return None;
    }
    let mut raw = u16::try_from(set.len()).ok()?.to_le_bytes().to_vec();
    for (name, value) in set {
        check_name(name, 0).ok()?;
        let value_len = u32::try_from(value.len()).ok().filter(|len| *len <= XATTR_VALUE_MAX)?;
        let mut head = [0; HEAD_LEN];
        field::put(&mut head, 0x00, &[u8::try_from(name.len()).ok()?]);
        field::put(&mut head, 0x04, &value_len.to_le_bytes());
        raw.extend_from_slice(&head);
        raw.extend_from_slice(name);
        raw.extend_from_slice(value);
    }
    Some(raw)
}
