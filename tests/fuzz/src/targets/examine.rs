//! Does everything that reads an image agree about it? `verify`, a walk, reads, the manifest, `lint` and `extract` are held
//! against each other: what one finds clean, no other may find damaged.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::Path;

use ashlarfs::extract::{self, Skipped, Watch};
use ashlarfs::format::dirent;
use ashlarfs::format::index::InodeIndex;
use ashlarfs::format::inode::Kind;
use ashlarfs::format::superblock::Section;
use ashlarfs::fs::file::{FileReader, Place};
use ashlarfs::fs::walk::Visit;
use ashlarfs::{Digest, Error, Options, Tree, verify};

use crate::image::Memory;

/// Files of which all bytes are read; of longer ones the beginning, the end, and what is around some extents.
const WHOLE_MAX: u64 = 1 << 20;
/// Extents of one file that are looked at; a run list has as many as its section holds.
const EXTENTS_MAX: usize = 5_000;
/// Most bytes that are extracted: one block may stand in a file a million times.
const EXTRACT_MAX: u64 = 4 << 20;

/// What was found.
#[derive(Debug)]
pub(crate) struct Examined {
    /// Whether `verify` finds nothing wrong.
    pub(crate) is_clean: bool,
    /// What can be read of each path, hashed; nothing where that fails.
    pub(crate) paths: BTreeMap<Vec<u8>, Option<Digest>>,
}

/// Looks at all of it. Panics where something disagrees.
pub(crate) fn examine(bytes: &[u8], options: &Options) -> Examined {
    let source = Memory::new(bytes.to_vec());
    let one = verify::Options { workers: NonZeroUsize::MIN, ..Default::default() };
    let report = verify::verify_source(source.clone(), options, &one);
    let is_clean = report.is_clean();
    assert!(report.bytes_checked <= bytes.len() as u64);
    assert!(is_clean || !report.findings.is_empty() || report.findings_omitted > 0, "{report:?}");
    for finding in &report.findings {
        expected(&finding.error);
        assert!(!finding.error.to_string().is_empty());
    }
    let mut found = Examined { is_clean, paths: BTreeMap::new() };
    let tree = match ashlarfs::open_source(source, options) {
        Ok(tree) => tree,
        Err(err) => {
            expected(&err);
            assert!(!is_clean, "verify finds nothing wrong, but it cannot be opened: {err}");
            return found;
        }
    };
    // What has no end would be seen more often than there is room for.
    let superblock = tree.superblock();
    let entries = superblock.sections.get(Section::Directories) / dirent::LEN_ON_DISK;
    let mut visits_left = entries + u64::from(superblock.inode_count()) + 2;
    for (path, visit) in tree.walk(InodeIndex::ROOT) {
        visits_left = visits_left.checked_sub(1).expect("a walk ends");
        let digest = agreed(is_clean, &path, visit.and_then(|visit| read(&tree, &visit, is_clean)));
        if found.paths.insert(path.clone(), digest).is_some() {
            assert!(!is_clean, "two things have the path {path:?}");
        }
    }
    for block in tree.prefetch_list() {
        agreed(is_clean, b"the prefetch list", block);
    }
    manifest(&tree, is_clean);
    ashlarfs::lint::lint(&tree, |_| false);
    if bytes.len() % 8 == usize::from(bytes[bytes.len() / 2] % 8) {
        extract(&tree, is_clean);
    }
    found
}

/// Reading fails because the image is at fault, and for no other reason.
fn expected(err: &Error) {
    let is_fault = err.is_damage() || matches!(err, Error::Unsupported(_) | Error::Io { .. });
    assert!(is_fault, "{err:?}");
}

fn agreed<T>(is_clean: bool, path: &[u8], result: Result<T, Error>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(err) => {
            expected(&err);
            let path = path.escape_ascii();
            assert!(!is_clean, "verify finds nothing wrong, but {path} cannot be read: {err}");
            None
        }
    }
}

