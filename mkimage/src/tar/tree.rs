//! Which file has which name by the end of an archive? Later entries replace earlier ones.

use std::collections::HashMap;

use ashlarfs::format::DEPTH_MAX;
use ashlarfs::format::inode::Kind;
use ashlarfs::format::name;

use super::content::Place;
use crate::filter::{Filter, clean};
use crate::text::shown;
use crate::tree::{Body, Node, NodeId};

/// A name in a directory.
pub(super) type Name = (NodeId, Box<[u8]>);

/// A tree that grows entry by entry. Errors end a sentence that starts with the entry's path.
#[derive(Debug)]
pub(super) struct Growing {
    pub(super) nodes: Vec<Node>,
    /// Of each node, where its content was kept.
    places: Vec<Place>,
    /// Every name so far.
    names: HashMap<Name, NodeId>,
    /// The directory that was looked up last: entries of one mostly follow each other.
    last_directory: (Vec<u8>, NodeId),
}

/// What became of a name's earlier owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Replaced {
    /// There was none, or a file.
    Little,
    /// A directory, with all that was in it.
    Directory,
}

/// A directory of which nothing is known.
pub(super) fn directory() -> Node {
    Node {
        kind: Kind::Dir,
        permissions: 0o755,
        uid: 0,
        gid: 0,
        mtime_sec: 0,
        mtime_nsec: 0,
        xattrs: None,
        body: Body::Dir(Vec::new()),
    }
}

impl Growing {
    /// Only a root.
    pub(super) fn new() -> Self {
        Growing {
            nodes: vec![directory()],
            places: vec![Place::None],
            names: HashMap::new(),
            last_directory: (Vec::new(), 0),
        }
    }

    /// Where an entry goes: its directory, which is made when there is none, and its name in it; `None` for the root.
    pub(super) fn place(&mut self, path: &[u8]) -> Result<Option<Name>, String> {
        if path.split(|byte| *byte == b'/').any(|name| name == b"..") {
            return Err("leads out of its directory with `..`".into());
        }
        let clean = clean(path);
        if clean.is_empty() {
            return Ok(None);
        }
        let (parent, name) = match clean.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (&clean[..slash], &clean[slash + 1..]),
            None => (&b""[..], &clean[..]),
        };
        check_name(name)?;
        Ok(Some((self.directory_at(parent)?, name.into())))
    }

    /// The directory at a clean path, with all directories on the way.
    fn directory_at(&mut self, path: &[u8]) -> Result<NodeId, String> {
        if path.is_empty() {
            return Ok(0);
        }
        if self.last_directory.0 == path {
            return Ok(self.last_directory.1);
        }
        let mut node = 0;
        for (depth, name) in path.split(|byte| *byte == b'/').enumerate() {
            check_name(name)?;
            if depth >= DEPTH_MAX {
                return Err(format!("lies deeper than {DEPTH_MAX} directories"));
            }
            node = match self.names.get(&(node, name.into())) {
                Some(child) if self.nodes[*child as usize].kind == Kind::Dir => *child,
                Some(_) => {
                    return Err(format!("lies below `{}`, which is no directory", shown(name)));
                }
                None => self.bind((node, name.into()), directory(), Place::None)?.0,
            };
        }
        self.last_directory = (path.to_vec(), node);
        Ok(node)
    }

    /// What has a name so far.
    pub(super) fn get(&self, name: &Name) -> Option<NodeId> {
        self.names.get(name).copied()
    }

    pub(super) fn is_directory(&self, node: NodeId) -> bool {
        self.nodes[node as usize].kind == Kind::Dir
    }

    /// The file or directory at a path.
    pub(super) fn find(&self, path: &[u8]) -> Option<NodeId> {
        clean(path)
            .split(|byte| *byte == b'/')
            .try_fold(0, |node, name| self.get(&(node, name.into())))
    }

    /// Gives a new node a name, which may have been another's.
    pub(super) fn bind(
        &mut self,
        name: Name,
        node: Node,
        place: Place,
    ) -> Result<(NodeId, Replaced), String> {
        let id = NodeId::try_from(self.nodes.len())
            .map_err(|_| "is one file too many: 2^32 are possible".to_owned())?;
        self.nodes.push(node);
        self.places.push(place);
        Ok((id, self.link(name, id)))
    }

    /// Gives a node that may have names already another one.
    pub(super) fn link(&mut self, name: Name, node: NodeId) -> Replaced {
        match self.names.insert(name, node) {
            Some(old) if old != node && self.is_directory(old) => {
                self.last_directory = (Vec::new(), 0);
                Replaced::Directory
            }
            _ => Replaced::Little,
        }
    }

    /// Hangs every name into its directory, but for excluded ones. That is done only now, because a file whose name is
    /// excluded may have another one that is not.
    pub(super) fn finish(mut self, filter: &Filter) -> (Vec<Node>, Vec<Place>) {
        for ((parent, name), node) in self.names {
            if let Body::Dir(children) = &mut self.nodes[parent as usize].body {
                children.push((name, node));
            }
        }
        if !filter.is_empty() {
            exclude(&mut self.nodes, filter);
        }
        (self.nodes, self.places)
    }
}

fn check_name(name: &[u8]) -> Result<(), String> {
    name::check(name).map_err(|_| format!("has a name that no file can have: `{}`", shown(name)))
}

fn exclude(nodes: &mut [Node], filter: &Filter) {
    let mut stack = vec![(0, Vec::new())];
    while let Some((directory, prefix)) = stack.pop() {
        let body = &mut nodes[directory as usize].body;
        let Body::Dir(mut children) = std::mem::replace(body, Body::Plain) else { continue };
        children.retain(|(name, child)| {
            let path = [&prefix[..], name].concat();
            let kept = !filter.excludes(&path);
            if kept && nodes[*child as usize].kind == Kind::Dir {
                stack.push((*child, [&path[..], b"/"].concat()));
            }
            kept
        });
        nodes[directory as usize].body = Body::Dir(children);
    }
}
