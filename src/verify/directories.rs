//! Is every directory right, and do they make one tree?

use super::Findings;
use super::cursor::Cursor;
use super::node::Node;
use super::walk::is_about_a_block;
use crate::error::{Corrupt, Error};
use crate::format::DEPTH_MAX;
use crate::format::field::{u32_from_usize, usize_from_u32};
use crate::format::index::InodeIndex;
use crate::format::inode::{Body, Kind};
use crate::format::superblock::Section;
use crate::fs::Tree;
use crate::fs::dir::DirEntry;

/// The directories of a tree whose inodes were all looked at.
pub(super) struct Directories<'a> {
    tree: &'a Tree,
    nodes: &'a mut Vec<Node>,
    records: Cursor,
    /// Whether every inode and every entry is known, so that what was not found is not there.
    complete: bool,
}

impl<'a> Directories<'a> {
    pub(super) fn new(tree: &'a Tree, nodes: &'a mut Vec<Node>, complete: bool) -> Self {
        Directories { tree, nodes, records: Cursor::default(), complete }
    }

    /// Rules S-44, S-48, and S-60 to S-69.
    pub(super) fn check(mut self, findings: &mut Findings) {
        for index in (0..u32_from_usize(self.nodes.len())).map(InodeIndex) {
            match self.node(index.0).kind {
                Some(Kind::Dir) => self.check_directory(index, findings),
                Some(_) => {}
                None => self.records.skip(),
            }
            if findings.too_many() {
                return;
            }
        }
        let section_len = self.tree.superblock().sections.get(Section::Directories);
        if let Some(expected) = self.records.rest(section_len) {
            let inode = InodeIndex(self.tree.superblock().inode_count());
            findings.broken(Corrupt::DirectoryLayout { inode, at: section_len, expected });
        }
        if self.complete {
            self.find_depths(findings);
            self.check_links(findings);
        }
    }

    fn node(&self, index: u32) -> Node {
        self.nodes.get(usize_from_u32(index)).copied().unwrap_or_default()
    }

    fn broken(&mut self, corrupt: Corrupt, findings: &mut Findings) {
        findings.broken(corrupt);
        self.complete = false;
    }

    /// Writes an error down unless the block that it is about has a finding of its own.
    fn failed(&mut self, err: Error, findings: &mut Findings) {
        self.complete = false;
        match err {
            Error::Corrupt(corrupt) if !is_about_a_block(&corrupt.clone().into()) => {
                findings.broken(corrupt);
            }
            _ => {}
        }
    }

    fn check_directory(&mut self, index: InodeIndex, findings: &mut Findings) {
        let inode = match self.tree.inode(index) {
            Ok(inode) => inode,
            Err(err) => {
                self.records.skip();
                return self.failed(err, findings);
            }
        };
        let Body::Dir { at, entries, .. } = inode.body else { return };
        if entries == 0 {
            return;
        }
        let section_len = self.tree.superblock().sections.get(Section::Directories);
        if at.checked_add(inode.size).is_none_or(|end| end > section_len) {
            self.records.skip();
            let size = inode.size;
            return self
                .broken(Corrupt::DirectoryRecord { inode: index, at, size, entries }, findings);
        }
        let placed = self.records.place(at, inode.size);
        if let Some(expected) = placed.misplaced {
            findings.broken(Corrupt::DirectoryLayout { inode: index, at, expected });
        }
        if !placed.fresh {
            self.complete = false;
            return;
        }
        let directory = match self.tree.directory(index) {
            Ok(directory) => directory,
            Err(err) => return self.failed(err, findings),
        };
        for nth in 0..directory.len() {
            match directory.entry(nth) {
                Ok(entry) => self.link(index, nth, &entry, findings),
                // A block that cannot be had is not tried again for each entry in it.
                Err(err) if is_about_a_block(&err) => return self.failed(err, findings),
                Err(err) => self.failed(err, findings),
            }
            if findings.too_many() {
                return;
            }
        }
    }

