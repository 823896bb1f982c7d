//! What will a successor need? It is taken as long as there are paths.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use super::letter::Duty;
use super::namespace::Namespace;
use super::program::Program;
use crate::fs::Tree;
use crate::fuse::session::Work;
use crate::heal::handed::Handed;
use crate::{Method, Options};

/// All of it but the connection with the kernel.
#[derive(Debug)]
pub struct Inheritance {
    pub(super) duty: Duty,
    pub(super) image: OwnedFd,
    pub(super) beside: Option<OwnedFd>,
    pub(super) proc: Option<OwnedFd>,
    pub(super) log: Option<OwnedFd>,
    pub(super) unmounter: Option<OwnedFd>,
    pub(super) program: Program,
    pub(super) healing: Vec<OwnedFd>,
    pub(super) name: OsString,
}

/// How the two processes live.
#[derive(Debug)]
pub struct Manner {
    /// What both are called.
    pub name: OsString,
    /// What is logged: `error`, `warn`, `info` or `debug`.
    pub log_level: String,
    /// The kernel's log, where they shall write to that.
    pub log: Option<OwnedFd>,
    /// Whether this is the server of `/`.
    pub is_root: bool,
    /// Whether the server logs to its standard error.
    pub is_foreground: bool,
    /// After so many seconds without an answer a server is replaced; 0 for never.
    pub watchdog_secs: u64,
}

impl Inheritance {
    /// Takes what there is of a tree that was opened with `options` and is going to be served by `work`.
    pub fn take(
        tree: &Tree,
        options: &Options,
        work: &Work,
        handed: Handed,
        manner: Manner,
    ) -> io::Result<Inheritance> {
        let image = tree.store().source().descriptor().ok_or(io::ErrorKind::Unsupported)?;
        let image = image.try_clone_to_owned()?;
        let is_file = File::from(image.try_clone()?).metadata()?.is_file();
        let copy = |it: &Option<OwnedFd>| it.as_ref().map(OwnedFd::try_clone).transpose();
        let Handed { plan, descriptors } = handed;
        let Manner { name, log_level, log, is_root, is_foreground, watchdog_secs } = manner;
        Ok(Inheritance {
            duty: Duty {
                root_digest: tree.root_digest().to_string(),
                workers: work.workers,
                readahead_kb: work.readahead_kb,
                digest_xattr: work.digest_xattr,
                cache_bytes: (options.cache.data_bytes_max, options.cache.metadata_bytes_max),
                is_mapped: is_file && options.method != Method::Pread,
                log_level,
                is_root,
                namespace: Namespace::own()?,
                is_foreground,
                watchdog_secs,
                io_timeout_secs: options.io_timeout.map_or(0, |patience| patience.as_secs()),
                healing: plan,
            },
            image,
            beside: copy(&work.image)?,
            proc: copy(&work.proc)?,
            log,
            unmounter: None,
            program: Program::ours(is_root)?,
            healing: descriptors,
            name,
        })
    }

    /// Adds the way to who unmounts, where the two processes cannot themselves.
    #[must_use]
    pub fn unmounted_by(self, unmounter: Option<OwnedFd>) -> Inheritance {
        Inheritance { unmounter, ..self }
    }
}
