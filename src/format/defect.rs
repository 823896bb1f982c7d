//! In which ways can an image be wrong? One variant for each numbered rule of SPEC, with the numbers that find the fault.

use std::fmt;

use super::digest::Digest;
use super::index::{BlockIndex, InodeIndex};

/// The bytes are not the ones that were sealed: damage or an attack. Do not boot this.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Untrusted {
    /// S-01: the superblock does not have the root digest.
    Superblock {
        /// The root digest that was given.
        expected: Digest,
        /// The digest of the bytes that are there.
        found: Digest,
    },
    /// S-02: the image is shorter than it was.
    Truncated {
        /// Bytes that are there.
        len: u64,
        /// Bytes that should be.
        image_len: u64,
    },
    /// S-03: the backup superblock is not a copy of the superblock.
    Backup,
    /// S-04: there are bytes after the image that are no trailer.
    Trailing {
        /// Where they start.
        offset: u64,
        /// How many there are.
        len: u64,
    },
    /// S-20: the page list is not the one that the superblock names.
    PageList {
        /// The digest in the superblock.
        expected: Digest,
        /// The digest of the bytes that are there.
        found: Digest,
    },
    /// S-21: a page of the digest table is not the one that was sealed.
    TablePage {
        /// Number of the page.
        page: u32,
        /// The digest in the page list.
        expected: Digest,
        /// The digest of the bytes that are there.
        found: Digest,
    },
    /// S-22: a block's stored bytes are not the ones that were sealed.
    Block {
        /// Which block.
        block: BlockIndex,
        /// Where its stored bytes start in the image.
        offset: u64,
        /// The digest in the table.
        expected: Digest,
        /// The digest of the bytes that are there.
        found: Digest,
    },
    /// S-80: the trailer is damaged.
    Trailer {
        /// What is wrong with it.
        what: &'static str,
    },
    /// S-82: the parity is damaged.
    Parity {
        /// What is wrong with it.
        what: &'static str,
    },
    /// S-81: no signature of this image is by a key that is trusted.
    Signature {
        /// How many signatures were found, in the trailer and beside the image.
        found: usize,
    },
}

