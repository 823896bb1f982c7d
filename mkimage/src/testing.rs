//! What do tests share? Trees in a form that can be compared, whatever they were made from.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};

use crate::options::Progress;
use crate::tree::{Body, Contents, NodeId, SourceTree};

/// Keeps warnings.
#[derive(Debug, Default)]
pub(crate) struct Warnings(pub(crate) RefCell<Vec<String>>);

impl Progress for Warnings {
    fn start(&self, _: u64, _: u64) {}
    fn advance(&self, _: u64) {}
    fn warn(&self, text: &str) {
        self.0.borrow_mut().push(text.to_owned());
    }
    fn phase(&self, _: &'static str) {}
}

/// A line for every path: attributes, content, and the first of its names for a file that has several.
pub(crate) type Listing = BTreeMap<String, String>;

/// Lists a tree with its content, read in pieces, each byte once as data or as hole.
pub(crate) fn list(tree: &SourceTree, contents: &dyn Contents) -> Listing {
    let mut paths: Vec<(String, NodeId)> = Vec::new();
    let mut stack = vec![(String::new(), 0)];
    while let Some((path, node)) = stack.pop() {
        if let Body::Dir(children) = &tree.nodes[node as usize].body {
            for (name, child) in children {
                stack.push((format!("{path}/{}", crate::text::shown(name)), *child));
            }
        }
        paths.push((path, node));
    }
    paths.sort();
    let mut first_names: HashMap<NodeId, String> = HashMap::new();
    let mut listing = Listing::new();
    for (path, id) in paths {
        let node = &tree.nodes[id as usize];
        let first = first_names.entry(id).or_insert_with(|| path.clone()).clone();
        let body = match &node.body {
            Body::File { size } => format!("{size} {}", content_hash(contents, id, *size)),
            Body::Link(target) => format!("-> {}", crate::text::shown(target)),
            Body::Device(major, minor) => format!("{major}:{minor}"),
            Body::Dir(_) | Body::Plain => String::new(),
        };
        let xattrs = node.xattrs.map(|set| &tree.xattr_sets[set as usize]);
        listing.insert(
            path,
            format!(
                "{:?} {:o} {}:{} {}.{:09} {body} {first} {xattrs:?}",
                node.kind, node.permissions, node.uid, node.gid, node.mtime_sec, node.mtime_nsec
            ),
        );
    }
    listing
}

fn content_hash(contents: &dyn Contents, node: NodeId, size: u64) -> String {
    let mut content = contents.open(node).unwrap();
    let mut hasher = blake3::Hasher::new();
    let mut at = 0;
    while at < size {
        let data = content.next_data(at).unwrap();
        assert!((at..=size).contains(&data));
        std::io::copy(&mut std::io::Read::take(std::io::repeat(0), data - at), &mut hasher)
            .unwrap();
        let mut buf = vec![0xee; usize::try_from((size - data).min(5000)).unwrap()];
        if !buf.is_empty() {
            content.read_exact_at(&mut buf, data).unwrap();
        }
        hasher.update(&buf);
        at = data + buf.len() as u64;
    }
    content.finish().unwrap();
    hasher.finalize().to_hex()[..16].to_owned()
}

/// Whether tests may make devices and give files away; says aloud when not.
pub(crate) fn is_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        eprintln!("skipped in part: only root can make devices and set other people's attributes");
    }
    is_root
}
