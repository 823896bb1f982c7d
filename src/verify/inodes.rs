//! Is every inode right by itself, and all of them together? First each one with what it names, then the directories,
//! then what only the whole can show.

use std::ops::{ControlFlow, Range};

use super::Findings;
use super::blocks::Blocks;
use super::directories::Directories;
use super::files::Files;
use super::xattrs::Sets;
use crate::error::{Corrupt, Error, Result};
use crate::format::field::{u32_from_u64, u64_from_usize, usize_from_u32};
use crate::format::index::{InodeIndex, NONE};
use crate::format::inode::{self, Body, Inode, Kind};
use crate::format::superblock::Section;
use crate::fs::Tree;

/// What has to be remembered of an inode: 16 bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Node {
    /// Links that were not found yet. Of a directory, those that its subdirectories make.
    pub(super) links_left: u32,
    /// The directory that a directory says it is in.
    pub(super) parent: u32,
    /// See `directories::depths`.
    pub(super) depth: u16,
    /// Nothing when the inode cannot be had.
    pub(super) kind: Option<Kind>,
    /// Whether a directory names it.
    pub(super) named: bool,
    /// Whether there are more links than it says.
    pub(super) overrun: bool,
}

/// Most bytes that are taken to remember all inodes: enough for 2^28 of them.
const NODES_LEN_MAX: u64 = 4 << 30;

/// Room for so many inodes. An image of a few megabytes can claim to have four billion; a reservation that the system
/// grants and cannot keep would kill more than this program.
fn room_for(count: u32) -> Result<Vec<Node>> {
    let no_memory = || {
        let what = format!("cannot check {count} inodes");
        Error::io(what, std::io::ErrorKind::OutOfMemory.into())
    };
    let len = u64::from(count).saturating_mul(u64_from_usize(size_of::<Node>()));
    if len > NODES_LEN_MAX {
        return Err(no_memory());
    }
    let mut nodes = Vec::new();
    nodes.try_reserve_exact(usize_from_u32(count)).map_err(|_| no_memory())?;
    Ok(nodes)
}

/// One step through the inodes.
#[derive(Debug)]
pub(super) enum Step {
    /// An inode.
    Inode(InodeIndex, Inode),
    /// An inode that breaks a rule.
    Corrupt(InodeIndex, Corrupt),
    /// Inodes that cannot be had, because their block cannot.
    Lost(Range<u32>),
}

/// Whether an error is about a block, which has its finding already, and not about a record in it.
pub(super) fn is_about_a_block(err: &Error) -> bool {
    !matches!(err, Error::Corrupt(corrupt) if !matches!(
        corrupt,
        Corrupt::Codec { .. }
            | Corrupt::EntryReserved { .. }
            | Corrupt::EntryLength { .. }
            | Corrupt::EntryOffset { .. }
            | Corrupt::Expansion { .. }
            | Corrupt::SectionBlock { .. }
    ))
}

/// Visits all inodes in order. A block that cannot be had is tried once, not for each of its inodes.
pub(super) fn each(tree: &Tree, mut visit: impl FnMut(Step) -> ControlFlow<()>) {
    let count = tree.superblock().inode_count();
    let per_block = u64::from(tree.superblock().metadata_block_size()) / inode::LEN_ON_DISK;
    let mut at = 0;
    while at < count {
        let index = InodeIndex(at);
        let step = match tree.inode(index) {
            Ok(inode) => Step::Inode(index, inode),
            Err(Error::Corrupt(corrupt)) if !is_about_a_block(&corrupt.clone().into()) => {
                Step::Corrupt(index, corrupt)
            }
            Err(_) => {
                let into_block = u64::from(at).checked_rem(per_block).unwrap_or(0);
                let end = u64::from(at).saturating_add(per_block.saturating_sub(into_block));
                Step::Lost(at..u32_from_u64(end).min(count))
            }
        };
        at = match &step {
            Step::Lost(range) => range.end,
            _ => at.saturating_add(1),
        };
        if visit(step).is_break() {
            return;
        }
    }
}

/// Where the next record of a section is due, when records have to lie back to back in the order of their inodes.
#[derive(Debug)]
pub(super) struct Cursor {
    due: u64,
    /// Whether all inodes before are known, so that `due` is where the record must be and not only where it may be.
    sure: bool,
}

/// What a cursor says of a record.
pub(super) struct Placed {
    /// Where it should be, if it is not there.
    pub(super) misplaced: Option<u64>,
    /// Whether it lies behind everything that was read so far. If not, it is not read: no byte of a section is read twice.
    pub(super) fresh: bool,
}

