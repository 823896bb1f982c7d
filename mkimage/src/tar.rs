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
mod sparse;
mod tree;

use std::path::Path;

use ashlarfs::format::inode::Kind;

use crate::Failure;
use crate::filter::Filter;
use crate::options::Progress;
use crate::text::shown;
use crate::tree::{Body, Node, NodeId, SourceTree, XattrSet};
use crate::xattrs::XattrSets;
use content::Place;
pub(crate) use content::TarContents;
use header::{Header, NoNumber};
use input::Input;
use pax::Extended;
use tree::{Growing, Name, Replaced, directory};

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
        tree: Growing::new(),
        sets: XattrSets::default(),
        acl_names: acl::Names::default(),
        entries: 0,
    };
    archive.run()?;
    archive.finish()
}

struct Archive<'a> {
    options: &'a TarOptions<'a>,
    progress: &'a dyn Progress,
    input: Input,
    tree: Growing,
    sets: XattrSets,
    acl_names: acl::Names,
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
                    let records = self.extension(header)?;
                    let extended = next.get_or_insert_with(|| global.clone());
                    extended.add(&records).map_err(|err| self.input.damaged(err))?;
                }
                b'g' => {
                    let records = self.extension(header)?;
                    global.add(&records).map_err(|err| self.input.damaged(err))?;
                }
                b'L' => long_path = Some(self.long_name(header)?),
                b'K' => long_link = Some(self.long_name(header)?),
                // A label of the whole archive.
                b'V' => {
                    let len = self.stored_len(header, &Extended::default())?;
                    self.input.keep_nothing(len)?;
                }
                _ => {
                    let mut extended = next.take().unwrap_or_else(|| global.clone());
                    extended.path = extended.path.or(long_path.take());
                    extended.link = extended.link.or(long_link.take());
                    (long_path, long_link) = (None, None);
                    self.entry(header, extended)?;
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

    fn extension(&mut self, header: Header<'_>) -> Result<Vec<u8>, Failure> {
        let len = self.stored_len(header, &Extended::default())?;
        if len > EXTENDED_LEN_MAX {
            return Err(self.input.damaged(format!("an extended header has {len} bytes")));
        }
        self.input.bytes(len)
    }

    fn long_name(&mut self, header: Header<'_>) -> Result<Vec<u8>, Failure> {
        let mut name = self.extension(header)?;
        name.truncate(name.iter().position(|byte| *byte == 0).unwrap_or(name.len()));
        Ok(name)
    }

    fn stored_len(&self, header: Header<'_>, extended: &Extended) -> Result<u64, Failure> {
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
    fn entry(&mut self, header: Header<'_>, mut extended: Extended) -> Result<(), Failure> {
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
        header: Header<'_>,
        extended: &Extended,
    ) -> Result<(), Failure> {
        let Some(name) = self.place(entry)? else {
            self.input.keep_nothing(entry.stored_len)?;
            return self.describe(0, entry, header, extended);
        };
        // Of an incremental archive: the names that were in it.
        self.input.keep_nothing(entry.stored_len)?;
        let node = match self.tree.get(&name) {
            Some(node) if self.tree.is_directory(node) => node,
            _ => self.bind(entry, name, directory(), Place::None)?,
        };
        self.describe(node, entry, header, extended)
    }

    fn add_file(
        &mut self,
        entry: &Entry,
        header: Header<'_>,
        extended: &Extended,
    ) -> Result<(), Failure> {
        let name = self.place_of_file(entry)?;
        let place = sparse::content(&mut self.input, header, &extended.sparse, entry.stored_len)?;
        let body = Body::File { size: place.size() };
        let node = Node { kind: Kind::File, body, ..directory() };
        let node = self.bind(entry, name, node, place)?;
        self.describe(node, entry, header, extended)
    }

    fn add_other(
        &mut self,
        entry: &Entry,
        header: Header<'_>,
        extended: &Extended,
        kind: Kind,
        body: Body,
    ) -> Result<(), Failure> {
        let name = self.place_of_file(entry)?;
        let node = self.bind(entry, name, Node { kind, body, ..directory() }, Place::None)?;
        self.describe(node, entry, header, extended)
    }

    fn add_hard_link(
        &mut self,
        entry: &Entry,
        header: Header<'_>,
        extended: &Extended,
    ) -> Result<(), Failure> {
        let target = extended.link.clone().unwrap_or_else(|| header.link());
        let node = self.tree.find(&target).filter(|node| !self.tree.is_directory(*node));
        let node = node.ok_or_else(|| {
            let what =
                format!("is a hard link to `{}`, which is no file before it", shown(&target));
            self.refused(&entry.path, &what)
        })?;
        let name = self.place_of_file(entry)?;
        let replaced = self.tree.link(name, node);
        self.tell(entry, replaced);
        Ok(())
    }

    fn place(&mut self, entry: &Entry) -> Result<Option<Name>, Failure> {
        self.tree.place(&entry.path).map_err(|what| self.refused(&entry.path, &what))
    }

    fn place_of_file(&mut self, entry: &Entry) -> Result<Name, Failure> {
        self.place(entry)?.ok_or_else(|| self.refused(&entry.path, "is the root, and no directory"))
    }

    fn bind(
        &mut self,
        entry: &Entry,
        name: Name,
        node: Node,
        place: Place,
    ) -> Result<NodeId, Failure> {
        let bound = self.tree.bind(name, node, place);
        let (node, replaced) = bound.map_err(|what| self.refused(&entry.path, &what))?;
        self.tell(entry, replaced);
        Ok(node)
    }

    fn tell(&self, entry: &Entry, replaced: Replaced) {
        if replaced == Replaced::Directory {
            self.progress.warn(&format!(
                "{}: `{}` replaces a directory, and what was in it is left out",
                self.input.name(),
                shown(&entry.path)
            ));
        }
    }

    /// Gives a node the attributes of an entry.
    fn describe(
        &mut self,
        node: NodeId,
        entry: &Entry,
        header: Header<'_>,
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
        let permissions = u16::try_from(self.number(header.mode())? & 0o7777).unwrap_or(0);
        let xattrs = if self.options.xattrs { self.xattrs(entry, extended)? } else { Vec::new() };
        let xattrs = self.sets.add(xattrs);
        let node = &mut self.tree.nodes[node as usize];
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

    fn refused(&self, path: &[u8], what: &str) -> Failure {
        Failure::new(format!("{}: `{}` {what}", self.input.name(), shown(path)))
    }

    fn finish(self) -> Result<(SourceTree, TarContents), Failure> {
        let (nodes, places) = self.tree.finish(self.options.filter);
        let tree = SourceTree { nodes, xattr_sets: self.sets.into_list() };
        Ok((tree, TarContents { kept: self.input.finish()?, places }))
    }
}

#[cfg(test)]
mod tests;
