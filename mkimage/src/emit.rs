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

/// What writes parity behind the first so many bytes of a file.
pub(crate) type MakeParity<'a> = dyn Fn(&File, u64) -> Result<(), Failure> + 'a;

/// An image on its way. A failed build leaves nothing behind, and the target is the old image or the whole new one.
///
/// When the process is killed: where the file system knows files without a name (`O_TMPFILE`), nothing is left either,
/// but for the moment between naming the proven image and renaming it. Where it does not, `.ashlar-PID-N.tmp` stays
/// beside the target, and nothing of ours removes it.
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
        // Told now, not when all is built. Whatever else is wrong with the path is told by opening its directory.
        if let Err(err) = target.symlink_metadata()
            && err.kind() == io::ErrorKind::InvalidFilename
        {
            return Err(wrap(err));
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
                let mut options = OpenOptions::new();
                options.read(true).write(true).create_new(true).mode(0o644);
                let (file, name) =
                    draft.with_temporary_name(|name| options.open(name)).map_err(wrap)?;
                draft.name = Some(name);
                file
            }
        };
        reopen(&file)?;
        Ok((draft, file))
    }

    /// Makes something that has a name for a while: the first name that nobody uses. Builds side by side may have the
    /// same process number, in containers; and a process may run several.
    fn with_temporary_name<T>(
        &self,
        make: impl Fn(&Path) -> io::Result<T>,
    ) -> io::Result<(T, PathBuf)> {
        let mut nth = 0;
        loop {
            // Short, whatever the target's name is.
            let name = self.directory.join(format!(".ashlar-{}-{nth}.tmp", std::process::id()));
            match make(&name) {
                Err(err) if err.kind() == io::ErrorKind::AlreadyExists && nth < 999 => nth += 1,
                made => return made.map(|made| (made, name)),
            }
        }
    }

    /// Completes the image, proves it and gives it its name. `parity` writes parity behind so many bytes, `prove` opens the file
    /// anew and verifies the whole of it.
    pub(crate) fn finish(
        mut self,
        file: &File,
        seal: &Seal,
        trailer: &[u8],
        parity: Option<&MakeParity<'_>>,
        prove: impl FnOnce(File, Digest) -> Result<(), Failure>,
    ) -> Result<u64, Failure> {
        let target = self.target.clone();
        let wrap = |err: io::Error| Failure::io(format!("cannot write {}", target.display()), &err);
        let end_at = file.metadata().map_err(wrap)?.len();
        file.write_all_at(&seal.end, end_at).map_err(wrap)?;
        file.write_all_at(trailer, end_at + seal.end.len() as u64).map_err(wrap)?;
        file.write_all_at(&seal.superblock, 0).map_err(wrap)?;
        if let Some(parity) = parity {
            parity(file, end_at + (seal.end.len() + trailer.len()) as u64)?;
        }
        file.sync_all().map_err(wrap)?;
        // Through a descriptor of its own, as every later reader will have one.
        prove(reopen(file)?, seal.root_digest)?;
        if self.name.is_none() {
            let link = |name: &Path| {
                linkat(CWD, path_of(file), CWD, name, AtFlags::SYMLINK_FOLLOW).map_err(Into::into)
            };
            let ((), name) = self.with_temporary_name(link).map_err(wrap)?;
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

/// The path of an open file, whether it has a name or not.
fn path_of(file: &File) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

fn reopen(file: &File) -> Result<File, Failure> {
    File::open(path_of(file)).map_err(|err| {
        Failure::io("cannot read the image through /proc/self/fd", &err)
            .hint("an image is verified before it gets its name: mount /proc, and let the umask leave files readable")
    })
}

impl Drop for Draft {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            drop(std::fs::remove_file(name));
        }
    }
}
