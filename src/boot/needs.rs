//! Is everything there that the first program needs? It is read, and so verified, before the machine depends on it.
//!
//! The first program, its interpreter and the libraries that it names: damage in one of them would be a kernel panic, and
//! not an error that a person or another image could answer. What others will read soon
//! stays in the cache, so it is not expanded twice.

mod names;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::thread;

use self::names::{Content, Named, names};
use crate::error::{Error, Result};
use crate::format::index::BlockIndex;
use crate::format::inode::Kind;
use crate::fs::prefetch::PREFETCH_LIST_LEN_MAX;
use crate::fs::stack::{Layer, Stack};

/// The first program of a system.
pub const INIT: &str = "/sbin/init";
/// Programs without which a system with systemd cannot go on, or not end; read where they are there.
const ALSO: [&[u8]; 3] =
    [b"/usr/lib/systemd/systemd-executor", b"/usr/lib/systemd/systemd-shutdown", b"/bin/sh"];
/// Where the kernel's file systems go, which cannot be made there later.
const DIRECTORIES: [&[u8]; 4] = [b"/dev", b"/proc", b"/sys", b"/run"];
/// Directories in which the loader looks for libraries in the end (ld.so(8)), and where distributions keep them.
const LIBRARY_DIRS: [&str; 4] = ["/lib64", "/usr/lib64", "/lib", "/usr/lib"];
/// Most files that are followed.
const FILES_MAX: usize = 512;

/// What was read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Read {
    /// Files.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// Why a tree cannot be started from.
#[derive(Debug)]
pub enum Unfit {
    /// The first program is not there, or it is none.
    Init(String),
    /// A file that is needed could not be read.
    Damaged(String, Error),
    /// The root has it, but something that lies over the root is in its way.
    Hidden(String),
}

impl std::fmt::Display for Unfit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Unfit::Init(why) => f.write_str(why),
            Unfit::Damaged(path, err) => write!(f, "{path}, which is needed to boot: {err}"),
            Unfit::Hidden(path) => write!(f, "{path}, which is needed to boot, is hidden"),
        }
    }
}

/// Reads what the program at `init` needs. Libraries that are not found are the loader's to complain about: it knows more
/// places than we do.
pub fn read(stack: Stack<'_>, init: &str) -> Result<Read, Unfit> {
    let mut seen = BTreeSet::new();
    let mut done = Read::default();
    let mut lists = HashMap::new();
    let damaged =
        |path: &[u8], err| Unfit::Damaged(String::from_utf8_lossy(path).into_owned(), err);
    let alone = root_alone(stack);
    let is_hidden = |path: &[u8]| {
        let found = alone.map(|root| root.resolve_following(path));
        matches!(found, Some(Ok((node, _))) if node.top.inode.kind == Kind::File)
    };
    let hidden = |path: &[u8]| Unfit::Hidden(String::from_utf8_lossy(path).into_owned());
    let mut ahead: Vec<Vec<u8>> = ALSO.map(<[u8]>::to_vec).into();
    ahead.push(init.as_bytes().to_vec());
    for path in DIRECTORIES {
        let is_there = match stack.resolve_following(path) {
            Ok((node, _)) => node.top.inode.kind == Kind::Dir,
            Err(Error::NotFound | Error::NotADirectory) => false,
            Err(err) => return Err(damaged(path, err)),
        };
        if !is_there {
            let path = String::from_utf8_lossy(path);
            return Err(Unfit::Init(format!("there is no directory {path} in it")));
        }
    }
    while let Some(path) = ahead.pop() {
        let is_init = path == init.as_bytes();
        let (node, mut own_dir) = match stack.resolve_following(&path) {
            Ok(resolved) => resolved,
            Err(Error::NotFound | Error::NotADirectory) if is_init => {
                return Err(Unfit::Init(format!("there is no {init} in it")));
            }
            Err(Error::NotFound | Error::NotADirectory) if is_hidden(&path) => {
                return Err(hidden(&path));
            }
            Err(Error::NotFound | Error::NotADirectory) => continue,
            Err(err) => return Err(damaged(&path, err)),
        };
        let inode = &node.top.inode;
        let is_program = inode.kind == Kind::File && inode.permissions & 0o111 != 0;
        if is_init && !is_program {
            return Err(Unfit::Init(format!("{init} is no program")));
        }
        if inode.kind != Kind::File && is_hidden(&path) {
            return Err(hidden(&path));
        }
        if inode.kind != Kind::File || !seen.insert(own_dir.clone()) || seen.len() > FILES_MAX {
            continue;
        }
        let listed = lists.entry(node.top.tree.root_digest()).or_insert_with(|| list(&node.top));
        let named = prove(&node.top, listed).map_err(|err| damaged(&path, err))?;
        done.files = done.files.saturating_add(1);
        done.bytes = done.bytes.saturating_add(inode.size);
        ahead.extend(named.interpreter);
        own_dir.truncate(own_dir.iter().rposition(|byte| *byte == b'/').unwrap_or(0));
        for library in named.libraries {
            let find = |stack| find(stack, &library, &named.search, &own_dir);
            let found = find(stack).map_err(|err| damaged(&library, err))?;
            if found.is_none() && alone.is_some_and(|root| matches!(find(root), Ok(Some(_)))) {
                return Err(hidden(&library));
            }
            ahead.extend(found);
        }
    }
    Ok(done)
}

