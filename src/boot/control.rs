//! What can be changed while the system runs? Whether the next boot has its overlay, whether this one may be written to, and
//! whether the next boot forgets everything.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::StatVfsMountFlags;

use super::data::{Data, OVERLAY_DISABLED, STATE};
use super::report::{MESSAGE, REPORT, TRIAL};
use super::workspace::Workspace;
use super::{Failed, mounts};
use crate::format::digest::Digest;
use crate::state;

/// The data partition of a running system that was booted from an image.
fn data() -> Result<Data, Failed> {
    let workspace = Workspace::existing().ok_or_else(|| {
        Failed::new("this system was not booted from an image").hint("see `ashlar boot --help`")
    })?;
    Data::running(workspace.data())
}

/// Does something to the data partition, which is made writable for it if it is not.
pub fn change<T, E: From<Failed>>(change: impl FnOnce(&Data) -> Result<T, E>) -> Result<T, E> {
    let data = data()?;
    let flags = rustix::fs::statvfs(&data.path)
        .map_err(|err| Failed::io("cannot look at the data partition", err.into()))?
        .f_flag;
    let was_read_only = flags.contains(StatVfsMountFlags::RDONLY);
    if was_read_only {
        data.make_writable()?;
    }
    let changed = change(&data);
    if was_read_only {
        data.make_read_only()?;
    }
    changed
}

/// Nobody has to be told any more that the image is on trial.
pub fn end_trial() {
    if Path::new(TRIAL).exists() {
        for path in [TRIAL, MESSAGE] {
            // What stays there is out of date until the next boot, and no more.
            fs::remove_file(path).unwrap_or_default();
        }
    }
}

fn report() -> Option<serde_json::Value> {
    serde_json::from_str(&fs::read_to_string(REPORT).ok()?).ok()
}

/// Whether the kernel command line named the image that runs: then no record says what is next.
pub fn is_named() -> bool {
    report().is_some_and(|report| report.get("slot").is_some_and(|slot| slot == "command-line"))
}

/// The images that were added to the root of this system, as they were named.
pub fn extensions() -> Vec<String> {
    let report = report().unwrap_or_default();
    let lists = ["extension", "extension-override"].map(|key| report.get(key)?.as_array().cloned());
    let names = lists.into_iter().flatten().flatten();
    names.filter_map(|name| name.as_str().map(str::to_owned)).collect()
}

/// Where the data partition of this system is, and which image runs, if it was booted from one.
pub fn running() -> Option<(PathBuf, Digest)> {
    let report = report()?;
    let digest = report.get("root_digest")?.as_str()?.parse().ok()?;
    Some((PathBuf::from(report.get("data")?.as_str()?), digest))
}

/// Switches the overlay of the root on or off for the boots to come.
pub fn switch_overlay(on: bool) -> Result<(), Failed> {
    change(|data: &Data| {
        drop(state::make_directories(&data.path, Path::new(STATE))?);
        let marker = data.join(OVERLAY_DISABLED);
        let wrap = |err| Failed::io(format_args!("cannot change {}", marker.display()), err);
        if on {
            match fs::remove_file(&marker) {
                Err(err) if err.kind() != std::io::ErrorKind::NotFound => return Err(wrap(err)),
                _ => {}
            }
        } else if !data.is_overlay_disabled() {
            // Whatever is there already will do, and might make us wait: a pipe.
            fs::write(&marker, "").map_err(wrap)?;
        }
        let directory = fs::File::open(data.join(STATE)).map_err(wrap)?;
        directory.sync_all().map_err(wrap)
    })
}

/// Whether the overlay is switched off for the boots to come.
pub fn is_overlay_disabled() -> bool {
    data().is_ok_and(|data| data.is_overlay_disabled())
}

/// Forbids, or allows again, that the root of the running system is written to.
pub fn lock(on: bool) -> Result<(), Failed> {
    drop(data()?);
    let root = Path::new("/");
    if mounts::at(root).is_none_or(|mount| mount.file_system_type != "overlay") {
        return Err(Failed::new("nothing lies over the root: it is read-only for good")
            .hint("boot with ashlar.overlay=tmpfs or ashlar.overlay=persistent"));
    }
    super::data::remount(root, on).map_err(|err| {
        let how = if on { "lock" } else { "unlock" };
        let failed = Failed::io(format_args!("cannot {how} the root"), err.into());
        if err == rustix::io::Errno::BUSY {
            failed.hint("a file on it is open for writing; `fuser -vm /` names who has it")
        } else {
            failed
        }
    })
}

/// Lets the next boot forget everything but images and configuration.
pub fn ask_for_reset() -> Result<(), Failed> {
    change(|data| Ok(state::reset::ask(&data.path)?))
}
