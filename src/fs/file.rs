//! Where in the blocks is a piece of a file, and what is it?

use std::ops::Range;

use super::Tree;
use crate::error::{Error, Result};
use crate::format::defect::Corrupt;
use crate::format::field::{u32_from_u64, u64_from_usize, usize_from_u32, usize_from_u64};
use crate::format::index::{BlockIndex, InodeIndex, NONE};
use crate::format::inode::{Body, Inode, Kind, Runs, Tail};
use crate::format::run::{self, Run};
use crate::format::superblock::Section;

/// A stretch of a file that is stored in one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Where it starts in the file, in bytes.
    pub offset: u64,
    /// How long it is, in bytes; never 0.
    pub len: u64,
    /// Where its bytes are.
    pub place: Place,
}

/// Where the bytes of an extent are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Nowhere: they are zeros.
    Hole,
    /// In this and the following data blocks, each of them full.
    Blocks {
        /// The first of them.
        first: BlockIndex,
        /// How many there are.
        count: u32,
    },
    /// In the content of a block that others may share.
    Tail {
        /// Which block.
        block: BlockIndex,
        /// Where they start in its content.
        at: u32,
    },
}

impl Place {
    /// The indexes of its blocks.
    pub fn blocks(&self) -> Range<u32> {
        match *self {
            Place::Hole => 0..0,
            Place::Blocks { first, count } => first.0..first.0.saturating_add(count),
            Place::Tail { block, .. } => block.0..block.0.saturating_add(1),
        }
    }
}

/// A regular file that is being read.
#[derive(Debug)]
pub struct FileReader<'a> {
    tree: &'a Tree,
    index: InodeIndex,
    size: u64,
    runs: Runs,
    tail: Tail,
    /// Whether whole blocks stay in the cache, too.
    keeps: bool,
}

impl Tree {
    /// Opens a regular file; [`Error::IsADirectory`] or [`Error::Invalid`] when the inode is none.
    pub fn file(&self, index: InodeIndex) -> Result<FileReader<'_>> {
        self.file_of(index, &self.inode(index)?)
    }

    /// The same for an inode that the caller has already.
    pub fn file_of(&self, index: InodeIndex, inode: &Inode) -> Result<FileReader<'_>> {
        match inode.body {
            Body::File { runs, tail } => {
                Ok(FileReader { tree: self, index, size: inode.size, runs, tail, keeps: false })
            }
            _ if inode.kind == Kind::Dir => Err(Error::IsADirectory),
            _ => Err(Error::Invalid),
        }
    }

    /// Fills `buf` from `offset` of a file on, and tells how many bytes there were: fewer than asked only at its end.
    /// On error `buf` holds nothing to be used.
    pub fn read_at(&self, index: InodeIndex, offset: u64, buf: &mut [u8]) -> Result<usize> {
        self.file(index)?.read_at(offset, buf)
    }
}

