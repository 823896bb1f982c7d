//! What is different between two images? Which files, and how many bytes an update from one to the other would download.

mod content;
mod download;

use std::cmp::Ordering;
use std::iter::Peekable;

use crate::error::{Error, Result};
use crate::format::index::InodeIndex;
use crate::format::inode::Kind;
use crate::fs::Tree;
use crate::fs::attr::Attr;
use crate::fs::walk::{Visit, Walk};
use content::Comparer;
pub use download::{Download, download};

/// What is different about a path that both images have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Aspect {
    /// File type. Nothing else is compared then.
    Type,
    /// Permission bits.
    Mode,
    /// Owner or group.
    Owner,
    /// Number of links; not compared for directories, whose number only follows from what is in them.
    Links,
    /// Length of a regular file.
    Size,
    /// Time of last change.
    Mtime,
    /// A symlink's target.
    Target,
    /// A device's number.
    Device,
    /// Extended attributes.
    Xattrs,
    /// A regular file's bytes.
    Content,
}

/// The first or the second image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Which {
    /// The first.
    A,
    /// The second.
    B,
}

/// A path that is not the same in both images.
#[derive(Debug)]
pub enum Difference {
    /// Only the second image has it.
    Added(Visit),
    /// Only the first image has it.
    Removed(Visit),
    /// Both have it.
    Changed {
        /// In the first image.
        a: Visit,
        /// In the second image.
        b: Visit,
        /// What is different, in the order of [`Aspect`]; never empty.
        aspects: Vec<Aspect>,
    },
    /// One of the images could not be read here. What is below may be told as added or removed because it was not seen.
    Unreadable {
        /// Where.
        path: Vec<u8>,
        /// Which image.
        image: Which,
        /// Why.
        err: Error,
    },
}

/// The differences between two images in the order of their paths, found as they are asked for.
#[derive(Debug)]
pub struct Diff<'a> {
    a: &'a Tree,
    b: &'a Tree,
    /// `None` when the images are one and the same.
    walks: Option<(Peekable<Walk<'a>>, Peekable<Walk<'a>>)>,
    comparer: Comparer<'a>,
}

/// Compares two images, path by path. Content is compared by what is stored of it; only where that is different, by bytes.
pub fn diff<'a>(a: &'a Tree, b: &'a Tree) -> Diff<'a> {
    let walk = |tree: &'a Tree| tree.walk(InodeIndex::ROOT).peekable();
    let walks = (a.root_digest() != b.root_digest()).then(|| (walk(a), walk(b)));
    Diff { a, b, walks, comparer: Comparer::new(a, b) }
}

impl Iterator for Diff<'_> {
    type Item = Difference;

    fn next(&mut self) -> Option<Difference> {
        loop {
            let (walk_a, walk_b) = self.walks.as_mut()?;
            for (walk, image) in [(&mut *walk_a, Which::A), (&mut *walk_b, Which::B)] {
                if let Some((path, Err(err))) = walk.next_if(|(_, visit)| visit.is_err()) {
                    return Some(Difference::Unreadable { path, image, err });
                }
            }
            let order = match (walk_a.peek(), walk_b.peek()) {
                (None, None) => return None,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((a, _)), Some((b, _))) => names(a).cmp(names(b)),
            };
            let take = |walk: &mut Peekable<Walk<'_>>| walk.next().and_then(|(_, v)| v.ok());
            match order {
                Ordering::Less => return take(walk_a).map(Difference::Removed),
                Ordering::Greater => return take(walk_b).map(Difference::Added),
                Ordering::Equal => {
                    let (a, b) = (take(walk_a)?, take(walk_b)?);
                    match self.compare(&a, &b) {
                        Ok(aspects) if aspects.is_empty() => {}
                        Ok(aspects) => return Some(Difference::Changed { a, b, aspects }),
                        Err((image, err)) => {
                            return Some(Difference::Unreadable { path: a.path, image, err });
                        }
                    }
                }
            }
        }
    }
}

/// A path as a walk orders it: `a/b` before `a.b`.
fn names(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/')
}

impl Diff<'_> {
    fn compare(&mut self, a: &Visit, b: &Visit) -> Result<Vec<Aspect>, (Which, Error)> {
        let kind = a.inode.kind;
        if kind != b.inode.kind {
            return Ok(vec![Aspect::Type]);
        }
        let attr_a = self.a.attr_of(a.index, &a.inode).map_err(|err| (Which::A, err))?;
        let attr_b = self.b.attr_of(b.index, &b.inode).map_err(|err| (Which::B, err))?;
        let is_file = kind == Kind::File;
        let mtime = |attr: &Attr| (attr.mtime_sec, attr.mtime_nsec);
        let (size_differs, links_differ) =
            (attr_a.size != attr_b.size, attr_a.nlink != attr_b.nlink);
        let target_differs =
            kind == Kind::Link && self.of_both(a, b, |tree, visit| tree.read_link(visit.index))?;
        let xattrs_differ =
            (a.inode.xattrs.is_some() || b.inode.xattrs.is_some()) && self.of_both(a, b, xattrs)?;
        let content_differs = is_file && (size_differs || !self.comparer.is_same_content(a, b)?);
        let aspects = [
            (Aspect::Mode, attr_a.permissions != attr_b.permissions),
            (Aspect::Owner, (attr_a.uid, attr_a.gid) != (attr_b.uid, attr_b.gid)),
            (Aspect::Links, kind != Kind::Dir && links_differ),
            (Aspect::Size, is_file && size_differs),
            (Aspect::Mtime, mtime(&attr_a) != mtime(&attr_b)),
            (Aspect::Target, target_differs),
            (Aspect::Device, attr_a.device != attr_b.device),
            (Aspect::Xattrs, xattrs_differ),
            (Aspect::Content, content_differs),
        ];
        Ok(aspects.into_iter().filter_map(|(aspect, differs)| differs.then_some(aspect)).collect())
    }

    /// Whether something that has to be read is different.
    fn of_both<T: PartialEq>(
        &self,
        a: &Visit,
        b: &Visit,
        read: impl Fn(&Tree, &Visit) -> Result<T>,
    ) -> Result<bool, (Which, Error)> {
        let in_a = read(self.a, a).map_err(|err| (Which::A, err))?;
        let in_b = read(self.b, b).map_err(|err| (Which::B, err))?;
        Ok(in_a != in_b)
    }
}

type Xattr = (Vec<u8>, Option<Vec<u8>>);

fn xattrs(tree: &Tree, visit: &Visit) -> Result<Vec<Xattr>> {
    let names = tree.xattr_names(visit.index)?;
    names.into_iter().map(|name| Ok((name.clone(), tree.xattr(visit.index, &name)?))).collect()
}
