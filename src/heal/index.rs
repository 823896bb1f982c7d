//! Which block of an image has a digest? Equal digests are equal stored bytes, in whatever image.
//!
//! Eight bytes for each block tell where to look; what is there is held against the whole digest.

use std::io;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::digest::Digest;
use crate::format::field::{get_u32, u32_from_usize, usize_from_u32};
use crate::format::index::BlockIndex;
use crate::image::Source;
use crate::store::heal::{Part, Wanted};
use crate::store::{CacheLimits, Store, open_superblock};
use crate::trust::{self, Anchor};

/// Most blocks of images that nobody vouches for, all together: 8 MiB of index, 64 GiB of usual blocks.
pub const BLOCKS_MAX: u32 = 1 << 20;
/// Most blocks of one that is opened at all: 512 KiB of digests of pages. Of more than have an index, it is known what is at a place.
const OPENED_BLOCKS_MAX: u32 = 1 << 24;
/// Most blocks that are looked at for one digest. An honest image has one; more than one that begins alike is rare.
const CANDIDATES_MAX: usize = 8;

/// The blocks of an image by their digests.
#[derive(Debug, Default)]
pub struct Index {
    /// How a digest begins, and the block that has it; ascending.
    blocks: Vec<(u32, u32)>,
}

fn beginning(digest: Digest) -> u32 {
    get_u32(&digest.0, 0)
}

impl Index {
    /// Reads the whole table of an image. A page of it that cannot be had costs its blocks, unless `give_up` says that the others
    /// need not be tried either.
    pub fn of(image: &Store, give_up: impl Fn(&Error) -> bool) -> Result<Self> {
        let superblock = image.superblock();
        check(superblock.block_count, BLOCKS_MAX)?;
        let mut blocks = Vec::with_capacity(usize_from_u32(superblock.block_count));
        for page in 0..superblock.page_count() {
            let first = page.saturating_mul(crate::format::entry::ENTRIES_PER_PAGE);
            match image.table_page(page) {
                Ok(entries) => {
                    let digests = entries.iter().map(|entry| beginning(entry.digest));
                    blocks.extend(digests.zip(first..));
                }
                Err(err) if give_up(&err) => return Err(err),
                Err(err) => tracing::debug!("a page of another image is left out: {err}"),
            }
        }
        blocks.sort_unstable();
        blocks.shrink_to_fit();
        Ok(Index { blocks })
    }

    /// How many blocks there are.
    pub fn len(&self) -> u32 {
        u32_from_usize(self.blocks.len())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// Blocks that may have a digest.
    fn candidates(&self, digest: Digest) -> impl Iterator<Item = BlockIndex> + '_ {
        let wanted = beginning(digest);
        let from = self.blocks.partition_point(|(begins, _)| *begins < wanted);
        let same = self.blocks.iter().skip(from).take_while(move |(begins, _)| *begins == wanted);
        same.take(CANDIDATES_MAX).map(|(_, block)| BlockIndex(*block))
    }

    /// Whether it is worth opening the image for a digest.
    pub fn may_have(&self, digest: Digest) -> bool {
        self.candidates(digest).next().is_some()
    }

    /// The stored bytes that have a digest, from the image whose index this is; or why it does not have them though its table
    /// says so.
    pub fn copies<'a>(
        &'a self,
        image: &'a Store,
        digest: Digest,
    ) -> impl Iterator<Item = Result<Vec<u8>>> + 'a {
        self.candidates(digest).filter_map(move |block| copy_at_place(image, block, digest))
    }
}

/// Opens an image that says itself what its digest is. That harms nobody: what is taken from it is held against another image's
/// own digest.
pub fn open_unknown(source: Arc<dyn Source>) -> Result<Store> {
    let digest = trust::root_digest(&*source, &Anchor::Unauthenticated, &[])?;
    let (superblock, _) = open_superblock(&*source, digest)?;
    check(superblock.block_count, OPENED_BLOCKS_MAX)?;
    Store::open(source, digest, CacheLimits::NONE)
}

fn check(blocks: u32, most: u32) -> Result<()> {
    if blocks <= most {
        return Ok(());
    }
    let what = format!("{blocks} blocks are more than are looked at");
    Err(Error::io("nothing is taken from it", io::Error::other(what)))
}

/// A copy of a block from where the same image has it, which takes no index.
pub fn copy_at_place(image: &Store, block: BlockIndex, digest: Digest) -> Option<Result<Vec<u8>>> {
    if block.0 >= image.superblock().block_count {
        return None;
    }
    match image.entry(block) {
        Ok(entry) => (entry.digest == digest).then(|| image.stored(block)),
        Err(err) => Some(Err(err)),
    }
}

/// Copies of what is no block. Only an image with the same table can have them.
pub fn copy_of_table(image: &Store, wanted: &Wanted) -> Option<Result<Vec<u8>>> {
    let superblock = image.superblock();
    let part = match wanted.part {
        Part::Superblock => (image.root_digest() == wanted.digest).then_some(Part::Superblock),
        Part::PageList => (superblock.page_list_digest == wanted.digest).then_some(Part::PageList),
        Part::TablePage(_) => (0..superblock.page_count())
            .find(|page| image.page_digest(*page) == Some(wanted.digest))
            .map(Part::TablePage),
        Part::Block(..) => None,
    };
    part.map(|part| image.sealed(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_that_begin_alike_are_all_candidates_up_to_a_limit() {
        let digest = |begins: u8, ends: u8| {
            let mut digest = [begins; 32];
            digest[31] = ends;
            Digest(digest)
        };
        let begins = |begins: u8| beginning(digest(begins, 0));
        let mut blocks = vec![(begins(7), 4), (begins(9), 5), (begins(7), 2), (begins(1), 3)];
        blocks.extend((100..200).map(|block| (begins(200), block)));
        blocks.sort_unstable();
        let index = Index { blocks };
        let found = |begins, ends| -> Vec<u32> {
            index.candidates(digest(begins, ends)).map(|block| block.0).collect()
        };
        assert_eq!(found(7, 1), [2, 4]);
        assert_eq!(found(9, 7), [5]);
        assert!(found(8, 0).is_empty() && !index.may_have(digest(255, 0)));
        assert_eq!(found(200, 0).len(), CANDIDATES_MAX);
    }
}
