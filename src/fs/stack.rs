//! What is where when trees lie over each other? What overlayfs makes of them, without mounting it.

use super::Tree;
use super::path::{Names, follow};
use crate::error::{Error, Result};
use crate::format::index::InodeIndex;
use crate::format::inode::{Body, Inode, Kind};

/// By this attribute overlayfs knows a directory that hides those below it.
const OPAQUE: &[u8] = b"trusted.overlay.opaque";
/// By this device number, a file that hides what is below it and is not seen itself.
const WHITEOUT: Body = Body::Device { major: 0, minor: 0 };

/// Trees, the uppermost first.
#[derive(Debug, Clone, Copy)]
pub struct Stack<'a>(pub &'a [&'a Tree]);

/// What one tree has at a place.
#[derive(Debug)]
pub struct Layer<'a> {
    /// The tree.
    pub tree: &'a Tree,
    /// Its inode there.
    pub index: InodeIndex,
    /// That inode.
    pub inode: Inode,
}

/// What is at a place: one file, or directories that are seen as one.
#[derive(Debug)]
pub struct Node<'a> {
    /// What is seen; of directories the uppermost.
    pub top: Layer<'a>,
    below: Vec<Layer<'a>>,
}

impl<'a> Node<'a> {
    /// Of what the trees have at a place, the uppermost first.
    fn of(layers: impl IntoIterator<Item = Result<Layer<'a>>>) -> Result<Option<Self>> {
        let mut node: Option<Node<'_>> = None;
        for layer in layers {
            let layer = layer?;
            let is_dir = layer.inode.kind == Kind::Dir;
            let is_whiteout = layer.inode.kind == Kind::Char && layer.inode.body == WHITEOUT;
            let hides = !is_dir || layer.tree.xattr(layer.index, OPAQUE)?.as_deref() == Some(b"y");
            match &mut node {
                _ if is_whiteout => break,
                None => node = Some(Node { top: layer, below: Vec::new() }),
                Some(node) if is_dir => node.below.push(layer),
                Some(_) => break,
            }
            if hides {
                break;
            }
        }
        Ok(node)
    }

    fn layers(&self) -> impl Iterator<Item = &Layer<'a>> {
        std::iter::once(&self.top).chain(&self.below)
    }
}

impl<'a> Stack<'a> {
    /// What is at a path, symlinks followed, and its path without them.
    pub fn resolve_following(&self, path: &[u8]) -> Result<(Node<'a>, Vec<u8>)> {
        follow(self, path, true)
    }
}

impl<'a> Names for Stack<'a> {
    type Node = Node<'a>;

    fn root(&self) -> Result<Node<'a>> {
        let index = InodeIndex::ROOT;
        let layer = |tree: &&'a Tree| Ok(Layer { tree, index, inode: tree.inode(index)? });
        Node::of(self.0.iter().map(layer))?.ok_or(Error::NotFound)
    }

    fn kind(&self, node: &Node<'a>) -> Kind {
        node.top.inode.kind
    }

    fn look_up(&self, directory: &Node<'a>, name: &[u8]) -> Result<Option<Node<'a>>> {
        Node::of(directory.layers().filter_map(|&Layer { tree, index, .. }| {
            let found = tree.lookup(index, name).transpose()?;
            Some(found.map(|(index, inode)| Layer { tree, index, inode }))
        }))
    }

    fn target(&self, link: &Node<'a>) -> Result<Vec<u8>> {
        link.top.tree.read_link(link.top.index)
    }
}