/// Everything that can be read of one path, in several ways that must give the same.
fn read(tree: &Tree, visit: &Visit, is_clean: bool) -> Result<Digest, Error> {
    let index = visit.index;
    let mut hasher = blake3::Hasher::new();
    let attr = tree.attr(index)?;
    hasher.update(format!("{attr:?}").as_bytes());
    match visit.inode.kind {
        Kind::File => content(&tree.file(index)?, &mut hasher)?,
        Kind::Link => {
            let target = tree.read_link(index)?;
            assert!((1..=4095).contains(&target.len()) && !target.contains(&0));
            hasher.update(&target);
        }
        Kind::Dir => names(tree, index, is_clean, &mut hasher)?,
        Kind::Fifo | Kind::Char | Kind::Block | Kind::Sock => {}
    }
    for name in tree.xattr_names(index)? {
        // A set that lies in another one is seen by who points at it alone.
        assert!(!is_clean || tree.may_have_xattr(&name));
        let value = tree.xattr(index, &name)?.expect("a listed attribute");
        hasher.update(&name).update(&[0]).update(&value);
    }
    assert_eq!(tree.xattr(index, b"user.no such attribute")?, None);
    Ok(Digest(*hasher.finalize().as_bytes()))
}

fn names(
    tree: &Tree,
    index: InodeIndex,
    is_clean: bool,
    hasher: &mut blake3::Hasher,
) -> Result<(), Error> {
    let directory = tree.directory(index)?;
    let mut last: Option<Vec<u8>> = None;
    for (entry, nth) in directory.iter_from(0).zip(0_u32..) {
        let entry = entry?;
        hasher.update(&entry.name).update(&[0]);
        assert!(last.as_ref().is_none_or(|last| *last < entry.name), "names ascend");
        // A listing that goes on in the middle, and a lookup, say the same.
        if nth.is_power_of_two() || nth + 1 == directory.len() {
            let again = directory.iter_from(nth).next().expect("it is there")?;
            assert_eq!((&again.name, again.inode), (&entry.name, entry.inode));
            if let Some((found, _)) = directory.lookup(&entry.name)? {
                // Where names are in no order further on, a search may end at another one of this name.
                assert!(!is_clean || found == entry.inode);
            }
        }
        last = Some(entry.name);
    }
    assert!(directory.iter_from(directory.len()).next().is_none());
    Ok(())
}

fn content(file: &FileReader<'_>, hasher: &mut blake3::Hasher) -> Result<(), Error> {
    let size = file.size();
    let mut expected_at = 0;
    for (extent, nth) in file.extents().zip(0..EXTENTS_MAX) {
        let extent = extent?;
        assert!(extent.offset == expected_at && extent.len > 0, "extents follow each other");
        expected_at = extent.offset + extent.len;
        assert!(expected_at <= size);
        if nth < 16 {
            let around = extent.offset.saturating_sub(100);
            let piece = piece(file, around, 300)?;
            if extent.place == Place::Hole {
                let inside = usize::try_from(extent.offset - around).unwrap();
                let zeros =
                    piece.iter().skip(inside).take(usize::try_from(extent.len.min(300)).unwrap());
                assert!(zeros.copied().all(|byte| byte == 0), "a hole has zeros");
                assert_eq!(file.seek_hole(extent.offset)?, Some(extent.offset));
            } else {
                assert_eq!(file.seek_data(extent.offset)?, Some(extent.offset));
            }
        }
    }
    let mut starts = vec![0];
    if size <= WHOLE_MAX {
        starts = (0..size).step_by(10_000).collect();
    } else {
        starts.extend([size / 2, size - 5_000]);
    }
    for start in starts {
        hasher.update(&piece(file, start, 10_000)?);
    }
    assert!(piece(file, size, 10)?.is_empty());
    Ok(())
}

