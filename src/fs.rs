//! What does the tree say? Names, attributes, content: word for word the same under FUSE, `cat` or a test.

pub mod attr;
pub mod dir;
pub mod file;
pub mod holders;
mod metadata;
pub mod path;
pub mod prefetch;
pub mod stack;
pub mod walk;
pub mod xattr;

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::COMPAT_POSIX_ACL;
use crate::format::defect::Corrupt;
use crate::format::digest::Digest;
use crate::format::dirent;
use crate::format::field::usize_from_u64;
use crate::format::index::InodeIndex;
use crate::format::inode::{self, Body, Inode, Kind};
use crate::format::superblock::{Section, Superblock};
use crate::store::Store;
pub use attr::Attr;

/// The tree of files that an image holds. All of it is checked before it is believed; nothing is ever changed.
#[derive(Debug)]
pub struct Tree {
    store: Arc<Store>,
}

impl Tree {
    /// The tree of an open store. Checks that there is a root directory.
    pub fn new(store: Arc<Store>) -> Result<Self> {
        let tree = Tree { store };
        tree.inode(InodeIndex::ROOT)?;
        Ok(tree)
    }

    /// The same without a look at the root, for `verify`: a damaged root is one finding among others.
    pub(crate) fn unchecked(store: Arc<Store>) -> Self {
        Tree { store }
    }

    /// The store below.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// The superblock.
    pub fn superblock(&self) -> &Superblock {
        self.store.superblock()
    }

    /// The root digest.
    pub fn root_digest(&self) -> Digest {
        self.store.root_digest()
    }

    /// How many entries its directories have at most: what visits more goes round in circles.
    pub(crate) fn entries_max(&self) -> u64 {
        self.superblock().sections.get(Section::Directories) / dirent::LEN_ON_DISK
    }

    /// Whether any inode has an xattr.
    pub fn has_xattrs(&self) -> bool {
        self.superblock().sections.get(Section::Xattrs) > 0
    }

    /// Whether any inode has a POSIX ACL.
    pub fn has_posix_acls(&self) -> bool {
        self.superblock().compat & COMPAT_POSIX_ACL != 0
    }

    /// The inode with this index; [`Error::NotFound`] when there are not so many.
    pub fn inode(&self, index: InodeIndex) -> Result<Inode> {
        if index.0 >= self.superblock().inode_count() {
            return Err(Error::NotFound);
        }
        let at = u64::from(index.0).saturating_mul(inode::LEN_ON_DISK);
        let span = self.section(Section::Inodes, at, inode::LEN)?;
        let raw = span.first_chunk().ok_or(Error::Invalid)?;
        Ok(Inode::decode(raw, index, self.superblock().block_bits)?)
    }

    /// An inode's attributes.
    pub fn attr(&self, index: InodeIndex) -> Result<Attr> {
        self.attr_of(index, &self.inode(index)?)
    }

    /// The inode that `name` stands for in a directory, or nothing when there is no such name.
    pub fn lookup(
        &self,
        directory: InodeIndex,
        name: &[u8],
    ) -> Result<Option<(InodeIndex, Inode)>> {
        self.directory(directory)?.lookup(name)
    }

    /// A directory's parent; the root's is itself.
    pub fn parent(&self, directory: InodeIndex) -> Result<InodeIndex> {
        match self.inode(directory)?.body {
            Body::Dir { parent, .. } => Ok(parent),
            _ => Err(Error::NotADirectory),
        }
    }

    /// A symlink's target.
    pub fn read_link(&self, index: InodeIndex) -> Result<Vec<u8>> {
        let inode = self.inode(index)?;
        let Body::Link { at } = inode.body else { return Err(Error::Invalid) };
        let len = self.superblock().sections.get(Section::Links);
        let wrong = Corrupt::SymlinkTarget { inode: index, at, size: inode.size };
        if at.checked_add(inode.size).is_none_or(|end| end > len) {
            return Err(wrong.into());
        }
        let target = self.section(Section::Links, at, usize_from_u64(inode.size))?;
        if target.contains(&0) { Err(wrong.into()) } else { Ok(target.to_vec()) }
    }

    /// The inode at a path, from the root; symlinks are not followed. Empty components and `.` stand for nothing.
    pub fn resolve(&self, path: &[u8]) -> Result<InodeIndex> {
        let mut at = InodeIndex::ROOT;
        for name in path.split(|byte| *byte == b'/') {
            at = match name {
                b"" | b"." => at,
                b".." => self.parent(at)?,
                _ => self.lookup(at, name)?.ok_or(Error::NotFound)?.0,
            };
        }
        if path.ends_with(b"/") && self.inode(at)?.kind != Kind::Dir {
            return Err(Error::NotADirectory);
        }
        Ok(at)
    }
}
