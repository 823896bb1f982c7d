//! What is in a directory of this machine? Names and attributes are read here; content, later, by [`HostContents`].
//!
//! No path is ever built to reach a file: every step is one name below an open directory, so trees may be deeper than
//! paths can be long, and nothing outside the tree is reached through a symlink that appears meanwhile.

mod content;
mod look;
mod places;
mod xattr;

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::thread;

use ashlarfs::format::DEPTH_MAX;
use ashlarfs::format::inode::Kind;
use rustix::fd::OwnedFd;
use rustix::fs::{RawDir, Stat, fstat, major, minor};
use rustix::io::Errno;

use crate::Failure;
use crate::filter::Filter;
use crate::options::Progress;
use crate::text::shown;
use crate::tree::{Body, Node, NodeId, SourceTree};
use crate::xattrs::XattrSets;
pub(crate) use content::HostContents;
use look::{Blind, Look, Lookers, look};
pub(crate) use places::Stamp;
use places::{OpenDirectories, Places};

/// How a directory is scanned.
#[derive(Debug)]
pub(crate) struct ScanOptions<'a> {
    pub(crate) filter: &'a Filter,
    /// Directories on other file systems stay empty.
    pub(crate) one_file_system: bool,
    pub(crate) xattrs: bool,
    /// Where the image will stand: it is not part of itself.
    pub(crate) image: &'a Path,
    /// What changes or vanishes meanwhile is told, and taken as it is.
    pub(crate) ignore_changed: bool,
    /// Processors that there is work for.
    pub(crate) workers: usize,
}

/// Bytes of directory entries that are asked for at once.
const ENTRIES_LEN: usize = 64 * 1024;
/// Names that a thread looks at together.
const NAMES_AT_A_TIME: usize = 128;

const HINT_CHANGED: &str = "build from a tree that nobody writes to, or give --ignore-changed";
const HINT_ACCESS: &str = "run as root, or leave it out with --exclude-path";

/// Reads the whole tree below `source`, but no content.
pub(crate) fn scan(
    source: &Path,
    options: &ScanOptions<'_>,
    progress: &dyn Progress,
) -> Result<(SourceTree, HostContents), Failure> {
    let directories = OpenDirectories::new(source).map_err(|err| {
        let failure =
            Failure::new(format!("cannot open the directory {}: {err}", source.display()));
        match err {
            Errno::NOTDIR => failure.hint("an archive is read with --tar"),
            _ => failure,
        }
    })?;
    thread::scope(|scope| {
        let mut scan = Scan {
            options,
            progress,
            places: Places::new(source),
            directories,
            lookers: Lookers::start(scope, options.workers, options.xattrs)?,
            stack: Vec::new(),
            asked: VecDeque::new(),
            children: Vec::new(),
            below: Vec::new(),
            nodes: Vec::new(),
            sets: XattrSets::default(),
            links: HashMap::new(),
            image: Image::of(options.image),
            root_device: 0,
        };
        scan.run()?;
        let tree = SourceTree { nodes: scan.nodes, xattr_sets: scan.sets.into_list() };
        Ok((tree, HostContents::new(scan.places, scan.directories)))
    })
}

/// Where the image will stand: a directory's device and inode, and the name in it.
#[derive(Debug)]
struct Image {
    directory: Option<(u64, u64)>,
    name: Vec<u8>,
}

impl Image {
    fn of(path: &Path) -> Self {
        use std::os::unix::ffi::OsStrExt;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let directory = rustix::fs::stat(parent.unwrap_or(Path::new("."))).ok();
        Image {
            directory: directory.map(|stat| identity(&stat)),
            name: path.file_name().map(|name| name.as_bytes().to_vec()).unwrap_or_default(),
        }
    }
}

struct Scan<'a> {
    options: &'a ScanOptions<'a>,
    progress: &'a dyn Progress,
    places: Places,
    directories: OpenDirectories,
    lookers: Lookers,
    /// Directories whose names were not asked for yet.
    stack: Vec<Directory>,
    /// What the lookers are asked for, first asked first.
    asked: VecDeque<Asked>,
    /// Of the directory that is taken in: all names, and the directories among them that are to be read.
    children: Vec<(Box<[u8]>, NodeId)>,
    below: Vec<Directory>,
    nodes: Vec<Node>,
    sets: XattrSets,
    /// Files with several links, by device and inode.
    links: HashMap<(u64, u64), NodeId>,
    image: Image,
    root_device: u64,
}

#[derive(Clone, Copy)]
struct Directory {
    node: NodeId,
    depth: usize,
}