/// One piece, read at once and in two.
fn piece(file: &FileReader<'_>, offset: u64, len: usize) -> Result<Vec<u8>, Error> {
    let mut buf = vec![0xa5; len];
    let came = file.read_at(offset, &mut buf)?;
    assert_eq!(came as u64, file.size().saturating_sub(offset).min(len as u64));
    buf.truncate(came);
    let (first, second) = buf.split_at(came / 3);
    for (part, at) in [(first, offset), (second, offset + first.len() as u64)] {
        let mut again = vec![0x5a; part.len()];
        assert_eq!(file.read_at(at, &mut again)?, part.len());
        assert_eq!(again, part, "two reads of one place");
    }
    Ok(buf)
}

fn manifest(tree: &Tree, is_clean: bool) {
    use ashlarfs::manifest::{Stop, write};
    match write(tree, false, &mut std::io::sink()) {
        Ok(()) => {}
        Err(Stop::Image { path, error }) => {
            agreed::<()>(is_clean, path.as_bytes(), Err(error));
        }
        Err(Stop::Output(err)) => panic!("{err}"),
    }
}

/// Whom `extract` tells what failed.
struct Failures {
    is_clean: bool,
}

impl Watch for Failures {
    fn progress(&self, _: u64) {}

    fn failed(&self, path: &[u8], err: &Error) {
        // The disk may say no to what an image may hold: names, sizes, devices.
        if err.is_damage() {
            agreed::<()>(
                self.is_clean,
                path,
                Err(Error::io("", std::io::Error::other(err.to_string()))),
            );
        }
    }

    fn skipped(&self, _: &[u8], _: Skipped) {}
}

/// Takes it all out, below one directory, and nothing beside it.
fn extract(tree: &Tree, is_clean: bool) {
    if content_len(tree).is_none_or(|len| len > EXTRACT_MAX) {
        return;
    }
    let scratch = tempfile::tempdir_in(super::updates::scratch()).unwrap();
    let options = extract::Options {
        paths: Vec::new(),
        owners: false,
        xattrs: false,
        force: false,
        workers: NonZeroUsize::MIN,
    };
    let target = scratch.path().join("target");
    match extract::extract(tree, &target, &options, &Failures { is_clean }) {
        Ok(summary) => {
            let below = entries_below(&target);
            assert!(below as u64 >= summary.directories.saturating_sub(1), "{summary:?}");
        }
        Err(err) if err.is_damage() => {
            agreed::<()>(is_clean, b"/", Err(err));
        }
        Err(_) => {}
    }
    let beside: Vec<_> = std::fs::read_dir(scratch.path()).unwrap().collect();
    assert!(beside.len() <= 1, "{beside:?}");
    // Modes of an enemy may keep even the owner out, where that is not root.
    if std::fs::remove_dir_all(scratch.path()).is_err() {
        let path = scratch.keep();
        std::process::Command::new("chmod").args(["-R", "u+rwx"]).arg(&path).status().unwrap();
        std::fs::remove_dir_all(path).unwrap();
    }
}

fn entries_below(path: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(path) else { return 0 };
    entries
        .map(|entry| {
            let path = entry.unwrap().path();
            let is_dir = path.symlink_metadata().is_ok_and(|it| it.is_dir());
            1 + if is_dir { entries_below(&path) } else { 0 }
        })
        .sum()
}

/// Bytes that extracting takes; `None` where that is not known or very many.
fn content_len(tree: &Tree) -> Option<u64> {
    let mut len = 0_u64;
    for (_, visit) in tree.walk(InodeIndex::ROOT) {
        let Ok(visit) = visit else { continue };
        if visit.inode.kind != Kind::File {
            continue;
        }
        // Nobody waits for a file system to make a hole of this length.
        if visit.inode.size > 1 << 40 {
            return None;
        }
        for extent in tree.file(visit.index).ok()?.extents().take(EXTENTS_MAX) {
            let Ok(extent) = extent else { break };
            let data = if extent.place == Place::Hole { 0 } else { extent.len };
            len = len.checked_add(data)?;
        }
    }
    Some(len)
}