    /// An entry of a directory names an inode.
    fn link(&mut self, directory: InodeIndex, nth: u32, entry: &DirEntry, findings: &mut Findings) {
        let child = self.node(entry.inode.0);
        let Some(kind) = child.kind else { return };
        if kind != entry.kind {
            return self.broken(Corrupt::EntryType { directory, entry: nth }, findings);
        }
        if kind == Kind::Dir && (child.parent != directory.0 || child.named) {
            return self.broken(Corrupt::Parent { directory, child: entry.inode }, findings);
        }
        // The link that a name makes counts for the inode itself, or for the parent of a directory.
        let counted = if kind == Kind::Dir { directory } else { entry.inode };
        if let Some(node) = self.nodes.get_mut(usize_from_u32(entry.inode.0)) {
            node.named = true;
        }
        if let Some(node) = self.nodes.get_mut(usize_from_u32(counted.0)) {
            match node.links_left.checked_sub(1) {
                Some(left) => node.links_left = left,
                None => node.overrun = true,
            }
        }
    }

    /// Every inode has a name, and as many links as it says (S-44, S-48).
    fn check_links(&self, findings: &mut Findings) {
        for (node, index) in self.nodes.iter().zip((0..).map(InodeIndex)) {
            let is_dir = node.kind == Some(Kind::Dir);
            if index != InodeIndex::ROOT && (!node.named || (is_dir && node.depth == NOWHERE)) {
                findings.broken(Corrupt::Unreachable { inode: index });
            } else if (node.overrun || node.links_left > 0)
                && let Ok(inode) = self.tree.inode(index)
            {
                let (nlink, more) = (inode.nlink, u64::from(node.overrun));
                let found = u64::from(nlink.saturating_sub(node.links_left)).saturating_add(more);
                findings.broken(Corrupt::LinkCount { inode: index, nlink, found });
            }
            if findings.too_many() {
                return;
            }
        }
    }

    /// Follows the parents of every directory up to the root. A climb ends where an earlier one has been, so that all of
    /// them together are linear; one that comes round in a circle has found directories that are not in the tree.
    fn find_depths(&mut self, findings: &mut Findings) {
        self.set_depth(0, 1);
        for index in 0..u32_from_usize(self.nodes.len()) {
            if self.node(index).kind != Some(Kind::Dir) || self.node(index).depth != UNKNOWN {
                continue;
            }
            let (mut at, mut steps) = (index, 0_usize);
            while self.node(at).depth == UNKNOWN && self.node(at).kind == Some(Kind::Dir) {
                self.set_depth(at, CLIMBING);
                at = self.node(at).parent;
                steps = steps.saturating_add(1);
            }
            let top = match self.node(at).depth {
                UNKNOWN | CLIMBING => NOWHERE,
                known => known,
            };
            let mut at = index;
            while self.node(at).depth == CLIMBING {
                let depth = match top {
                    NOWHERE => NOWHERE,
                    _ => u16::try_from(steps).unwrap_or(TOO_DEEP).saturating_add(top).min(TOO_DEEP),
                };
                self.set_depth(at, depth);
                steps = steps.saturating_sub(1);
                at = self.node(at).parent;
            }
        }
        for index in 0..u32_from_usize(self.nodes.len()) {
            let node = self.node(index);
            // Those below one that is too deep are too deep for the same reason.
            if node.depth == TOO_DEEP && self.node(node.parent).depth != TOO_DEEP {
                findings.broken(Corrupt::Depth { directory: InodeIndex(index) });
            }
        }
    }

    fn set_depth(&mut self, index: u32, depth: u16) {
        if let Some(node) = self.nodes.get_mut(usize_from_u32(index)) {
            node.depth = depth;
        }
    }
}

/// A directory's depth is not known yet. Known ones are counted from 1, the root's.
const UNKNOWN: u16 = 0;
/// On the way of the climb that is under way.
const CLIMBING: u16 = u16::MAX - 1;
/// No way leads to the root.
const NOWHERE: u16 = u16::MAX;
/// Deeper than S-68 allows.
const TOO_DEEP: u16 = 2050;

const _: () = assert!(DEPTH_MAX == 2048, "the root counts as 1, and 2048 below it is allowed");