impl FileReader<'_> {
    /// The file's length in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// For one who reads what others will read soon: it stays in the cache.
    #[must_use]
    pub fn keeping(self) -> Self {
        FileReader { keeps: true, ..self }
    }

    /// See [`Tree::read_at`].
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let len = usize_from_u64(self.size.saturating_sub(offset)).min(buf.len());
        let mut rest = buf.get_mut(..len).ok_or(Error::Invalid)?;
        let mut at = offset;
        while !rest.is_empty() {
            let extent = self.extent_at(at)?;
            let skip = at.saturating_sub(extent.offset);
            let here = usize_from_u64(extent.len.saturating_sub(skip)).min(rest.len());
            let (piece, after) = rest.split_at_mut_checked(here).ok_or(Error::Invalid)?;
            self.read_extent(&extent, skip, piece)?;
            rest = after;
            at = at.saturating_add(u64_from_usize(here));
        }
        Ok(len)
    }

    /// Holds what an extent says of its blocks against what these are, as reading does (S-54, S-55).
    pub fn check(&self, extent: &Extent) -> Result<()> {
        match extent.place {
            Place::Hole => Ok(()),
            Place::Blocks { .. } => {
                extent.place.blocks().try_for_each(|block| self.check_full(BlockIndex(block)))
            }
            Place::Tail { block, at } => self.check_tail(block, at).map(drop),
        }
    }

    /// A block that a run names is a full one.
    fn check_full(&self, block: BlockIndex) -> Result<()> {
        let content_len = self.tree.store().entry(block)?.content_len;
        if content_len == self.tree.superblock().block_size() {
            return Ok(());
        }
        Err(Corrupt::RunBlockLength { inode: self.index, block, content_len }.into())
    }

    /// A tail is inside of a data block, whose length is returned.
    fn check_tail(&self, block: BlockIndex, at: u32) -> Result<u64> {
        let wrong = Corrupt::Tail { inode: self.index, block: block.0, at };
        if block.0 >= self.tree.superblock().data_block_count {
            return Err(wrong.into());
        }
        let content_len = u64::from(self.tree.store().entry(block)?.content_len);
        if u64::from(at).saturating_add(self.tail.len.into()) > content_len {
            return Err(wrong.into());
        }
        Ok(content_len)
    }

    /// Where data starts at or after `offset`; `None` when there is none up to the end (`SEEK_DATA`).
    pub fn seek_data(&self, offset: u64) -> Result<Option<u64>> {
        let mut at = offset;
        while at < self.size {
            let extent = self.extent_at(at)?;
            if extent.place != Place::Hole {
                return Ok(Some(at));
            }
            at = extent.offset.saturating_add(extent.len);
        }
        Ok(None)
    }

    /// Where a hole starts at or after `offset`, counting the end of the file as one; `None` at or behind the end (`SEEK_HOLE`).
    pub fn seek_hole(&self, offset: u64) -> Result<Option<u64>> {
        if offset >= self.size {
            return Ok(None);
        }
        let mut at = offset;
        while at < self.size {
            let extent = self.extent_at(at)?;
            if extent.place == Place::Hole {
                break;
            }
            at = extent.offset.saturating_add(extent.len);
        }
        Ok(Some(at.min(self.size)))
    }

    /// All extents in order.
    pub fn extents(&self) -> impl Iterator<Item = Result<Extent>> + '_ {
        let mut at = 0;
        std::iter::from_fn(move || {
            if at >= self.size {
                return None;
            }
            let extent = self.extent_at(at);
            at = match &extent {
                Ok(extent) => extent.offset.saturating_add(extent.len),
                Err(_) => self.size,
            };
            Some(extent)
        })
    }

    /// The extent that holds byte `at`, which lies before the end.
    pub fn extent_at(&self, at: u64) -> Result<Extent> {
        let bits = u32::from(self.tree.superblock().block_bits);
        let full_len = self.size.saturating_sub(self.tail.len.into());
        if at >= full_len {
            let place = match self.tail.block {
                None => Place::Hole,
                Some(block) => Place::Tail { block, at: self.tail.at },
            };
            return Ok(Extent { offset: full_len, len: self.tail.len.into(), place });
        }
        let file_block = u32_from_u64(at.checked_shr(bits).unwrap_or(0));
        let run = match self.runs {
            Runs::None => return Err(Error::Invalid),
            Runs::One(run) => run,
            Runs::Many { first, count } => self.find_run(first, count, file_block)?,
        };
        self.check_run(&run)?;
        let bytes = |blocks: u32| u64::from(blocks).checked_shl(bits).unwrap_or(u64::MAX);
        let place = match run.block {
            None => Place::Hole,
            Some(first) => Place::Blocks { first, count: run.count },
        };
        // A hostile image may have a run that is longer than what is left of the file.
        let offset = bytes(run.file_block);
        let len = bytes(run.count).min(full_len.saturating_sub(offset));
        Ok(Extent { offset, len, place })
    }

    /// Fills `buf` from `skip` bytes after the start of an extent on, all of it inside the extent.
    fn read_extent(&self, extent: &Extent, skip: u64, buf: &mut [u8]) -> Result<()> {
        match extent.place {
            Place::Hole => {
                buf.fill(0);
                Ok(())
            }
            Place::Blocks { first, .. } => self.read_blocks(first, skip, buf),
            Place::Tail { block, at } => self.read_tail(block, at, skip, buf),
        }
    }

    fn read_blocks(&self, first: BlockIndex, skip: u64, buf: &mut [u8]) -> Result<()> {
        let store = self.tree.store();
        let bits = u32::from(self.tree.superblock().block_bits);
        let block_size = self.tree.superblock().block_size();
        let mut rest = buf;
        let mut at = skip;
        while !rest.is_empty() {
            let nth = u32_from_u64(at.checked_shr(bits).unwrap_or(0));
            let block = BlockIndex(first.0.saturating_add(nth));
            self.check_full(block)?;
            let start = usize_from_u64(at.checked_rem(block_size.into()).unwrap_or(0));
            let here = usize_from_u32(block_size).saturating_sub(start).min(rest.len());
            let (piece, after) = rest.split_at_mut_checked(here).ok_or(Error::Invalid)?;
            if here == usize_from_u32(block_size) && !self.keeps {
                // Wanted whole: expanded where it is wanted. The kernel's page cache keeps it from now on.
                store.get_into(block, piece)?;
            } else {
                let content = store.get(block)?;
                let from = content.get(start..start.saturating_add(here)).ok_or(Error::Invalid)?;
                piece.copy_from_slice(from);
                if !self.keeps {
                    store.used(block, here);
                }
            }
            rest = after;
            at = at.saturating_add(u64_from_usize(here));
        }
        Ok(())
    }

    fn read_tail(&self, block: BlockIndex, at: u32, skip: u64, buf: &mut [u8]) -> Result<()> {
        let content_len = self.check_tail(block, at)?;
        if u64_from_usize(buf.len()) == content_len && !self.keeps {
            return self.tree.store().get_into(block, buf);
        }
        let content = self.tree.store().get(block)?;
        let start = usize_from_u32(at).saturating_add(usize_from_u64(skip));
        let from = content.get(start..start.saturating_add(buf.len())).ok_or(Error::Invalid)?;
        buf.copy_from_slice(from);
        if !self.keeps {
            self.tree.store().used(block, buf.len());
        }
        Ok(())
    }

    /// The run record that covers `file_block`, among `count` records from `first` on, found by halving.
    fn find_run(&self, first: u64, count: u32, file_block: u32) -> Result<Run> {
        self.tree.check_runs_inside(self.index, first, count)?;
        let (mut low, mut high) = (0, count);
        while low < high {
            let middle = low.midpoint(high);
            if self.tree.run(first.saturating_add(middle.into()))?.file_block <= file_block {
                low = middle.saturating_add(1);
            } else {
                high = middle;
            }
        }
        let order = |found: u32| Corrupt::RunOrder {
            inode: self.index,
            file_block: found.into(),
            expected: file_block.into(),
        };
        let nth = low.checked_sub(1).ok_or_else(|| order(file_block))?;
        let run = self.tree.run(first.saturating_add(nth.into()))?;
        let end = u64::from(run.file_block).saturating_add(run.count.into());
        // The next run, or the end of the full blocks, must be where this one ends: what covers a block is then certain.
        let due = if low < count {
            u64::from(self.tree.run(first.saturating_add(low.into()))?.file_block)
        } else {
            self.size
                .saturating_sub(self.tail.len.into())
                .checked_shr(self.tree.superblock().block_bits.into())
                .unwrap_or(0)
        };
        let starts = nth > 0 || run.file_block == 0;
        if end != due
            || run.count == 0
            || !starts
            || !(run.file_block..=u32_from_u64(end)).contains(&file_block)
        {
            return Err(order(run.file_block).into());
        }
        Ok(run)
    }

    /// All blocks of a run are data blocks (S-53).
    fn check_run(&self, run: &Run) -> Result<()> {
        let Some(block) = run.block else { return Ok(()) };
        let end = block.0.checked_add(run.count);
        if end.is_none_or(|end| end > self.tree.superblock().data_block_count || end == NONE) {
            return Err(
                Corrupt::RunBlock { inode: self.index, block: block.0, count: run.count }.into()
            );
        }
        Ok(())
    }
}

impl Tree {
    /// All of a file's run records are in their section (S-50).
    pub(super) fn check_runs_inside(
        &self,
        inode: InodeIndex,
        first: u64,
        count: u32,
    ) -> Result<()> {
        let records = self.superblock().sections.get(Section::Runs) / run::LEN_ON_DISK;
        if first.checked_add(count.into()).is_none_or(|end| end > records) {
            return Err(Corrupt::RunsOutside { inode, at: first, count }.into());
        }
        Ok(())
    }

    /// Run record `nth` of the run section, which the caller has found to be inside it.
    pub(crate) fn run(&self, nth: u64) -> Result<Run> {
        let span = self.section(Section::Runs, nth.saturating_mul(run::LEN_ON_DISK), run::LEN)?;
        Ok(Run::decode(span.first_chunk().ok_or(Error::Invalid)?))
    }
}
