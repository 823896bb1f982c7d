//! What is in a directory? Search by halving, iteration from any point on.

use std::cmp::Ordering;

use super::Tree;
use super::metadata::Span;
use crate::error::{Error, Result};
use crate::format::defect::Corrupt;
use crate::format::dirent::{self, Dirent};
use crate::format::field::{usize_from_u32, usize_from_u64};
use crate::format::index::InodeIndex;
use crate::format::inode::{Body, Inode, Kind};
use crate::format::name::{self, NotAName};
use crate::format::superblock::Section;

/// A record up to this long is taken as one piece; of a longer one only the entries that are looked at.
const WHOLE_RECORD_MAX: u64 = 64 * 1024;

/// A directory that is being searched or listed.
#[derive(Debug)]
pub struct Directory<'a> {
    tree: &'a Tree,
    index: InodeIndex,
    at: u64,
    entries: u32,
    /// Length of all names together.
    names_len: u32,
    whole: Option<Span>,
}

/// One name in a directory, with what it names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// The name: 1 to 255 bytes, without zero bytes and slashes.
    pub name: Vec<u8>,
    /// The inode it stands for.
    pub inode: InodeIndex,
    /// That inode's type.
    pub kind: Kind,
}

impl Tree {
    /// Opens a directory; [`Error::NotADirectory`] when the inode is none.
    pub fn directory(&self, index: InodeIndex) -> Result<Directory<'_>> {
        let inode = self.inode(index)?;
        let Body::Dir { at, entries, .. } = inode.body else { return Err(Error::NotADirectory) };
        let wrong = Corrupt::DirectoryRecord { inode: index, at, size: inode.size, entries };
        let section_len = self.superblock().sections.get(Section::Directories);
        let outside = at.checked_add(inode.size).is_none_or(|end| end > section_len);
        let entries_len = u64::from(entries).saturating_mul(dirent::LEN_ON_DISK);
        let names_len = inode.size.checked_sub(entries_len).and_then(|len| u32::try_from(len).ok());
        let Some(names_len) = names_len.filter(|_| !outside) else { return Err(wrong.into()) };
        let whole = if (1..=WHOLE_RECORD_MAX).contains(&inode.size) {
            Some(self.section(Section::Directories, at, usize_from_u64(inode.size))?)
        } else {
            None
        };
        let directory = Directory { tree: self, index, at, entries, names_len, whole };
        if entries > 0 && directory.dirent(entries.saturating_sub(1))?.name_end != names_len {
            return Err(wrong.into());
        }
        Ok(directory)
    }
}

