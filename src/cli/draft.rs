//! How is a file replaced? By another one beside it that is complete, checked and on the disk: there is the old file or the new one
//! at any time, whatever happens.

use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::Failure;

/// A file that is to take the place of another one. What is not finished is removed.
#[derive(Debug)]
pub(super) struct Draft {
    target: PathBuf,
    path: PathBuf,
    file: File,
    is_finished: bool,
}

impl Draft {
    /// Begins one, with the mode and owner of `like`.
    pub(super) fn create(target: &Path, like: Option<&File>) -> Result<Draft, Failure> {
        let mut name = target.as_os_str().as_bytes().to_vec();
        name.extend_from_slice(format!(".{}.tmp", std::process::id()).as_bytes());
        let path = PathBuf::from(std::ffi::OsStr::from_bytes(&name));
        let wrap = |err| cannot_write(&path, &err);
        let like = like.map(File::metadata).transpose().map_err(wrap)?;
        let mode = like.as_ref().map_or(0o644, |like| like.mode() & 0o777);
        let mut options = File::options();
        options.read(true).write(true).create_new(true).mode(mode);
        let file = options.open(&path).map_err(wrap)?;
        if let Some(like) = like {
            // Only root may give a file away; for everyone else it is theirs already.
            std::os::unix::fs::fchown(&file, Some(like.uid()), Some(like.gid()))
                .unwrap_or_default();
            file.set_permissions(like.permissions()).map_err(wrap)?;
        }
        Ok(Draft { target: target.to_owned(), path, file, is_finished: false })
    }

    /// The file as it is now.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Where it is until it is finished.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes it down to the disk.
    pub(super) fn sync(&self) -> Result<(), Failure> {
        self.file.sync_all().map_err(|err| cannot_write(&self.path, &err))
    }

    /// Gives it its name.
    pub(super) fn finish(mut self) -> Result<(), Failure> {
        let directory = self.target.parent().filter(|parent| !parent.as_os_str().is_empty());
        let directory = directory.unwrap_or(Path::new("."));
        fs::rename(&self.path, &self.target)
            .and_then(|()| {
                self.is_finished = true;
                File::open(directory)?.sync_all()
            })
            .map_err(|err| cannot_write(&self.target, &err))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.is_finished {
            fs::remove_file(&self.path).unwrap_or_default();
        }
    }
}

fn cannot_write(path: &Path, err: &io::Error) -> Failure {
    Failure::new(format!("cannot write {}: {err}", path.display()))
}