/// Authentic, yet malformed: the image was sealed like this. Report a bug of the builder.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are the numbers that Display puts into words")]
pub enum Corrupt {
    /// S-10.
    NotAnImage { found: [u8; 8] },
    /// S-13.
    SuperblockReserved { at: usize },
    /// S-14.
    BlockSize { block_bits: u8, metadata_block_bits: u8 },
    /// S-15.
    ImageLayout { table_offset: u64, block_count: u32, image_len: u64 },
    /// S-16.
    SectionLayout { block_count: u32, wanted: u64 },
    /// S-17.
    SectionLength { section: &'static str, len: u64 },
    /// S-18.
    Label,
    /// S-23.
    Codec { block: BlockIndex, codec: u8 },
    /// S-24.
    EntryReserved { block: BlockIndex },
    /// S-25.
    EntryLength { block: BlockIndex, stored_len: u32, content_len: u32 },
    /// S-26.
    EntryOffset { block: BlockIndex, offset: u64, expected: u64 },
    /// S-30.
    Expansion { block: BlockIndex, content_len: u32, reason: &'static str },
    /// S-31.
    SectionBlock { block: BlockIndex, content_len: u32, expected: u32 },
    /// S-40.
    InodeType { inode: InodeIndex, mode: u16 },
    /// S-41.
    Root,
    /// S-42.
    InodeReserved { inode: InodeIndex, field: &'static str },
    /// S-43.
    InodeTime { inode: InodeIndex, mtime_nsec: u32 },
    /// S-44.
    LinkCount { inode: InodeIndex, nlink: u32, found: u64 },
    /// S-45.
    FileSize { inode: InodeIndex, size: u64 },
    /// S-46.
    SymlinkTarget { inode: InodeIndex, at: u64, size: u64 },
    /// S-47.
    DeviceNumber { inode: InodeIndex, major: u32, minor: u32 },
    /// S-48.
    Unreachable { inode: InodeIndex },
    /// S-49.
    LinkLayout { inode: InodeIndex, at: u64, expected: u64 },
    /// S-50.
    RunsOutside { inode: InodeIndex, at: u64, count: u32 },
    /// S-51.
    RunOrder { inode: InodeIndex, file_block: u64, expected: u64 },
    /// S-52.
    RunSplit { inode: InodeIndex, file_block: u64 },
    /// S-53.
    RunBlock { inode: InodeIndex, block: u32, count: u32 },
    /// S-54.
    RunBlockLength { inode: InodeIndex, block: BlockIndex, content_len: u32 },
    /// S-55.
    Tail { inode: InodeIndex, block: u32, at: u32 },
    /// S-56.
    BlockUnused { block: BlockIndex },
    /// S-57.
    RunLayout { inode: InodeIndex, at: u64, expected: u64 },
    /// S-58.
    PrefetchBlock { nth: u64, block: BlockIndex },
    /// S-59.
    PrefetchTwice { nth: u64, block: BlockIndex },
    /// S-60.
    DirectoryRecord { inode: InodeIndex, at: u64, size: u64, entries: u32 },
    /// S-61.
    NameLength { directory: InodeIndex, entry: u32 },
    /// S-62.
    NameBytes { directory: InodeIndex, entry: u32 },
    /// S-63.
    NameOrder { directory: InodeIndex, entry: u32 },
    /// S-64.
    EntryInode { directory: InodeIndex, entry: u32, inode: u32 },
    /// S-65.
    EntryType { directory: InodeIndex, entry: u32 },
    /// S-66.
    Parent { directory: InodeIndex, child: InodeIndex },
    /// S-67.
    DirentReserved { directory: InodeIndex, entry: u32 },
    /// S-68.
    Depth { directory: InodeIndex },
    /// S-69.
    DirectoryLayout { inode: InodeIndex, at: u64, expected: u64 },
    /// S-70.
    XattrOutside { at: u32 },
    /// S-71.
    XattrName { at: u32 },
    /// S-72.
    XattrOrder { at: u32 },
    /// S-73.
    XattrSize { at: u32 },
    /// S-74.
    XattrReserved { at: u32 },
    /// S-75.
    AclFlag { flag: bool },
    /// S-76.
    XattrLayout { at: u32 },
}

/// Perhaps right, but beyond this program. Get a newer one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unsupported {
    /// S-11: a later format version.
    Version {
        /// The image's format version.
        version: u32,
    },
    /// S-12: features that this program does not know.
    Features {
        /// The unknown bits of `incompat`.
        bits: u64,
    },
}

/// A rule of SPEC that was found broken while bytes were decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Defect {
    /// Authentic, yet malformed.
    Corrupt(Corrupt),
    /// Newer than this program.
    Unsupported(Unsupported),
}

impl From<Corrupt> for Defect {
    fn from(corrupt: Corrupt) -> Self {
        Defect::Corrupt(corrupt)
    }
}

impl From<Unsupported> for Defect {
    fn from(unsupported: Unsupported) -> Self {
        Defect::Unsupported(unsupported)
    }
}

/// Gives each variant its rule number and its name, both as SPEC spells them.
macro_rules! rules {
    ($kind:ident { $($variant:ident = $rule:literal),+ $(,)? }) => {
        impl $kind {
            /// Every rule of this kind: its number and its name.
            pub const RULES: &'static [(&'static str, &'static str)] = &[$(($rule, stringify!($variant))),+];

            /// The rule's number in SPEC, for example `S-17`.
            pub fn rule(&self) -> &'static str {
                match self { $($kind::$variant { .. } => $rule),+ }
            }

            /// The rule's name in SPEC, for example `NameOrder`.
            pub fn name(&self) -> &'static str {
                match self { $($kind::$variant { .. } => stringify!($variant)),+ }
            }
        }
    };
}

rules!(Untrusted {
    Superblock = "S-01", Truncated = "S-02", Backup = "S-03", Trailing = "S-04", PageList = "S-20",
    TablePage = "S-21", Block = "S-22", Trailer = "S-80", Signature = "S-81",
    Parity = "S-82",
});

rules!(Corrupt {
    NotAnImage = "S-10", SuperblockReserved = "S-13", BlockSize = "S-14", ImageLayout = "S-15",
    SectionLayout = "S-16", SectionLength = "S-17", Label = "S-18", Codec = "S-23", EntryReserved = "S-24",
    EntryLength = "S-25", EntryOffset = "S-26", Expansion = "S-30", SectionBlock = "S-31",
    InodeType = "S-40", Root = "S-41", InodeReserved = "S-42", InodeTime = "S-43", LinkCount = "S-44",
    FileSize = "S-45", SymlinkTarget = "S-46", DeviceNumber = "S-47", Unreachable = "S-48", LinkLayout = "S-49",
    RunsOutside = "S-50", RunOrder = "S-51", RunSplit = "S-52", RunBlock = "S-53",
    RunBlockLength = "S-54", Tail = "S-55", BlockUnused = "S-56", RunLayout = "S-57",
    PrefetchBlock = "S-58", PrefetchTwice = "S-59", DirectoryRecord = "S-60",
    NameLength = "S-61", NameBytes = "S-62", NameOrder = "S-63", EntryInode = "S-64",
    EntryType = "S-65", Parent = "S-66", DirentReserved = "S-67", Depth = "S-68", DirectoryLayout = "S-69",
    XattrOutside = "S-70", XattrName = "S-71", XattrOrder = "S-72", XattrSize = "S-73",
    XattrReserved = "S-74", AclFlag = "S-75", XattrLayout = "S-76",
});

