//! What is in a tar archive? The same tree that a scan finds where the archive is unpacked by root.
//!
//! Read are the formats of POSIX (pax and ustar), GNU and the seventh edition; plain, or packed with gzip, xz or zstd,
//! which is told from the content. Owners are taken by number. As `tar -x` does it, leading slashes are dropped, later
//! entries replace earlier ones of the same name, and a hard link names the file that has its target's name by then.
//! Directories that have no entry are made (root's, 0755, 1970). Refused is whatever cannot be represented or would
//! have to be guessed.

mod acl;
mod content;
mod header;
mod input;
mod pax;

use std::collections::HashMap;
use std::path::Path;

use ashlarfs::format::DEPTH_MAX;
use ashlarfs::format::inode::Kind;
use ashlarfs::format::name;

use crate::Failure;
use crate::build::Progress;
use crate::filter::{Filter, clean};
use crate::text::shown;
use crate::tree::{Body, Node, NodeId, SourceTree, XattrSet};
use crate::xattrs::XattrSets;
pub(crate) use content::TarContents;
use content::{Extent, Place};
use header::{Header, NoNumber, RECORD_LEN};
use input::Input;
use pax::Extended;

/// How an archive is read.
#[derive(Debug)]
pub(crate) struct TarOptions<'a> {
    pub(crate) filter: &'a Filter,
    pub(crate) xattrs: bool,
    /// Where content is kept that cannot be read in place.
    pub(crate) tmpdir: &'a Path,
}

/// Longest extended header or long name. Linux's limits on attributes of one file are far below.
const EXTENDED_LEN_MAX: u64 = 16 << 20;
/// Most pieces of one sparse file that are held in memory.
const EXTENTS_MAX: usize = 1 << 24;

/// Reads an archive; `-` is standard input.
pub(crate) fn read(
    source: &Path,
    options: &TarOptions<'_>,
    progress: &dyn Progress,
) -> Result<(SourceTree, TarContents), Failure> {
    let input = Input::open(source, options.tmpdir)?;
    let mut archive = Archive {
        options,
        progress,
        input,
        nodes: vec![directory()],
        places: vec![Place::None],
        names: HashMap::new(),
        sets: XattrSets::default(),
        acl_names: acl::Names::default(),
        last_directory: (Vec::new(), 0),
        entries: 0,
    };
    archive.run()?;
    archive.finish()
}

/// A directory of which nothing is known.
fn directory() -> Node {
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

struct Archive<'a> {
    options: &'a TarOptions<'a>,
    progress: &'a dyn Progress,
    input: Input,
    nodes: Vec<Node>,
    /// Of each node, where its content was kept.
    places: Vec<Place>,
    /// Every name so far, by directory.
    names: HashMap<(NodeId, Box<[u8]>), NodeId>,
    sets: XattrSets,
    acl_names: acl::Names,
    /// The directory that was looked up last: entries of one mostly follow each other.
    last_directory: (Vec<u8>, NodeId),
    entries: u64,
}

/// An entry with all that its headers say, in one form.
struct Entry {
    path: Vec<u8>,
    type_flag: u8,
    /// Bytes that follow its header.
    stored_len: u64,
}

