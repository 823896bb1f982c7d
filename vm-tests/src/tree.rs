//! What is in the image? A small tree, written as a tar archive, so that nobody has to be root to own device nodes.

use std::fs;
use std::path::Path;

use ashlarfs::Digest;
use tar::{Builder, EntryType, Header};

use crate::outcome::{Doing, Result, Stop};

/// A tree that grows.
pub(crate) struct Tree {
    tar: Builder<Vec<u8>>,
}

impl Tree {
    /// A tree with nothing but its root.
    pub(crate) fn new() -> Result<Self> {
        let mut tree = Tree { tar: Builder::new(Vec::new()) };
        tree.add("./", EntryType::Directory, 0o755, "", &[])?;
        Ok(tree)
    }

    /// Adds directories; parents come first.
    pub(crate) fn directories(&mut self, paths: &[&str]) -> Result<()> {
        paths.iter().try_for_each(|path| {
            self.add(&format!("{path}/"), EntryType::Directory, 0o755, "", &[])
        })
    }

    /// Adds a directory with a mode of its own.
    pub(crate) fn directory(&mut self, path: &str, mode: u32) -> Result<()> {
        self.add(&format!("{path}/"), EntryType::Directory, mode, "", &[])
    }

    /// Adds a file.
    pub(crate) fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.add(path, EntryType::Regular, mode, "", content)
    }

    /// Adds a file with an extended attribute.
    pub(crate) fn file_with(
        &mut self,
        path: &str,
        mode: u32,
        content: &[u8],
        name: &str,
        value: &[u8],
    ) -> Result<()> {
        let key = format!("SCHILY.xattr.{name}");
        self.tar.append_pax_extensions([(key.as_str(), value)]).doing("cannot write the tree")?;
        self.file(path, mode, content)
    }

    /// Adds a symbolic link.
    pub(crate) fn link(&mut self, path: &str, target: &str) -> Result<()> {
        self.add(path, EntryType::Symlink, 0o777, target, &[])
    }

    /// Adds another name of a file that is there.
    pub(crate) fn hard_link(&mut self, path: &str, target: &str) -> Result<()> {
        self.add(path, EntryType::Link, 0o644, target, &[])
    }

    /// Adds a character device.
    pub(crate) fn device(&mut self, path: &str, mode: u32, major: u32, minor: u32) -> Result<()> {
        let mut header = header(EntryType::Char, mode, 0);
        header.set_device_major(major).doing("cannot write the tree")?;
        header.set_device_minor(minor).doing("cannot write the tree")?;
        self.tar.append_data(&mut header, path, &[][..]).doing("cannot write the tree")
    }

    /// Makes an image of it; `options` are those of `mkimage`. Returns its root digest.
    pub(crate) fn image(self, image: &Path, options: &[String]) -> Result<Digest> {
        let tar = image.with_extension("tar");
        let bytes = self.tar.into_inner().doing("cannot write the tree")?;
        fs::write(&tar, bytes).doing(format!("cannot write {}", tar.display()))?;
        let mut words = vec!["mkimage".into(), "--quiet".into(), "--tar".into()];
        words.extend(options.iter().map(Into::into));
        words.extend([tar.clone().into_os_string(), image.as_os_str().to_owned()]);
        let summary = ashlarfs_mkimage::run(words)
            .map_err(|failure| Stop::Failed(format!("mkimage: {}", failure.message)))?;
        fs::remove_file(&tar).doing(format!("cannot remove {}", tar.display()))?;
        summary.root_digest.parse().doing("mkimage said no digest")
    }

    fn add(
        &mut self,
        path: &str,
        kind: EntryType,
        mode: u32,
        target: &str,
        content: &[u8],
    ) -> Result<()> {
        let len = u64::try_from(content.len()).doing("a file is too large")?;
        let mut header = header(kind, mode, len);
        let added = if [EntryType::Symlink, EntryType::Link].contains(&kind) {
            self.tar.append_link(&mut header, path, target)
        } else {
            self.tar.append_data(&mut header, path, content)
        };
        added.doing(format!("cannot write {path} into the tree"))
    }
}

fn header(kind: EntryType, mode: u32, len: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(len);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_700_000_000);
    header
}
