//! What if the server of an ordinary mount dies? What its successor will need, and what that does.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::{fs, io};

use super::options::MountOptions;
use super::unmounter::Stop;
use super::{MountArgs, finish, listen, termination};
use crate::cli::{Failure, Outcome, elsewhere};
use crate::fuse::session::{Mounted, Work};
use crate::heal::handed::Handed;
use crate::takeover::{self, Called, Guard, Inheritance, Manner, Program};
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
    let what = "this program's libraries, or what their loader reads, are below the mount point, where no other server could have them from";
    if mount_options.takeover.is_some() {
        let hint = "use a static program, or -o notakeover";
        return Err(Failure::new(what).hint(hint));
    }
    tracing::warn!("the mount dies with its server: {what} (hint: use a static program)");
    Ok(false)
}

/// Whether a mount covers what this program was loaded from, or what its loader looks for first (ld.so(8)). Its own file stays open.
/// Asked before there is an image: nothing but the program and its libraries is mapped by then.
fn covers_libraries(mountpoint: &Path) -> bool {
    let loader = Program::ours(false).and_then(|ours| ours.interpreter());
    let Ok(Some(loader)) = loader else { return false };
    let maps = fs::read("/proc/self/maps").unwrap_or_default();
    let own = std::env::current_exe().unwrap_or_default();
    let lines = maps.split(|byte| *byte == b'\n');
    let files = lines.filter_map(|line| line.get(line.iter().position(|byte| *byte == b'/')?..));
    let mut files = files.map(|file| Path::new(OsStr::from_bytes(file)));
    // Of `ld.so.preload` and `ld.so.cache`, and of its own name, which is often a link.
    let mut directories = [Some(Path::new("/etc")), loader.parent()].into_iter().flatten();
    files.any(|file| file.starts_with(mountpoint) && file != own)
        || directories.any(|it| it.canonicalize().is_ok_and(|it| it.starts_with(mountpoint)))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_loader_looks_for_is_covered_and_nothing_else() {
        let loader = Program::ours(false).unwrap().interpreter().unwrap();
        let is_dynamic = loader.is_some();
        for above in ["/", "/etc"] {
            assert_eq!(covers_libraries(Path::new(above)), is_dynamic, "{above}");
        }
        if let Some(loader) = loader {
            // The name of the loader is often a link to another directory's file, and that is mapped.
            for path in [loader.clone(), loader.canonicalize().unwrap()] {
                let directory = path.parent().unwrap().canonicalize().unwrap();
                assert!(covers_libraries(&directory), "{directory:?}");
            }
        }
        for beside in ["/usr/share", "/etc/ssl", "/srv"] {
            assert!(!covers_libraries(Path::new(beside)), "{beside}");
        }
        assert!(!covers_libraries(std::env::current_exe().unwrap().parent().unwrap()));
    }
}
