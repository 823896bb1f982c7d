//! Where in the metadata blocks is a piece of a section?

use std::ops::{Deref, Range};

use super::Tree;
use crate::error::{Error, Result};
use crate::format::defect::Corrupt;
use crate::format::field::{u32_from_u64, u64_from_usize, usize_from_u64};
use crate::format::index::BlockIndex;
use crate::format::superblock::Section;
use crate::store::block::Block;

/// A piece of a section. Borrowed from one block where it lies in one, copied where it crosses from block to block.
#[derive(Debug)]
pub(super) enum Span {
    /// Inside one block.
    One(Block, Range<usize>),
    /// Put together.
    Copied(Vec<u8>),
}

impl Deref for Span {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Span::One(block, range) => block.get(range.clone()).unwrap_or_default(),
            Span::Copied(bytes) => bytes,
        }
    }
}

impl Tree {
    /// `len` bytes of a section. The caller has found them to be inside it, and `len` to be small.
    pub(super) fn section(&self, section: Section, at: u64, len: usize) -> Result<Span> {
        let (block, start) = self.section_block(section, at)?;
        let end = start.checked_add(len).ok_or(Error::Invalid)?;
        if end <= block.len() {
            return Ok(Span::One(block, start..end));
        }
        let mut bytes = Vec::with_capacity(len);
        let mut part = block.get(start..).unwrap_or_default().to_vec();
        loop {
            let wanted = len.saturating_sub(bytes.len());
            bytes.extend(part.iter().take(wanted));
            if bytes.len() == len {
                return Ok(Span::Copied(bytes));
            }
            let (block, start) =
                self.section_block(section, at.saturating_add(u64_from_usize(bytes.len())))?;
            part = block.get(start..).unwrap_or_default().to_vec();
            if part.is_empty() {
                return Err(Error::Invalid);
            }
        }
    }

    /// The metadata block that holds byte `at` of a section, and where in its content that byte is.
    fn section_block(&self, section: Section, at: u64) -> Result<(Block, usize)> {
        let superblock = self.superblock();
        let section_len = superblock.sections.get(section);
        if at >= section_len {
            return Err(Error::Invalid);
        }
        let size = u64::from(superblock.metadata_block_size());
        let nth = at.checked_div(size).unwrap_or(0);
        let index = superblock.section_first_block(section).saturating_add(u32_from_u64(nth));
        let block = self.store.get(BlockIndex(index))?;
        let expected = section_len.saturating_sub(nth.saturating_mul(size)).min(size);
        if u64_from_usize(block.len()) != expected {
            return Err(Corrupt::SectionBlock {
                block: BlockIndex(index),
                content_len: u32::try_from(block.len()).unwrap_or(u32::MAX),
                expected: u32_from_u64(expected),
            }
            .into());
        }
        Ok((block, usize_from_u64(at.checked_rem(size).unwrap_or(0))))
    }
}
