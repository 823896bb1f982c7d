//! How do the bytes of a new image come to their places? First what tells which they are, then the blocks: from the disk where it
//! has them, from elsewhere where not.

use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::admission::{refuse_old, remember_current};
use super::book::Book;
use super::disk;
use super::download::download;
use super::failed::Failed;
use super::fetch::{self, Missing};
use super::head::{self, Head};
use super::origin::Origin;
use super::part::Part;
use super::place::Place;
use super::seeds::Seeds;
use super::single;
use super::whole::read_back;
use super::wish::{Counts, Progress, Step, Wish, workers};
use crate::error::{Error, Untrusted};
use crate::format::digest::Digest;
use crate::format::field::{u64_from_usize, usize_from_u32};
use crate::format::index::BlockIndex;
use crate::format::superblock;
use crate::store::parallel::on_threads;
use crate::store::{self, CacheLimits, Store, proof};
use crate::trust::Anchor;

/// The digest of what looks like a superblock. It says which image this wants to be, and nothing more.
pub(super) fn claimed_digest(origin: &dyn Origin) -> Result<Digest, Failed> {
    let raw = head::read_whole(origin, 0..superblock::LEN_ON_DISK.min(origin.len()))?;
    let is_image = raw.len() >= superblock::LEN && raw.starts_with(&superblock::MAGIC);
    if !is_image {
        let found = raw.first_chunk().copied().unwrap_or_default();
        let err = Error::from(crate::error::Corrupt::NotAnImage { found });
        return Err(Failed::about(origin.shown(), err));
    }
    Ok(proof::hash_superblock(raw.get(..superblock::LEN).unwrap_or_default()))
}

/// Brings the image to `target`. Returns its version.
pub(super) fn bring(
    place: &Place,
    origin: &dyn Origin,
    claimed: Digest,
    book: &mut Book,
    wish: &Wish<'_>,
    target: &Path,
    counts: &mut Counts,
) -> Result<u64, Failed> {
    let (part, head) = if origin.has_ranges() {
        let head = Head::find(origin, wish.anchor, wish.signatures.clone())?;
        head::same(origin, claimed, &head)?;
        refuse_old(place, book, head.superblock.image_version, wish)?;
        let part = Part::begin(&place.part(head.root_digest), head.len())?;
        fill(place, origin, wish, &head, &part, counts)?;
        (part, head)
    } else {
        let mut signatures = wish.signatures.clone();
        if matches!(wish.anchor, Anchor::Keys(_)) && signatures.is_empty() {
            signatures.extend(origin.signature());
        }
        download(place, origin, claimed, book, wish, &signatures, counts)?
    };
    if let Err(failed) = read_back(origin, &part, &head, wish) {
        part.discard();
        return Err(failed);
    }
    #[cfg(feature = "fec")]
    {
        // A delta has none, and where the image that it changes has parity, the next one shall have it, too.
        let of_base = || head::parity_here(&place.find(origin.base()?)?);
        if let Some(parity_count) = head.parity.or_else(of_base) {
            part.add_parity(head.len(), parity_count)?;
        }
    }
    part.seal()?;
    remember_current(book, place, claimed, wish.booted)?;
    let wrap = |err| Failed::io(format_args!("cannot rename to {}", target.display()), err);
    if place.is_single() {
        single::exchange(place, part.path(), wish.booted)?;
    } else if target.exists() {
        disk::rename_over(part.path(), target).map_err(wrap)?;
    } else {
        disk::rename_new(part.path(), target).map_err(wrap)?;
    }
    Ok(head.superblock.image_version)
}

