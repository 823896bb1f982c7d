//! What lies over what? The image below, extension images beside it, and over all of that what may change.

use std::io;
use std::path::{Path, PathBuf};

use rustix::mount::{FsOpenFlags, UnmountFlags};

use super::choose::Chosen;
use super::config::{Modes, Overlay};
use super::extension::Served;
use super::overlay::{NO_OVERLAYFS, OVERLAYS, lay, prepare, transient};
use super::report::Report;
use super::server::is_open;
use super::slots::Slot;
use super::start::serve;
use super::workspace::{self, bind, make_dir, move_mount};
use super::{Failed, Site, extension, places};
use crate::format::digest::Digest;
use crate::fs::Tree;
use crate::fs::stack::Stack;
use crate::state;

/// The overlay of the whole root. No directory's own overlay is called so, see [`places`].
pub(super) const ROOT_OVERLAY: &str = "@root";

/// Makes the root in the workspace. What cannot be had of the state is done without, and told: a machine that runs can be
/// repaired.
///
/// `pins` are the root digests of extensions that somebody vouches for.
pub fn build(
    chosen: &Chosen,
    modes: &Modes,
    pins: &[Digest],
    site: &Site<'_>,
) -> Result<Report, Failed> {
    let mut degraded = Vec::new();
    let mut modes = modes.clone();
    let lower = if is_open(&site.args.without, "lower") {
        make_dir("/run/ashlar-lower")?;
        PathBuf::from("/run/ashlar-lower")
    } else {
        site.workspace.lower()
    };
    if modes.overlay != Overlay::No && site.data.is_overlay_disabled() {
        tracing::warn!("the overlay `{}` is switched off", modes.overlay);
        modes.overlay = Overlay::No;
    }
    let has_layers = modes.overlay != Overlay::No || modes.has_extensions();
    let root = site.workspace.root();
    let at = if has_layers { &lower } else { &root };
    serve(chosen, at, Some(site.init), modes.on_corruption, site)?;
    let may_write = may_write(&modes, site, &mut degraded);
    let mut served = Served::default();
    if has_layers {
        served = extension::serve_all(&mut modes, chosen, pins, site, &mut degraded);
        let over = served.lowers(&lower, site).and_then(|lowers| {
            let (tree, overlay) = (&chosen.tree, &modes.overlay);
            over_root(tree, &lowers, overlay, &root, site, may_write, &mut degraded)
        });
        if let Err(failed) = over {
            degraded.push(format!("nothing lies over /: {failed}"));
            modes.overlay = Overlay::No;
            modes.extension.clear();
            modes.extension_override.clear();
            std::mem::take(&mut served).leave();
            bind(&lower, &root)?;
        }
    }
    let trees = served.trees(&chosen.tree);
    let stack = Stack(&trees);
    let etc = places::fill(&chosen.tree, stack, &modes, &root, site, may_write, &mut degraded);
    for what in &degraded {
        tracing::error!("{what}");
    }
    Ok(Report {
        image: chosen.path.clone(),
        init: site.init.to_owned(),
        root_digest: chosen.tree.root_digest().to_string(),
        image_version: chosen.tree.superblock().image_version,
        authenticated_by: chosen.voucher,
        data: site.data.path.clone(),
        device: site.data.source.clone(),
        device_number: format!("{}:{}", site.data.device.0, site.data.device.1),
        lower: has_layers.then_some(lower),
        modes,
        etc_merge: etc,
        degraded,
        refused: Vec::new(),
        slot: Slot::default(),
    })
}

/// Makes the data partition writable, if it has to be, and ends a reset that was cut short.
fn may_write(modes: &Modes, site: &Site<'_>, degraded: &mut Vec<String>) -> bool {
    if !modes.write_data() {
        return true;
    }
    if let Some(failed) = site.unusable {
        degraded.push(format!("nothing is kept, for the factory reset failed: {failed}"));
        return false;
    }
    if let Err(failed) = site.data.make_writable() {
        degraded.push(failed.to_string());
        return false;
    }
    if let Err(err) = state::reset::sweep(&site.data.path) {
        tracing::warn!("what the last reset left: {err}");
    }
    true
}

