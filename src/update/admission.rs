//! May this image come here, and what must be remembered before it does?

use super::book::Book;
use super::failed::Failed;
use super::place::Place;
use super::state::State;
use super::wish::Wish;
use crate::format::digest::Digest;

/// A machine that was never updated remembers now what it boots: after a power cut the new image would be the newest one, and
/// booted as if it had proved itself.
pub(super) fn remember_current(
    book: &mut Book,
    place: &Place,
    coming: Digest,
    booted: Option<Digest>,
) -> Result<(), Failed> {
    if book.is_known() || place.is_single() {
        return Ok(());
    }
    let newest = || place.stored().ok()?.into_iter().max_by_key(|stored| stored.version);
    let current = booted.or_else(|| newest().map(|stored| stored.root_digest));
    match current.filter(|current| *current != coming) {
        Some(current) => Ok(book.write(&State { default: Some(current), ..book.state().clone() })?),
        None => Ok(()),
    }
}

/// An image that was given up here comes back by no timer: only when a person says so.
pub(super) fn refuse_bad(state: &State, image: Digest, wish: &Wish<'_>) -> Result<(), Failed> {
    match state.bad.iter().find(|bad| bad.image == image) {
        Some(bad) if !wish.allow_bad => Err(Failed::new(format_args!(
            "image {image} was given up on this machine: {}",
            bad.why
        ))
        .hint("--allow-bad tries it again")),
        _ => Ok(()),
    }
}

/// Nobody brings back an old image with its old faults, signed as it is.
pub(super) fn refuse_old(
    place: &Place,
    book: &Book,
    version: u64,
    wish: &Wish<'_>,
) -> Result<(), Failed> {
    let floor = floor(place, book, wish.booted)?;
    if version < floor && !wish.allow_downgrade {
        return Err(Failed::new(format_args!(
            "the image has version {version}, which is older than version {floor} of this machine"
        ))
        .hint("--allow-downgrade installs it nevertheless; `ashlar update rollback` goes back to the image before"));
    }
    Ok(())
}

/// The version that an image must have at least.
pub(super) fn floor(place: &Place, book: &Book, booted: Option<Digest>) -> Result<u64, Failed> {
    let stored = place.stored()?;
    let version_of = |digest: Digest| {
        stored.iter().find(|stored| stored.root_digest == digest).map(|stored| stored.version)
    };
    let running = booted.or(book.state().default).and_then(version_of);
    let single = stored.first().filter(|_| place.is_single()).map(|stored| stored.version);
    let floors = [Some(book.state().version_floor), running, single];
    Ok(floors.into_iter().flatten().max().unwrap_or(0))
}
