//! What if the server of an ordinary mount dies? What its successor will need, and what that does.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::{fs, io};

use super::options::MountOptions;
use super::unmounter::Stop;
use super::{MountArgs, finish, listen, termination};
use crate::cli::{Failure, Outcome, elsewhere};
use crate::fuse::session::{Mounted, Work};
use crate::heal::handed::Handed;
use crate::takeover::{self, Called, Guard, Inheritance, Manner};
use crate::{Options, Tree};

/// Whether this mount shall survive its server. Where the mount covers the libraries of this program, no other server could start:
/// it would wait for itself.
pub(super) fn takes_over(
    args: &MountArgs,
    mount_options: &MountOptions,
    mountpoint: &Path,
) -> Result<bool, Failure> {
    let is_wanted = mount_options.takeover.unwrap_or(args.detached);
    if !is_wanted || !covers_libraries(mountpoint) {
        return Ok(is_wanted);
    }
    let what = "this program's libraries are below the mount point, where no other server could have them from";
    if mount_options.takeover.is_some() {
        let hint = "use a static program, or -o notakeover";
        return Err(Failure::new(what).hint(hint));
    }
    tracing::warn!("the mount dies with its server: {what} (hint: use a static program)");
    Ok(false)
}

/// Whether a mount covers files that this program was loaded from, but for its own, which stays open. Nothing is known to be covered
/// where there is no `/proc`.
fn covers_libraries(mountpoint: &Path) -> bool {
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let own = std::env::current_exe().unwrap_or_default();
    let files = maps.lines().filter_map(|line| line.find('/').and_then(|at| line.get(at..)));
    files.map(Path::new).any(|file| file.starts_with(mountpoint) && file != own)
}

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