/// Lays the overlay over the root, or only the images over each other. Where the data partition cannot have it, it is in
/// memory.
fn over_root(
    tree: &Tree,
    lowers: &[PathBuf],
    overlay: &Overlay,
    root: &Path,
    site: &Site<'_>,
    may_write: bool,
    degraded: &mut Vec<String>,
) -> Result<(), Failed> {
    // Tools look for the device of `/` by the name of what is mounted there (grub-probe does); `overlay` would be none.
    let over = |lowers: &[PathBuf], kept: Option<&Path>| lay(lowers, kept, root, &site.data.source);
    let in_memory = |size| over(lowers, Some(&transient(ROOT_OVERLAY, size, site)?));
    // What was kept counts all the same; what changes is gone at the next boot.
    let recalled = || {
        let upper = places::kept(site, Path::new(OVERLAYS).join(ROOT_OVERLAY).join("upper"))?;
        let memory = transient(ROOT_OVERLAY, None, site)?;
        let lowers: Vec<PathBuf> = [upper].into_iter().chain(lowers.iter().cloned()).collect();
        over(&lowers, Some(&memory))
    };
    let on_disk = || {
        places::needs_writing(may_write)?;
        let kept = persistent(overlay, &site.data.path)?;
        prepare(lowers, &kept)?;
        places::renew_stamps(&kept.join("upper"), &["etc", "var"], tree);
        over(lowers, Some(&kept))
    };
    match overlay {
        Overlay::No => match lowers {
            // Every extension was left out, and overlayfs wants two.
            [only] => bind(only, root),
            _ => over(lowers, None),
        },
        Overlay::Tmpfs { size } => in_memory(size.as_deref()),
        _ => on_disk().or_else(|failed| {
            degraded.push(format!(
                "the overlay of / is in memory, and gone at the next boot: {failed}"
            ));
            match overlay {
                Overlay::Persistent => recalled().or_else(|_| in_memory(None)),
                _ => in_memory(None),
            }
        }),
    }
}

/// The overlay of the root on the data partition, as it shall begin.
fn persistent(overlay: &Overlay, data: &Path) -> Result<PathBuf, Failed> {
    let kept = Path::new(OVERLAYS).join(ROOT_OVERLAY);
    // Before anything is thrown away for it.
    rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)
        .map_err(|err| Failed::io("the kernel has no overlayfs", err.into()).hint(NO_OVERLAYFS))?;
    match overlay {
        Overlay::PersistentClear => state::overlay::clear(data, &kept)?,
        Overlay::PersistentMove => drop(state::overlay::set_aside(data, &kept)?),
        _ => {}
    }
    drop(state::make_directories(data, &kept)?);
    Ok(data.join(&kept))
}

/// Puts the root in the place of the data partition, which from now on is seen in the workspace only.
pub fn replace(newroot: &Path, workspace: &workspace::Workspace) -> Result<(), Failed> {
    match rustix::mount::unmount(newroot, UnmountFlags::NOFOLLOW) {
        Ok(()) => {}
        // Somebody is in it. Then it stays below: out of sight, and read-only when the machine ends.
        Err(rustix::io::Errno::BUSY) => {
            tracing::info!("{} is busy: the root is mounted over it", newroot.display());
        }
        Err(err) => {
            let doing = format!("cannot unmount {}", newroot.display());
            return Err(Failed::io(doing, io::Error::from(err)));
        }
    }
    move_mount(&workspace.root(), newroot).inspect_err(|_| {
        // The initramfs keeps what it had.
        if !workspace::is_mounted(newroot)
            && let Err(failed) = bind(&workspace.data(), newroot)
        {
            tracing::error!("{failed}");
        }
    })
}
