//! Is everything there that the first program needs? It is read, and so verified, before the machine depends on it.
//!
//! The first program, its interpreter and the libraries that it names: damage in one of them would be a kernel panic, and
//! not an error that a person or another image could answer. What is read stays in the cache, so it is not read twice.

use std::collections::BTreeSet;

use elf::ElfBytes;
use elf::abi::{DT_NEEDED, DT_RPATH, DT_RUNPATH, PT_INTERP};
use elf::endian::AnyEndian;

use crate::error::{Error, Result};
use crate::format::field::{u64_from_usize, usize_from_u64};
use crate::format::inode::Kind;
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
/// Longest file that is held in memory to be looked into; a longer one is only read.
const LEN_MAX: u64 = 64 << 20;
/// Bytes that are read at once.
const CHUNK: usize = 1 << 20;

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
        let content = content(&node.top).map_err(|err| damaged(&path, err))?;
        done.files = done.files.saturating_add(1);
        done.bytes = done.bytes.saturating_add(inode.size);
        let named = names(&content);
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

/// The root, the lowest of all, where something lies over it.
fn root_alone(stack: Stack<'_>) -> Option<Stack<'_>> {
    let (above, root) = stack.0.split_at_checked(stack.0.len().saturating_sub(1))?;
    (!above.is_empty()).then_some(Stack(root))
}

/// A file's bytes; only read, and empty, when it is too long to be held.
fn content(file: &Layer<'_>) -> Result<Vec<u8>> {
    let size = file.inode.size;
    let mut content = Vec::new();
    let mut chunk = vec![0; CHUNK];
    let mut at = 0_u64;
    while at < size {
        let len = file.tree.read_at(file.index, at, &mut chunk)?;
        if len == 0 {
            break;
        }
        if size <= LEN_MAX {
            content.extend_from_slice(chunk.get(..len).unwrap_or_default());
        }
        at = at.saturating_add(u64_from_usize(len));
    }
    Ok(content)
}

/// What a program names.
#[derive(Debug, Default, PartialEq, Eq)]
struct Named {
    interpreter: Option<Vec<u8>>,
    libraries: Vec<Vec<u8>>,
    search: Vec<Vec<u8>>,
}

/// What a program's bytes name. What is no program names nothing; the bytes are the image's own, but nobody says that they
/// are well formed.
fn names(content: &[u8]) -> Named {
    if let Some(line) = content.strip_prefix(b"#!") {
        let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
        return Named { interpreter: words.next().map(<[u8]>::to_vec), ..Named::default() };
    }
    elf_names(content).unwrap_or_default()
}

fn elf_names(content: &[u8]) -> Option<Named> {
    let file = ElfBytes::<AnyEndian>::minimal_parse(content).ok()?;
    let mut named = Named::default();
    let segment = file.segments()?.iter().find(|segment| segment.p_type == PT_INTERP);
    if let Some(data) = segment.and_then(|segment| file.segment_data(&segment).ok()) {
        named.interpreter = data.split(|byte| *byte == 0).next().map(<[u8]>::to_vec);
    }
    let Some(dynamic) = file.dynamic().ok()? else { return Some(named) };
    let strings = file.dynamic_symbol_table().ok()?.map(|(_, strings)| strings)?;
    for entry in dynamic {
        let text = || strings.get_raw(usize_from_u64(entry.d_val())).map(<[u8]>::to_vec);
        match entry.d_tag {
            DT_NEEDED => named.libraries.extend(text().ok()),
            DT_RPATH | DT_RUNPATH => {
                let paths = text().unwrap_or_default();
                named.search.extend(paths.split(|byte| *byte == b':').map(<[u8]>::to_vec));
            }
            _ => {}
        }
    }
    Some(named)
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
    fn a_script_names_its_interpreter() {
        assert_eq!(names(b"#! /bin/sh -e\nx").interpreter.unwrap(), b"/bin/sh");
        assert_eq!(names(b"#!\n"), Named::default());
        assert_eq!(names(b""), Named::default());
    }

    #[test]
    fn a_program_names_its_loader_and_libraries() {
        let own = std::fs::read("/proc/self/exe").unwrap();
        let named = names(&own);
        assert!(named.interpreter.unwrap().starts_with(b"/lib"));
        assert!(named.libraries.iter().any(|library| library.starts_with(b"libc.so")));
    }

    #[test]
    fn no_cut_of_a_program_panics() {
        let own = std::fs::read("/bin/sh").unwrap();
        for len in (0..own.len()).step_by(own.len() / 300 + 1) {
            names(&own[..len]);
            let mut bent = own.clone();
            bent[len] ^= 0xff;
            names(&bent);
        }
    }

    #[test]
    fn origin_is_the_own_directory() {
        assert_eq!(replace_origin(b"$ORIGIN/../lib", b"usr/bin"), b"/usr/bin/../lib");
        assert_eq!(replace_origin(b"/usr/lib/systemd", b"x"), b"/usr/lib/systemd");
    }
}
