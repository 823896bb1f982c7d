//! What do these bytes mean? Pure: no input or output, no clock, no hash function.
//!
//! Each structure of `format-spec/SPEC.md` has one file here, with its decoder, its encoder and its field table side by
//! side; a test reads SPEC's tables and compares them with `FIELDS`.

pub mod branch;
pub mod defect;
pub mod digest;
pub mod dirent;
pub mod entry;
pub mod fec;
pub mod field;
pub mod index;
pub mod inode;
pub mod name;
pub mod prefetch;
pub mod run;
pub mod superblock;
pub mod trace;
pub mod trailer;
pub mod xattr;

/// The format version this program reads and writes (SPEC §3).
pub const FORMAT_VERSION: u32 = 1;

/// Smallest block size, as a power of two: 4 KiB, the page size, below which nothing is ever read.
pub const BLOCK_BITS_MIN: u8 = 12;
/// Largest block size, as a power of two: 1 MiB, the largest READ a kernel sends by default, and what one cache slot
/// and one decompression may cost.
pub const BLOCK_BITS_MAX: u8 = 20;

/// Longest file name in bytes (`NAME_MAX` of Linux).
pub const NAME_MAX: usize = 255;
/// Longest symlink target in bytes (`PATH_MAX` of Linux less its final zero byte).
pub const SYMLINK_MAX: u64 = 4095;
/// Deepest directory below the root. 4096-byte paths with one-byte names allow 2048.
pub const DEPTH_MAX: usize = 2048;
/// Longest xattr value in bytes (`XATTR_SIZE_MAX` of Linux).
pub const XATTR_VALUE_MAX: u32 = 65_536;
/// Longest list of xattr names in bytes, each with a final zero byte (`XATTR_LIST_MAX` of Linux).
pub const XATTR_LIST_MAX: usize = 65_536;

/// Most signatures in a trailer: enough for every key of a rotation, few enough to try one by one.
pub const SIGNATURES_MAX: u32 = 16;
/// Longest signature in bytes; minisign's have fewer than 400 plus a comment.
pub const SIGNATURE_LEN_MAX: u32 = 4096;

/// Bits of the superblock's `incompat` word that this program knows (none are defined).
pub const INCOMPAT_KNOWN: u64 = 0;
/// Bit of the superblock's `compat` word: some inode carries a POSIX ACL.
pub const COMPAT_POSIX_ACL: u64 = 1;

/// BLAKE3 key derivation contexts (SPEC §1): bytes of one kind never pass as bytes of another.
pub mod context {
    /// Of the superblock, whose digest is the root digest.
    pub const SUPERBLOCK: &str = "ashlar format v1: superblock";
    /// Of the list of table page digests.
    pub const PAGE_LIST: &str = "ashlar format v1: page list";
    /// Of one page of the digest table.
    pub const TABLE_PAGE: &str = "ashlar format v1: table page";
    /// Of the stored bytes of a metadata block.
    pub const METADATA_BLOCK: &str = "ashlar format v1: metadata block";
    /// Of the stored bytes of a data block.
    pub const DATA_BLOCK: &str = "ashlar format v1: data block";
    /// Of the trailer's checksum.
    pub const TRAILER: &str = "ashlar format v1: trailer";
    /// Of the checksum of a head of parity.
    pub const PARITY_HEAD: &str = "ashlar format v1: parity head";
    /// Of the table of shard checksums.
    pub const PARITY_TABLE: &str = "ashlar format v1: parity table";
    /// Of the checksum of a shard.
    pub const SHARD: &str = "ashlar format v1: shard";
}
