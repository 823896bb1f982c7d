//! What was in /etc before anybody changed it? One fingerprint a path, from an image, or as it was written down beside the
//! `etc.<digest>` of that image: then the image itself may be gone when the next one comes.
//!
//! The file has a head line, a line for each path and an end line, so that half a file is none:
//!
//! ```text
//! ashlar etc 1
//! <fingerprint> <type> <size> <mtime seconds>.<nanoseconds> <path, escaped>
//! end <lines between>
//! ```

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::ETC;
use crate::error::Result;
use crate::format::digest::Digest;
use crate::format::field::u64_from_usize;
use crate::format::index::InodeIndex;
use crate::format::inode::Kind;
use crate::fs::Tree;
use crate::state::copy::{Content, Trouble};
use crate::state::node::{Found, Node, is_carried};
use std::os::fd::AsFd;

const HEAD: &str = "ashlar etc 1";
/// What is hashed is hashed for this alone.
const CONTEXT: &str = "ashlar state: a file of /etc, version 1";

/// One path as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) kind: Kind,
    /// Length of a regular file, else 0.
    pub(super) size: u64,
    pub(super) mtime: (i64, u32),
    /// Of type, mode, owner, device, target, extended attributes and content, but no times. Nothing where the content could
    /// not be read: such a path is like no other.
    pub(super) fingerprint: Option<Digest>,
}

impl Entry {
    /// Whether two are the same but for their times.
    pub(super) fn is_like(&self, other: &Entry) -> bool {
        self.fingerprint.is_some() && self.fingerprint == other.fingerprint
    }

    /// Whether two are the same.
    pub(super) fn is_exactly(&self, other: &Entry) -> bool {
        self.is_like(other) && self.mtime == other.mtime
    }

    /// A file on the disk. A regular file is only read when one of `others` is as long: else it is like none of them, and may
    /// be longer than anybody can wait.
    pub(super) fn on_disk(found: &Found, others: &[Option<&Entry>]) -> Result<Self> {
        let node = &found.node;
        let mut entry = Entry::bare(node);
        if node.kind != Kind::File {
            entry.fingerprint = Some(fingerprint(node, None)?);
        } else if others.iter().flatten().any(|other| other.size == node.size) {
            let content = Content::OnDisk(found.fd.as_fd());
            entry.fingerprint = Some(fingerprint(node, Some(&content))?);
        }
        Ok(entry)
    }

    fn bare(node: &Node) -> Self {
        let size = if node.kind == Kind::File { node.size } else { 0 };
        Entry { kind: node.kind, size, mtime: node.mtime, fingerprint: None }
    }
}

/// Everything that there was, by path below /etc; /etc itself by the empty path.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Record {
    entries: BTreeMap<Vec<u8>, Entry>,
}

/// What to do about a file of the image that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Damage {
    /// It is an error.
    Refused,
    /// The file counts as one like no other.
    Suffered,
}

impl Record {
    /// What an image has; nothing where it has no directory /etc.
    pub(super) fn of(tree: &Tree, damage: Damage) -> Result<Self> {
        let mut entries = BTreeMap::new();
        let Some(etc) = find(tree)? else { return Ok(Record::default()) };
        for (path, visit) in tree.walk(etc) {
            let visit = visit?;
            let node = Node::in_image(tree, visit.index, &visit.inode)?;
            let mut entry = Entry::bare(&node);
            let content = match node.kind {
                Kind::File => Some(Content::InImage(tree.file_of(visit.index, &visit.inode)?)),
                _ => None,
            };
            entry.fingerprint = match fingerprint(&node, content.as_ref()) {
                Err(_) if damage == Damage::Suffered => None,
                fingerprint => Some(fingerprint?),
            };
            entries.insert(path, entry);
        }
        Ok(Record { entries })
    }

    /// What there was at a path below /etc.
    pub(super) fn get(&self, path: &[u8]) -> Option<&Entry> {
        self.entries.get(path)
    }

