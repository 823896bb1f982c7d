//! How is a file replaced? By another one that has no name until it is complete, checked and on the disk: there is the old file or the
//! new one at any time, and of what was interrupted nothing is left.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, FallocateFlags, OFlags, linkat};

use super::Failure;
use crate::image::{self, Method, Source};

/// Names that are tried: each is that of a process of this number which was killed.
const NAMES_MAX: u32 = 1000;

/// A file that is to take the place of another one. What is not finished is removed.
///
/// Where the file system knows files without a name (`O_TMPFILE`), the kernel removes it, also when the process is killed, but for
/// the moment between naming the file and renaming it. Where it does not, `.ashlar-PID-N.tmp` stays beside the target then.
#[derive(Debug)]
pub(super) struct Draft {
    target: PathBuf,
    directory: PathBuf,
    /// The name that it has meanwhile, if it has one.
    name: Option<PathBuf>,
    file: File,
}

impl Draft {
    /// Begins one, with the mode and owner of `like`.
    pub(super) fn create(target: &Path, like: Option<&File>) -> Result<Draft, Failure> {
        let wrap = |err| cannot_write(target, &err);
        let directory = target.parent().filter(|parent| !parent.as_os_str().is_empty());
        let directory = directory.unwrap_or(Path::new(".")).to_owned();
        let like = like.map(File::metadata).transpose().map_err(wrap)?;
        let mut options = File::options();
        let mode = like.as_ref().map_or(0o644, |like| like.mode() & 0o777);
        options.read(true).write(true).mode(mode);
        let flags = OFlags::TMPFILE.bits().cast_signed();
        let unnamed = options.clone().custom_flags(flags).open(&directory).ok();
        // Its name is given to it by way of /proc.
        let (file, name) = if let Some(file) = unnamed.filter(|file| path_of(file).exists()) {
            (file, None)
        } else {
            options.create_new(true);
            let named = with_temporary_name(&directory, |name| options.open(name));
            let (file, name) = named.map_err(wrap)?;
            (file, Some(name))
        };
        let draft = Draft { target: target.to_owned(), directory, name, file };
        if let Some(like) = like {
            // Only root may give a file away; for everyone else it is theirs already.
            std::os::unix::fs::fchown(&draft.file, Some(like.uid()), Some(like.gid()))
                .unwrap_or_default();
            draft.file.set_permissions(like.permissions()).map_err(wrap)?;
        }
        Ok(draft)
    }

    /// Takes room on the disk for the whole of it. Where there is not so much, none is taken.
    pub(super) fn reserve(&self, len: u64) -> Result<(), Failure> {
        let wrap = |errno: rustix::io::Errno| cannot_write(&self.target, &errno.into());
        let stat = rustix::fs::fstatvfs(&self.file).map_err(wrap)?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        let no_room = || {
            let target = self.target.display();
            Failure::new(format!("cannot write {target}: it needs {len} bytes, {free} are free"))
        };
        // What does not know how large it is has no blocks.
        if len > free && stat.f_blocks > 0 {
            return Err(no_room());
        }
        match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, len.max(1)) {
            // What cannot do it beforehand does it when it is written.
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
            Err(rustix::io::Errno::NOSPC) => Err(no_room()),
            Err(errno) => Err(wrap(errno)),
        }
    }

    /// The file as it is now.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Its bytes, to be read.
    pub(super) fn source(&self) -> Result<Arc<dyn Source>, Failure> {
        let again = self.file.try_clone().and_then(|file| image::from_file(file, Method::Pread));
        again.map_err(|err| {
            Failure::new(format!("cannot read what is to be {}: {err}", self.target.display()))
        })
    }

    /// What it will be called.
    pub(super) fn target(&self) -> &Path {
        &self.target
    }

    /// Writes it down to the disk.
    pub(super) fn sync(&self) -> Result<(), Failure> {
        self.file.sync_all().map_err(|err| cannot_write(&self.target, &err))
    }

    /// Gives it the name of the file that `old` is open on, but only if that is still the one there: what somebody else has put
    /// there meanwhile is newer than what was read.
    pub(super) fn finish_instead_of(self, old: &File) -> Result<(), Failure> {
        let id = |metadata: Metadata| (metadata.dev(), metadata.ino());
        let then = old.metadata().map_err(|err| cannot_write(&self.target, &err))?;
        if fs::metadata(&self.target).is_ok_and(|now| id(now) == id(then)) {
            return self.finish();
        }
        let target = self.target.display();
        Err(Failure::new(format!(
            "{target} was replaced or removed since it was read: it stays as it is now"
        ))
        .hint("do it again, if it is still needed"))
    }

    /// Gives it its name.
    pub(super) fn finish(mut self) -> Result<(), Failure> {
        let target = self.target.clone();
        let wrap = |err| cannot_write(&target, &err);
        if self.name.is_none() {
            let path = path_of(&self.file);
            let link = |name: &Path| {
                linkat(CWD, &path, CWD, name, AtFlags::SYMLINK_FOLLOW).map_err(Into::into)
            };
            let ((), name) = with_temporary_name(&self.directory, link).map_err(wrap)?;
            self.name = Some(name);
        }
        if let Some(name) = &self.name {
            fs::rename(name, &target).map_err(wrap)?;
        }
        self.name = None;
        File::open(&self.directory).and_then(|directory| directory.sync_all()).map_err(wrap)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            fs::remove_file(name).unwrap_or_default();
        }
    }
}

