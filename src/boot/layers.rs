//! What lies over what? The image below, then what may change, each at its place.

use std::fs;
use std::io;
use std::path::Path;

use rustix::mount::{MountFlags, UnmountFlags};

use super::choose::{Chosen, Keys};
use super::cmdline::BootArgs;
use super::config::{Modes, Overlay};
use super::data::Data;
use super::report::Report;
use super::server::{ServerArgs, is_open};
use super::workspace::{Workspace, make_dir, move_mount};
use super::{Failed, Setup, start};

/// Makes the root in the workspace.
pub fn build(
    chosen: &Chosen,
    modes: &Modes,
    setup: &Setup,
    args: &BootArgs,
    workspace: &Workspace,
    data: &Data,
    _keys: &Keys,
) -> Result<Report, Failed> {
    let has_layers = modes.overlay != Overlay::No || modes.has_extensions();
    let lower = if is_open(&args.without, "lower") {
        make_dir("/run/ashlar-lower")?;
        "/run/ashlar-lower".into()
    } else {
        workspace.lower()
    };
    let base = if has_layers { lower.clone() } else { workspace.root() };
    start::start(&ServerArgs {
        image: chosen.path.clone(),
        root_digest: chosen.tree.root_digest(),
        voucher: chosen.voucher.word().to_owned(),
        mountpoint: base,
        source: data.source.clone(),
        empty: workspace.empty(),
        init: Some(setup.init.clone()),
        without: args.without.clone(),
    })?;
    Ok(Report {
        image: chosen.path.clone(),
        root_digest: chosen.tree.root_digest().to_string(),
        image_version: chosen.tree.superblock().image_version,
        authenticated_by: chosen.voucher,
        data: data.path.clone(),
        device: data.source.clone(),
        device_number: format!("{}:{}", data.device.0, data.device.1),
        lower: has_layers.then_some(lower),
        modes: modes.clone(),
        degraded: Vec::new(),
        refused: Vec::new(),
    })
}

/// Puts the root in the place of the data partition, which from now on is seen in the workspace only.
pub fn replace(newroot: &Path, workspace: &Workspace) -> Result<(), Failed> {
    match rustix::mount::unmount(newroot, UnmountFlags::NOFOLLOW) {
        Ok(()) => {}
        // Somebody is in it. Then it stays below: out of sight, and read-only when the machine ends.
        Err(rustix::io::Errno::BUSY) => {
            tracing::info!("{} is busy: the root is mounted over it", newroot.display())
        }
        Err(err) => {
            let doing = format!("cannot unmount {}", newroot.display());
            return Err(Failed::io(doing, io::Error::from(err)));
        }
    }
    move_mount(&workspace.root(), newroot)?;
    let _ = (fs::metadata("/"), MountFlags::empty());
    Ok(())
}
