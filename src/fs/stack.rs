//! What is where when trees lie over each other? What overlayfs makes of them, without mounting it.

use super::Tree;
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

impl<'a> Stack<'a> {
    /// The directory that all paths start from.
    pub(super) fn root(&self) -> Result<Node<'a>> {
        let index = InodeIndex::ROOT;
        let layer = |tree: &&'a Tree| Ok(Layer { tree, index, inode: tree.inode(index)? });
        self.node(self.0.iter().map(layer))?.ok_or(Error::NotFound)
    }

    /// What has a name in a directory.
    pub fn lookup(&self, directory: &Node<'a>, name: &[u8]) -> Result<Option<Node<'a>>> {
        let layers = std::iter::once(&directory.top).chain(&directory.below);
        self.node(layers.filter_map(|&Layer { tree, index, .. }| {
            let found = tree.lookup(index, name).transpose()?;
            Some(found.map(|(index, inode)| Layer { tree, index, inode }))
        }))
    }

    /// Of what the trees have at a place, the uppermost first.
    fn node(
        &self,
        layers: impl IntoIterator<Item = Result<Layer<'a>>>,
    ) -> Result<Option<Node<'a>>> {
        // Such marks are for who lays trees over each other.
        let is_alone = self.0.len() == 1;
        let mut node: Option<Node<'_>> = None;
        for layer in layers {
            let layer = layer?;
            if layer.inode.body == WHITEOUT && layer.inode.kind == Kind::Char && !is_alone {
                break;
            }
            let is_dir = layer.inode.kind == Kind::Dir;
            let is_last = is_alone
                || !is_dir
                || layer.tree.xattr(layer.index, OPAQUE)?.as_deref() == Some(b"y");
            match &mut node {
                None => node = Some(Node { top: layer, below: Vec::new() }),
                Some(node) if is_dir => node.below.push(layer),
                Some(_) => {}
            }
            if is_last {
                break;
            }
        }
        Ok(node)
    }
}
