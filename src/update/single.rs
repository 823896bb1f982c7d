//! What if a machine keeps one image, `root.img`, and the one before it? Then two renames switch: the new image and the old one
//! exchange their names, and the old one becomes `root.img.prev`.
//!
//! The new one waits under a name that tells its digest. After a power cut between the two renames another image is found
//! under that name: the old one, which only has to get its own. It gets it only if it is whole, and not when the machine had to
//! run the one before: that one is the only image that is known to work.

use std::path::Path;

use super::disk;
use super::failed::Failed;
use super::place::{Place, SINGLE, SINGLE_PREVIOUS, look};
use super::whole::sound_digest;
use crate::format::digest::Digest;
use crate::image::{self, Method};
use crate::store::read_superblock;

/// Puts the whole image at `part` in the place of `root.img`, which becomes `root.img.prev`.
pub(super) fn exchange(place: &Place, part: &Path, booted: Option<Digest>) -> Result<(), Failed> {
    let current = place.data().join(SINGLE);
    let wrap = |err| Failed::io(format_args!("cannot put the image at {}", current.display()), err);
    disk::exchange(part, &current).map_err(|err| {
        if err.raw_os_error() == Some(rustix::io::Errno::INVAL.raw_os_error()) {
            wrap(err).hint("this file system cannot exchange two names: make a directory images/ beside root.img")
        } else {
            wrap(err)
        }
    })?;
    finish(place, part, booted).map_err(wrap)
}

/// Gives the old image its name, or removes it where the one that has the name is worth more.
fn finish(place: &Place, old: &Path, booted: Option<Digest>) -> std::io::Result<()> {
    let previous = place.data().join(SINGLE_PREVIOUS);
    let runs_previous = booted.is_some() && look(&previous).map(|it| it.root_digest) == booted;
    if previous.exists() && (runs_previous || sound_digest(old).is_err()) {
        tracing::warn!(
            "{SINGLE_PREVIOUS} stays: what was {SINGLE} is not what ran here, or not whole"
        );
        return disk::remove(old);
    }
    disk::rename_over(old, &previous)
}

/// Ends what a power cut left between the two renames. Returns whether there was something to do.
pub fn recover(place: &Place) -> Result<bool, Failed> {
    let mut recovered = false;
    if !place.is_single() {
        return Ok(false);
    }
    for part in place.parts()? {
        let digest = part.file_name().and_then(|name| name.to_str()).and_then(|name| {
            name.trim_start_matches('.').split('.').next()?.parse::<Digest>().ok()
        });
        // Exchanged, the image that the name tells is at root.img, and here a whole one that is another.
        let current = look(&place.data().join(SINGLE)).map(|it| it.root_digest);
        if digest.is_none() || digest != current {
            continue;
        }
        if sound_digest(&part).is_ok_and(|found| Some(found) != digest) {
            finish(place, &part, None)
                .map_err(|err| Failed::io(format_args!("cannot rename {}", part.display()), err))?;
            recovered = true;
        }
    }
    Ok(recovered)
}

/// Exchanges `root.img` and `root.img.prev`. Returns the digest of what is booted now.
pub(super) fn roll_back(place: &Place) -> Result<Digest, Failed> {
    let (current, previous) = (place.data().join(SINGLE), place.data().join(SINGLE_PREVIOUS));
    if !previous.is_file() {
        return Err(super::state::NotPossible::NoOther.into());
    }
    let source = image::open(&previous, Method::Pread)?;
    let (_, digest) = read_superblock(&*source, 0)?;
    disk::exchange(&previous, &current).map_err(|err| {
        Failed::io(
            format_args!("cannot exchange {} and {}", current.display(), previous.display()),
            err,
        )
    })?;
    Ok(digest)
}
