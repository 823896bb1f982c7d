//! What does the superblock say? The one structure that the root digest covers directly (SPEC §3).

use super::defect::{Corrupt, Defect, Unsupported};
use super::digest::Digest;
use super::entry::{self, ENTRIES_PER_PAGE};
use super::field::{self, Field, field};
use super::index::NONE;
use super::{BLOCK_BITS_MAX, BLOCK_BITS_MIN, FORMAT_VERSION, INCOMPAT_KNOWN};
use super::{inode, prefetch, run};

/// Length of the superblock in bytes.
pub const LEN: usize = 4096;
/// The same, as a length on disk.
pub const LEN_ON_DISK: u64 = 4096;
/// The first eight bytes of an image.
pub const MAGIC: [u8; 8] = *b"ASHLAR\x1a\n";
/// Length of the label field in bytes.
pub const LABEL_LEN: usize = 64;

const VERSION_AT: usize = 0x008;
const INCOMPAT_AT: usize = 0x010;
const COMPAT_AT: usize = 0x018;
const IMAGE_LEN_AT: usize = 0x020;
const IMAGE_VERSION_AT: usize = 0x028;
const BUILD_TIME_AT: usize = 0x030;
const BLOCK_BITS_AT: usize = 0x038;
const METADATA_BLOCK_BITS_AT: usize = 0x039;
const BLOCK_COUNT_AT: usize = 0x040;
const DATA_BLOCK_COUNT_AT: usize = 0x044;
const TABLE_OFFSET_AT: usize = 0x048;
const PAGE_LIST_DIGEST_AT: usize = 0x050;
const SECTIONS_AT: [usize; SECTION_COUNT] = [0x070, 0x078, 0x080, 0x088, 0x090, 0x098];
const LABEL_AT: usize = 0x0a0;
/// Where reserved bytes are, and how many.
const RESERVED: [(usize, usize); 3] = [(0x00c, 4), (0x03a, 6), (0x0e0, 3872)];

/// The layout, as SPEC §3 has it.
pub const FIELDS: &[Field] = &[
    field(0x000, 8, "magic"),
    field(VERSION_AT, 4, "format_version"),
    field(0x00c, 4, "reserved_0"),
    field(INCOMPAT_AT, 8, "incompat"),
    field(COMPAT_AT, 8, "compat"),
    field(IMAGE_LEN_AT, 8, "image_len"),
    field(IMAGE_VERSION_AT, 8, "image_version"),
    field(BUILD_TIME_AT, 8, "build_time"),
    field(BLOCK_BITS_AT, 1, "block_bits"),
    field(METADATA_BLOCK_BITS_AT, 1, "metadata_block_bits"),
    field(0x03a, 6, "reserved_1"),
    field(BLOCK_COUNT_AT, 4, "block_count"),
    field(DATA_BLOCK_COUNT_AT, 4, "data_block_count"),
    field(TABLE_OFFSET_AT, 8, "table_offset"),
    field(PAGE_LIST_DIGEST_AT, 32, "page_list_digest"),
    field(0x070, 8, "inodes_len"),
    field(0x078, 8, "runs_len"),
    field(0x080, 8, "directories_len"),
    field(0x088, 8, "links_len"),
    field(0x090, 8, "xattrs_len"),
    field(0x098, 8, "prefetch_len"),
    field(LABEL_AT, LABEL_LEN, "label"),
    field(0x0e0, 3872, "reserved_2"),
];

/// One of the six parts of the metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Section {
    /// The inode array.
    Inodes,
    /// Run records of files with two runs or more.
    Runs,
    /// Directory records.
    Directories,
    /// Symlink targets.
    Links,
    /// Xattr sets.
    Xattrs,
    /// Which data blocks to expand before anybody asks, and in which order.
    Prefetch,
}

const SECTION_COUNT: usize = 6;

impl Section {
    /// All sections in the order in which their blocks lie.
    pub const ALL: [Section; SECTION_COUNT] = [
        Section::Inodes,
        Section::Runs,
        Section::Directories,
        Section::Links,
        Section::Xattrs,
        Section::Prefetch,
    ];

    /// Its name in messages.
    pub fn name(self) -> &'static str {
        match self {
            Section::Inodes => "inode",
            Section::Runs => "run",
            Section::Directories => "directory",
            Section::Links => "symlink",
            Section::Xattrs => "xattr",
            Section::Prefetch => "prefetch",
        }
    }
}

/// Content lengths of the six sections, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SectionLens([u64; SECTION_COUNT]);

impl SectionLens {
    /// The length of one section.
    pub fn get(&self, section: Section) -> u64 {
        let [inodes, runs, directories, links, xattrs, prefetch] = self.0;
        match section {
            Section::Inodes => inodes,
            Section::Runs => runs,
            Section::Directories => directories,
            Section::Links => links,
            Section::Xattrs => xattrs,
            Section::Prefetch => prefetch,
        }
    }

