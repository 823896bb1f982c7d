//! Which number does each file get, and in which order does content lie? Pure: no disk, no clock, no threads.
//!
//! Numbers follow from names alone, so that one tree has one image however it was read: a directory's children are
//! numbered together in the order of their names, then those of its first subdirectory, and so on.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use ashlarfs::format::index::NONE;
use ashlarfs::format::inode::Kind;
use ashlarfs::format::name::{self, NotAName};
use ashlarfs::format::{DEPTH_MAX, SYMLINK_MAX, xattr};

use crate::Failure;
use crate::tree::{Body, NodeId, SourceTree, XattrSet};

/// The tree with everything numbered.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) tree: SourceTree,
    /// The node of each inode.
    pub(crate) nodes: Vec<NodeId>,
    /// The inode of each node; `NONE` for one that no directory names.
    pub(crate) inodes: Vec<u32>,
    /// Links of each inode.
    pub(crate) nlinks: Vec<u32>,
    /// For directories, the inode of the directory that holds them.
    pub(crate) parents: Vec<u32>,
    /// Xattr sets in the order in which inodes first use them; and each inode's set.
    pub(crate) xattr_sets: Vec<XattrSet>,
    pub(crate) xattr_of: Vec<Option<u32>>,
    /// Inodes of regular files in the order in which their content shall lie.
    pub(crate) content_order: Vec<u32>,
    /// Pieces of regular files, in bytes, in the order in which they will be wanted.
    pub(crate) wanted: Vec<(u32, Range<u64>)>,
    /// Paths of the wanted order that name nothing.
    pub(crate) missing: Vec<Vec<u8>>,
}

/// A piece of a file that will be wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// The file's path, without a leading slash.
    pub(crate) path: Vec<u8>,
    /// Which of its bytes; what lies behind its end does not count.
    pub(crate) piece: Range<u64>,
}

/// Numbers a tree. `order` names files whose content shall come first, and what of them is wanted.
pub(crate) fn plan(mut tree: SourceTree, order: &[Wanted]) -> Result<Plan, Failure> {
    sort_children(&mut tree)?;
    let mut plan = Plan {
        inodes: vec![NONE; tree.nodes.len()],
        nodes: Vec::with_capacity(tree.nodes.len()),
        nlinks: Vec::with_capacity(tree.nodes.len()),
        parents: Vec::with_capacity(tree.nodes.len()),
        xattr_sets: Vec::new(),
        xattr_of: Vec::with_capacity(tree.nodes.len()),
        content_order: Vec::new(),
        wanted: Vec::new(),
        missing: Vec::new(),
        tree,
    };
    plan.number()?;
    plan.place_xattrs()?;
    plan.order_content(order);
    Ok(plan)
}

/// Sorts each directory by name and holds all names against the format's rules.
fn sort_children(tree: &mut SourceTree) -> Result<(), Failure> {
    for node in &mut tree.nodes {
        let Body::Dir(children) = &mut node.body else { continue };
        children.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        for (child, _) in children.iter() {
            let shown = String::from_utf8_lossy(child);
            match name::check(child) {
                Ok(()) => {}
                Err(NotAName::Length) => {
                    return Err(Failure::new(format!(
                        "a name has {} bytes, 1 to 255 are possible",
                        child.len()
                    )));
                }
                Err(NotAName::Bytes) => {
                    return Err(Failure::new(format!("`{shown}` cannot be a file name")));
                }
            }
        }
        let twice = children.windows(2).find_map(|pair| match pair {
            [(a, _), (b, _)] if a == b => Some(a),
            _ => None,
        });
        if let Some(name) = twice {
            let shown = String::from_utf8_lossy(name);
            return Err(Failure::new(format!("the name `{shown}` stands twice in one directory")));
        }
    }
    Ok(())
}

impl Plan {
    fn number(&mut self) -> Result<(), Failure> {
        self.give_number(0, 0)?;
        let mut stack: Vec<(NodeId, usize)> = vec![(0, 0)];
        while let Some((directory, depth)) = stack.pop() {
            let inode = self.inodes[index(directory)];
            // Taken out while its children are numbered, and put back: the borrow checker's price for one big table.
            let Body::Dir(children) =
                std::mem::replace(&mut self.tree.nodes[index(directory)].body, Body::Plain)
            else {
                return Err(Failure::new("the root of the source is not a directory"));
            };
            let mut subdirectories = Vec::new();
            for (name, child) in &children {
                let is_directory = self.tree.nodes[index(*child)].kind == Kind::Dir;
                let known = self.inodes[index(*child)];
                if known == NONE {
                    self.give_number(*child, inode)?;
                    self.check_node(*child, name)?;
                } else if is_directory {
                    let shown = String::from_utf8_lossy(name);
                    return Err(Failure::new(format!(
                        "the directory `{shown}` has two names, or is inside itself"
                    )));
                } else {
                    self.nlinks[index(known)] += 1;
                }
                if is_directory {
                    self.nlinks[index(inode)] += 1;
                    subdirectories.push((*child, depth + 1));
                    if depth + 1 > DEPTH_MAX {
                        let shown = String::from_utf8_lossy(name);
                        return Err(Failure::new(format!(
                            "`{shown}` lies deeper than {DEPTH_MAX} directories"
                        )));
                    }
                }
            }
            self.tree.nodes[index(directory)].body = Body::Dir(children);
            stack.extend(subdirectories.into_iter().rev());
        }
        Ok(())
    }