impl Directory<'_> {
    /// How many entries there are.
    pub fn len(&self) -> u32 {
        self.entries
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// The directory's own inode.
    pub fn index(&self) -> InodeIndex {
        self.index
    }

    /// Entry `nth`, from 0 in ascending order of names. Its type is not compared with its inode.
    pub fn entry(&self, nth: u32) -> Result<DirEntry> {
        let dirent = self.dirent(nth)?;
        let name = self.name(nth, &dirent)?.to_vec();
        self.check_order(nth, &name)?;
        self.judge(nth, &dirent, name)
    }

    /// The inode that a name stands for.
    pub fn lookup(&self, name: &[u8]) -> Result<Option<(InodeIndex, Inode)>> {
        let (mut low, mut high) = (0, self.entries);
        while low < high {
            let middle = low.midpoint(high);
            let dirent = self.dirent(middle)?;
            match self.name(middle, &dirent)?.as_ref().cmp(name) {
                Ordering::Less => low = middle.saturating_add(1),
                Ordering::Greater => high = middle,
                Ordering::Equal => {
                    let entry = self.judge(middle, &dirent, Vec::new())?;
                    return Ok(Some((entry.inode, self.child(middle, &entry)?)));
                }
            }
        }
        Ok(None)
    }

    /// The inode of an entry, found to be what the entry says, and a directory's child to be its own.
    pub fn child(&self, nth: u32, entry: &DirEntry) -> Result<Inode> {
        let inode = self.tree.inode(entry.inode)?;
        if inode.kind != entry.kind {
            return Err(Corrupt::EntryType { directory: self.index, entry: nth }.into());
        }
        if let Body::Dir { parent, .. } = inode.body
            && parent != self.index
        {
            // A tree cannot have cycles if each directory names its parent and only that one names it.
            return Err(Corrupt::Parent { directory: self.index, child: entry.inode }.into());
        }
        Ok(inode)
    }

    /// Raw entry `nth`.
    fn dirent(&self, nth: u32) -> Result<Dirent> {
        let at = u64::from(nth).saturating_mul(dirent::LEN_ON_DISK);
        let raw = self.piece(at, dirent::LEN)?;
        Ok(Dirent::decode(raw.as_ref().first_chunk().ok_or(Error::Invalid)?))
    }

    /// The name of entry `nth`, of a valid length.
    fn name(&self, nth: u32, dirent: &Dirent) -> Result<Piece<'_>> {
        let start = match nth.checked_sub(1) {
            Some(before) => self.dirent(before)?.name_end,
            None => 0,
        };
        let wrong = Corrupt::NameLength { directory: self.index, entry: nth };
        let len = dirent.name_end.checked_sub(start).map(usize_from_u32);
        let inside = dirent.name_end <= self.names_len;
        let Some(len) = len.filter(|len| inside && (1..=crate::format::NAME_MAX).contains(len))
        else {
            return Err(wrong.into());
        };
        let names_at = u64::from(self.entries).saturating_mul(dirent::LEN_ON_DISK);
        self.piece(names_at.saturating_add(start.into()), len)
    }

    /// Strictly ascending: an entry equal to its neighbour would let a lookup and a listing disagree.
    fn check_order(&self, nth: u32, name: &[u8]) -> Result<()> {
        if let Some(before) = nth.checked_sub(1) {
            let dirent = self.dirent(before)?;
            if self.name(before, &dirent)?.as_ref() >= name {
                return Err(Corrupt::NameOrder { directory: self.index, entry: nth }.into());
            }
        }
        Ok(())
    }

    /// Holds an entry against the rules that concern it alone. An empty `name` was compared with a good one already.
    fn judge(&self, nth: u32, dirent: &Dirent, name: Vec<u8>) -> Result<DirEntry> {
        let (directory, entry) = (self.index, nth);
        if !name.is_empty() && name::check(&name) == Err(NotAName::Bytes) {
            return Err(Corrupt::NameBytes { directory, entry }.into());
        }
        if !dirent.reserved_is_zero {
            return Err(Corrupt::DirentReserved { directory, entry }.into());
        }
        if !(1..self.tree.superblock().inode_count()).contains(&dirent.inode) {
            return Err(Corrupt::EntryInode { directory, entry, inode: dirent.inode }.into());
        }
        let kind = dirent.kind.ok_or(Corrupt::EntryType { directory, entry })?;
        Ok(DirEntry { name, inode: InodeIndex(dirent.inode), kind })
    }

    fn piece(&self, at: u64, len: usize) -> Result<Piece<'_>> {
        let Some(record) = &self.whole else {
            let span = self.tree.section(Section::Directories, self.at.saturating_add(at), len)?;
            return Ok(Piece::Owned(span));
        };
        let start = usize_from_u64(at);
        let range = start..start.saturating_add(len);
        record.get(range).map(Piece::Borrowed).ok_or(Error::Invalid)
    }

    /// All entries from `nth` on.
    pub fn iter_from(&self, nth: u32) -> impl Iterator<Item = Result<DirEntry>> + '_ {
        (nth..self.entries).map(|nth| self.entry(nth))
    }
}

/// A few bytes of a record.
enum Piece<'a> {
    Borrowed(&'a [u8]),
    Owned(Span),
}

impl AsRef<[u8]> for Piece<'_> {
    fn as_ref(&self) -> &[u8] {
        match self {
            Piece::Borrowed(bytes) => bytes,
            Piece::Owned(span) => span,
        }
    }
}

impl Piece<'_> {
    fn to_vec(&self) -> Vec<u8> {
        self.as_ref().to_vec()
    }
}