    /// Sets the length of one section.
    pub fn set(&mut self, section: Section, len: u64) {
        let [inodes, runs, directories, links, xattrs, prefetch] = &mut self.0;
        *match section {
            Section::Inodes => inodes,
            Section::Runs => runs,
            Section::Directories => directories,
            Section::Links => links,
            Section::Xattrs => xattrs,
            Section::Prefetch => prefetch,
        } = len;
    }
}

/// The superblock, decoded and found to keep its rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superblock {
    /// Feature bits that a reader has to know.
    pub incompat: u64,
    /// Feature bits that a reader may ignore.
    pub compat: u64,
    /// Length of the image in bytes, without its trailer.
    pub image_len: u64,
    /// The maker's version number; 0 when the image has none.
    pub image_version: u64,
    /// Seconds since 1970-01-01 UTC; 0 when not recorded.
    pub build_time: i64,
    /// Base-2 logarithm of the data block size, 12 to 20.
    pub block_bits: u8,
    /// Base-2 logarithm of the metadata block size, 12 to 20.
    pub metadata_block_bits: u8,
    /// Blocks of both kinds.
    pub block_count: u32,
    /// Data blocks; they come first.
    pub data_block_count: u32,
    /// Where the digest table starts.
    pub table_offset: u64,
    /// Digest of the page list.
    pub page_list_digest: Digest,
    /// Content lengths of the sections.
    pub sections: SectionLens,
    /// The label, without its fill.
    pub label: String,
}

impl Superblock {
    /// Decodes a superblock whose bytes are already known to be true.
    pub fn decode(raw: &[u8; LEN]) -> Result<Self, Defect> {
        let magic = field::get_u64(raw, 0).to_le_bytes();
        if magic != MAGIC {
            return Err(Corrupt::NotAnImage { found: magic }.into());
        }
        // Version and features before everything else: a newer image must say "newer", not "corrupt".
        let version = field::get_u32(raw, VERSION_AT);
        if version != FORMAT_VERSION {
            return Err(Unsupported::Version { version }.into());
        }
        let incompat = field::get_u64(raw, INCOMPAT_AT);
        if incompat & !INCOMPAT_KNOWN != 0 {
            return Err(Unsupported::Features { bits: incompat & !INCOMPAT_KNOWN }.into());
        }
        if let Some((at, _)) = RESERVED.iter().find(|(at, len)| !field::is_zero(raw, *at, *len)) {
            return Err(Corrupt::SuperblockReserved { at: *at }.into());
        }
        let mut sections = SectionLens::default();
        for (section, at) in Section::ALL.into_iter().zip(SECTIONS_AT) {
            sections.set(section, field::get_u64(raw, at));
        }
        let superblock = Superblock {
            incompat,
            compat: field::get_u64(raw, COMPAT_AT),
            image_len: field::get_u64(raw, IMAGE_LEN_AT),
            image_version: field::get_u64(raw, IMAGE_VERSION_AT),
            build_time: field::get_i64(raw, BUILD_TIME_AT),
            block_bits: field::get_u8(raw, BLOCK_BITS_AT),
            metadata_block_bits: field::get_u8(raw, METADATA_BLOCK_BITS_AT),
            block_count: field::get_u32(raw, BLOCK_COUNT_AT),
            data_block_count: field::get_u32(raw, DATA_BLOCK_COUNT_AT),
            table_offset: field::get_u64(raw, TABLE_OFFSET_AT),
            page_list_digest: Digest(field::get_32(raw, PAGE_LIST_DIGEST_AT)),
            sections,
            label: decode_label(raw.get(LABEL_AT..).unwrap_or_default())?,
        };
        superblock.check()?;
        Ok(superblock)
    }

    /// Encodes the superblock; the builder's half of the layout. Fails when the fields break a rule.
    pub fn encode(&self) -> Result<[u8; LEN], Defect> {
        self.check()?;
        let label = self.label.as_bytes();
        if label.len() > LABEL_LEN || self.label.chars().any(char::is_control) {
            return Err(Corrupt::Label.into());
        }
        let mut raw = [0; LEN];
        field::put(&mut raw, 0, &MAGIC);
        field::put(&mut raw, VERSION_AT, &FORMAT_VERSION.to_le_bytes());
        field::put(&mut raw, INCOMPAT_AT, &self.incompat.to_le_bytes());
        field::put(&mut raw, COMPAT_AT, &self.compat.to_le_bytes());
        field::put(&mut raw, IMAGE_LEN_AT, &self.image_len.to_le_bytes());
        field::put(&mut raw, IMAGE_VERSION_AT, &self.image_version.to_le_bytes());
        field::put(&mut raw, BUILD_TIME_AT, &self.build_time.to_le_bytes());
        field::put(&mut raw, BLOCK_BITS_AT, &[self.block_bits, self.metadata_block_bits]);
        field::put(&mut raw, BLOCK_COUNT_AT, &self.block_count.to_le_bytes());
        field::put(&mut raw, DATA_BLOCK_COUNT_AT, &self.data_block_count.to_le_bytes());
        field::put(&mut raw, TABLE_OFFSET_AT, &self.table_offset.to_le_bytes());
        field::put(&mut raw, PAGE_LIST_DIGEST_AT, &self.page_list_digest.0);
        for (section, at) in Section::ALL.into_iter().zip(SECTIONS_AT) {
            field::put(&mut raw, at, &self.sections.get(section).to_le_bytes());
        }
        field::put(&mut raw, LABEL_AT, label);
        Ok(raw)
    }

