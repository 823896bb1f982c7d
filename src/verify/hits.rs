//! Which files does damage hit? The tree is gone through once, and only when there is damage.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use super::blocks::Bad;
use super::walk::{Step, each};
use super::{Finding, names};
use crate::format::field::u32_from_u64;
use crate::format::index::InodeIndex;
use crate::format::inode::{self, Body, Inode, Runs};
use crate::format::run;
use crate::format::superblock::Section;
use crate::fs::Tree;

/// Inodes that are written down for one finding.
const INODES_MAX: usize = 1000;
/// Comparisons of a run with a bad range. An image that was made to need more has no list of files worth reading.
const STEPS_MAX: u64 = 50_000_000;

/// Adds to findings about blocks the files that cannot be read in full because of them.
pub(super) fn name_files(tree: &Tree, bad: &[Bad], findings: &mut [Finding]) {
    let mut hits = Hits { tree, bad, lists: BTreeMap::new(), steps: 0 };
    each(tree, |step| {
        match step {
            Step::Inode(index, inode) => hits.inode(index, &inode),
            Step::Corrupt(..) => {}
            Step::Lost(range) => range.for_each(|index| hits.record(InodeIndex(index))),
        }
        if hits.steps > STEPS_MAX { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    let stopped = hits.steps > STEPS_MAX;
    let mut paths = BTreeMap::new();
    for inode in hits.lists.values().flatten() {
        paths.insert(*inode, Vec::new());
    }
    names::find(tree, &mut paths);
    let lists = hits.lists;
    for range in bad {
        let Some(nth) = range.finding else { continue };
        let Some(finding) = findings.get_mut(nth) else { continue };
        let inodes = lists.get(&nth).map(Vec::as_slice).unwrap_or_default();
        finding.more_files = stopped || inodes.len() > INODES_MAX;
        for inode in inodes.iter().take(INODES_MAX) {
            match paths.get(inode).map(Vec::as_slice) {
                None | Some([]) => finding.unnamed.push(*inode),
                Some(names) => finding.files.extend_from_slice(names),
            }
        }
        finding.files.sort_unstable();
    }
}

struct Hits<'a> {
    tree: &'a Tree,
    bad: &'a [Bad],
    /// For each finding, the inodes that it hits, in ascending order.
    lists: BTreeMap<usize, Vec<InodeIndex>>,
    steps: u64,
}

impl Hits<'_> {
    /// Everything that an inode leads to.
    fn inode(&mut self, index: InodeIndex, inode: &Inode) {
        self.record(index);
        match inode.body {
            Body::File { runs, tail } => {
                match runs {
                    Runs::None => {}
                    Runs::One(run) => self.run(index, &run),
                    Runs::Many { first, count } => self.runs(index, first, count),
                }
                if let Some(block) = tail.block {
                    self.blocks(index, block.0, 1);
                }
            }
            Body::Dir { at, .. } => self.section(index, Section::Directories, at, inode.size),
            Body::Link { at } => self.section(index, Section::Links, at, inode.size),
            Body::Device { .. } | Body::Plain => {}
        }
        if let Some(set) = inode.xattrs {
            // How long the set is, only the set says; its first byte is enough for nearly all of them.
            self.section(index, Section::Xattrs, set.into(), 1);
        }
    }

    /// The inode's own record.
    fn record(&mut self, index: InodeIndex) {
        let at = u64::from(index.0).saturating_mul(inode::LEN_ON_DISK);
        self.section(index, Section::Inodes, at, inode::LEN_ON_DISK);
    }

    fn runs(&mut self, index: InodeIndex, first: u64, count: u32) {
        let at = first.saturating_mul(run::LEN_ON_DISK);
        let len = u64::from(count).saturating_mul(run::LEN_ON_DISK);
        if at.saturating_add(len) > self.tree.superblock().sections.get(Section::Runs) {
            return;
        }
        self.section(index, Section::Runs, at, len);
        for nth in 0..count {
            self.steps = self.steps.saturating_add(1);
            // Records that are lost are what hits the file then.
            let Ok(run) = self.tree.run(first.saturating_add(nth.into())) else { return };
            self.run(index, &run);
            if self.steps > STEPS_MAX {
                return;
            }
        }
    }

    fn run(&mut self, index: InodeIndex, run: &run::Run) {
        if let Some(block) = run.block {
            self.blocks(index, block.0, run.count);
        }
    }

    /// `len` bytes of a section.
    fn section(&mut self, index: InodeIndex, section: Section, at: u64, len: u64) {
        let superblock = self.tree.superblock();
        let Some(last) = len.checked_sub(1).map(|len| at.saturating_add(len)) else { return };
        if last >= superblock.sections.get(section) {
            return;
        }
        let size = u64::from(superblock.metadata_block_size());
        let nth = |at: u64| u32_from_u64(at.checked_div(size).unwrap_or(0));
        let first = superblock.section_first_block(section).saturating_add(nth(at));
        self.blocks(index, first, nth(last).saturating_sub(nth(at)).saturating_add(1));
    }

    fn blocks(&mut self, index: InodeIndex, first: u32, count: u32) {
        let end = first.saturating_add(count);
        let from = self.bad.partition_point(|bad| bad.end <= first);
        let hit = self.bad.iter().skip(from).take_while(|bad| bad.first < end);
        for finding in hit.map(|bad| bad.finding) {
            self.steps = self.steps.saturating_add(1);
            let Some(finding) = finding else { continue };
            let list = self.lists.entry(finding).or_default();
            if list.len() <= INODES_MAX && list.last() != Some(&index) {
                list.push(index);
            }
            if self.steps > STEPS_MAX {
                return;
            }
        }
    }
}
