//! What does an inode say? (SPEC §6)

use super::SYMLINK_MAX;
use super::defect::Corrupt;
use super::field::{self, Field, field};
use super::index::{BlockIndex, InodeIndex, NONE};
use super::run::{Run, block_or_hole};

/// Length of an inode in bytes.
pub const LEN: usize = 64;
/// The same, as a length on disk.
pub const LEN_ON_DISK: u64 = 64;

/// The layout, as SPEC §6 has it.
pub const FIELDS: &[Field] = &[
    field(0x00, 2, "mode"),
    field(0x02, 2, "reserved_0"),
    field(0x04, 4, "nlink"),
    field(0x08, 4, "uid"),
    field(0x0c, 4, "gid"),
    field(0x10, 8, "size"),
    field(0x18, 8, "mtime_sec"),
    field(0x20, 4, "mtime_nsec"),
    field(0x24, 4, "xattrs"),
    field(0x28, 8, "at"),
    field(0x30, 4, "a"),
    field(0x34, 4, "b"),
    field(0x38, 4, "c"),
    field(0x3c, 4, "reserved_1"),
];

const TYPE_MASK: u16 = 0xf000;
/// Device numbers of Linux: 12 bits major, 20 bits minor.
const MAJOR_MAX: u32 = (1 << 12) - 1;
const MINOR_MAX: u32 = (1 << 20) - 1;

/// The seven file types.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A pipe with a name.
    Fifo,
    /// A character device.
    Char,
    /// A directory.
    Dir,
    /// A block device.
    Block,
    /// A regular file.
    File,
    /// A symbolic link.
    Link,
    /// A socket.
    Sock,
}

impl Kind {
    /// The type in a mode; `None` when it is none of the seven.
    pub fn from_mode(mode: u16) -> Option<Kind> {
        Some(match mode & TYPE_MASK {
            0x1000 => Kind::Fifo,
            0x2000 => Kind::Char,
            0x4000 => Kind::Dir,
            0x6000 => Kind::Block,
            0x8000 => Kind::File,
            0xa000 => Kind::Link,
            0xc000 => Kind::Sock,
            _ => return None,
        })
    }

    /// The type's bits in a mode.
    pub fn mode_bits(self) -> u16 {
        match self {
            Kind::Fifo => 0x1000,
            Kind::Char => 0x2000,
            Kind::Dir => 0x4000,
            Kind::Block => 0x6000,
            Kind::File => 0x8000,
            Kind::Link => 0xa000,
            Kind::Sock => 0xc000,
        }
    }
}

/// Where a regular file's full blocks are described.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runs {
    /// It has no full block.
    None,
    /// One run, which stands in the inode itself.
    One(Run),
    /// Two or more run records in the run section.
    Many {
        /// Index of the first record.
        first: u64,
        /// How many there are.
        count: u32,
    },
}

/// Where a regular file's last bytes are, those that fill no block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tail {
    /// The block in whose content they lie; `None` for a hole.
    pub block: Option<BlockIndex>,
    /// Where they start in that content.
    pub at: u32,
    /// How many there are; 0 when the file ends on a block boundary.
    pub len: u32,
}

/// What an inode has beyond its attributes, by type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// A regular file.
    File {
        /// Its full blocks.
        runs: Runs,
        /// Its last bytes.
        tail: Tail,
    },
    /// A directory.
    Dir {
        /// Where its record starts in the directory section.
        at: u64,
        /// How many entries it has.
        entries: u32,
        /// The directory it is in; the root is in itself.
        parent: InodeIndex,
    },
    /// A symlink.
    Link {
        /// Where its target starts in the symlink section.
        at: u64,
    },
    /// A character or block device.
    Device {
        /// Major number, 12 bits.
        major: u32,
        /// Minor number, 20 bits.
        minor: u32,
    },
    /// A pipe or a socket.
    Plain,
}