/// Makes something that has a name for a while: the first name that nobody uses, and a short one, whatever the target is called.
fn with_temporary_name<T>(
    directory: &Path,
    make: impl Fn(&Path) -> io::Result<T>,
) -> io::Result<(T, PathBuf)> {
    let pid = std::process::id();
    let names = (0..NAMES_MAX).map(|nth| directory.join(format!(".ashlar-{pid}-{nth}.tmp")));
    for name in names {
        match make(&name) {
            Err(err) if err.kind() == io::ErrorKind::AlreadyExists => {}
            made => return made.map(|made| (made, name)),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// The path of an open file, whether it has a name or not.
fn path_of(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

fn cannot_write(path: &Path, err: &io::Error) -> Failure {
    Failure::new(format!("cannot write {}: {err}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn names(directory: &Path) -> Vec<String> {
        let name = |entry: io::Result<fs::DirEntry>| {
            entry.unwrap().file_name().to_string_lossy().into_owned()
        };
        let mut names: Vec<String> = fs::read_dir(directory).unwrap().map(name).collect();
        names.sort();
        names
    }

    /// Dead drafts of a process of the same number are not in the way, and the longest of names is not too long.
    #[test]
    fn nothing_is_left_and_nothing_is_in_the_way() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("x".repeat(255));
        let old = |content: &str| fs::read_to_string(&target).is_ok_and(|found| found == content);
        fs::write(&target, "old").unwrap();
        fs::set_permissions(&target, std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
        let pid = std::process::id();
        let dead = [0, 1].map(|nth| format!(".ashlar-{pid}-{nth}.tmp"));
        for name in &dead {
            fs::write(directory.path().join(name), "dead").unwrap();
        }
        let begin = || {
            let draft = Draft::create(&target, Some(&File::open(&target).unwrap())).unwrap();
            draft.file().write_all(b"new").unwrap();
            draft
        };
        let before = names(directory.path());
        let draft = begin();
        let has_name = draft.name.is_some();
        assert_eq!(names(directory.path()) != before, has_name, "what has no name is not seen");
        drop(draft);
        assert!(names(directory.path()) == before && old("old"));
        // Where files without a name are not known.
        let mut draft = begin();
        let name = directory.path().join("name.tmp");
        fs::write(&name, "").unwrap();
        draft.name = Some(name);
        drop(draft);
        assert_eq!(names(directory.path()), before);
        let draft = begin();
        draft.sync().unwrap();
        assert_eq!(draft.source().unwrap().len(), 3);
        draft.finish().unwrap();
        assert!(names(directory.path()) == before && old("new"));
        assert_eq!(fs::metadata(&target).unwrap().mode() & 0o777, 0o640);
    }

    #[test]
    fn what_came_meanwhile_is_not_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let [target, newer] = ["target", "newer"].map(|name| directory.path().join(name));
        fs::write(&target, "old").unwrap();
        let old = File::open(&target).unwrap();
        let finish = || {
            let draft = Draft::create(&target, Some(&old)).unwrap();
            draft.file().write_all(b"mended").unwrap();
            draft.finish_instead_of(&old)
        };
        fs::write(&newer, "newer").unwrap();
        fs::rename(&newer, &target).unwrap();
        let failed = finish().unwrap_err();
        assert!(failed.message.contains("was replaced"), "{failed:?}");
        assert_eq!(fs::read_to_string(&target).unwrap(), "newer");
        fs::remove_file(&target).unwrap();
        assert!(finish().is_err());
        assert!(names(directory.path()).is_empty());
    }

    #[test]
    fn what_does_not_fit_takes_no_room() {
        let directory = tempfile::tempdir().unwrap();
        let draft = Draft::create(&directory.path().join("file"), None).unwrap();
        let failed = draft.reserve(1 << 60).unwrap_err();
        assert!(failed.message.contains("it needs 1152921504606846976 bytes"), "{failed:?}");
        assert_eq!(draft.file().metadata().unwrap().blocks(), 0);
        draft.reserve(100_000).unwrap();
        assert!(draft.file().metadata().unwrap().blocks() * 512 >= 100_000);
    }
}
