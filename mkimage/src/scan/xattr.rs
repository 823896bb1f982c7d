//! Which extended attributes does a file have?

use std::collections::BTreeSet;

use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::{lgetxattr, llistxattr, llistxattr_query, stat};
use rustix::io::Errno;

use crate::Failure;
use crate::tree::XattrSet;
use crate::xattrs::is_kept;

/// Longest list of names and longest value that Linux has.
const LEN_MAX: usize = 65_536;

/// Reads sets of attributes; keeps its buffers.
#[derive(Debug)]
pub(super) struct Reader {
    names: Vec<u8>,
    value: Vec<u8>,
    /// Names of attributes that were left out.
    ignored: BTreeSet<Vec<u8>>,
    /// Those of them that were not told yet.
    untold: Vec<Vec<u8>>,
}

impl Default for Reader {
    fn default() -> Self {
        Reader {
            names: vec![0; LEN_MAX],
            value: vec![0; LEN_MAX],
            ignored: BTreeSet::new(),
            untold: Vec::new(),
        }
    }
}

/// Holds that attributes can be reached at all.
pub(super) fn check_reachable(root: &OwnedFd) -> Result<(), Failure> {
    match stat(path(root, b".")) {
        Ok(_) => Ok(()),
        Err(err) => {
            Err(Failure::new(format!("cannot read extended attributes: /proc/self/fd: {err}"))
                .hint("mount /proc, or give --no-xattrs"))
        }
    }
}

/// A path that names an entry of an open directory: Linux learnt to list attributes relative to a directory only in
/// 6.13, and opening each file instead would need permission to read it and would wake devices and pipes.
fn path(directory: &OwnedFd, name: &[u8]) -> Vec<u8> {
    let mut path = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    path
}

impl Reader {
    /// The attributes of `name` in `directory` that go into an image.
    pub(super) fn read(&mut self, directory: &OwnedFd, name: &[u8]) -> Result<XattrSet, Errno> {
        let path = path(directory, name);
        // Most files have none, and the kernel is asked for memory of its own only by those who bring some.
        let listed = match llistxattr_query(path.as_slice()) {
            Ok(0) => Ok(0),
            Ok(_) => llistxattr(path.as_slice(), self.names.as_mut_slice()),
            Err(err) => Err(err),
        };
        let len = match listed {
            Ok(len) => len,
            // A file system without any.
            Err(Errno::NOTSUP) => 0,
            Err(err) => return Err(err),
        };
        let mut set = XattrSet::new();
        for name in self.names[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
            if !is_kept(name) {
                if self.ignored.insert(name.to_vec()) {
                    self.untold.push(name.to_vec());
                }
                continue;
            }
            match lgetxattr(path.as_slice(), name, self.value.as_mut_slice()) {
                Ok(len) => set.push((name.to_vec(), self.value[..len].to_vec())),
                // Removed since it was listed.
                Err(Errno::NODATA) => {}
                Err(err) => return Err(err),
            }
        }
        Ok(set)
    }

    /// Names of attributes that were left out, each once.
    pub(super) fn take_ignored(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.untold)
    }
}
