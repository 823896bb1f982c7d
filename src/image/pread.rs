//! A source that asks the kernel for each piece with `pread(2)`.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::num::NonZeroU64;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, FileTypeExt};

use rustix::fs::Advice;

use super::Source;

/// An image file or block device, read with `pread(2)`.
#[derive(Debug)]
pub struct Pread {
    file: File,
    /// A block device has no length in its metadata; it is found once by seeking.
    device_len: Option<u64>,
}

impl Pread {
    /// Wraps an open file or block device.
    pub fn new(mut file: File) -> io::Result<Self> {
        let is_device = file.metadata()?.file_type().is_block_device();
        let device_len = if is_device { Some(file.seek(SeekFrom::End(0))?) } else { None };
        Ok(Pread { file, device_len })
    }
}

impl Source for Pread {
    fn len(&self) -> u64 {
        self.device_len.unwrap_or_else(|| self.file.metadata().map_or(0, |metadata| metadata.len()))
    }

    fn has_slack(&self) -> bool {
        self.device_len.is_some()
    }

    fn will_need(&self, offset: u64, len: u64) {
        let Some(len) = NonZeroU64::new(len) else { return };
        // It is advice: what does not come by itself is read when it is wanted.
        rustix::fs::fadvise(&self.file, offset, Some(len), Advice::WillNeed).unwrap_or_default();
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.file.as_fd())
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }
}
