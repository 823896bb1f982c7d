//! What must a place that holds an image be able to do? Tell its length, and fill a buffer.

use std::fmt::Debug;
use std::io;
use std::os::fd::BorrowedFd;

/// A place that holds an image. What it returns is believed by nobody until `store` has checked it.
pub trait Source: Debug + Send + Sync {
    /// Length in bytes, as it is now.
    fn len(&self) -> u64;

    /// Whether there is nothing at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether bytes may follow the image that are no part of it, as on a block device.
    fn has_slack(&self) -> bool {
        false
    }

    /// Hears that `len` bytes at `offset` will be read soon, as far as there are so many. It does not wait for them.
    fn will_need(&self, _offset: u64, _len: u64) {}

    /// The open file, for those who hand it on to another process; `None` where there is none.
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Fills `buf` with the bytes at `offset`; an error when they are not all there.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;
}
