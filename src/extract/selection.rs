//! Which of the image's files are wanted? All, or those at and below some paths, with the directories on the way to them.

use super::is_below;
use crate::error::Result;
use crate::format::index::InodeIndex;
use crate::fs::Tree;
use crate::fs::path::Resolved;
use crate::fs::walk::Visit;

/// Wanted paths, sorted as a walk goes, none of them below another one.
pub(super) struct Selection<'a> {
    tree: &'a Tree,
    wanted: Vec<Resolved>,
}

impl<'a> Selection<'a> {
    /// Finds what `paths` name in the image.
    pub(super) fn new(tree: &'a Tree, paths: &[Vec<u8>]) -> Result<Self> {
        let mut wanted: Vec<Resolved> = if paths.is_empty() {
            vec![Resolved { index: InodeIndex::ROOT, path: Vec::new() }]
        } else {
            paths.iter().map(|path| tree.resolve_to_last(path)).collect::<Result<_>>()?
        };
        wanted.sort_by(|a, b| names(&a.path).cmp(names(&b.path)));
        wanted.dedup_by(|later, earlier| {
            later.path == earlier.path || is_below(&later.path, &earlier.path)
        });
        Ok(Selection { tree, wanted })
    }

    /// Each wanted file with its path from the root, each directory before what is in it; and what could not be read.
    pub(super) fn visits(&self) -> impl Iterator<Item = (Vec<u8>, Result<Visit>)> + '_ {
        let before = std::iter::once(None).chain(self.wanted.iter().map(Some));
        self.wanted.iter().zip(before).flat_map(|(wanted, before)| {
            // Those that the path before has in common with this one were visited already.
            let visited = move |way: &[u8]| {
                before.is_some_and(|before| way.is_empty() || is_below(&before.path, way))
            };
            let on_the_way = ways(&wanted.path)
                .filter(move |way| !visited(way))
                .map(|way| (way.to_vec(), self.visit(way)));
            let below = self.tree.walk(wanted.index).map(|(path, visit)| {
                let path = join(&wanted.path, &path);
                let visit = visit.map(|visit| Visit { path: path.clone(), ..visit });
                (path, visit)
            });
            on_the_way.chain(below)
        })
    }

    /// Whether a path is wanted, and not only on the way to one that is.
    pub(super) fn has(&self, path: &[u8]) -> bool {
        self.wanted.iter().any(|wanted| wanted.path == path || is_below(path, &wanted.path))
    }

    fn visit(&self, path: &[u8]) -> Result<Visit> {
        let index = self.tree.resolve(path)?;
        Ok(Visit { path: path.to_vec(), index, inode: self.tree.inode(index)? })
    }
}

fn names(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/')
}

/// The directories above a path, the root first.
fn ways(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let root = (!path.is_empty()).then_some(b"".as_slice());
    let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
    root.into_iter().chain(slashes.filter_map(|(at, _)| path.get(..at)))
}

fn join(above: &[u8], below: &[u8]) -> Vec<u8> {
    if above.is_empty() || below.is_empty() {
        return [above, below].concat();
    }
    [above, b"/", below].concat()
}
