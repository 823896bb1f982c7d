//! How does a new image come onto the data partition? Authenticated before anything is kept, block by block from what is here
//! already and from where it is offered, read back from the disk, and only then given its name and a place in the record.
//!
//! It may be interrupted at any instant. Until the last step the machine boots what it would have booted; what came so far is
//! found again by its digests, not by a list that could be wrong.

use std::path::PathBuf;

use super::admission::{floor, refuse_bad, refuse_old, remember_current};
use super::book::Book;
use super::bring::{bring, claimed_digest};
use super::failed::Failed;
use super::head::Head;
use super::origin::Origin;
use super::place::{Place, SINGLE};
use super::single;
use super::state::NotPossible;
use super::whole::is_whole_at;
use super::wish::{Counts, Wish};
use crate::format::digest::Digest;
use crate::image::{self, Method};

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Installed {
    /// The image's root digest.
    pub root_digest: String,
    /// Its version.
    pub image_version: u64,
    /// Where it is.
    pub path: PathBuf,
    /// Its length in bytes.
    pub bytes: u64,
    /// Bytes that were fetched.
    pub bytes_fetched: u64,
    /// Bytes of blocks that other images here had.
    pub bytes_copied: u64,
    /// Bytes of blocks that an interrupted run had left.
    pub bytes_resumed: u64,
    /// Whether it was here, whole, before.
    pub was_here: bool,
    /// Whether it is what is booted next.
    pub is_next: bool,
}

/// Puts an image in its place and has it tried at the next boot.
pub fn install(place: &Place, origin: &dyn Origin, wish: &Wish<'_>) -> Result<Installed, Failed> {
    let _lock = place.lock()?;
    single::recover(place)?;
    let mut book = Book::read(place.data());
    let claimed = claimed_digest(origin)?;
    let mut counts = Counts::default();
    let is_single = place.is_single();
    let target = if is_single { place.data().join(SINGLE) } else { place.image(claimed) };
    let here = place.find(claimed).filter(|path| !is_single || *path == target);
    let here = here.map(|path| (is_whole_at(&path, claimed, wish), path));
    // What is damaged here may be made anew whatever was thought of it: other bytes are another image.
    if !matches!(here, Some((Err(_), _))) {
        refuse_bad(book.state(), claimed, wish)?;
    }
    let whole = match here {
        Some((Ok(version), path)) => Some((path, version)),
        Some((Err(err), path)) => {
            tracing::warn!("{} is made again: {err}", path.display());
            None
        }
        None => None,
    };
    let was_here = whole.is_some();
    let (path, version) = if let Some((path, version)) = whole {
        refuse_old(place, &book, version, wish)?;
        remember_current(&mut book, place, claimed, wish.booted)?;
        (path, version)
    } else {
        let version = bring(place, origin, claimed, &mut book, wish, &target, &mut counts)?;
        (target, version)
    };
    if !is_single {
        remember(&mut book, claimed, version, wish)?;
    }
    let bytes = image::open(&path, Method::Pread)?.len();
    Ok(Installed {
        root_digest: claimed.to_string(),
        image_version: version,
        path,
        bytes,
        bytes_fetched: counts.fetched,
        bytes_copied: counts.copied.into_inner(),
        bytes_resumed: counts.resumed.into_inner(),
        was_here,
        is_next: is_single || book.state().order().first() == Some(&claimed),
    })
}

/// Has the image tried at the next boot.
fn remember(book: &mut Book, image: Digest, version: u64, wish: &Wish<'_>) -> Result<(), Failed> {
    let mut state = book.state().clone();
    state.install(image, wish.booted, wish.tries.unwrap_or(0));
    if wish.tries.is_none() {
        state.bless(image, version)?;
    }
    if *book.state() != state || !book.is_known() {
        book.write(&state)?;
    }
    Ok(())
}

impl From<NotPossible> for Failed {
    fn from(why: NotPossible) -> Self {
        Failed::new(why)
    }
}

/// What an installation would find.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Offer {
    /// The image's root digest.
    pub root_digest: String,
    /// Its version.
    pub image_version: u64,
    /// Its length in bytes.
    pub bytes: u64,
    /// Whether it is here already.
    pub is_here: bool,
    /// Why it was given up here, if it was.
    pub given_up: Option<&'static str>,
    /// Whether it is older than what this machine may install.
    pub is_old: bool,
    /// Whether it would be installed, and is not what is booted next anyhow.
    pub update_available: bool,
}

/// Holds an image, of which no more is known than this, against what is here.
pub fn offer(
    place: &Place,
    image: Digest,
    version: u64,
    bytes: u64,
    booted: Option<Digest>,
) -> Result<Offer, Failed> {
    let book = Book::read(place.data());
    let state = book.state();
    let bad = state.bad.iter().find(|bad| bad.image == image);
    let is_old = version < floor(place, &book, booted)?;
    let next = state.order().first().copied().or(booted);
    Ok(Offer {
        root_digest: image.to_string(),
        image_version: version,
        bytes,
        is_here: place.find(image).is_some(),
        given_up: bad.map(|bad| bad.why.word()),
        is_old,
        update_available: bad.is_none() && !is_old && next != Some(image),
    })
}

/// The same, of an image that is fetched as far as who vouches for it is known.
pub fn look(place: &Place, origin: &dyn Origin, wish: &Wish<'_>) -> Result<Offer, Failed> {
    let head = Head::find(origin, wish.anchor, wish.signatures.clone())?;
    offer(place, head.root_digest, head.superblock.image_version, head.len(), wish.booted)
}