    fn give_number(&mut self, node: NodeId, parent: u32) -> Result<(), Failure> {
        let inode = u32::try_from(self.nodes.len()).ok().filter(|inode| *inode < NONE - 1);
        let Some(inode) = inode else { return Err(Failure::new("more files than 2^32 - 2")) };
        self.inodes[index(node)] = inode;
        self.nodes.push(node);
        self.parents.push(parent);
        self.nlinks.push(if self.tree.nodes[index(node)].kind == Kind::Dir { 2 } else { 1 });
        Ok(())
    }

    /// Holds a node against limits of the format that a source may exceed.
    fn check_node(&self, node: NodeId, name: &[u8]) -> Result<(), Failure> {
        let shown = String::from_utf8_lossy(name);
        match &self.tree.nodes[index(node)].body {
            Body::Link(target)
                if target.is_empty()
                    || target.contains(&0)
                    || target.len() as u64 > SYMLINK_MAX =>
            {
                Err(Failure::new(format!(
                    "the symlink `{shown}` has no target of 1 to {SYMLINK_MAX} bytes"
                )))
            }
            Body::Device(major, minor) if *major >= 1 << 12 || *minor >= 1 << 20 => {
                Err(Failure::new(format!(
                    "the device `{shown}` has a number that Linux does not know: {major}:{minor}"
                )))
            }
            Body::File { size } if i64::try_from(*size).is_err() => {
                Err(Failure::new(format!("the file `{shown}` has an impossible size: {size}")))
            }
            _ => Ok(()),
        }
    }

    /// Numbers xattr sets by first use, each content once.
    fn place_xattrs(&mut self) -> Result<(), Failure> {
        let mut places: HashMap<XattrSet, u32> = HashMap::new();
        for node in &self.nodes {
            let set = self.tree.nodes[index(*node)].xattrs;
            let Some(set) = set
                .and_then(|set| self.tree.xattr_sets.get(index(set)))
                .filter(|set| !set.is_empty())
            else {
                self.xattr_of.push(None);
                continue;
            };
            let mut set = set.clone();
            set.sort();
            if !places.contains_key(&set) {
                if xattr::encode(&set).is_none() {
                    let names: Vec<_> =
                        set.iter().map(|(name, _)| String::from_utf8_lossy(name)).collect();
                    return Err(Failure::new(format!(
                        "extended attributes beyond the limits of Linux: {}",
                        names.join(", ")
                    )));
                }
                places.insert(set.clone(), self.xattr_sets.len() as u32);
                self.xattr_sets.push(set.clone());
            }
            self.xattr_of.push(places.get(&set).copied());
        }
        Ok(())
    }

    fn order_content(&mut self, order: &[Wanted]) {
        let mut placed = vec![false; self.nodes.len()];
        let mut content_order = Vec::new();
        let (mut missing, mut unknown) = (Vec::new(), HashSet::new());
        let size = |inode: u32| match self.tree.nodes[index(self.nodes[index(inode)])].body {
            Body::File { size } => Some(size),
            _ => None,
        };
        let mut wanted = Vec::new();
        for Wanted { path, piece } in order {
            match self.find(path) {
                Some(inode) => {
                    let end = size(inode).unwrap_or(0).min(piece.end);
                    wanted.push((inode, piece.start.min(end)..end));
                }
                None if unknown.insert(path) => missing.push(path.clone()),
                None => {}
            }
        }
        let named = wanted.iter().map(|(inode, _)| *inode);
        for inode in named.chain(0..self.nodes.len() as u32) {
            if size(inode).is_some() && !std::mem::replace(&mut placed[index(inode)], true) {
                content_order.push(inode);
            }
        }
        wanted.retain(|(_, piece)| !piece.is_empty());
        self.content_order = content_order;
        self.wanted = wanted;
        self.missing = missing;
    }

    /// The inode at a path.
    fn find(&self, path: &[u8]) -> Option<u32> {
        let mut node = 0;
        for name in path.split(|byte| *byte == b'/').filter(|name| !matches!(*name, b"" | b".")) {
            let Body::Dir(children) = &self.tree.nodes[index(node)].body else { return None };
            let nth = children.binary_search_by(|(child, _)| child.as_ref().cmp(name)).ok()?;
            node = children[nth].1;
        }
        Some(self.inodes[index(node)])
    }
}

/// Numbers of nodes and inodes are 32 bits wide; memory's are at least that.
pub(crate) fn index(number: u32) -> usize {
    number as usize
}