rules!(Unsupported { Version = "S-11", Features = "S-12" });

impl fmt::Display for Untrusted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Untrusted::Superblock { expected, found } => {
                write!(
                    f,
                    "the image does not have the root digest {expected}: its superblock's is {found}"
                )
            }
            Untrusted::Truncated { len, image_len } => {
                write!(f, "the image is truncated: {len} of {image_len} bytes are there")
            }
            Untrusted::Backup => write!(f, "the backup superblock differs from the superblock"),
            Untrusted::Trailing { offset, len } => {
                write!(f, "{len} bytes at offset {offset}, after the image, are no part of it")
            }
            Untrusted::PageList { expected, found } => write!(
                f,
                "the page list of the digest table is not what was sealed: expected {expected}, found {found}"
            ),
            Untrusted::TablePage { page, expected, found } => write!(
                f,
                "page {page} of the digest table is not what was sealed: expected {expected}, found {found}"
            ),
            Untrusted::Block { block, offset, expected, found } => write!(
                f,
                "block {block} at offset {offset} is not what was sealed: expected {expected}, found {found}"
            ),
            Untrusted::Trailer { what } => write!(f, "the signature trailer is damaged: {what}"),
            Untrusted::Parity { what } => write!(f, "the parity is damaged: {what}"),
            Untrusted::Signature { found: 0 } => write!(f, "the image is not signed"),
            Untrusted::Signature { found } => {
                write!(f, "none of the image's {found} signatures is by a trusted key")
            }
        }
    }
}