    /// Size of a data block in bytes.
    pub fn block_size(&self) -> u32 {
        1_u32.checked_shl(u32::from(self.block_bits)).unwrap_or(u32::MAX)
    }

    /// Size of a metadata block in bytes.
    pub fn metadata_block_size(&self) -> u32 {
        1_u32.checked_shl(u32::from(self.metadata_block_bits)).unwrap_or(u32::MAX)
    }

    /// How many inodes the image has; at least 1.
    pub fn inode_count(&self) -> u32 {
        field::u32_from_u64(self.sections.get(Section::Inodes) / inode::LEN_ON_DISK)
    }

    /// How many pages the digest table has.
    pub fn page_count(&self) -> u32 {
        self.block_count.div_ceil(ENTRIES_PER_PAGE)
    }

    /// Where the page list starts.
    pub fn page_list_offset(&self) -> u64 {
        let table_len = u64::from(self.block_count).saturating_mul(entry::LEN_ON_DISK);
        self.table_offset.saturating_add(table_len)
    }

    /// Length of the page list in bytes.
    pub fn page_list_len(&self) -> u64 {
        u64::from(self.page_count()).saturating_mul(32)
    }

    /// Where the backup superblock starts.
    pub fn backup_offset(&self) -> u64 {
        self.image_len.saturating_sub(LEN_ON_DISK)
    }

    /// The first block of a section; the section's blocks follow each other.
    pub fn section_first_block(&self, section: Section) -> u32 {
        Section::ALL
            .into_iter()
            .take_while(|before| *before != section)
            .map(|before| self.section_block_count(before))
            .fold(self.data_block_count, u32::saturating_add)
    }

    /// How many blocks a section takes.
    pub fn section_block_count(&self, section: Section) -> u32 {
        let blocks = self.sections.get(section).div_ceil(u64::from(self.metadata_block_size()));
        field::u32_from_u64(blocks)
    }

    /// The rules S-14 to S-17, which hold for what is decoded and for what is encoded.
    fn check(&self) -> Result<(), Corrupt> {
        let sizes = BLOCK_BITS_MIN..=BLOCK_BITS_MAX;
        if !sizes.contains(&self.block_bits) || !sizes.contains(&self.metadata_block_bits) {
            return Err(Corrupt::BlockSize {
                block_bits: self.block_bits,
                metadata_block_bits: self.metadata_block_bits,
            });
        }
        let image_len = self
            .table_offset
            .checked_add(u64::from(self.block_count).saturating_mul(entry::LEN_ON_DISK))
            .and_then(|end| end.checked_add(self.page_list_len()))
            .and_then(|end| end.checked_add(LEN_ON_DISK));
        if self.table_offset < LEN_ON_DISK || image_len != Some(self.image_len) {
            return Err(Corrupt::ImageLayout {
                table_offset: self.table_offset,
                block_count: self.block_count,
                image_len: self.image_len,
            });
        }
        for (section, unit, len_min, len_max) in [
            (Section::Inodes, inode::LEN_ON_DISK, inode::LEN_ON_DISK, INODES_LEN_MAX),
            (Section::Runs, run::LEN_ON_DISK, 0, u64::MAX),
            (Section::Xattrs, 1, 0, u64::from(NONE)),
            // No block twice, so no more of them than there are.
            (
                Section::Prefetch,
                prefetch::LEN_ON_DISK,
                0,
                u64::from(self.data_block_count).saturating_mul(prefetch::LEN_ON_DISK),
            ),
        ] {
            let len = self.sections.get(section);
            if !len.is_multiple_of(unit) || len < len_min || len > len_max {
                return Err(Corrupt::SectionLength { section: section.name(), len });
            }
        }
        let wanted = Section::ALL
            .into_iter()
            .map(|section| {
                self.sections.get(section).div_ceil(u64::from(self.metadata_block_size()))
            })
            .fold(u64::from(self.data_block_count), u64::saturating_add);
        if self.block_count == NONE || wanted != u64::from(self.block_count) {
            return Err(Corrupt::SectionLayout { block_count: self.block_count, wanted });
        }
        Ok(())
    }
}

/// Inode indexes are 32 bits wide and `NONE` is not one of them.
const INODES_LEN_MAX: u64 = 0xffff_fffe * inode::LEN_ON_DISK;

fn decode_label(raw: &[u8]) -> Result<String, Corrupt> {
    let raw = raw.get(..LABEL_LEN).unwrap_or_default();
    let len = raw.iter().position(|byte| *byte == 0).unwrap_or(raw.len());
    let (text, fill) = raw.split_at_checked(len).ok_or(Corrupt::Label)?;
    let text = std::str::from_utf8(text).map_err(|_| Corrupt::Label)?;
    if text.chars().any(char::is_control) || fill.iter().any(|byte| *byte != 0) {
        return Err(Corrupt::Label);
    }
    Ok(text.to_owned())
}
