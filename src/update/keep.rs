//! What else can be done with the images of a machine? Bless, give up, go back, pin, and remove what nothing needs.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::book::Book;
use super::disk;
use super::failed::Failed;
use super::place::{Lock, Place, Stored, etc_last};
use super::single;
use super::state::{NotPossible, State, Why};
use crate::format::digest::Digest;
use crate::state::etc;
use crate::trust::signature_beside;

/// Images that stay whatever comes: an empty file each, its name the root digest.
const PINS: &str = "state/pins";
/// The file that says which images are added to the root (BOOT.md).
const CONFIG: &str = "ashlar.toml";

/// Changes what is remembered. It is written when it changed. Held by who changes it: the lock.
fn change<T>(
    place: &Place,
    _lock: &Lock,
    change: impl FnOnce(&mut State) -> Result<T, Failed>,
) -> Result<T, Failed> {
    let mut book = Book::read(place.data());
    let mut state = book.state().clone();
    let result = change(&mut state)?;
    if state != *book.state() {
        book.write(&state)?;
    }
    Ok(result)
}

/// Whether blessing an image would change anything: it does once, and not at each boot.
pub fn is_to_be_blessed(place: &Place, image: Digest) -> bool {
    let mut state = Book::read(place.data()).state().clone();
    !place.is_single() && state.bless(image, 0) != Ok(false)
}

/// The image that runs is healthy. Returns whether that changed anything.
pub fn bless(place: &Place, booted: Digest) -> Result<bool, Failed> {
    if place.is_single() {
        return Ok(false);
    }
    let stored = place.stored()?;
    let version = stored.iter().find(|stored| stored.root_digest == booted);
    let version = version.map_or(0, |stored| stored.version);
    // A healthy image must not be given up because an update is at work: that ends some time.
    change(place, &place.wait_for_lock()?, |state| match state.bless(booted, version) {
        Err(NotPossible::IsBad(why)) => {
            Err(Failed::new(format_args!("image {booted} was given up: {why}"))
                .hint("`ashlar update install --allow-bad` tries it again"))
        }
        blessed => Ok(blessed?),
    })
}

/// An image is not booted any more. Returns what is booted instead.
pub fn mark_bad(place: &Place, image: Digest, why: Why) -> Result<Option<Digest>, Failed> {
    change(place, &place.lock()?, |state| {
        let other = state.mark_bad(image, why).map_err(|not| match not {
            NotPossible::NoOther => Failed::new(not).hint("install another one first"),
            _ => Failed::from(not),
        })?;
        other.map(|other| place.expect(other)).transpose()?;
        Ok(other)
    })
}

/// An image on trial was found damaged. Of any other this says nothing: a disk may recover. Returns whether it is given up.
pub fn refuse(place: &Place, image: Digest) -> Result<bool, Failed> {
    change(place, &place.wait_for_lock()?, |state| Ok(state.refuse(image, Why::Damaged)))
}

/// Goes back to the image before, or to the one with a digest. Returns what is booted next.
pub fn roll_back(place: &Place, to: Option<Digest>) -> Result<Digest, Failed> {
    if place.is_single() {
        let _lock = place.lock()?;
        single::recover(place)?;
        return single::roll_back(place);
    }
    to.map(|to| place.expect(to)).transpose()?;
    change(place, &place.lock()?, |state| {
        let target = state.roll_back(to).map_err(|not| {
            Failed::new(not).hint("`ashlar update list` names what is there, --to takes any of it")
        })?;
        place.expect(target)?;
        Ok(target)
    })
}

/// Pins an image, or lets go of it again.
pub fn pin(place: &Place, image: Digest, on: bool) -> Result<(), Failed> {
    let _lock = place.lock()?;
    let path = place.data().join(PINS).join(image.to_string());
    let directory = path.parent().unwrap_or(place.data());
    let result = if on {
        place.expect(image)?;
        disk::make_directory(directory)
            .and_then(|()| fs::write(&path, ""))
            .and_then(|()| disk::sync_directory(directory))
    } else {
        match disk::remove(&path) {
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => Ok(()),
            removed => removed.and_then(|()| disk::sync_directory(directory)),
        }
    };
    result.map_err(|err| Failed::io(format_args!("cannot change {}", path.display()), err))
}

