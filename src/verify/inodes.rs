//! Is every inode right by itself, and all of them together? First each one with what it names, then the directories,
//! then what only the whole can show.

use std::ops::{ControlFlow, Range};

use super::Findings;
use super::blocks::Blocks;
use super::cursor::Cursor;
use super::directories::Directories;
use super::files::Files;
use super::node::{Node, room_for};
use super::walk::{Step, each, is_about_a_block};
use super::xattrs::Sets;
use crate::error::{Corrupt, Error, Result};
use crate::format::field::u64_from_usize;
use crate::format::index::{InodeIndex, NONE};
use crate::format::inode::{Body, Inode};
use crate::format::superblock::Section;
use crate::fs::Tree;

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