impl Archive<'_> {
    fn run(&mut self) -> Result<(), Failure> {
        let mut global = Extended::default();
        let mut next: Option<Extended> = None;
        let mut long_path = None;
        let mut long_link = None;
        loop {
            let Some(record) = self.input.record()? else {
                return Err(self
                    .input
                    .damaged("it ends without the mark that ends an archive: it is cut off"));
            };
            let header = Header(&record);
            if header.is_zero() {
                if next.is_some() || long_path.is_some() || long_link.is_some() {
                    return Err(self.input.damaged("an extended header is followed by no entry"));
                }
                return self.end();
            }
            if !header.is_header() {
                return Err(self
                    .input
                    .damaged("what should be a header is none: its checksum is wrong"));
            }
            match header.type_flag() {
                b'x' | b'X' => {
                    let records = self.extension(&header)?;
                    let extended = next.get_or_insert_with(|| global.clone());
                    extended.add(&records).map_err(|err| self.input.damaged(err))?;
                }
                b'g' => {
                    let records = self.extension(&header)?;
                    global.add(&records).map_err(|err| self.input.damaged(err))?;
                }
                b'L' => long_path = Some(self.long_name(&header)?),
                b'K' => long_link = Some(self.long_name(&header)?),
                // A label of the whole archive.
                b'V' => {
                    let len = self.stored_len(&header, &Extended::default())?;
                    self.input.keep_nothing(len)?;
                }
                _ => {
                    let mut extended = next.take().unwrap_or_else(|| global.clone());
                    extended.path = extended.path.or(long_path.take());
                    extended.link = extended.link.or(long_link.take());
                    (long_path, long_link) = (None, None);
                    self.entry(&header, extended)?;
                }
            }
        }
    }

    /// After the first zero record.
    fn end(&mut self) -> Result<(), Failure> {
        if self.input.drain()? {
            self.progress.warn(&format!(
                "{}: what follows the end mark of the archive is left out, as tar does",
                self.input.name()
            ));
        }
        if self.entries == 0 {
            self.progress.warn(&format!("{}: the archive is empty", self.input.name()));
        }
        Ok(())
    }

    fn extension(&mut self, header: &Header<'_>) -> Result<Vec<u8>, Failure> {
        let len = self.stored_len(header, &Extended::default())?;
        if len > EXTENDED_LEN_MAX {
            return Err(self.input.damaged(format!("an extended header has {len} bytes")));
        }
        self.input.bytes(len)
    }

    fn long_name(&mut self, header: &Header<'_>) -> Result<Vec<u8>, Failure> {
        let mut name = self.extension(header)?;
        name.truncate(name.iter().position(|byte| *byte == 0).unwrap_or(name.len()));
        Ok(name)
    }

    fn stored_len(&self, header: &Header<'_>, extended: &Extended) -> Result<u64, Failure> {
        let len = match extended.size {
            Some(len) => Some(len),
            None => u64::try_from(self.number(header.size())?).ok(),
        };
        len.filter(|len| i64::try_from(*len).is_ok())
            .ok_or_else(|| self.input.damaged("an entry has an impossible size"))
    }

    fn number<T>(&self, number: Result<T, NoNumber>) -> Result<T, Failure> {
        number.map_err(|NoNumber(field)| {
            self.input.damaged(format!("the {field} of a header is no number"))
        })
    }

    /// One entry: its header was read, its content follows.
    fn entry(&mut self, header: &Header<'_>, mut extended: Extended) -> Result<(), Failure> {
        self.entries += 1;
        let path = match extended.sparse.name.take().or(extended.path.take()) {
            Some(path) => path,
            None => header.path(),
        };
        let entry = Entry {
            type_flag: header.type_flag(),
            stored_len: self.stored_len(header, &extended)?,
            path,
        };
        let named_as_directory = entry.path.ends_with(b"/");
        // Programs disagree on whether bytes follow such an entry; a wrong guess would take content for headers.
        if matches!(entry.type_flag, b'1'..=b'6') && entry.stored_len > 0 {
            return Err(self.refused(&entry.path, "is no regular file and has content"));
        }
        match entry.type_flag {
            b'5' | b'D' => self.add_directory(&entry, header, &extended),
            b'\0' | b'0' | b'7' if named_as_directory => {
                self.add_directory(&entry, header, &extended)
            }
            b'\0' | b'0' | b'7' | b'S' => self.add_file(&entry, header, &extended),
            b'1' => self.add_hard_link(&entry, header, &extended),
            b'2' => {
                let target = extended.link.clone().unwrap_or_else(|| header.link());
                let body = Body::Link(target.into());
                self.add_other(&entry, header, &extended, Kind::Link, body)
            }
            b'3' | b'4' => {
                let (major, minor) = self.number(header.device())?;
                let number = |pax: Option<u64>, header: i64| {
                    pax.map_or_else(
                        || u32::try_from(header).ok(),
                        |number| u32::try_from(number).ok(),
                    )
                };
                let body = number(extended.device_major, major)
                    .zip(number(extended.device_minor, minor))
                    .map(|(major, minor)| Body::Device(major, minor))
                    .ok_or_else(|| self.refused(&entry.path, "has an impossible device number"))?;
                let kind = if entry.type_flag == b'3' { Kind::Char } else { Kind::Block };
                self.add_other(&entry, header, &extended, kind, body)
            }
            b'6' => self.add_other(&entry, header, &extended, Kind::Fifo, Body::Plain),
            b'M' => Err(self.refused(&entry.path, "began in another volume of a split archive")),
            flag => {
                let what = format!("is of type `{}`, which is not known", shown(&[flag]));
                Err(self.refused(&entry.path, &what))
            }
        }
    }

    fn add_directory(
        &mut self,
        entry: &Entry,
        header: &Header<'_>,
        extended: &Extended,
    ) -> Result<(), Failure> {
        let place = self.place(&entry.path)?;
        // Of an incremental archive: the names that were in it.
        self.input.keep_nothing(entry.stored_len)?;
        let Some((parent, name)) = place else {
            return self.describe(0, entry, header, extended);
        };
        let node = match self.names.get(&(parent, name.clone())) {
            Some(node) if self.nodes[*node as usize].kind == Kind::Dir => *node,
            _ => self.bind(parent, name, directory(), Place::None)?,
        };
        self.describe(node, entry, header, extended)
    }

    fn add_file(
        &mut self,
        entry: &Entry,
        header: &Header<'_>,
        extended: &Extended,
    ) -> Result<(), Failure> {
        let (parent, name) = self.place_of_file(entry)?;
        let place = self.content(entry, header, extended)?;
        let size = match &place {
            Place::None => 0,
            Place::Whole { size, .. } | Place::Sparse { size, .. } => *size,
        };
        let node = Node { kind: Kind::File, body: Body::File { size }, ..directory() };
        let node = self.bind(parent, name, node, place)?;
        self.describe(node, entry, header, extended)
    }

    fn add_other(
        &mut self,
        entry: &Entry,
        header: &Header<'_>,
        extended: &Extended,
        kind: Kind,
        body: Body,
    ) -> Result<(), Failure> {
        let (parent, name) = self.place_of_file(entry)?;
        let node = self.bind(parent, name, Node { kind, body, ..directory() }, Place::None)?;
        self.describe(node, entry, header, extended)
    }

    fn add_hard_link(
        &mut self,
        entry: &Entry,
        header: &Header<'_>,
        extended: &Extended,
    ) -> Result<(), Failure> {
        let target = extended.link.clone().unwrap_or_else(|| header.link());
        let missing = || {
            let what = format!("is a hard link to {}, which is no file before it", shown(&target));
            self.refused(&entry.path, &what)
        };
        let mut node = 0;
        for name in clean(&target).split(|byte| *byte == b'/') {
            node = *self.names.get(&(node, name.into())).ok_or_else(missing)?;
        }
        if self.nodes[node as usize].kind == Kind::Dir {
            return Err(missing());
        }
        let (parent, name) = self.place_of_file(entry)?;
        // To itself: tar writes that for a file that it was told to pack twice.
        if self.names.get(&(parent, name.clone())) != Some(&node) {
            self.forget_directory(parent, &name);
            self.names.insert((parent, name), node);
        }
        Ok(())
    }

    /// Where an entry goes: its directory, which is made when there is none, and its name in it; `None` for the root.
    fn place(&mut self, path: &[u8]) -> Result<Option<(NodeId, Box<[u8]>)>, Failure> {
        if path.split(|byte| *byte == b'/').any(|name| name == b"..") {
            return Err(self.refused(path, "leads out of its directory with `..`"));
        }
        let clean = clean(path);
        if clean.is_empty() {
            return Ok(None);
        }
        let (parent, name) = match clean.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (&clean[..slash], &clean[slash + 1..]),
            None => (&b""[..], &clean[..]),
        };
        if name::check(name).is_err() {
            return Err(self.refused(path, "has a name that no file can have"));
        }
        let parent = self.directory_at(parent, path)?;
        Ok(Some((parent, name.into())))
    }

    fn place_of_file(&mut self, entry: &Entry) -> Result<(NodeId, Box<[u8]>), Failure> {
        self.place(&entry.path)?
            .ok_or_else(|| self.refused(&entry.path, "is the root, and no directory"))
    }

    /// The directory at a clean path.
    fn directory_at(&mut self, path: &[u8], of: &[u8]) -> Result<NodeId, Failure> {
        if path.is_empty() {
            return Ok(0);
        }
        if self.last_directory.0 == path {
            return Ok(self.last_directory.1);
        }
        let mut node = 0;
        for (depth, name) in path.split(|byte| *byte == b'/').enumerate() {
            if name::check(name).is_err() || depth >= DEPTH_MAX {
                let what = format!(
                    "lies deeper than {DEPTH_MAX} directories, or in one without a valid name"
                );
                return Err(self.refused(of, &what));
            }
            node = match self.names.get(&(node, name.into())) {
                Some(child) => {
                    if self.nodes[*child as usize].kind != Kind::Dir {
                        let what = format!("lies below `{}`, which is no directory", shown(name));
                        return Err(self.refused(of, &what));
                    }
                    *child
                }
                None => self.bind(node, name.into(), directory(), Place::None)?,
            };
        }
        self.last_directory = (path.to_vec(), node);
        Ok(node)
    }

    /// Gives a new node a name, which may have been another's.
    fn bind(
        &mut self,
        parent: NodeId,
        name: Box<[u8]>,
        node: Node,
        place: Place,
    ) -> Result<NodeId, Failure> {
        let id = NodeId::try_from(self.nodes.len())
            .map_err(|_| Failure::new("there are more than 2^32 files"))?;
        self.nodes.push(node);
        self.places.push(place);
        self.forget_directory(parent, &name);
        self.names.insert((parent, name), id);
        Ok(id)
    }

    /// Tells when a directory is about to lose its name, with all that is in it.
    fn forget_directory(&mut self, parent: NodeId, name: &[u8]) {
        let old = self.names.get(&(parent, name.into()));
        if old.is_some_and(|old| self.nodes[*old as usize].kind == Kind::Dir) {
            self.progress.warn(&format!(
                "{}: the directory `{}` and what is in it is replaced by a later entry",
                self.input.name(),
                shown(name)
            ));
            self.last_directory = (Vec::new(), 0);
        }
    }

    /// Gives a node the attributes of an entry.
    fn describe(
        &mut self,
        node: NodeId,
        entry: &Entry,
        header: &Header<'_>,
        extended: &Extended,
    ) -> Result<(), Failure> {
        let id = |pax: Option<u64>, header: i64| match pax {
            Some(id) => u32::try_from(id).ok(),
            None => u32::try_from(header).ok(),
        };
        let no_id = || self.refused(&entry.path, "has an owner whose number has more than 32 bits");
        let uid = match extended.uid {
            Some(_) => id(extended.uid, 0),
            None => id(None, self.number(header.uid())?),
        };
        let gid = match extended.gid {
            Some(_) => id(extended.gid, 0),
            None => id(None, self.number(header.gid())?),
        };
        let (uid, gid) = uid.zip(gid).ok_or_else(no_id)?;
        let (mtime_sec, mtime_nsec) = match extended.mtime {
            Some(time) => time,
            None => (self.number(header.mtime())?, 0),
        };
        let permissions = (self.number(header.mode())? & 0o7777) as u16;
        let xattrs = if self.options.xattrs { self.xattrs(entry, extended)? } else { Vec::new() };
        let xattrs = self.sets.add(xattrs);
        let node = &mut self.nodes[node as usize];
        // A symlink's own permissions are never asked for; the kernel says 0777, and so does a scan.
        node.permissions = if node.kind == Kind::Link { 0o777 } else { permissions };
        (node.uid, node.gid, node.mtime_sec, node.mtime_nsec) = (uid, gid, mtime_sec, mtime_nsec);
        node.xattrs = xattrs;
        Ok(())
    }

    /// All attributes of an entry. What stands in it exactly goes before what stands in it in words.
    fn xattrs(&mut self, entry: &Entry, extended: &Extended) -> Result<XattrSet, Failure> {
        let mut set = XattrSet::new();
        for (name, text, which) in [
            (&b"system.posix_acl_access"[..], &extended.acl_access, acl::Which::Access),
            (b"system.posix_acl_default", &extended.acl_default, acl::Which::Default),
        ] {
            let Some(text) = text else { continue };
            let acl = acl::encode(text, which, &mut self.acl_names).map_err(|err| {
                self.refused(&entry.path, &format!("has an ACL that cannot be read: {err}"))
                    .hint("pack with `tar --numeric-owner`, or `tar --xattrs` without `--acls`")
            })?;
            set.extend(acl.map(|acl| (name.to_vec(), acl)));
        }
        if let Some(label) = &extended.selinux {
            // As programs set it, with a final zero byte.
            let mut label = label.clone();
            label.push(0);
            set.push((b"security.selinux".to_vec(), label));
        }
        let exact = extended.archived_xattrs.iter().chain(&extended.xattrs);
        for (name, value) in exact {
            if self.sets.keeps(name, self.progress) {
                set.push((name.clone(), value.clone()));
            }
        }
        Ok(set)
    }

    /// Passes over a file's content; tells where it was kept.
    fn content(
        &mut self,
        entry: &Entry,
        header: &Header<'_>,
        extended: &Extended,
    ) -> Result<Place, Failure> {
        let sparse = &extended.sparse;
        let (map, size, map_len) = match (entry.type_flag, sparse.major, &sparse.map) {
            (b'S', ..) => {
                let map = self.old_sparse_map(header)?;
                (map, u64::try_from(self.number(header.sparse_size())?).ok(), 0)
            }
            (_, None | Some(0), Some(map)) => (map.clone(), sparse.size, 0),
            (_, Some(1), _) if sparse.minor.unwrap_or(0) == 0 => {
                let (map, map_len) = self.leading_sparse_map(entry.stored_len)?;
                (map, sparse.size, map_len)
            }
            (_, None, None) => {
                let kept_at = self.input.keep(entry.stored_len)?;
                return Ok(Place::Whole { kept_at, size: entry.stored_len });
            }
            _ => return Err(self.refused(&entry.path, "is sparse in a way that is not known")),
        };
        let wrong = || {
            self.input
                .damaged(format!("the map of the sparse file {} is impossible", shown(&entry.path)))
        };
        let size = size.filter(|size| i64::try_from(*size).is_ok()).ok_or_else(wrong)?;
        let stored_len = entry.stored_len.checked_sub(map_len).ok_or_else(wrong)?;
        let mut extents = Vec::with_capacity(map.len());
        let (mut end, mut taken) = (0_u64, 0_u64);
        for (offset, len) in map {
            let extent_end = offset.checked_add(len).ok_or_else(wrong)?;
            if offset < end || extent_end > size {
                return Err(wrong());
            }
            if len > 0 {
                extents.push(Extent { offset, len, kept_at: taken });
            }
            (end, taken) = (extent_end, taken.checked_add(len).ok_or_else(wrong)?);
        }
        if taken != stored_len {
            return Err(wrong());
        }
        let kept_at = self.input.keep(stored_len)?;
        extents.iter_mut().for_each(|extent| extent.kept_at += kept_at);
        Ok(Place::Sparse { extents: extents.into(), size })
    }

    /// The map of GNU's old sparse files: in the header and in records after it.
    fn old_sparse_map(&mut self, header: &Header<'_>) -> Result<Vec<(u64, u64)>, Failure> {
        let (mut map, mut more) = self.number(header.sparse_map())?;
        while more {
            let record = self.input.record()?.ok_or_else(|| self.input.cut_off())?;
            let (entries, again) = self.number(Header(&record).more_sparse_map())?;
            map.extend(entries);
            more = again;
            if map.len() > EXTENTS_MAX {
                return Err(self.input.damaged("a sparse file has too many pieces"));
            }
        }
        map.into_iter()
            .map(|(offset, len)| Some((u64::try_from(offset).ok()?, u64::try_from(len).ok()?)))
            .collect::<Option<_>>()
            .ok_or_else(|| self.input.damaged("the map of a sparse file is impossible"))
    }

    /// The map of version 1.0: decimal numbers, one a line, in records before the content. And the length of those.
    fn leading_sparse_map(&mut self, stored_len: u64) -> Result<(Vec<(u64, u64)>, u64), Failure> {
        let mut text = Vec::new();
        let mut numbers: Vec<u64> = Vec::new();
        let mut map_len = 0;
        loop {
            // The first number tells how many pairs follow.
            let wanted = match numbers.first() {
                Some(count) if *count > EXTENTS_MAX as u64 => {
                    return Err(self.input.damaged("a sparse file has too many pieces"));
                }
                Some(count) => 1 + 2 * *count as usize,
                None => usize::MAX,
            };
            if numbers.len() >= wanted {
                break;
            }
            let Some(end) = text.iter().position(|byte| *byte == b'\n') else {
                if map_len >= stored_len || text.len() > RECORD_LEN {
                    return Err(self.input.damaged("the map of a sparse file has no end"));
                }
                text.extend(self.input.record()?.ok_or_else(|| self.input.cut_off())?);
                map_len += RECORD_LEN as u64;
                continue;
            };
            let number = pax::decimal(&text[..end]);
            numbers.push(
                number
                    .ok_or_else(|| self.input.damaged("the map of a sparse file is impossible"))?,
            );
            text.drain(..=end);
        }
        let (pairs, _) = numbers[1..].as_chunks::<2>();
        Ok((pairs.iter().map(|[offset, len]| (*offset, *len)).collect(), map_len))
    }

    fn refused(&self, path: &[u8], what: &str) -> Failure {
        Failure::new(format!("{}: `{}` {what}", self.input.name(), shown(path)))
    }

    /// Hangs every name into its directory.
    fn finish(mut self) -> Result<(SourceTree, TarContents), Failure> {
        for ((parent, name), node) in self.names {
            if let Some(Node { body: Body::Dir(children), .. }) =
                self.nodes.get_mut(parent as usize)
            {
                children.push((name, node));
            }
        }
        let mut tree = SourceTree { nodes: self.nodes, xattr_sets: self.sets.into_list() };
        exclude(&mut tree, self.options.filter);
        Ok((tree, TarContents { kept: self.input.finish()?, places: self.places }))
    }
}

/// Takes excluded names out of a tree. Only now: a file whose name is excluded may have another one that is not.
fn exclude(tree: &mut SourceTree, filter: &Filter) {
    if filter.is_empty() {
        return;
    }
    let mut stack = vec![(0, Vec::new())];
    while let Some((directory, prefix)) = stack.pop() {
        let mut subdirectories = Vec::new();
        let Body::Dir(mut children) =
            std::mem::replace(&mut tree.nodes[directory as usize].body, Body::Plain)
        else {
            continue;
        };
        children.retain(|(name, child)| {
            let path = [&prefix[..], name].concat();
            let kept = !filter.excludes(&path);
            if kept && tree.nodes[*child as usize].kind == Kind::Dir {
                subdirectories.push((*child, [&path[..], b"/"].concat()));
            }
            kept
        });
        tree.nodes[directory as usize].body = Body::Dir(children);
        stack.extend(subdirectories);
    }
}

#[cfg(test)]
mod tests;