/// One inode, decoded; the rules that it can break by itself are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inode {
    /// File type.
    pub kind: Kind,
    /// Permission bits, with set-user-ID, set-group-ID and sticky: `mode & 07777`.
    pub permissions: u16,
    /// Links.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Length of content, record or target, in bytes.
    pub size: u64,
    /// Time of last change of content, seconds since 1970-01-01 UTC.
    pub mtime_sec: i64,
    /// And nanoseconds, below 1,000,000,000.
    pub mtime_nsec: u32,
    /// Where its xattr set starts in the xattr section.
    pub xattrs: Option<u32>,
    /// What else it has.
    pub body: Body,
}

impl Inode {
    /// Decodes inode `index` of an image with blocks of `1 << block_bits` bytes.
    pub fn decode(raw: &[u8; LEN], index: InodeIndex, block_bits: u8) -> Result<Self, Corrupt> {
        let mode = field::get_u16(raw, 0x00);
        let kind = Kind::from_mode(mode).ok_or(Corrupt::InodeType { inode: index, mode })?;
        let xattrs = field::get_u32(raw, 0x24);
        let inode = Inode {
            kind,
            permissions: mode & !TYPE_MASK,
            nlink: field::get_u32(raw, 0x04),
            uid: field::get_u32(raw, 0x08),
            gid: field::get_u32(raw, 0x0c),
            size: field::get_u64(raw, 0x10),
            mtime_sec: field::get_i64(raw, 0x18),
            mtime_nsec: field::get_u32(raw, 0x20),
            xattrs: (xattrs != NONE).then_some(xattrs),
            body: decode_body(raw, index, kind, block_bits)?,
        };
        if index == InodeIndex::ROOT
            && !matches!(inode.body, Body::Dir { parent: InodeIndex::ROOT, .. })
        {
            return Err(Corrupt::Root);
        }
        for (at, name) in [(0x02, "reserved_0"), (0x3c, "reserved_1")] {
            if !field::is_zero(raw, at, if at == 0x02 { 2 } else { 4 }) {
                return Err(Corrupt::InodeReserved { inode: index, field: name });
            }
        }
        if inode.mtime_nsec >= 1_000_000_000 {
            return Err(Corrupt::InodeTime { inode: index, mtime_nsec: inode.mtime_nsec });
        }
        let nlink_min = if kind == Kind::Dir { 2 } else { 1 };
        if inode.nlink < nlink_min {
            return Err(Corrupt::LinkCount {
                inode: index,
                nlink: inode.nlink,
                found: nlink_min.into(),
            });
        }
        if i64::try_from(inode.size).is_err() {
            return Err(Corrupt::FileSize { inode: index, size: inode.size });
        }
        Ok(inode)
    }

    /// Encodes the inode. A file's single run and a tail are taken as they are: the reader's rules are the builder's to keep.
    pub fn encode(&self) -> [u8; LEN] {
        let mut raw = [0; LEN];
        let (at, a, b, c) = match self.body {
            Body::File { runs, tail } => {
                let (at, a) = match runs {
                    Runs::None => (0, 0),
                    Runs::One(run) => (u64::from(run.block.map_or(NONE, |block| block.0)), 1),
                    Runs::Many { first, count } => (first, count),
                };
                (at, a, tail.block.map_or(NONE, |block| block.0), tail.at)
            }
            Body::Dir { at, entries, parent } => (at, entries, parent.0, 0),
            Body::Link { at } => (at, 0, 0, 0),
            Body::Device { major, minor } => (0, major, minor, 0),
            Body::Plain => (0, 0, 0, 0),
        };
        field::put(&mut raw, 0x00, &(self.kind.mode_bits() | self.permissions).to_le_bytes());
        field::put(&mut raw, 0x04, &self.nlink.to_le_bytes());
        field::put(&mut raw, 0x08, &self.uid.to_le_bytes());
        field::put(&mut raw, 0x0c, &self.gid.to_le_bytes());
        field::put(&mut raw, 0x10, &self.size.to_le_bytes());
        field::put(&mut raw, 0x18, &self.mtime_sec.to_le_bytes());
        field::put(&mut raw, 0x20, &self.mtime_nsec.to_le_bytes());
        field::put(&mut raw, 0x24, &self.xattrs.unwrap_or(NONE).to_le_bytes());
        field::put(&mut raw, 0x28, &at.to_le_bytes());
        field::put(&mut raw, 0x30, &a.to_le_bytes());
        field::put(&mut raw, 0x34, &b.to_le_bytes());
        field::put(&mut raw, 0x38, &c.to_le_bytes());
        raw
    }
}

