//! The tree is an image's.

use super::look::{Found, Look};
use crate::error::{Error, Result};
use crate::format::field::usize_from_u64;
use crate::format::inode::Kind;
use crate::fs::Tree;

impl Look for Tree {
    fn lstat(&self, path: &[u8]) -> Result<Option<Found>> {
        let inode = match self.resolve(path).and_then(|index| self.inode(index)) {
            Ok(inode) => inode,
            Err(Error::NotFound | Error::NotADirectory) => return Ok(None),
            Err(err) => return Err(err),
        };
        Ok(Some(Found {
            kind: inode.kind,
            permissions: inode.permissions,
            size: inode.size,
            mtime_sec: inode.mtime_sec,
        }))
    }

    fn read_link(&self, path: &[u8]) -> Result<Vec<u8>> {
        Tree::read_link(self, self.resolve(path)?)
    }

    fn list(&self, path: &[u8]) -> Result<Vec<(Vec<u8>, Kind)>> {
        let directory = self.directory(self.resolve(path)?)?;
        directory.iter_from(0).map(|entry| entry.map(|entry| (entry.name, entry.kind))).collect()
    }

    fn read(&self, path: &[u8], offset: u64, len: usize) -> Result<Vec<u8>> {
        let file = self.file(self.resolve(path)?)?;
        let left = file.size().saturating_sub(offset);
        let mut bytes = vec![0; len.min(usize_from_u64(left))];
        let filled = file.read_at(offset, &mut bytes)?;
        bytes.truncate(filled);
        Ok(bytes)
    }

    fn entries_max(&self) -> u64 {
        Tree::entries_max(self)
    }
}