impl fmt::Display for Corrupt {
    #[expect(clippy::too_many_lines, reason = "one line for each rule, in the order of SPEC")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use Corrupt as C;
        match self {
            C::NotAnImage { found } => {
                return write!(f, "not an ashlar image: it starts with {:02x?}", found.as_slice());
            }
            C::SuperblockReserved { at } => {
                write!(f, "reserved superblock byte {at:#x} is not zero")
            }
            C::BlockSize { block_bits, metadata_block_bits } => {
                write!(
                    f,
                    "block sizes 2^{block_bits} and 2^{metadata_block_bits} are not 4 KiB to 1 MiB"
                )
            }
            C::ImageLayout { table_offset, block_count, image_len } => write!(
                f,
                "a table of {block_count} blocks at offset {table_offset} does not end an image of {image_len} bytes"
            ),
            C::SectionLayout { block_count, wanted } => {
                write!(f, "the image has {block_count} blocks, its sections need {wanted}")
            }
            C::SectionLength { section, len } => {
                write!(f, "the {section} section cannot have {len} bytes")
            }
            C::Label => write!(
                f,
                "the label is not UTF-8 without control characters, filled with zero bytes"
            ),
            C::Codec { block, codec } => write!(f, "block {block} has the unknown codec {codec}"),
            C::EntryReserved { block } => {
                write!(f, "the table entry of block {block} has a reserved byte set")
            }
            C::EntryLength { block, stored_len, content_len } => {
                write!(f, "block {block} cannot store {content_len} bytes in {stored_len}")
            }
            C::EntryOffset { block, offset, expected } => {
                write!(f, "block {block} lies at offset {offset} instead of {expected}")
            }
            C::Expansion { block, content_len, reason } => {
                write!(f, "block {block} does not expand to {content_len} bytes: {reason}")
            }
            C::SectionBlock { block, content_len, expected } => {
                write!(f, "metadata block {block} holds {content_len} bytes instead of {expected}")
            }
            C::InodeType { inode, mode } => {
                write!(f, "inode {inode} has the impossible mode {mode:#o}")
            }
            C::Root => write!(f, "inode 0 is not a root directory"),
            C::InodeReserved { inode, field } => {
                write!(f, "inode {inode}: field `{field}` is not zero")
            }
            C::InodeTime { inode, mtime_nsec } => {
                write!(f, "inode {inode} has {mtime_nsec} nanoseconds")
            }
            C::LinkCount { inode, nlink, found } => {
                write!(f, "inode {inode} says {nlink} links, {found} exist")
            }
            C::FileSize { inode, size } => {
                write!(f, "inode {inode} has the impossible size {size}")
            }
            C::SymlinkTarget { inode, at, size } => {
                write!(f, "symlink {inode} has no valid target of {size} bytes at {at}")
            }
            C::DeviceNumber { inode, major, minor } => {
                write!(f, "inode {inode} has the impossible device number {major}:{minor}")
            }
            C::Unreachable { inode } => write!(f, "inode {inode} is in no directory"),
            C::RunsOutside { inode, at, count } => {
                write!(f, "file {inode} cannot have {count} runs at {at}")
            }
            C::RunOrder { inode, file_block, expected } => {
                write!(
                    f,
                    "file {inode} has a run at block {file_block} where block {expected} was due"
                )
            }
            C::RunSplit { inode, file_block } => {
                write!(f, "file {inode} splits a run at block {file_block}")
            }
            C::RunBlock { inode, block, count } => {
                write!(
                    f,
                    "file {inode} uses {count} blocks from {block}, not all of them data blocks"
                )
            }
            C::RunBlockLength { inode, block, content_len } => {
                write!(
                    f,
                    "file {inode} takes block {block} for a full one, it holds {content_len} bytes"
                )
            }
            C::Tail { inode, block, at } => {
                write!(f, "file {inode} has an impossible tail at {at} in block {block}")
            }
            C::BlockUnused { block } => write!(f, "no file uses data block {block}"),
            C::PrefetchBlock { nth, block } => {
                write!(
                    f,
                    "entry {nth} of the prefetch list is block {block}, which is no data block"
                )
            }
            C::PrefetchTwice { nth, block } => {
                write!(
                    f,
                    "entry {nth} of the prefetch list is block {block}, which it has named before"
                )
            }
            C::DirectoryRecord { inode, at, size, entries } => {
                write!(f, "directory {inode} cannot have {entries} entries in {size} bytes at {at}")
            }
            C::NameLength { directory, entry } => {
                write!(f, "entry {entry} of directory {directory} has a name of no valid length")
            }
            C::NameBytes { directory, entry } => {
                write!(f, "entry {entry} of directory {directory} has a name with forbidden bytes")
            }
            C::NameOrder { directory, entry } => {
                write!(f, "entry {entry} of directory {directory} is out of order")
            }
            C::EntryInode { directory, entry, inode } => {
                write!(
                    f,
                    "entry {entry} of directory {directory} names the impossible inode {inode}"
                )
            }
            C::EntryType { directory, entry } => {
                write!(f, "entry {entry} of directory {directory} has another type than its inode")
            }
            C::Parent { directory, child } => {
                write!(f, "directory {directory} names directory {child}, which is not its child")
            }
            C::DirentReserved { directory, entry } => {
                write!(f, "entry {entry} of directory {directory} has a reserved byte set")
            }
            C::Depth { directory } => {
                write!(f, "directory {directory} lies deeper than 2048 levels")
            }
            C::LinkLayout { inode, at, expected } => {
                write!(f, "the target of symlink {inode} lies at {at} instead of {expected}")
            }
            C::RunLayout { inode, at, expected } => {
                write!(f, "the runs of file {inode} start at record {at} instead of {expected}")
            }
            C::DirectoryLayout { inode, at, expected } => {
                write!(f, "the record of directory {inode} lies at {at} instead of {expected}")
            }
            C::XattrLayout { at } => {
                write!(f, "no inode uses the xattr set at {at}, or it is none")
            }
            C::XattrOutside { at } => write!(f, "xattr set {at} leaves its section"),
            C::XattrName { at } => write!(f, "xattr set {at} holds an impossible name"),
            C::XattrOrder { at } => write!(f, "xattr set {at} is out of order"),
            C::XattrSize { at } => write!(f, "xattr set {at} is empty or too large"),
            C::XattrReserved { at } => write!(f, "xattr set {at} has a reserved byte set"),
            C::AclFlag { flag: true } => write!(f, "the superblock tells of ACLs, there are none"),
            C::AclFlag { flag: false } => {
                write!(f, "the superblock tells of no ACLs, there are some")
            }
        }?;
        write!(f, " ({})", self.rule())
    }
}

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unsupported::Version { version } => write!(
                f,
                "the image has format version {version}, this program reads version {}",
                super::FORMAT_VERSION
            ),
            Unsupported::Features { bits } => {
                write!(f, "the image uses features that this program does not know ({bits:#x})")
            }
        }
    }
}