/// Decodes `at`, `a`, `b` and `c` by type.
fn decode_body(
    raw: &[u8; LEN],
    inode: InodeIndex,
    kind: Kind,
    block_bits: u8,
) -> Result<Body, Corrupt> {
    let size = field::get_u64(raw, 0x10);
    let at = field::get_u64(raw, 0x28);
    let a = field::get_u32(raw, 0x30);
    let b = field::get_u32(raw, 0x34);
    let c = field::get_u32(raw, 0x38);
    // Each type has fields that must be zero; the first that is not is named.
    let zero = |fields: &[(&'static str, u64)]| match fields.iter().find(|(_, value)| *value != 0) {
        Some((field, _)) => Err(Corrupt::InodeReserved { inode, field }),
        None => Ok(()),
    };
    match kind {
        Kind::Fifo | Kind::Sock => {
            zero(&[("size", size), ("at", at), ("a", a.into()), ("b", b.into()), ("c", c.into())])?;
            Ok(Body::Plain)
        }
        Kind::Char | Kind::Block => {
            zero(&[("size", size), ("at", at), ("c", c.into())])?;
            if a > MAJOR_MAX || b > MINOR_MAX {
                return Err(Corrupt::DeviceNumber { inode, major: a, minor: b });
            }
            Ok(Body::Device { major: a, minor: b })
        }
        Kind::Link => {
            zero(&[("a", a.into()), ("b", b.into()), ("c", c.into())])?;
            if !(1..=SYMLINK_MAX).contains(&size) {
                return Err(Corrupt::SymlinkTarget { inode, at, size });
            }
            Ok(Body::Link { at })
        }
        Kind::Dir => {
            zero(&[("c", c.into())])?;
            if a == 0 && (at != 0 || size != 0) {
                return Err(Corrupt::DirectoryRecord { inode, at, size, entries: a });
            }
            Ok(Body::Dir { at, entries: a, parent: InodeIndex(b) })
        }
        Kind::File => decode_file(inode, block_bits, size, at, a, b, c),
    }
}

fn decode_file(
    inode: InodeIndex,
    block_bits: u8,
    size: u64,
    at: u64,
    a: u32,
    b: u32,
    c: u32,
) -> Result<Body, Corrupt> {
    let block_size = 1_u64.checked_shl(block_bits.into()).unwrap_or(u64::MAX);
    let full = size.checked_shr(block_bits.into()).unwrap_or(0);
    let tail_len = field::u32_from_u64(size.checked_rem(block_size).unwrap_or(0));
    let outside = Corrupt::RunsOutside { inode, at, count: a };
    // File blocks are 32 bits wide in run records; a longer file would have blocks that no run can name.
    let full = u32::try_from(full).map_err(|_| outside.clone())?;
    let runs = match (a, full) {
        (0, 0) if at == 0 => Runs::None,
        (0, _) | (_, 0) => return Err(outside),
        (1, _) => {
            let block = u32::try_from(at).map_err(|_| outside)?;
            Runs::One(Run { file_block: 0, block: block_or_hole(block), count: full })
        }
        (count, _) => Runs::Many { first: at, count },
    };
    let tail = Tail { block: block_or_hole(b), at: c, len: tail_len };
    if (tail.block.is_none() && tail.at != 0) || (tail_len == 0 && tail.block.is_some()) {
        return Err(Corrupt::Tail { inode, block: b, at: c });
    }
    Ok(Body::File { runs, tail })
}
