//! What goes into the image? A tree in memory, made by a scan or from a tar archive, before any number is given out.

use std::io;

use ashlarfs::format::inode::Kind;

/// Extended attributes, in ascending order of their names.
pub(crate) type XattrSet = Vec<(Vec<u8>, Vec<u8>)>;

/// A node's place in [`SourceTree::nodes`]. Two names of one file (hard links) have the same.
pub(crate) type NodeId = u32;

/// One file, of any type, with what `stat(2)` says of it. Its names stand in the directories that hold it.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) kind: Kind,
    /// `mode & 07777`.
    pub(crate) permissions: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime_sec: i64,
    pub(crate) mtime_nsec: u32,
    /// Index into [`SourceTree::xattr_sets`].
    pub(crate) xattrs: Option<u32>,
    pub(crate) body: Body,
}

/// What a node has beyond its attributes.
#[derive(Debug)]
pub(crate) enum Body {
    /// A regular file of this many bytes; where they are, [`Contents`] knows.
    File { size: u64 },
    /// A directory's children, in any order until `plan` sorts them.
    Dir(Vec<(Box<[u8]>, NodeId)>),
    /// A symlink's target.
    Link(Box<[u8]>),
    /// A device's major and minor number.
    Device(u32, u32),
    /// A pipe or a socket.
    Plain,
}

/// The whole tree. Node 0 is the root directory.
#[derive(Debug)]
pub(crate) struct SourceTree {
    pub(crate) nodes: Vec<Node>,
    /// Each set once.
    pub(crate) xattr_sets: Vec<XattrSet>,
}

/// Where the content of regular files comes from. Several threads ask, for different files and for pieces of the same one.
pub(crate) trait Contents: Sync {
    /// Opens the content of a node of kind `File`.
    fn open(&self, node: NodeId) -> Result<Box<dyn Content + '_>, crate::Failure>;
}

/// The content of one regular file. It is read in ascending order, all of it or a piece; bytes of a hole may be skipped.
pub(crate) trait Content: Send {
    /// Fills `buf` from `offset` on. A file that has become shorter is an error.
    fn read_exact_at(&mut self, buf: &mut [u8], offset: u64) -> io::Result<()>;

    /// Where data starts at or after `offset`; `size` when there is none. Before it are only zeros.
    fn next_data(&mut self, offset: u64) -> io::Result<u64>;

    /// Whether the file is still the one that was scanned, now that it was read. The text says what changed.
    fn finish(&mut self) -> Result<(), String>;
}
