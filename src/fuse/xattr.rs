//! What does the kernel hear of extended attributes?

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use fuser::{Errno, INodeNo, ReplyXattr};

use super::convert::inode_index;
use super::{ROOT_DIGEST_XATTR, SELINUX_XATTR, Server, UID_WITHHELD};
use crate::error::Result;
use crate::format::field::{u32_from_usize, usize_from_u32};

impl Server {
    pub(super) fn xattr(&self, ino: INodeNo, name: &OsStr) -> Result<Option<Vec<u8>>> {
        if ino == INodeNo::ROOT && name == ROOT_DIGEST_XATTR {
            return Ok(Some(self.tree.root_digest().to_string().into_bytes()));
        }
        self.tree.xattr(inode_index(ino)?, name.as_bytes())
    }

    /// The word for an xattr that an inode does not have. The kernel remembers neither, and `ls -l` asks for a label and an
    /// ACL of each file; but where it is told that the file system has no such thing, it asks no more.
    pub(super) fn no_xattr(&self, name: &OsStr) -> Errno {
        let supported = match name.as_bytes() {
            b"system.posix_acl_access" | b"system.posix_acl_default" => self.tree.has_posix_acls(),
            name if name == SELINUX_XATTR.as_bytes() => self.labels,
            _ => true,
        };
        if supported { Errno::ENODATA } else { Errno::EOPNOTSUPP }
    }

    /// Names, each with a zero byte. `trusted.*` is for the superuser's eyes; the kernel hides its values but not its names.
    /// Since ID-mapped mounts (Linux 6.12) it may not say who asks; then names are told, for a copy must be whole.
    pub(super) fn xattr_list(&self, ino: INodeNo, uid: u32) -> Result<Vec<u8>> {
        let mut list = Vec::new();
        for name in self.tree.xattr_names(inode_index(ino)?)? {
            if matches!(uid, 0 | UID_WITHHELD) || !name.starts_with(b"trusted.") {
                list.extend_from_slice(&name);
                list.push(0);
            }
        }
        Ok(list)
    }
}

/// Answers a question for bytes whose length may be asked for first (`size` 0), as xattrs are.
pub(super) fn reply_sized(reply: ReplyXattr, bytes: &[u8], size: u32) {
    if size == 0 {
        reply.size(u32_from_usize(bytes.len()));
    } else if bytes.len() <= usize_from_u32(size) {
        reply.data(bytes);
    } else {
        reply.error(Errno::ERANGE);
    }
}
