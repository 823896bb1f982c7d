//! Who may send a newer program? A process in the name space of mounts in which the server was started.

use std::io;
use std::os::fd::AsFd;

use serde::{Deserialize, Serialize};

/// The name space of mounts that a process is in (namespaces(7)).
pub(super) const NAMESPACE: &str = "/proc/self/ns/mnt";

/// A name space, as stat(2) tells it from others (namespaces(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespace {
    /// The device of `nsfs`.
    pub device: u64,
    /// The number on it.
    pub inode: u64,
}

impl Namespace {
    /// That of this process.
    pub(super) fn own() -> io::Result<Namespace> {
        rustix::fs::stat(NAMESPACE).map(Namespace::of).map_err(io::Error::from)
    }

    /// Whether a descriptor is that of this name space. Nobody can make a file that looks like it: the device is the kernel's
    /// own.
    pub(super) fn is(self, descriptor: impl AsFd) -> io::Result<bool> {
        Ok(Namespace::of(rustix::fs::fstat(descriptor)?) == self)
    }

    fn of(stat: rustix::fs::Stat) -> Namespace {
        Namespace { device: stat.st_dev, inode: stat.st_ino }
    }
}