/// The images that are pinned.
pub fn pins(place: &Place) -> BTreeSet<Digest> {
    let entries = fs::read_dir(place.data().join(PINS)).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// What can be removed.
#[derive(Debug, Default)]
pub struct Garbage {
    /// Files.
    pub paths: Vec<PathBuf>,
    /// Bytes that they take on the disk.
    pub bytes: u64,
}

/// Removes images that nothing needs, what `/etc` was on images that are gone, and what is left of downloads. Images that bear other
/// names than their digests were put there by somebody else, and stay; so do `also`, and what `ashlar.toml` names. With `dry_run` nothing is removed.
pub fn collect_garbage(
    place: &Place,
    also: &BTreeSet<Digest>,
    dry_run: bool,
) -> Result<Garbage, Failed> {
    let _lock = place.lock()?;
    if !dry_run {
        single::recover(place)?;
    }
    let book = Book::read(place.data());
    if book.is_lost() {
        return Err(Failed::new("the boot records are damaged: what is needed is not known").hint(
            "`ashlar update bless` or `ashlar update rollback --to DIGEST` writes new ones",
        ));
    }
    let mut kept: BTreeSet<Digest> = book.state().kept().into_iter().collect();
    kept.extend(also);
    kept.extend(digests_in(&fs::read(place.data().join(CONFIG)).unwrap_or_default()));
    kept.extend(pins(place));
    kept.extend(etc_last(place.data()));
    let stored = place.stored()?;
    // A machine that was never updated boots the newest: all may be needed.
    let is_garbage = |image: &&Stored| {
        book.state().default.is_some()
            && image.is_named_by_digest
            && !kept.contains(&image.root_digest)
    };
    let mut garbage = Garbage::default();
    for image in stored.iter().filter(is_garbage) {
        garbage.take(&image.path, dry_run)?;
        let signature = signature_beside(&image.path);
        if signature.exists() {
            garbage.take(&signature, dry_run)?;
        }
    }
    for part in place.parts()? {
        garbage.take(&part, dry_run)?;
    }
    let images = place.images();
    if !dry_run && images.is_dir() {
        disk::sync_directory(&images).map_err(|err| {
            Failed::io(format_args!("cannot write down {}", images.display()), err)
        })?;
    }
    if book.state().default.is_some() {
        // An image that is here may be booted again by its name, whatever it is called.
        let is_wanted = |image: Digest| {
            let named = place.image(image);
            let stored = stored.iter().filter(|it| it.root_digest == image).map(|it| &it.path);
            let mut here = stored.chain(named.exists().then_some(&named));
            kept.contains(&image) || here.any(|path| !garbage.paths.contains(path))
        };
        for (name, bytes) in etc::left(place.data(), is_wanted)? {
            if !dry_run {
                etc::remove(place.data(), &name)?;
            }
            garbage.bytes = garbage.bytes.saturating_add(bytes);
            garbage.paths.push(place.data().join("state").join(name));
        }
    }
    Ok(garbage)
}

impl Garbage {
    fn take(&mut self, path: &Path, dry_run: bool) -> Result<(), Failed> {
        use std::os::unix::fs::MetadataExt;
        let wrap = |err| Failed::io(format_args!("cannot remove {}", path.display()), err);
        let bytes = fs::metadata(path).map_err(wrap)?.blocks().saturating_mul(512);
        if !dry_run {
            disk::remove(path).map_err(wrap)?;
        }
        self.bytes = self.bytes.saturating_add(bytes);
        self.paths.push(path.to_owned());
        Ok(())
    }
}

/// All words of a text that may be root digests: whoever names an image wants it.
pub fn digests_in(text: &[u8]) -> BTreeSet<Digest> {
    let words = text.split(|byte| !byte.is_ascii_hexdigit());
    words.filter_map(|word| std::str::from_utf8(word).ok()?.parse().ok()).collect()
}
