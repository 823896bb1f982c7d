//! What is in the whole tree? Visited with a stack of our own, never by recursion over image data.

use super::Tree;
use super::dir::DirEntry;
use crate::error::{Error, Result};
use crate::format::DEPTH_MAX;
use crate::format::defect::Corrupt;
use crate::format::index::InodeIndex;
use crate::format::inode::{Body, Inode, Kind};
use crate::format::superblock::Section;

/// Something that a walk came by.
#[derive(Debug, Clone)]
pub struct Visit {
    /// Path from the start of the walk, without a leading slash; empty for the start itself.
    pub path: Vec<u8>,
    /// Its inode's index.
    pub index: InodeIndex,
    /// Its inode.
    pub inode: Inode,
}

/// A walk through a tree: each directory before what is in it, names in ascending order.
///
/// What cannot be read is told with its path, and the walk goes on behind it.
#[derive(Debug)]
pub struct Walk<'a> {
    tree: &'a Tree,
    start: Option<InodeIndex>,
    stack: Vec<Level>,
    path: Vec<u8>,
    /// Directories entered so far. More than there are inodes means that one has two names (S-66).
    entered: u32,
    /// Entries that are still to come at most. More mean that directories share their records (S-69).
    entries_left: u64,
}

#[derive(Debug)]
struct Level {
    directory: InodeIndex,
    /// Where the record of the directory starts.
    record_at: u64,
    next: u32,
    /// Length of the path of the directory itself.
    path_len: usize,
}

impl Tree {
    /// Walks through everything at and below `start`.
    pub fn walk(&self, start: InodeIndex) -> Walk<'_> {
        Walk {
            tree: self,
            start: Some(start),
            stack: Vec::new(),
            path: Vec::new(),
            entered: 0,
            entries_left: self.entries_max(),
        }
    }
}

impl Iterator for Walk<'_> {
    type Item = (Vec<u8>, Result<Visit>);

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(start) = self.start.take() {
            let visit = self.tree.inode(start).map(|inode| self.enter(start, inode));
            return Some((Vec::new(), visit));
        }
        loop {
            let depth = self.stack.len();
            let level = self.stack.last_mut()?;
            self.path.truncate(level.path_len);
            let (directory, record_at, nth) = (level.directory, level.record_at, level.next);
            level.next = level.next.saturating_add(1);
            if self.entered > self.tree.superblock().inode_count() {
                self.stack.clear();
                return Some((
                    self.path.clone(),
                    Err(Corrupt::Parent { directory, child: directory }.into()),
                ));
            }
            let found = step(self.tree, directory, nth, depth);
            if matches!(found, Ok(Some(_)) | Err((_, false))) {
                let Some(left) = self.entries_left.checked_sub(1) else {
                    self.stack.clear();
                    // The records before this one fill the section.
                    let expected = self.tree.superblock().sections.get(Section::Directories);
                    let wrong =
                        Corrupt::DirectoryLayout { inode: directory, at: record_at, expected };
                    return Some((self.path.clone(), Err(wrong.into())));
                };
                self.entries_left = left;
            }
            match found {
                Ok(None) => {
                    self.stack.pop();
                }
                Ok(Some((entry, inode))) => {
                    if !self.path.is_empty() {
                        self.path.push(b'/');
                    }
                    self.path.extend_from_slice(&entry.name);
                    let visit = self.enter(entry.inode, inode);
                    return Some((self.path.clone(), Ok(visit)));
                }
                Err((err, whole)) => {
                    if whole {
                        self.stack.pop();
                    }
                    return Some((self.path.clone(), Err(err)));
                }
            }
        }
    }
}

/// Entry `nth` of a directory with its inode. An error says whether the whole directory is lost to the walk.
fn step(
    tree: &Tree,
    directory: InodeIndex,
    nth: u32,
    depth: usize,
) -> Result<Option<(DirEntry, Inode)>, (Error, bool)> {
    let opened = tree.directory(directory).map_err(|err| (err, true))?;
    if nth >= opened.len() {
        return Ok(None);
    }
    let entry = opened.entry(nth).map_err(|err| (err, false))?;
    let inode = opened.child(nth, &entry).map_err(|err| (err, false))?;
    if inode.kind == Kind::Dir && depth > DEPTH_MAX {
        return Err((Corrupt::Depth { directory: entry.inode }.into(), false));
    }
    Ok(Some((entry, inode)))
}

impl Walk<'_> {
    fn enter(&mut self, index: InodeIndex, inode: Inode) -> Visit {
        if let Body::Dir { at, .. } = inode.body {
            self.entered = self.entered.saturating_add(1);
            let path_len = self.path.len();
            self.stack.push(Level { directory: index, record_at: at, next: 0, path_len });
        }
        Visit { path: self.path.clone(), index, inode }
    }
}