impl Default for Cursor {
    fn default() -> Self {
        Cursor { due: 0, sure: true }
    }
}

impl Cursor {
    /// A record of `len` at `at` that is known to be inside its section.
    pub(super) fn place(&mut self, at: u64, len: u64) -> Placed {
        let fresh = at >= self.due;
        let right = at == self.due || (fresh && !self.sure);
        let placed = Placed { misplaced: (!right).then_some(self.due), fresh };
        self.due = self.due.max(at.saturating_add(len));
        self.sure = true;
        placed
    }

    /// Some inodes could not be had: the next record may be anywhere behind.
    pub(super) fn skip(&mut self) {
        self.sure = false;
    }

    /// Where the last record ended, if the section should have ended there and does not.
    pub(super) fn rest(&self, section_len: u64) -> Option<u64> {
        (self.sure && self.due != section_len).then_some(self.due)
    }
}

/// Checks everything about inodes; returns how many were looked at. Fails only when there is no memory for it.
pub(super) fn check(tree: &Tree, blocks: &Blocks, findings: &mut Findings) -> Result<u64> {
    let mut nodes = room_for(tree.superblock().inode_count())?;
    let mut files = Files::new(tree, blocks);
    let mut links = Cursor::default();
    let mut sets = Sets::new(tree);
    let mut complete = true;
    each(tree, |step| {
        match step {
            Step::Inode(index, inode) => {
                nodes.push(node(&inode));
                match inode.body {
                    Body::File { runs, tail } => files.check(index, &inode, runs, &tail, findings),
                    Body::Link { at } => check_link(tree, index, at, &inode, &mut links, findings),
                    _ => {}
                }
                if let Some(set) = inode.xattrs {
                    sets.name(set, findings);
                }
            }
            Step::Corrupt(index, corrupt) => {
                findings.broken(corrupt);
                skip(
                    &mut nodes,
                    index.0..index.0.saturating_add(1),
                    &mut files,
                    &mut links,
                    &mut sets,
                );
                complete = false;
            }
            Step::Lost(range) => {
                skip(&mut nodes, range, &mut files, &mut links, &mut sets);
                complete = false;
            }
        }
        if findings.too_many() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    if findings.too_many() {
        return Ok(u64_from_usize(nodes.len()));
    }
    files.finish(findings);
    let section_len = tree.superblock().sections.get(Section::Links);
    if let Some(end) = links.rest(section_len) {
        let inode = InodeIndex(tree.superblock().inode_count());
        findings.broken(Corrupt::LinkLayout { inode, at: section_len, expected: end });
    }
    sets.finish(findings);
    Directories::new(tree, &mut nodes, complete).check(findings);
    Ok(u64_from_usize(nodes.len()))
}

fn node(inode: &Inode) -> Node {
    let (parent, own_links) = match inode.body {
        Body::Dir { parent, .. } => (parent.0, 2),
        _ => (NONE, 0),
    };
    Node {
        links_left: inode.nlink.saturating_sub(own_links),
        parent,
        kind: Some(inode.kind),
        ..Node::default()
    }
}

fn skip(
    nodes: &mut Vec<Node>,
    lost: Range<u32>,
    files: &mut Files<'_>,
    links: &mut Cursor,
    sets: &mut Sets<'_>,
) {
    nodes.extend(lost.map(|_| Node::default()));
    files.skip();
    links.skip();
    sets.skip();
}

/// A symlink's target (S-46, S-49).
fn check_link(
    tree: &Tree,
    index: InodeIndex,
    at: u64,
    inode: &Inode,
    links: &mut Cursor,
    findings: &mut Findings,
) {
    let section_len = tree.superblock().sections.get(Section::Links);
    if at.checked_add(inode.size).is_none_or(|end| end > section_len) {
        findings.broken(Corrupt::SymlinkTarget { inode: index, at, size: inode.size });
        links.skip();
        return;
    }
    let placed = links.place(at, inode.size);
    if let Some(expected) = placed.misplaced {
        findings.broken(Corrupt::LinkLayout { inode: index, at, expected });
    }
    if !placed.fresh {
        return;
    }
    match tree.read_link(index) {
        Err(Error::Corrupt(corrupt)) if !is_about_a_block(&corrupt.clone().into()) => {
            findings.broken(corrupt);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_inodes_take_no_memory() {
        assert!(room_for(1000).is_ok());
        for count in [(1 << 28) + 1, u32::MAX] {
            let err = room_for(count).unwrap_err();
            let Error::Io { source, .. } = err else { panic!("{err}") };
            assert_eq!(source.kind(), std::io::ErrorKind::OutOfMemory);
        }
    }
}
