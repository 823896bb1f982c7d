//! What are these inodes called? Found by going through the directories, as far as they can be read.

use std::collections::BTreeMap;

use crate::format::field::{u64_from_usize, usize_from_u32};
use crate::format::index::InodeIndex;
use crate::format::inode::Kind;
use crate::fs::Tree;

/// Bytes of paths that are kept.
const BYTES_MAX: u64 = 64 << 20;
/// Entries that cannot be read, each of which costs the hashing of a damaged block.
const FAILURES_MAX: u32 = 20_000;

/// A directory that was found.
struct Found {
    inode: InodeIndex,
    /// Its place in the list of those that were found; the root is its own.
    parent: u32,
    name: Vec<u8>,
}

/// Fills in the paths of the inodes that `paths` has.
pub(super) fn find(tree: &Tree, paths: &mut BTreeMap<InodeIndex, Vec<Vec<u8>>>) {
    // A sound tree has no more entries than its section has room for. One with more, or with a circle, ends here.
    let mut entries_left = tree.entries_max();
    let mut bytes_left = BYTES_MAX;
    let mut directories = vec![Found { inode: InodeIndex::ROOT, parent: 0, name: Vec::new() }];
    if let Some(names) = paths.get_mut(&InodeIndex::ROOT) {
        names.push(b"/".to_vec());
    }
    let mut failures_left = FAILURES_MAX;
    let mut next = 0_u32;
    while let Some(at) = directories.get(usize_from_u32(next)) {
        let here = next;
        next = next.saturating_add(1);
        let Ok(directory) = tree.directory(at.inode) else { continue };
        for entry in directory.iter_from(0) {
            let Some(left) = entries_left.checked_sub(1) else { return };
            entries_left = left;
            // The entries behind one that cannot be read are tried too: its block may be the only one that is lost.
            let Ok(entry) = entry else {
                let Some(left) = failures_left.checked_sub(1) else { return };
                failures_left = left;
                continue;
            };
            if let Some(names) = paths.get_mut(&entry.inode) {
                let path = path_of(&directories, here, &entry.name);
                match bytes_left.checked_sub(cost(&path)) {
                    Some(left) => bytes_left = left,
                    None => return,
                }
                names.push(path);
            }
            if entry.kind == Kind::Dir {
                directories.push(Found { inode: entry.inode, parent: here, name: entry.name });
            }
        }
    }
}

/// The path of `name` in the directory at `at` of the list.
fn path_of(directories: &[Found], mut at: u32, name: &[u8]) -> Vec<u8> {
    let mut names = vec![name];
    while at != 0 {
        let Some(directory) = directories.get(usize_from_u32(at)) else { break };
        names.push(&directory.name);
        at = directory.parent;
    }
    let mut path = Vec::new();
    for name in names.into_iter().rev() {
        path.push(b'/');
        path.extend_from_slice(name);
    }
    path
}

/// Bytes that a path of so many components costs to keep.
fn cost(path: &[u8]) -> u64 {
    u64_from_usize(path.len()).saturating_add(48)
}
