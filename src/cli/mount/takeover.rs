//! What if the server of an ordinary mount dies? What its successor will need, and what that does.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::options::MountOptions;
use super::unmounter::Stop;
use super::{MountArgs, finish, listen, termination};
use crate::cli::{Failure, Outcome, elsewhere};
use crate::fuse::session::{Mounted, Work};
use crate::heal::handed::Handed;
use crate::takeover::{self, Called, Guard, Inheritance, Manner};
use crate::{Options, Tree};

/// What a successor will need, taken before anything is mounted.
pub(super) fn inheritance(
    args: &MountArgs,
    tree: &Tree,
    options: &Options,
    mount_options: &MountOptions,
    work: &Work,
    handed: Handed,
) -> Result<Inheritance, Failure> {
    let manner = Manner {
        name: "ashlar".into(),
        log_level: mount_options.log.to_string(),
        log: None,
        is_root: false,
        is_foreground: args.foreground,
        watchdog_secs: mount_options.watchdog_secs,
    };
    Inheritance::take(tree, options, work, handed, manner).map_err(|err: io::Error| {
        Failure::new(format!("cannot prepare for a takeover: {err}"))
            .hint("-o notakeover does without")
    })
}

/// Has the server watched from now on.
pub(super) fn guard(
    mounted: &Mounted,
    inheritance: Inheritance,
    stop: &Stop,
) -> Result<Arc<Guard>, Failure> {
    let begin = || Guard::begin(mounted.connection(), inheritance.unmounted_by(stop.unmounter()?));
    begin().map_err(|err| {
        Failure::new(format!("cannot start the process that holds the mount: {err}"))
            .hint("-o notakeover does without")
    })
}

/// Serves a mount whose server is gone, or about to go.
pub(in crate::cli) fn succeed(called: Called) -> Outcome {
    let wrap = |err| Failure::new(format!("cannot take over: {err}"));
    let is_root = called.letter.duty.is_root;
    let unmounter = called.kit.unmounter.as_ref().map(OwnedFd::try_clone).transpose();
    let unmounter = unmounter.map_err(wrap)?;
    let url = called.letter.duty.healing.url.as_deref();
    // Without a server, the mount is served all the same.
    let distant = url.and_then(|url| {
        let distant = elsewhere::distant(url);
        distant.inspect_err(|failure| tracing::warn!("{}", failure.message)).ok()
    });
    let (mounted, guard) = takeover::succeed(called, distant).map_err(wrap)?;
    // All signals are blocked since this process began. Nobody ends the server of `/`.
    if !is_root {
        let stop = Stop::new(mounted.stopper(), unmounter);
        listen(termination(), Arc::new(stop), Some(Arc::clone(&guard)))?;
    }
    finish(mounted, Some(&guard))
}
