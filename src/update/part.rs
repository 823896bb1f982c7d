//! What is an image as long as it is not whole? A file beside the images, under a name that no boot looks at, as long as the image
//! will be from the start: what does not fit is found before anything is fetched.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Advice, FallocateFlags, OFlags};

use super::disk;
use super::failed::Failed;
#[cfg(feature = "fec")]
use crate::fec::{self, Geometry, Share};
use crate::image::{self, Method, Source};

/// Bytes of a sector, in which `st_blocks` counts.
const SECTOR: u64 = 512;

/// An image that is not whole.
#[derive(Debug)]
pub(super) struct Part {
    path: PathBuf,
    file: File,
    /// Whether it was begun by somebody before us.
    pub(super) was_there: bool,
}

impl Part {
    /// Begins it, or goes on with what was begun. It takes its whole room on the disk now.
    pub(super) fn begin(path: &Path, len: u64) -> Result<Part, Failed> {
        let wrap = |err| Failed::io(format_args!("cannot write {}", path.display()), err);
        let directory = path.parent().unwrap_or(Path::new("."));
        disk::make_directory(directory).map_err(wrap)?;
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let mut options = OpenOptions::new();
        options.read(true).write(true).mode(0o600).custom_flags(flags.bits().cast_signed());
        let (file, was_there) = match options.create_new(true).open(path) {
            Err(err) if err.kind() == io::ErrorKind::AlreadyExists => {
                (options.create_new(false).open(path).map_err(wrap)?, true)
            }
            opened => (opened.map_err(wrap)?, false),
        };
        let metadata = file.metadata().map_err(wrap)?;
        if !metadata.is_file() || metadata.nlink() != 1 {
            return Err(Failed::new(format_args!("{} is no file of ours", path.display()))
                .hint("remove it"));
        }
        let part = Part { path: path.to_owned(), file, was_there };
        let begun = part.make_room(len, metadata.blocks().saturating_mul(SECTOR));
        if begun.is_err() && !was_there {
            // What was made for nothing.
            part.discard();
        }
        begun.map(|()| part)
    }

    fn make_room(&self, len: u64, taken: u64) -> Result<(), Failed> {
        let wrap = |err| Failed::io(format_args!("cannot write {}", self.path.display()), err);
        disk::step("make room").map_err(wrap)?;
        let stat = rustix::fs::fstatvfs(&self.file).map_err(|errno| wrap(errno.into()))?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        let need = len.saturating_sub(taken);
        let no_room = || {
            let hint = "`ashlar update gc` removes images that nothing needs any more";
            Failed::new(format_args!("the image needs {need} bytes, {free} are free")).hint(hint)
        };
        if need > free {
            return Err(no_room());
        }
        let fallocated = rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, len.max(1));
        match fallocated {
            // What cannot do it beforehand does it when it is written.
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => {}
            Err(rustix::io::Errno::NOSPC) => return Err(no_room()),
            Err(errno) => return Err(wrap(errno.into())),
        }
        // It may have been begun for a longer one, with more signatures.
        self.file.set_len(len).map_err(wrap)
    }

    /// Writes bytes to their place.
    pub(super) fn write(&self, raw: &[u8], offset: u64) -> Result<(), Failed> {
        let wrote = disk::step("write").and_then(|()| self.file.write_all_at(raw, offset));
        wrote.map_err(|err| {
            let is_full = err.kind() == io::ErrorKind::StorageFull;
            let what = format_args!("cannot write {} bytes to {}", raw.len(), self.path.display());
            let failed = Failed::io(what, err);
            if !is_full {
                return failed;
            }
            failed.hint(
                "make room on the disk: the next `ashlar update install` goes on from what came so far",
            )
        })
    }

    /// Takes away what is behind its end.
    pub(super) fn cut(&self, len: u64) -> Result<(), Failed> {
        self.file
            .set_len(len)
            .map_err(|err| Failed::io(format_args!("cannot cut {}", self.path.display()), err))
    }

    /// Adds parity of its first `len` bytes, if there is room: an image without is as good.
    #[cfg(feature = "fec")]
    pub(super) fn add_parity(&self, len: u64, parity_count: u32) -> Result<(), Failed> {
        // How many there are is the word of nobody who was asked for a signature: no more than a person may want.
        let most = Geometry::of_share(len, Share::MOST).map_or(0, |most| most.parity_count());
        let Some(geometry) = Geometry::new(len, parity_count.min(most)) else { return Ok(()) };
        let wrap = |err| Failed::io("cannot write parity", err);
        let made = self.make_room(geometry.end(), len).and_then(|()| {
            disk::step("make parity").map_err(wrap)?;
            fec::encode(&self.file, geometry, super::wish::workers(), &|_, _| {})?;
            // What does not reach the disk is no parity, and shall not be what the image fails by.
            self.file.sync_all().map_err(wrap)
        });
        let Err(failed) = made else { return Ok(()) };
        tracing::warn!("the image is kept without parity: {failed}");
        self.cut(len)
    }

    /// Its bytes, to be read.
    pub(super) fn source(&self) -> Result<Arc<dyn Source>, Failed> {
        let again = self.file.try_clone().and_then(|file| image::from_file(file, Method::Pread));
        again.map_err(|err| Failed::io(format_args!("cannot read {}", self.path.display()), err))
    }

    /// Writes everything down to the disk, and has the memory forget it: what is read next is read from the disk.
    pub(super) fn write_down(&self) -> Result<(), Failed> {
        let wrap = |err| {
            // After a failed fsync(2) nothing is known of any page: another one would not find them.
            Failed::io(format_args!("cannot write {} down to the disk", self.path.display()), err)
                .hint("the disk may be failing: see the kernel log")
        };
        disk::step("write down").map_err(wrap)?;
        self.file.sync_all().map_err(wrap)?;
        rustix::fs::fadvise(&self.file, 0, None, Advice::DontNeed).map_err(|err| wrap(err.into()))
    }

    /// Lets everybody read it, and nobody write to it.
    pub(super) fn seal(&self) -> Result<(), Failed> {
        rustix::fs::fchmod(&self.file, rustix::fs::Mode::from_raw_mode(0o444))
            .and_then(|()| rustix::fs::fsync(&self.file))
            .map_err(|err| Failed::io("cannot set the mode of the image", err.into()))
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it.
    pub(super) fn discard(&self) {
        if let Err(err) = disk::remove(&self.path) {
            tracing::warn!("cannot remove {}: {err}", self.path.display());
        }
    }
}
