//! What does an entry of the digest table say? Where a block lies, how it is stored, and what it must hash to (SPEC §4).

use super::branch::Machine;
use super::defect::Corrupt;
use super::digest::Digest;
use super::field::{self, Field, field};
use super::index::BlockIndex;

/// Length of an entry in bytes.
pub const LEN: usize = 48;
/// The same, as a length on disk.
pub const LEN_ON_DISK: u64 = 48;
/// Entries in a full page of the table: 48 KiB, so that the page list of a 100 GiB image has 64 KiB.
pub const ENTRIES_PER_PAGE: u32 = 1024;

const OFFSET_AT: usize = 0x20;
const CODEC_AT: usize = 0x26;
const RESERVED_AT: usize = 0x27;
const STORED_LEN_AT: usize = 0x28;
const CONTENT_LEN_AT: usize = 0x2c;

/// The layout, as SPEC §4 has it.
pub const FIELDS: &[Field] = &[
    field(0x00, 32, "digest"),
    field(OFFSET_AT, 6, "offset"),
    field(CODEC_AT, 1, "codec"),
    field(RESERVED_AT, 1, "reserved"),
    field(STORED_LEN_AT, 4, "stored_len"),
    field(CONTENT_LEN_AT, 4, "content_len"),
];

/// How a block's content became its stored bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Codec {
    /// Stored as it is.
    None,
    /// One Zstandard frame.
    Zstd,
    /// The same, of content in which x86-64 code names places instead of distances.
    ZstdX86,
    /// The same, of arm64 code.
    ZstdArm64,
}

impl Codec {
    /// All of them.
    pub const ALL: [Codec; 4] = [Codec::None, Codec::Zstd, Codec::ZstdX86, Codec::ZstdArm64];

    /// How a frame is called whose content went through the filter of `machine`, or through none.
    pub fn zstd(machine: Option<Machine>) -> Self {
        match machine {
            None => Codec::Zstd,
            Some(Machine::X86_64) => Codec::ZstdX86,
            Some(Machine::Arm64) => Codec::ZstdArm64,
        }
    }

    /// For which machine's code the content was changed before it was compressed.
    pub fn machine(self) -> Option<Machine> {
        match self {
            Codec::None | Codec::Zstd => None,
            Codec::ZstdX86 => Some(Machine::X86_64),
            Codec::ZstdArm64 => Some(Machine::Arm64),
        }
    }

    /// Its name, for people and programs.
    pub fn name(self) -> &'static str {
        match self {
            Codec::None => "none",
            Codec::Zstd => "zstd",
            Codec::ZstdX86 => "zstd-x86",
            Codec::ZstdArm64 => "zstd-arm64",
        }
    }

    /// Its number on disk.
    pub fn number(self) -> u8 {
        match self {
            Codec::None => 0,
            Codec::Zstd => 1,
            Codec::ZstdX86 => 2,
            Codec::ZstdArm64 => 3,
        }
    }
}

/// One block's entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Digest of the stored bytes.
    pub digest: Digest,
    /// Where the stored bytes start in the image; below 2^48.
    pub offset: u64,
    /// How they are stored.
    pub codec: Codec,
    /// Length of the stored bytes.
    pub stored_len: u32,
    /// Length of the content.
    pub content_len: u32,
}

impl Entry {
    /// Decodes the entry of `block`, whose content has at most `content_len_max` bytes.
    pub fn decode(
        raw: &[u8; LEN],
        block: BlockIndex,
        content_len_max: u32,
    ) -> Result<Self, Corrupt> {
        let number = field::get_u8(raw, CODEC_AT);
        let codec = Codec::ALL.into_iter().find(|codec| codec.number() == number);
        let codec = codec.ok_or(Corrupt::Codec { block, codec: number })?;
        if field::get_u8(raw, RESERVED_AT) != 0 {
            return Err(Corrupt::EntryReserved { block });
        }
        let entry = Entry {
            digest: Digest(field::get_32(raw, 0)),
            offset: field::get_u48(raw, OFFSET_AT),
            codec,
            stored_len: field::get_u32(raw, STORED_LEN_AT),
            content_len: field::get_u32(raw, CONTENT_LEN_AT),
        };
        let stored_len_fits = match codec {
            Codec::None => entry.stored_len == entry.content_len,
            Codec::Zstd | Codec::ZstdX86 | Codec::ZstdArm64 => {
                (1..entry.content_len).contains(&entry.stored_len)
            }
        };
        if !(1..=content_len_max).contains(&entry.content_len) || !stored_len_fits {
            let Entry { stored_len, content_len, .. } = entry;
            return Err(Corrupt::EntryLength { block, stored_len, content_len });
        }
        Ok(entry)
    }

    /// Encodes the entry.
    pub fn encode(&self) -> [u8; LEN] {
        let mut raw = [0; LEN];
        field::put(&mut raw, 0, &self.digest.0);
        // cannot fail: eight bytes have six
        field::put(
            &mut raw,
            OFFSET_AT,
            self.offset.to_le_bytes().first_chunk::<6>().unwrap_or(&[0; 6]),
        );
        field::put(&mut raw, CODEC_AT, &[self.codec.number()]);
        field::put(&mut raw, STORED_LEN_AT, &self.stored_len.to_le_bytes());
        field::put(&mut raw, CONTENT_LEN_AT, &self.content_len.to_le_bytes());
        raw
    }

    /// Where the stored bytes end in the image.
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(u64::from(self.stored_len))
    }
}