/// Names of a directory that are looked at.
struct Asked {
    directory: Directory,
    fd: SharedFd,
    /// Whether they are its last ones.
    is_last: bool,
}

impl Scan<'_> {
    fn run(&mut self) -> Result<(), Failure> {
        let root = self.directories.root();
        let stat = fstat(&root).map_err(|err| self.failure(0, b"", "cannot read", err))?;
        self.root_device = identity(&stat).0;
        let mut reader = None;
        if self.options.xattrs {
            xattr::check_reachable(&root)?;
            reader = Some(xattr::Reader::default());
        }
        let seen = look(&root, b".", reader.as_mut());
        self.tell_ignored(reader.map(|mut reader| reader.take_ignored()).unwrap_or_default());
        if let Some(look) = self.seen(0, b".", seen)? {
            self.add(look, 0, b".")?;
        }
        // Depth first: the directory that a directory is opened from is mostly the one that was read last.
        self.stack.push(Directory { node: 0, depth: 0 });
        loop {
            while let Some(directory) = self.stack.pop() {
                self.list(directory)?;
            }
            if !self.take_in()? {
                return Ok(());
            }
        }
    }

    /// Asks for all names of a directory.
    fn list(&mut self, directory: Directory) -> Result<(), Failure> {
        let node = directory.node;
        let fd = match self.directories.open(&self.places, node) {
            Ok(fd) => fd,
            Err(err @ (Errno::NOENT | Errno::NOTDIR | Errno::LOOP)) => {
                return self.changed(
                    node,
                    b"",
                    &format!("vanished while the tree was read ({err})"),
                );
            }
            Err(err) => return Err(self.failure(node, b"", "cannot open", err)),
        };
        let prefix = self.prefix(node);
        let here = fstat(&fd).map_err(|err| self.failure(node, b"", "cannot read", err))?;
        let is_image_directory = self.image.directory == Some(identity(&here));
        let mut names = Vec::new();
        let mut buf = Vec::with_capacity(ENTRIES_LEN);
        let mut entries = RawDir::new(&fd, buf.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            let entry = entry.map_err(|err| self.failure(node, b"", "cannot list", err))?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." || self.is_excluded(prefix.as_deref(), name) {
                continue;
            }
            if is_image_directory && name == self.image.name {
                let path = self.places.path(node, name);
                self.progress.warn(&format!("{}: the image itself is left out", shown(&path)));
                continue;
            }
            if names.len() >= NAMES_AT_A_TIME {
                self.ask(directory, &fd, std::mem::take(&mut names), false)?;
            }
            names.push(name.into());
        }
        self.ask(directory, &fd, names, true)
    }

    fn ask(
        &mut self,
        directory: Directory,
        fd: &SharedFd,
        names: Vec<Box<[u8]>>,
        is_last: bool,
    ) -> Result<(), Failure> {
        while self.lookers.are_busy() {
            self.take_in()?;
        }
        self.asked.push_back(Asked { directory, fd: Arc::clone(fd), is_last });
        self.lookers.ask(Arc::clone(fd), names)
    }

    /// Takes in what was seen of the names that were asked for first; false when none are.
    fn take_in(&mut self) -> Result<bool, Failure> {
        let Some(Asked { directory, fd, is_last }) = self.asked.pop_front() else {
            return Ok(false);
        };
        let seen = self.lookers.seen()?;
        self.tell_ignored(seen.ignored);
        for (name, look) in seen.looks {
            if let Some(look) = self.seen(directory.node, &name, look)? {
                let node = self.take_in_name(look, directory, &name)?;
                self.children.push((name, node));
            }
        }
        if is_last {
            self.end_directory(directory, &fd)?;
        }
        Ok(true)
    }

    /// Takes in one name; returns its node.
    fn take_in_name(
        &mut self,
        look: Look,
        directory: Directory,
        name: &[u8],
    ) -> Result<NodeId, Failure> {
        let stat = look.stat;
        let is_directory = kind(&stat) == Some(Kind::Dir);
        let several = !is_directory && stat.st_nlink > 1;
        if several && let Some(node) = self.links.get(&identity(&stat)) {
            return Ok(*node);
        }
        let node = self.add(look, directory.node, name)?;
        if several {
            self.links.insert(identity(&stat), node);
        }
        let elsewhere = identity(&stat).0 != self.root_device;
        if is_directory && !(elsewhere && self.options.one_file_system) {
            let depth = directory.depth + 1;
            if depth > DEPTH_MAX {
                let what = format!("lies deeper than {DEPTH_MAX} directories");
                return Err(self.problem(directory.node, name, &what));
            }
            self.below.push(Directory { node, depth });
        }
        Ok(node)
    }

    /// All names of a directory are taken in: goes on with the directories among them.
    fn end_directory(&mut self, directory: Directory, fd: &SharedFd) -> Result<(), Failure> {
        let mut children = std::mem::take(&mut self.children);
        children.shrink_to_fit();
        // Their order has no meaning for the image; this one reads the disk in the order of its entries.
        self.stack.extend(self.below.drain(..).rev());
        let node = directory.node;
        if let Some(Node { body: Body::Dir(place), .. }) = self.nodes.get_mut(node as usize) {
            *place = children;
        }
        let after = fstat(fd).map_err(|err| self.failure(node, b"", "cannot read", err))?;
        match self.places.stamp(node).difference(&Stamp::of(&after)) {
            Some(difference) => {
                self.changed(node, b"", &format!("changed while the tree was read: {difference}"))
            }
            None => Ok(()),
        }
    }

    fn tell_ignored(&self, names: Vec<Vec<u8>>) {
        for name in names {
            self.sets.keeps(&name, self.progress);
        }
    }

    /// What was seen of a name; `None` when it vanished and that is ignored.
    fn seen(
        &self,
        directory: NodeId,
        name: &[u8],
        seen: Result<Look, Blind>,
    ) -> Result<Option<Look>, Failure> {
        match seen {
            Ok(look) => Ok(Some(look)),
            Err(Blind::Vanished) => {
                self.changed(directory, name, "vanished while the tree was read").map(|()| None)
            }
            Err(Blind::Refused(doing, err)) => Err(self.failure(directory, name, doing, err)),
        }
    }

    /// Adds one node.
    fn add(&mut self, look: Look, directory: NodeId, name: &[u8]) -> Result<NodeId, Failure> {
        let stat = look.stat;
        let Some(kind) = kind(&stat) else {
            return Err(self.problem(directory, name, "is of no type that an image can hold"));
        };
        let body = match kind {
            Kind::File => Body::File { size: u64::try_from(stat.st_size).unwrap_or(0) },
            Kind::Dir => Body::Dir(Vec::new()),
            Kind::Char | Kind::Block => Body::Device(major(stat.st_rdev), minor(stat.st_rdev)),
            Kind::Fifo | Kind::Sock => Body::Plain,
            Kind::Link => Body::Link(look.target),
        };
        let xattrs = self.sets.add(look.xattrs);
        let node = NodeId::try_from(self.nodes.len())
            .map_err(|_| Failure::new("there are more than 2^32 files"))?;
        self.places.add(directory, name, kind, Stamp::of(&stat));
        self.nodes.push(Node {
            kind,
            permissions: (stat.st_mode & 0o7777) as u16,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime_sec: stat.st_mtime,
            mtime_nsec: stat.st_mtime_nsec as u32,
            xattrs,
            body,
        });
        Ok(node)
    }

    /// A directory's path from the root with a slash behind it, when excludes need paths.
    fn prefix(&self, directory: NodeId) -> Option<Vec<u8>> {
        (!self.options.filter.is_empty()).then(|| self.places.inner_path(directory, b""))
    }

    fn is_excluded(&self, prefix: Option<&[u8]>, name: &[u8]) -> bool {
        prefix.is_some_and(|prefix| self.options.filter.excludes(&[prefix, name].concat()))
    }

    /// Something is no longer as it was: an error, or a warning for those who asked for that.
    fn changed(&self, directory: NodeId, name: &[u8], what: &str) -> Result<(), Failure> {
        let failure = self.problem(directory, name, what);
        if self.options.ignore_changed {
            self.progress.warn(&failure.message);
            return Ok(());
        }
        Err(failure.hint(HINT_CHANGED))
    }

    fn problem(&self, directory: NodeId, name: &[u8], what: &str) -> Failure {
        Failure::new(format!("{} {what}", shown(&self.places.path(directory, name))))
    }

    fn failure(&self, directory: NodeId, name: &[u8], doing: &str, err: Errno) -> Failure {
        let path = shown(&self.places.path(directory, name));
        let failure = Failure::new(format!("{doing} {path}: {err}"));
        if matches!(err, Errno::ACCESS | Errno::PERM) { failure.hint(HINT_ACCESS) } else { failure }
    }
}

fn kind(stat: &Stat) -> Option<Kind> {
    Kind::from_mode((stat.st_mode & 0xffff) as u16)
}

/// What makes two names the same file.
fn identity(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

/// An open directory that several may hold.
type SharedFd = Arc<OwnedFd>;

#[cfg(test)]
mod tests;
