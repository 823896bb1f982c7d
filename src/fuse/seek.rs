//! Where is data, and where is a hole?

use fuser::{Errno, INodeNo};

use super::Server;
use super::convert::inode_index;
use crate::error::Result;

/// `whence` of lseek(2), as the kernel numbers it on every architecture.
const SEEK_DATA: i32 = 3;
const SEEK_HOLE: i32 = 4;

impl Server {
    pub(super) fn seek(
        &self,
        ino: INodeNo,
        offset: i64,
        whence: i32,
    ) -> Result<Result<i64, Errno>> {
        // lseek(2): an offset before the start or at the end, or no data behind it, is ENXIO.
        let Ok(offset) = u64::try_from(offset) else { return Ok(Err(Errno::ENXIO)) };
        let file = self.tree.file(inode_index(ino)?)?;
        let found = match whence {
            SEEK_DATA => file.seek_data(offset)?,
            SEEK_HOLE => file.seek_hole(offset)?,
            _ => return Ok(Err(Errno::EINVAL)),
        };
        Ok(found.and_then(|at| i64::try_from(at).ok()).ok_or(Errno::ENXIO))
    }
}
