//! What does an image hold, as lines of text? One line for each path, the same for the same tree, to be kept and compared.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{self, Write};

use crate::error::{Error, Result};
use crate::format::DEPTH_MAX;
use crate::format::defect::Corrupt;
use crate::format::field::u64_from_usize;
use crate::format::index::InodeIndex;
use crate::format::inode::{Inode, Kind};
use crate::fs::Tree;

/// How much of a file is read at a time.
const PIECE_LEN: usize = 1 << 20;

/// Why there is no manifest.
#[derive(Debug)]
pub enum Stop {
    /// A path cannot be read.
    Image {
        /// Which path, escaped.
        path: String,
        /// Why.
        error: Error,
    },
    /// The lines cannot be written.
    Output(io::Error),
}

impl From<io::Error> for Stop {
    fn from(err: io::Error) -> Self {
        Stop::Output(err)
    }
}

/// A path that is due: its line, or as a second step what is in it.
#[derive(Debug)]
struct Due {
    /// The path; that of a directory whose contents are due ends in `/`. Sorted by this, a directory's contents come
    /// after what only starts like its name (`a`, `a-b`, `a/c`), as paths sort byte by byte.
    path: Vec<u8>,
    inode: InodeIndex,
    /// How many directories are above it.
    depth: usize,
    enter: bool,
}

/// Writes a line for each path, in ascending order of the paths' bytes. Memory is taken for the directories on the way
/// to one path, not for the whole tree.
pub fn write(tree: &Tree, with_content: bool, out: &mut dyn Write) -> Result<(), Stop> {
    let mut hasher = Hasher { known: HashMap::new(), piece: vec![0; PIECE_LEN] };
    let root =
        |path: &[u8], enter| Due { path: path.to_vec(), inode: InodeIndex::ROOT, depth: 0, enter };
    let mut stack = vec![root(b"/", true), root(b"/", false)];
    let mut entries_left = tree.entries_max();
    while let Some(due) = stack.pop() {
        let about = |error| Stop::Image { path: escape(&due.path, b""), error };
        if due.enter {
            let mut inside = list(tree, &due).map_err(about)?;
            // More entries than the section has room for: directories share what each of them should have alone.
            let (directory, child) = (due.inode, due.inode);
            entries_left = entries_left
                .checked_sub(u64_from_usize(inside.iter().filter(|due| !due.enter).count()))
                .ok_or_else(|| about(Corrupt::Parent { directory, child }.into()))?;
            inside.sort_unstable_by(|a, b| b.path.cmp(&a.path));
            stack.append(&mut inside);
        } else {
            let line = line(tree, &due, with_content, &mut hasher).map_err(about)?;
            out.write_all(line.as_bytes())?;
        }
    }
    Ok(())
}

/// What is in a directory: each entry, and once more each directory, to be entered.
fn list(tree: &Tree, due: &Due) -> Result<Vec<Due>> {
    let directory = tree.directory(due.inode)?;
    let mut inside = Vec::new();
    let depth = due.depth.saturating_add(1);
    for (nth, entry) in (0..).zip(directory.iter_from(0)) {
        let entry = entry?;
        directory.child(nth, &entry)?;
        if entry.kind == Kind::Dir && depth > DEPTH_MAX {
            return Err(Corrupt::Depth { directory: entry.inode }.into());
        }
        let mut path = due.path.clone();
        path.extend_from_slice(&entry.name);
        if entry.kind == Kind::Dir {
            let mut path = path.clone();
            path.push(b'/');
            inside.push(Due { path, inode: entry.inode, depth, enter: true });
        }
        inside.push(Due { path, inode: entry.inode, depth, enter: false });
    }
    Ok(inside)
}

fn line(tree: &Tree, due: &Due, with_content: bool, hasher: &mut Hasher) -> Result<String> {
    let inode = tree.inode(due.inode)?;
    let attr = tree.attr_of(due.inode, &inode)?;
    let is_dir = inode.kind == Kind::Dir;
    let or_dash = |wanted: bool, text: String| if wanted { text } else { "-".to_owned() };
    let device = matches!(inode.kind, Kind::Char | Kind::Block);
    let target = match inode.kind {
        Kind::Link => escape(&tree.read_link(due.inode)?, b""),
        _ => "-".to_owned(),
    };
    let content = match inode.kind {
        Kind::File if with_content => hasher.hash(tree, due.inode, &inode)?,
        _ => "-".to_owned(),
    };
    let mut line = escape(&due.path, b"");
    let fields = [
        kind_name(inode.kind).to_owned(),
        format!("{:04o}", inode.permissions),
        inode.uid.to_string(),
        inode.gid.to_string(),
        or_dash(!is_dir, inode.size.to_string()),
        or_dash(!is_dir, inode.nlink.to_string()),
        format!("{}.{:09}", inode.mtime_sec, inode.mtime_nsec),
        or_dash(device, format!("{}:{}", attr.device.0, attr.device.1)),
        target,
        xattrs(tree, due.inode)?,
        content,
    ];
    for field in fields {
        line.push('\t');
        line.push_str(&field);
    }
    line.push('\n');
    Ok(line)
}

fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Fifo => "fifo",
        Kind::Char => "char",
        Kind::Dir => "dir",
        Kind::Block => "block",
        Kind::File => "file",
        Kind::Link => "link",
        Kind::Sock => "sock",
    }
}

fn xattrs(tree: &Tree, inode: InodeIndex) -> Result<String> {
    let mut text = String::new();
    for name in tree.xattr_names(inode)? {
        let value = tree.xattr(inode, &name)?.ok_or(Error::Invalid)?;
        if !text.is_empty() {
            text.push(';');
        }
        text.push_str(&escape(&name, b";="));
        text.push('=');
        for byte in value {
            push_hex(&mut text, byte);
        }
    }
    Ok(if text.is_empty() { "-".to_owned() } else { text })
}

/// What content is hashed with.
struct Hasher {
    /// Hashes of files that have more names.
    known: HashMap<InodeIndex, String>,
    piece: Vec<u8>,
}

impl Hasher {
    /// Plain BLAKE3 of a file's content; computed once for a file with many names.
    fn hash(&mut self, tree: &Tree, index: InodeIndex, inode: &Inode) -> Result<String> {
        if let Some(hash) = self.known.get(&index) {
            return Ok(hash.clone());
        }
        let file = tree.file_of(index, inode)?;
        let mut hasher = blake3::Hasher::new();
        let mut at = 0;
        while at < file.size() {
            let len = file.read_at(at, &mut self.piece)?;
            hasher.update(self.piece.get(..len).unwrap_or_default());
            at = at.saturating_add(u64_from_usize(len));
        }
        let hash = hasher.finalize().to_hex().to_string();
        if inode.nlink > 1 {
            self.known.insert(index, hash.clone());
        }
        Ok(hash)
    }
}

/// Escapes every byte that is not visible ASCII, the backslash, and the bytes of `also`, as `\xHH`.
fn escape(bytes: &[u8], also: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for byte in bytes {
        if byte.is_ascii_graphic() && *byte != b'\\' && !also.contains(byte) {
            text.push(char::from(*byte));
        } else {
            text.push_str("\\x");
            push_hex(&mut text, *byte);
        }
    }
    text
}

fn push_hex(text: &mut String, byte: u8) {
    // cannot fail: a String takes everything
    write!(text, "{byte:02x}").unwrap_or_default();
}