    /// The names that a directory had.
    pub(super) fn names<'a>(&'a self, directory: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        let mut start = directory.to_vec();
        if !directory.is_empty() {
            start.push(b'/');
        }
        let len = start.len();
        self.entries
            .range(start.clone()..)
            .map_while(move |(path, _)| path.starts_with(&start).then(|| path.get(len..))?)
            .filter(|name| !name.is_empty() && !name.contains(&b'/'))
    }

    /// The file.
    pub fn encode(&self) -> String {
        let mut text = format!("{HEAD}\n");
        for (path, entry) in &self.entries {
            let fingerprint = entry.fingerprint.unwrap_or(Digest([0; 32]));
            let (letter, size, (sec, nsec)) = (letter(entry.kind), entry.size, entry.mtime);
            // cannot fail: a String takes everything
            writeln!(text, "{fingerprint} {letter} {size} {sec}.{nsec} {}", escape(path))
                .unwrap_or_default();
        }
        writeln!(text, "end {}", self.entries.len()).unwrap_or_default();
        text
    }

    /// What is in the file; nothing when that is not a whole file of this version.
    pub fn decode(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?.strip_prefix(HEAD)?.strip_prefix('\n')?;
        let mut entries = BTreeMap::new();
        let mut lines = text.lines();
        let end = loop {
            let line = lines.next()?;
            match line.strip_prefix("end ") {
                Some(count) => break count,
                None => entries.extend([decode_line(line)?]),
            }
        };
        let is_whole = text.ends_with('\n') && lines.next().is_none();
        (is_whole && end.parse() == Ok(entries.len())).then_some(Record { entries })
    }
}

fn decode_line(line: &str) -> Option<(Vec<u8>, Entry)> {
    let mut fields = line.splitn(5, ' ');
    let fingerprint: Digest = fields.next()?.parse().ok()?;
    let letter_found = fields.next()?;
    let kind = KINDS.into_iter().find(|kind| letter(*kind) == letter_found)?;
    let size = fields.next()?.parse().ok()?;
    let (sec, nsec) = fields.next()?.split_once('.')?;
    let mtime = (sec.parse().ok()?, nsec.parse().ok()?);
    let fingerprint = Some(fingerprint).filter(|digest| digest.0 != [0; 32]);
    Some((unescape(fields.next()?)?, Entry { kind, size, mtime, fingerprint }))
}

const KINDS: [Kind; 7] =
    [Kind::Fifo, Kind::Char, Kind::Dir, Kind::Block, Kind::File, Kind::Link, Kind::Sock];

/// As `find -printf %y` has them.
fn letter(kind: Kind) -> &'static str {
    match kind {
        Kind::Fifo => "p",
        Kind::Char => "c",
        Kind::Dir => "d",
        Kind::Block => "b",
        Kind::File => "f",
        Kind::Link => "l",
        Kind::Sock => "s",
    }
}

fn escape(path: &[u8]) -> String {
    let mut text = String::with_capacity(path.len());
    for byte in path {
        if byte.is_ascii_graphic() && *byte != b'\\' {
            text.push(char::from(*byte));
        } else {
            write!(text, "\\x{byte:02x}").unwrap_or_default();
        }
    }
    text
}

fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut pieces = text.split("\\x");
    let mut path = pieces.next()?.as_bytes().to_vec();
    for piece in pieces {
        let (hex, rest) = piece.split_at_checked(2)?;
        path.push(u8::from_str_radix(hex, 16).ok()?);
        path.extend_from_slice(rest.as_bytes());
    }
    Some(path)
}

/// The image's /etc, if that is a directory.
pub(super) fn find(tree: &Tree) -> Result<Option<InodeIndex>> {
    Ok(match tree.lookup(InodeIndex::ROOT, ETC)? {
        Some((index, inode)) if inode.kind == Kind::Dir => Some(index),
        _ => None,
    })
}

/// Labels that the system gives by itself, and properties that a file system inherits, are no change by anybody.
fn counts(name: &[u8]) -> bool {
    is_carried(name) && (!name.starts_with(b"security.") || name == b"security.capability")
}

fn fingerprint(node: &Node, content: Option<&Content<'_>>) -> Result<Digest> {
    let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
    let mut number = |value: u64| {
        hasher.update(&value.to_le_bytes());
    };
    number(u64::from(node.kind.mode_bits()));
    number(if node.kind == Kind::Link { 0 } else { node.permissions.into() });
    for value in [node.uid, node.gid, node.device.0, node.device.1] {
        number(value.into());
    }
    number(if node.kind == Kind::File { node.size } else { 0 });
    let mut text = |bytes: &[u8]| {
        hasher.update(&u64_from_usize(bytes.len()).to_le_bytes());
        hasher.update(bytes);
    };
    text(&node.target);
    for (name, value) in node.xattrs.iter().filter(|(name, _)| counts(name)) {
        text(name);
        text(value);
    }
    text(b"");
    if let Some(content) = content {
        let hashed = content.visit(|offset, piece| {
            hasher.update(&offset.to_le_bytes());
            hasher.update(piece);
            Ok(())
        });
        hashed.map_err(Trouble::into_error)?;
    }
    Ok(Digest(*hasher.finalize().as_bytes()))
}