/// The blocks that an image says will be wanted first.
fn list(layer: &Layer<'_>) -> HashSet<BlockIndex> {
    layer.tree.prefetch_list().take(PREFETCH_LIST_LEN_MAX).map_while(Result::ok).collect()
}

/// The root, the lowest of all, where something lies over it.
fn root_alone(stack: Stack<'_>) -> Option<Stack<'_>> {
    let (above, root) = stack.0.split_at_checked(stack.0.len().saturating_sub(1))?;
    (!above.is_empty()).then_some(Stack(root))
}

/// Finds a file whole, and what it names. Of an image with a prefetch list, what is not on it is only hashed, but for what names
/// are read from: it would be expanded for nobody. That it can be expanded, its builder has seen.
fn prove(file: &Layer<'_>, listed: &HashSet<BlockIndex>) -> Result<Named> {
    let reader = file.tree.file_of(file.index, &file.inode)?.keeping();
    let store = file.tree.store();
    let workers = thread::available_parallelism().map_or(1, usize::from);
    let is_wanted = |block: BlockIndex| listed.is_empty() || listed.contains(&block);
    for extent in reader.extents() {
        let extent = extent?;
        reader.check(&extent)?;
        store.prove(extent.place.blocks(), workers, is_wanted)?;
    }
    let doing = "cannot look into a program";
    names(Content::new(reader)).map_err(|err| Error::io(doing, err))
}

/// Where a library is.
fn find(
    stack: Stack<'_>,
    library: &[u8],
    search: &[Vec<u8>],
    own_dir: &[u8],
) -> Result<Option<Vec<u8>>> {
    if library.contains(&b'/') {
        return Ok(Some(library.to_vec()));
    }
    let own = search.iter().map(|path| replace_origin(path, own_dir));
    let triplets = LIBRARY_DIRS.iter().flat_map(|dir| {
        let multiarch = format!("{dir}/{}-linux-gnu", std::env::consts::ARCH);
        [multiarch.into_bytes(), dir.as_bytes().to_vec()]
    });
    for directory in own.chain(triplets) {
        let path = [directory.as_slice(), b"/", library].concat();
        match stack.resolve_following(&path) {
            Ok(_) => return Ok(Some(path)),
            Err(Error::NotFound | Error::NotADirectory) => {}
            Err(err) => return Err(err),
        }
    }
    Ok(None)
}

/// `$ORIGIN` is the directory of the program itself (ld.so(8)).
fn replace_origin(path: &[u8], own_dir: &[u8]) -> Vec<u8> {
    let rest = [&b"$ORIGIN"[..], b"${ORIGIN}"].iter().find_map(|word| path.strip_prefix(*word));
    rest.map_or_else(|| path.to_vec(), |rest| [b"/", own_dir, rest].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origin_is_the_own_directory() {
        assert_eq!(replace_origin(b"$ORIGIN/../lib", b"usr/bin"), b"/usr/bin/../lib");
        assert_eq!(replace_origin(b"/usr/lib/systemd", b"x"), b"/usr/lib/systemd");
    }
}
