//! Where does a path lead? Symlinks are followed inside the image only, and no more of them than the kernel would follow.

use std::io;

use super::Tree;
use super::stack::{Node, Stack};
use crate::error::{Error, Result};
use crate::format::index::InodeIndex;
use crate::format::inode::Kind;

/// Most symlinks that one path may lead through (`MAXSYMLINKS` of Linux).
pub const SYMLINKS_MAX: u32 = 40;

/// `ELOOP`, which the standard library does not name.
const TOO_MANY_SYMLINKS: i32 = 40;

/// Where a path led.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The inode there.
    pub index: InodeIndex,
    /// Its path from the root without symlinks, `.` and `..`, and without a leading slash; empty for the root.
    pub path: Vec<u8>,
}

impl Tree {
    /// The inode at a path, symlinks followed. The root of the image is the root of absolute targets, and its own parent.
    pub fn resolve_following(&self, path: &[u8]) -> Result<Resolved> {
        Stack(&[self])
            .follow(path, true)
            .map(|(node, path)| Resolved { index: node.top.index, path })
    }

    /// The same, but a symlink at the end of the path is what is looked for.
    pub fn resolve_to_last(&self, path: &[u8]) -> Result<Resolved> {
        Stack(&[self])
            .follow(path, false)
            .map(|(node, path)| Resolved { index: node.top.index, path })
    }
}

impl<'a> Stack<'a> {
    /// What is at a path, symlinks followed, and its path as in [`Resolved`].
    pub fn resolve_following(&self, path: &[u8]) -> Result<(Node<'a>, Vec<u8>)> {
        self.follow(path, true)
    }

    fn follow(&self, path: &[u8], through_last: bool) -> Result<(Node<'a>, Vec<u8>)> {
        let root = self.root()?;
        // Both are stacks: names still to go, the next one last; and the way from the root to here.
        let mut ahead: Vec<Vec<u8>> = names(path);
        let mut way: Vec<(Node<'_>, Vec<u8>)> = Vec::new();
        let mut symlinks = 0_u32;
        while let Some(name) = ahead.pop() {
            let here = way.last().map_or(&root, |(node, _)| node);
            if matches!(name.as_slice(), b"" | b"." | b"..") {
                if here.top.inode.kind != Kind::Dir {
                    return Err(Error::NotADirectory);
                }
                if name == b".." {
                    way.pop();
                }
                continue;
            }
            let node = self.lookup(here, &name)?.ok_or(Error::NotFound)?;
            if node.top.inode.kind != Kind::Link || (ahead.is_empty() && !through_last) {
                way.push((node, name));
                continue;
            }
            symlinks = symlinks.saturating_add(1);
            if symlinks > SYMLINKS_MAX {
                return Err(Error::io(
                    format!("gave up behind {SYMLINKS_MAX} symlinks"),
                    io::Error::from_raw_os_error(TOO_MANY_SYMLINKS),
                ));
            }
            let target = node.top.tree.read_link(node.top.index)?;
            if target.starts_with(b"/") {
                way.clear();
            }
            ahead.append(&mut names(&target));
        }
        let names: Vec<&[u8]> = way.iter().map(|(_, name)| name.as_slice()).collect();
        let path = names.join(&b'/');
        Ok((way.pop().map_or(root, |(node, _)| node), path))
    }
}

/// The names in a path, the last one first. An empty name stands for "must be a directory", as a slash at the end does.
fn names(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|byte| *byte == b'/').rev().map(<[u8]>::to_vec).collect()
}
