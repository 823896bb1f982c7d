//! How does a machine become as it was made? All of `state/` and `var/` goes, but for the boot records: images, keys,
//! configuration and whatever else is on the data partition stay.
//!
//! First the marker `state/reset` is written, and as long as that is there a boot goes on with this before it uses anything.
//! Then all is renamed into `.ashlar-reset/` (on a full disk: removed), the marker goes, and at last what was renamed is
//! removed. Should the power fail, or the removal, in that last step, the machine is new already: [`sweep`] does the rest.

use std::io;
use std::path::Path;

use rustix::fd::OwnedFd;

use super::disk::{self, is_missing, wrap};
use crate::error::{Error, Result};
use crate::format::inode::Kind;

const STATE: &[u8] = b"state";
const VAR: &[u8] = b"var";
const MARKER: &[u8] = b"reset";
/// Where things wait for their removal.
const TRASH: &[u8] = b".ashlar-reset";
/// What stays in `state/`: the boot records know which image is good, and that is no setting.
const KEPT: [&[u8]; 3] = [b"boot.a", b"boot.b", MARKER];

/// Whether a reset was asked for, or began and did not end. If that cannot be told, it was not.
pub fn is_asked(data: &Path) -> bool {
    let state = disk::open_own(data).and_then(|data| disk::open_directory(&data, STATE));
    state.and_then(|state| disk::kind(&state, MARKER)).is_ok_and(|kind| kind.is_some())
}

/// Asks for a reset at the next boot.
pub fn ask(data: &Path) -> Result<()> {
    let state = super::make_directories(data, Path::new("state"))?;
    if disk::kind(&state, MARKER)?.is_none() {
        disk::make_file(&state, MARKER)?;
    }
    disk::sync(&state, MARKER)
}

/// Makes the machine as it was made. Nothing may be mounted from `state/` and `var/`.
///
/// When this fails the marker may still be there: then nothing of the old state must be used, and the next boot tries again.
pub fn factory_reset(data: &Path) -> Result<()> {
    ask(data)?;
    let data = disk::open_own(data)?;
    let state = disk::open_directory(&data, STATE)?;
    let trash = trash(&data)?;
    let throw_away = |from: &OwnedFd, name: &[u8]| match &trash {
        Some(trash) => throw_away(from, name, trash),
        None => disk::remove_tree(from, name),
    };
    for name in disk::names(&state).map_err(wrap("list", STATE))? {
        if !KEPT.contains(&name.as_slice()) {
            throw_away(&state, &name)?;
        }
    }
    if disk::kind(&data, VAR)?.is_some() {
        throw_away(&data, VAR)?;
    }
    disk::sync_all(&data)?;
    disk::unlink(&state, MARKER)?;
    disk::sync(&state, MARKER)?;
    if let Err(err) = disk::remove_tree(&data, TRASH) {
        tracing::warn!("what was reset is not all removed yet: {err}");
    }
    Ok(())
}

/// Removes what a reset left to be removed. Tells whether there was something.
pub fn sweep(data: &Path) -> Result<bool> {
    let data = disk::open_own(data)?;
    if disk::kind(&data, TRASH)? != Some(Kind::Dir) {
        return Ok(false);
    }
    disk::remove_tree(&data, TRASH)?;
    Ok(true)
}

/// Where things wait for their removal; none where the disk is too full for it. Then they are removed at once: a power cut
/// finds the marker, as before.
fn trash(data: &OwnedFd) -> Result<Option<OwnedFd>> {
    match disk::open_directory(data, TRASH) {
        Ok(trash) => return Ok(Some(trash)),
        Err(err) if is_missing(&err) => {}
        Err(_) => disk::remove_tree(data, TRASH)?,
    }
    match disk::make_directory(data, TRASH) {
        Ok(trash) => Ok(Some(trash)),
        Err(Error::Io { source, .. }) if is_full(&source) => Ok(None),
        Err(err) => Err(err),
    }
}

fn is_full(err: &io::Error) -> bool {
    matches!(err.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Renames something into the trash, by a name that nothing has there yet.
fn throw_away(from: &OwnedFd, name: &[u8], trash: &OwnedFd) -> Result<()> {
    let mut nth = 0_u64;
    loop {
        let free = nth.to_string().into_bytes();
        if disk::kind(trash, &free)?.is_none() {
            return disk::rename(from, name, trash, &free);
        }
        nth = nth.saturating_add(1);
    }
}
