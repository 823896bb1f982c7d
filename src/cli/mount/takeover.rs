//! What if the server of an ordinary mount dies? What its successor will need, and what that does.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::options::MountOptions;
use super::{MountArgs, finish, listen, termination};
use crate::cli::{Failure, Outcome};
use crate::fuse::session::{Mounted, Work};
use crate::takeover::{self, Called, Duty, Guard, Program};
use crate::{Method, Options, Tree};

/// What a successor will need, taken before anything is mounted.
#[derive(Debug)]
pub(super) struct Inheritance {
    duty: Duty,
    image: OwnedFd,
    beside: Option<OwnedFd>,
    program: Program,
}

/// Takes it.
pub(super) fn inheritance(
    args: &MountArgs,
    tree: &Tree,
    options: &Options,
    mount_options: &MountOptions,
    work: &Work,
) -> Result<Inheritance, Failure> {
    let wrap = |err: io::Error| {
        Failure::new(format!("cannot prepare for a takeover: {err}"))
            .hint("-o notakeover does without")
    };
    let image = tree.store().source().descriptor().map(|it| it.try_clone_to_owned());
    let image = image.unwrap_or_else(|| Err(io::ErrorKind::Unsupported.into())).map_err(wrap)?;
    let is_file = args.image.metadata().is_ok_and(|it| it.is_file());
    Ok(Inheritance {
        duty: Duty {
            root_digest: tree.root_digest().to_string(),
            workers: work.workers,
            readahead_kb: work.readahead_kb,
            digest_xattr: work.digest_xattr,
            cache_bytes: (options.cache.data_bytes_max, options.cache.metadata_bytes_max),
            is_mapped: is_file && options.method != Method::Pread,
            log_level: mount_options.log.to_string(),
            is_root: false,
            namespace: takeover::mount_namespace().map_err(wrap)?,
            is_foreground: args.foreground,
            watchdog_secs: mount_options.watchdog_secs,
            io_timeout_secs: mount_options.io_timeout_secs,
        },
        image,
        beside: work.image.as_ref().map(OwnedFd::try_clone).transpose().map_err(wrap)?,
        program: Program::ours(false).map_err(wrap)?,
    })
}

impl Inheritance {
    /// Has the server watched from now on.
    pub(super) fn guard(self, mounted: &Mounted) -> Result<Arc<Guard>, Failure> {
        let Inheritance { duty, image, beside, program } = self;
        let name = OsStr::new("ashlar");
        Guard::begin(mounted.connection(), duty, image, beside, None, program, name).map_err(
            |err| {
                Failure::new(format!("cannot start the process that holds the mount: {err}"))
                    .hint("-o notakeover does without")
            },
        )
    }
}

/// Serves a mount whose server is gone, or about to go.
pub(in crate::cli) fn succeed(called: Called) -> Outcome {
    let is_root = called.letter.duty.is_root;
    let (mounted, guard) = takeover::succeed(called)
        .map_err(|err| Failure::new(format!("cannot take over: {err}")))?;
    // All signals are blocked since this process began. Nobody ends the server of `/`.
    if !is_root {
        listen(termination(), mounted.stopper(), Some(Arc::clone(&guard)))?;
    }
    finish(mounted, Some(&guard))
}
