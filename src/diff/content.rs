//! Have two files the same bytes? The same stored block has the same content; only where blocks differ, or lie otherwise,
//! are bytes compared.

use super::Which;
use crate::error::{Error, Result};
use crate::format::entry::Entry;
use crate::format::field::{u32_from_u64, u64_from_usize, usize_from_u32, usize_from_u64};
use crate::format::index::BlockIndex;
use crate::fs::Tree;
use crate::fs::file::{Extent, FileReader, Place};
use crate::fs::walk::Visit;

/// Compares files of two images. Keeps one buffer for each.
#[derive(Debug)]
pub(super) struct Comparer<'a> {
    a: &'a Tree,
    b: &'a Tree,
    buf_a: Vec<u8>,
    buf_b: Vec<u8>,
}

/// One of the two files at one place.
struct Side<'a> {
    tree: &'a Tree,
    reader: FileReader<'a>,
}

/// Something of both images.
type Both<T> = Result<T, (Which, Error)>;

impl<'a> Comparer<'a> {
    pub(super) fn new(a: &'a Tree, b: &'a Tree) -> Self {
        let chunk_len = a.superblock().block_size().max(b.superblock().block_size());
        let buf = || vec![0; usize_from_u32(chunk_len)];
        Comparer { a, b, buf_a: buf(), buf_b: buf() }
    }

    /// Whether two regular files of the same size have the same bytes.
    pub(super) fn is_same_content(&mut self, in_a: &Visit, in_b: &Visit) -> Both<bool> {
        let a = Side::open(self.a, in_a).map_err(|err| (Which::A, err))?;
        let b = Side::open(self.b, in_b).map_err(|err| (Which::B, err))?;
        let size = in_a.inode.size.min(in_b.inode.size);
        let mut at = 0;
        while at < size {
            let extent_a = a.reader.extent_at(at).map_err(|err| (Which::A, err))?;
            let extent_b = b.reader.extent_at(at).map_err(|err| (Which::B, err))?;
            let end = end(&extent_a).min(end(&extent_b)).min(size);
            let len = end.saturating_sub(at);
            let holes = [extent_a.place, extent_b.place] == [Place::Hole; 2];
            let same = if holes {
                Some(len)
            } else {
                let stored_a = a.stored(&extent_a, at).map_err(|err| (Which::A, err))?;
                let stored_b = b.stored(&extent_b, at).map_err(|err| (Which::B, err))?;
                stored_a
                    .filter(|in_a| stored_b.as_ref() == Some(in_a))
                    .map(|stored| stored.len.min(len))
            };
            let done = match same {
                Some(done) => done,
                None => match self.compare_bytes(&a, &b, at, len)? {
                    Some(done) => done,
                    None => return Ok(false),
                },
            };
            if done == 0 {
                return Err((Which::A, Error::Invalid));
            }
            at = at.saturating_add(done);
        }
        Ok(true)
    }

    /// How many bytes from `at` on were compared and are the same; `None` when they are not.
    fn compare_bytes(
        &mut self,
        a: &Side<'_>,
        b: &Side<'_>,
        at: u64,
        len: u64,
    ) -> Both<Option<u64>> {
        let len = usize_from_u64(len).min(self.buf_a.len());
        let (Some(buf_a), Some(buf_b)) = (self.buf_a.get_mut(..len), self.buf_b.get_mut(..len))
        else {
            return Err((Which::A, Error::Invalid));
        };
        a.reader.read_at(at, buf_a).map_err(|err| (Which::A, err))?;
        b.reader.read_at(at, buf_b).map_err(|err| (Which::B, err))?;
        Ok((buf_a == buf_b).then_some(u64_from_usize(len)))
    }
}

fn end(extent: &Extent) -> u64 {
    extent.offset.saturating_add(extent.len)
}

/// What is stored of a file from some place on: if this is equal, so are the bytes.
#[derive(PartialEq, Eq)]
struct Stored {
    entry: StoredBlock,
    /// Where the place is in the block's content.
    skip: u64,
    /// How many bytes of the file are in the block from there on.
    len: u64,
}

#[derive(PartialEq, Eq)]
struct StoredBlock {
    digest: crate::format::digest::Digest,
    codec: crate::format::entry::Codec,
    content_len: u32,
}

impl From<Entry> for StoredBlock {
    fn from(Entry { digest, codec, content_len, .. }: Entry) -> Self {
        StoredBlock { digest, codec, content_len }
    }
}

impl<'a> Side<'a> {
    fn open(tree: &'a Tree, visit: &Visit) -> Result<Self> {
        Ok(Side { tree, reader: tree.file_of(visit.index, &visit.inode)? })
    }

    fn stored(&self, extent: &Extent, at: u64) -> Result<Option<Stored>> {
        let inside = at.saturating_sub(extent.offset);
        let (block, skip, len) = match extent.place {
            Place::Hole => return Ok(None),
            Place::Blocks { first, .. } => {
                let block_size = u64::from(self.tree.superblock().block_size());
                let nth = inside.checked_div(block_size).ok_or(Error::Invalid)?;
                let skip = inside.checked_rem(block_size).ok_or(Error::Invalid)?;
                let block = first.0.saturating_add(u32_from_u64(nth));
                (BlockIndex(block), skip, block_size.saturating_sub(skip))
            }
            Place::Tail { block, at: start } => {
                (block, u64::from(start).saturating_add(inside), extent.len.saturating_sub(inside))
            }
        };
        let entry = self.tree.store().entry(block)?.into();
        Ok(Some(Stored { entry, skip, len }))
    }
}
