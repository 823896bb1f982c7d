//! Is the content of every regular file where it should be, and is every data block some file's?

use super::Findings;
use super::blocks::Blocks;
use super::cursor::Cursor;
use super::walk::is_about_a_block;
use crate::error::{Corrupt, Error};
use crate::format::field::{u32_from_usize, usize_from_u32};
use crate::format::index::{BlockIndex, InodeIndex};
use crate::format::inode::{Inode, Runs, Tail};
use crate::format::run::{LEN_ON_DISK, Run};
use crate::format::superblock::Section;
use crate::fs::Tree;

/// What was seen of files so far.
#[derive(Debug)]
pub(super) struct Files<'a> {
    tree: &'a Tree,
    blocks: &'a Blocks,
    /// How many blocks before each are no full ones: a run of any length is judged by two of these.
    short: Vec<u32>,
    /// For each data block, how many runs and tails start there, less how many end before it: a run of any length
    /// costs two steps, however many files share its blocks.
    uses: Vec<i64>,
    records: Cursor,
    /// Whether all files are known, so that a block that none of them uses is used by none.
    complete: bool,
}

impl<'a> Files<'a> {
    pub(super) fn new(tree: &'a Tree, blocks: &'a Blocks) -> Self {
        let superblock = tree.superblock();
        let data_blocks = usize_from_u32(superblock.data_block_count);
        Files {
            tree,
            blocks,
            short: blocks.count_short(superblock),
            uses: vec![0; data_blocks.saturating_add(1)],
            records: Cursor::default(),
            complete: true,
        }
    }

    /// An inode that might have been a file cannot be had.
    pub(super) fn skip(&mut self) {
        self.records.skip();
        self.complete = false;
    }

    /// Rules S-50 to S-55 and S-57 for one file.
    pub(super) fn check(
        &mut self,
        index: InodeIndex,
        inode: &Inode,
        runs: Runs,
        tail: &Tail,
        findings: &mut Findings,
    ) {
        match runs {
            Runs::None => {}
            Runs::One(run) => self.check_run(index, &run, findings),
            Runs::Many { first, count } => {
                let bits = u32::from(self.tree.superblock().block_bits);
                let full = inode.size.checked_shr(bits).unwrap_or(0);
                self.check_records(index, first, count, full, findings);
            }
        }
        let Some(block) = tail.block else { return };
        let superblock = self.tree.superblock();
        let end = tail.at.checked_add(tail.len);
        let inside = match self.blocks.content_len(block.0) {
            Some(content_len) => end.is_some_and(|end| end <= content_len),
            None => true, // not known
        };
        if block.0 >= superblock.data_block_count || !inside {
            findings.broken(Corrupt::Tail { inode: index, block: block.0, at: tail.at });
            self.complete = false;
            return;
        }
        self.use_blocks(block.0, 1);
    }

    /// The run records of one file.
    fn check_records(
        &mut self,
        inode: InodeIndex,
        first: u64,
        count: u32,
        full: u64,
        findings: &mut Findings,
    ) {
        let records = self.tree.superblock().sections.get(Section::Runs) / LEN_ON_DISK;
        if first.checked_add(count.into()).is_none_or(|end| end > records) {
            findings.broken(Corrupt::RunsOutside { inode, at: first, count });
            return self.skip();
        }
        let placed = self.records.place(first, count.into());
        if let Some(expected) = placed.misplaced {
            findings.broken(Corrupt::RunLayout { inode, at: first, expected });
        }
        if !placed.fresh {
            self.complete = false;
            return;
        }
        let mut due = 0_u64;
        let mut before: Option<Run> = None;
        for nth in 0..count {
            let run = match self.tree.run(first.saturating_add(nth.into())) {
                Ok(run) => run,
                Err(Error::Corrupt(corrupt)) if !is_about_a_block(&corrupt.clone().into()) => {
                    findings.broken(corrupt);
                    self.complete = false;
                    return;
                }
                Err(_) => {
                    self.complete = false;
                    return;
                }
            };
            let file_block = u64::from(run.file_block);
            if run.count == 0 || file_block != due {
                findings.broken(Corrupt::RunOrder { inode, file_block, expected: due });
                self.complete = false;
                return;
            }
            if before.is_some_and(|before| before.continues_into(&run)) {
                findings.broken(Corrupt::RunSplit { inode, file_block });
            }
            due = file_block.saturating_add(run.count.into());
            self.check_run(inode, &run, findings);
            before = Some(run);
        }
        if due != full {
            findings.broken(Corrupt::RunOrder { inode, file_block: due, expected: full });
        }
    }

    /// Whether the blocks of a run are data blocks (S-53), and full ones (S-54).
    fn check_run(&mut self, inode: InodeIndex, run: &Run, findings: &mut Findings) {
        let Some(first) = run.block else { return };
        let end = first.0.checked_add(run.count);
        let Some(end) = end.filter(|end| *end <= self.tree.superblock().data_block_count) else {
            findings.broken(Corrupt::RunBlock { inode, block: first.0, count: run.count });
            self.complete = false;
            return;
        };
        self.use_blocks(first.0, run.count);
        let short = |block: u32| self.short.get(usize_from_u32(block)).copied().unwrap_or(0);
        let before = short(first.0);
        if short(end) > before {
            // `short` never falls: the first short block is the last one with no more than `before` in front of it.
            let nth = self.short.partition_point(|count| *count <= before).saturating_sub(1);
            let block = u32_from_usize(nth);
            let content_len = self.blocks.content_len(block).unwrap_or(0);
            let block = BlockIndex(block);
            findings.broken(Corrupt::RunBlockLength { inode, block, content_len });
        }
    }

    fn use_blocks(&mut self, first: u32, count: u32) {
        let end = first.saturating_add(count);
        for (block, step) in [(first, 1), (end, -1)] {
            if let Some(uses) = self.uses.get_mut(usize_from_u32(block)) {
                *uses = uses.saturating_add(step);
            }
        }
    }

    /// What only all files together show: S-56 and the end of S-57.
    pub(super) fn finish(self, findings: &mut Findings) {
        let superblock = self.tree.superblock();
        let records = superblock.sections.get(Section::Runs) / LEN_ON_DISK;
        if let Some(expected) = self.records.rest(records) {
            let inode = InodeIndex(superblock.inode_count());
            findings.broken(Corrupt::RunLayout { inode, at: records, expected });
        }
        if !self.complete {
            return;
        }
        let mut uses = 0_i64;
        for (block, step) in (0..superblock.data_block_count).zip(&self.uses) {
            uses = uses.saturating_add(*step);
            if uses == 0 {
                let block = BlockIndex(block);
                findings.push(Corrupt::BlockUnused { block }.into(), Some(block), None);
            }
        }
    }
}