/// Fills a part from what is here and what is fetched.
fn fill(
    place: &Place,
    origin: &dyn Origin,
    wish: &Wish<'_>,
    head: &Head,
    part: &Part,
    counts: &mut Counts,
) -> Result<(), Failed> {
    let image = open_tables(origin, head, part, counts)?;
    (wish.progress)(Step::Looking, 0, head.superblock.table_offset);
    let seeds = Seeds::collect(place, &wish.seeds);
    let missing = take_from_here(&image, part, &seeds, counts, wish.progress)?;
    let total: u64 = missing.iter().map(|missing| u64::from(missing.entry.stored_len)).sum();
    let done = AtomicU64::new(0);
    (wish.progress)(Step::Fetching, 0, total);
    let came = fetch::fetch(origin, part, missing, &|bytes| {
        let before = done.fetch_add(bytes, Ordering::Relaxed);
        (wish.progress)(Step::Fetching, before.saturating_add(bytes), total);
    })?;
    counts.fetched = counts.fetched.saturating_add(came);
    Ok(())
}

/// The image that is coming to be, as far as superblock and tables. They are fetched unless they are here from the last time.
fn open_tables(
    origin: &dyn Origin,
    head: &Head,
    part: &Part,
    counts: &mut Counts,
) -> Result<Store, Failed> {
    let open = || -> Result<Store, Failed> {
        let image = Store::open(part.source()?, head.root_digest, CacheLimits::NONE)?;
        for page in 0..image.superblock().page_count() {
            image.table_page(page)?;
        }
        // The end, too: a backup that is not whole would be found when it is too late.
        let backup = store::read_superblock(image.source(), head.superblock.backup_offset())?;
        if backup.1 != head.root_digest {
            return Err(Error::from(Untrusted::Backup).into());
        }
        Ok(image)
    };
    let superblock = &head.superblock;
    part.write(&head.raw, 0)?;
    part.write(&head.trailer, superblock.image_len)?;
    if part.was_there
        && let Ok(image) = open()
    {
        return Ok(image);
    }
    let mut attempt = 0;
    loop {
        let mut at = superblock.table_offset;
        head::read_again(origin, at..superblock.image_len, &mut |piece| {
            part.write(piece, at)?;
            at = at.saturating_add(u64_from_usize(piece.len()));
            counts.fetched = counts.fetched.saturating_add(u64_from_usize(piece.len()));
            Ok(())
        })?;
        match open() {
            Err(failed) if attempt < 3 && !origin.is_local() => {
                tracing::info!("{failed}: asking for the tables again");
                std::thread::sleep(fetch::pause(origin.pause(), attempt));
                attempt = attempt.saturating_add(1);
            }
            opened => {
                return opened.map_err(|failed| {
                    let failed = Failed::new(format_args!("{}: {failed}", origin.shown()));
                    failed.hint(fetch::DAMAGED)
                });
            }
        }
    }
}

/// Takes every block that is here: in the part itself, from the last time, or in another image. Returns the others.
fn take_from_here(
    image: &Store,
    part: &Part,
    seeds: &Seeds,
    counts: &Counts,
    progress: Progress<'_>,
) -> Result<Vec<Missing>, Failed> {
    let blocks = image.superblock().block_count;
    let next = AtomicU32::new(0);
    let done = AtomicU64::new(0);
    let total = image.superblock().table_offset;
    let work = || -> Result<Vec<Missing>, Failed> {
        let mut missing = Vec::new();
        loop {
            let block = BlockIndex(next.fetch_add(1, Ordering::Relaxed));
            if block.0 >= blocks {
                return Ok(missing);
            }
            let entry = image.entry(block)?;
            let len = u64::from(entry.stored_len);
            if part.was_there && image.stored(block).is_ok() {
                counts.resumed.fetch_add(len, Ordering::Relaxed);
            } else if let Some(stored) = seeds.get(&entry.digest)
                && stored.len() == usize_from_u32(entry.stored_len)
            {
                part.write(&stored, entry.offset)?;
                counts.copied.fetch_add(len, Ordering::Relaxed);
            } else {
                missing.push(Missing { block, kind: image.kind(block), entry });
            }
            let before = done.fetch_add(len, Ordering::Relaxed);
            progress(Step::Looking, before.saturating_add(len), total);
        }
    };
    let mut missing = Vec::new();
    for found in on_threads(workers(), work) {
        missing.append(&mut found.map_err(|_| Failed::new("a thread that copies panicked"))??);
    }
    missing.sort_unstable_by_key(|missing| missing.block);
    Ok(missing)
}
