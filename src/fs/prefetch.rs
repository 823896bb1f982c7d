//! Which blocks does the image say will be wanted first, and in which order?

use super::Tree;
use crate::error::{Error, Result};
use crate::format::defect::Corrupt;
use crate::format::index::BlockIndex;
use crate::format::prefetch;
use crate::format::superblock::Section;

/// Most blocks of a list that are taken by those who follow it: what a machine reads while it boots has a few hundred, and a
/// list costs memory.
pub const PREFETCH_LIST_LEN_MAX: usize = 65_536;

impl Tree {
    /// How many blocks the image's prefetch list has.
    pub fn prefetch_len(&self) -> u64 {
        self.superblock().sections.get(Section::Prefetch) / prefetch::LEN_ON_DISK
    }

    /// The data blocks that the image says will be wanted first, in that order.
    pub fn prefetch_list(&self) -> impl Iterator<Item = Result<BlockIndex>> + '_ {
        (0..self.prefetch_len()).map(|nth| {
            let at = nth.saturating_mul(prefetch::LEN_ON_DISK);
            let span = self.section(Section::Prefetch, at, prefetch::LEN)?;
            let block = prefetch::decode(span.first_chunk().ok_or(Error::Invalid)?);
            if block.0 < self.superblock().data_block_count {
                Ok(block)
            } else {
                Err(Corrupt::PrefetchBlock { nth, block }.into())
            }
        })
    }
}
