//! How does the image get its name? Written without one, synced, read back and verified; only then renamed into place.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use ashlarfs::format::digest::Digest;
use rustix::fs::{AtFlags, CWD, OFlags, linkat};

use crate::Failure;
use crate::seal::Seal;

/// An image on its way: a file without a name where the file system can do that, else one with a name that is removed
/// again. What is not finished leaves nothing behind, even when the process is killed.
#[derive(Debug)]
pub(crate) struct Draft {
    target: PathBuf,
    directory: PathBuf,
    /// The name that the draft has meanwhile, if it has one.
    name: Option<PathBuf>,
}

impl Draft {
    /// Opens a file for an image that shall be called `target`.
    pub(crate) fn create(target: &Path) -> Result<(Self, File), Failure> {
        let wrap = |err: io::Error| Failure::io(format!("cannot write {}", target.display()), &err);
        if target.is_dir() {
            return Err(wrap(io::ErrorKind::IsADirectory.into()));
        }
        if target.exists() && !target.is_file() {
            return Err(Failure::new(format!("{} is no regular file", target.display()))
                .hint("write the image to a file, then copy it to the device"));
        }
        let directory = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        let mut draft = Draft { target: target.to_owned(), directory, name: None };
        let unnamed = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(OFlags::TMPFILE.bits().cast_signed())
            .mode(0o644)
            .open(&draft.directory);
        let file = match unnamed {
            Ok(file) => file,
            Err(err)
                if matches!(
                    err.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied
                ) =>
            {
                return Err(wrap(err));
            }
            Err(_) => {
                let name = draft.temporary_name();
                let file = OpenOptions::new()
                    .read(true)
                    .write(true)
                    .create_new(true)
                    .mode(0o644)
                    .open(&name);
                let file = file.map_err(wrap)?;
                draft.name = Some(name);
                file
            }
        };
        Ok((draft, file))
    }

    fn temporary_name(&self) -> PathBuf {
        let name = self.target.file_name().unwrap_or_default().to_string_lossy();
        self.directory.join(format!(".{name}.{}.tmp", std::process::id()))
    }

    /// Completes the image, proves it and gives it its name. `prove` opens the file anew and verifies the whole of it.
    pub(crate) fn finish(
        mut self,
        file: &File,
        seal: &Seal,
        trailer: &[u8],
        prove: impl FnOnce(File, Digest) -> Result<(), Failure>,
    ) -> Result<u64, Failure> {
        let target = self.target.clone();
        let wrap = |err: io::Error| Failure::io(format!("cannot write {}", target.display()), &err);
        let end_at = file.metadata().map_err(wrap)?.len();
        file.write_all_at(&seal.end, end_at).map_err(wrap)?;
        file.write_all_at(trailer, end_at + seal.end.len() as u64).map_err(wrap)?;
        file.write_all_at(&seal.superblock, 0).map_err(wrap)?;
        file.sync_all().map_err(wrap)?;
        // Through a descriptor of its own, as every later reader will have one.
        let again = File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).map_err(wrap)?;
        prove(again, seal.root_digest)?;
        if self.name.is_none() {
            let name = self.temporary_name();
            drop(std::fs::remove_file(&name));
            let from = format!("/proc/self/fd/{}", file.as_raw_fd());
            linkat(CWD, from, CWD, &name, AtFlags::SYMLINK_FOLLOW)
                .map_err(|err| wrap(err.into()))?;
            self.name = Some(name);
        }
        if let Some(name) = &self.name {
            std::fs::rename(name, &self.target).map_err(wrap)?;
        }
        self.name = None;
        File::open(&self.directory).and_then(|directory| directory.sync_all()).map_err(wrap)?;
        Ok(file.metadata().map_err(wrap)?.len())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            drop(std::fs::remove_file(name));
        }
    }
}
