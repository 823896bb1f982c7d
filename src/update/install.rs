//! How does a new image come onto the data partition? Authenticated before anything is kept, block by block from what is here
//! already and from where it is offered, read back from the disk, and only then given its name and a place in the record.
//!
//! It may be interrupted at any instant. Until the last step the machine boots what it would have booted; what came so far is
//! found again by its digests, not by a list that could be wrong.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::book::Book;
use super::disk;
use super::failed::Failed;
use super::fetch::{self, Missing};
use super::head::{self, Head};
use super::origin::Origin;
use super::part::Part;
use super::place::{Place, signature_beside};
use super::seeds::{NO_CACHE, Seeds};
use super::single;
use super::state::State;
use super::whole;
use crate::error::{Error, Untrusted};
use crate::format::digest::Digest;
use crate::format::entry::ENTRIES_PER_PAGE;
use crate::format::field::{u64_from_usize, usize_from_u32};
use crate::format::index::BlockIndex;
use crate::format::superblock;
use crate::image::{self, Method, Source};
use crate::store::parallel::on_threads;
use crate::store::{self, Store, proof};
use crate::trust::{self, Anchor};

/// What is done now, and how far it is: bytes done, and bytes in all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Blocks are looked for on this machine.
    Looking,
    /// Blocks are fetched.
    Fetching,
    /// The disk writes.
    Writing,
    /// All is read back.
    Verifying,
}

/// Told how far it is.
pub type Progress<'a> = &'a (dyn Fn(Step, u64, u64) + Sync);

/// What is wanted.
pub struct Wish<'a> {
    /// Who must vouch for the image.
    pub anchor: &'a Anchor,
    /// Signatures from beside it.
    pub signatures: Vec<Vec<u8>>,
    /// Whether it may be older than what was blessed here.
    pub allow_downgrade: bool,
    /// Whether it may be one that was given up here.
    pub allow_bad: bool,
    /// How often it is tried until somebody blesses it; with none it is the default at once.
    pub tries: Option<u8>,
    /// The image that runs, where this is the data partition of a running system.
    pub booted: Option<Digest>,
    /// Further images that may have blocks of it.
    pub seeds: Vec<PathBuf>,
    /// Who is told.
    pub progress: Progress<'a>,
}

impl std::fmt::Debug for Wish<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wish").field("anchor", &self.anchor).finish_non_exhaustive()
    }
}

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
    refuse_bad(book.state(), claimed, wish)?;
    let mut counts = Counts::default();
    let is_single = place.is_single();
    let target =
        if is_single { place.data().join(super::place::SINGLE) } else { place.image(claimed) };
    let here = place.find(claimed).filter(|path| !is_single || *path == target);
    let (path, version, was_here) = match here.map(|path| (is_whole_at(&path, wish), path)) {
        Some((Ok(version), path)) => {
            refuse_old(place, &book, version, wish)?;
            (path, version, true)
        }
        Some((Err(err), path)) => {
            tracing::warn!("{} is made again: {err}", path.display());
            let version = bring(place, origin, claimed, &book, wish, &target, &mut counts)?;
            (target, version, false)
        }
        None => {
            let version = bring(place, origin, claimed, &book, wish, &target, &mut counts)?;
            (target, version, false)
        }
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

/// Bytes, by where they came from.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) fetched: u64,
    copied: AtomicU64,
    resumed: AtomicU64,
}

/// The digest of what looks like a superblock. It says which image this wants to be, and nothing more.
fn claimed_digest(origin: &dyn Origin) -> Result<Digest, Failed> {
    let mut raw = Vec::new();
    let len = superblock::LEN_ON_DISK.min(origin.len());
    head::read_again(origin, 0..len, &mut |piece| {
        raw.extend_from_slice(piece);
        Ok(())
    })?;
    let is_image = raw.len() >= superblock::LEN && raw.starts_with(&superblock::MAGIC);
    if !is_image {
        let found = raw.first_chunk().copied().unwrap_or_default();
        let err = Error::from(crate::error::Corrupt::NotAnImage { found });
        return Err(Failed::about(origin.shown(), err));
    }
    Ok(proof::hash_superblock(raw.get(..superblock::LEN).unwrap_or_default()))
}

/// An image that was given up here comes back by no timer: only when a person says so.
fn refuse_bad(state: &State, image: Digest, wish: &Wish<'_>) -> Result<(), Failed> {
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
    let stored = place.stored()?;
    let version_of = |digest: &Digest| {
        stored.iter().find(|stored| stored.root_digest == *digest).map(|stored| stored.version)
    };
    let running = wish.booted.as_ref().or(book.state().default.as_ref()).and_then(version_of);
    let single = stored.first().filter(|_| place.is_single()).map(|stored| stored.version);
    let floors = [Some(book.state().version_floor), running, single];
    let floor = floors.into_iter().flatten().max().unwrap_or(0);
    if version < floor && !wish.allow_downgrade {
        return Err(Failed::new(format_args!(
            "the image has version {version}, which is older than version {floor} of this machine"
        ))
        .hint("--allow-downgrade installs it nevertheless; `ashlar update rollback` goes back to the image before"));
    }
    Ok(())
}

/// The version of an image that is here, if it is authentic and whole.
fn is_whole_at(path: &Path, wish: &Wish<'_>) -> Result<u64, Failed> {
    let source = image::open(path, Method::Pread)?;
    let mut signatures = wish.signatures.clone();
    signatures.extend(trust::read_signature(&signature_beside(path)).ok());
    let digest = trust::root_digest(&*source, wish.anchor, &signatures)?;
    whole(&source, digest, wish.progress)
}

/// Reads all of an image. Returns its version.
fn whole(source: &Arc<dyn Source>, digest: Digest, progress: Progress<'_>) -> Result<u64, Failed> {
    let image = Store::open(Arc::clone(source), digest, NO_CACHE)?;
    let superblock = image.superblock();
    let blocks = superblock.block_count;
    let mut done = 0_u32;
    // A page of blocks at a time, to tell how far it is.
    while done < blocks {
        let end = done.saturating_add(ENTRIES_PER_PAGE).min(blocks);
        image.prove(done..end, workers(), |_| false)?;
        done = end;
        let bytes = image.entry(BlockIndex(done.saturating_sub(1)))?.end();
        progress(Step::Verifying, bytes, superblock.table_offset);
    }
    for offset in [0, superblock.backup_offset()] {
        if store::read_superblock(&**source, offset)?.1 != digest {
            return Err(Error::from(Untrusted::Backup).into());
        }
    }
    trust::read_trailer(&**source, superblock.image_len)?;
    Ok(superblock.image_version)
}

fn workers() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Brings the image to `target`. Returns its version.
fn bring(
    place: &Place,
    origin: &dyn Origin,
    claimed: Digest,
    book: &Book,
    wish: &Wish<'_>,
    target: &Path,
    counts: &mut Counts,
) -> Result<u64, Failed> {
    let mut signatures = wish.signatures.clone();
    let (part, head) = if origin.has_ranges() {
        let head = match Head::fetch(origin, wish.anchor, &signatures) {
            Err(failed) if matches!(wish.anchor, Anchor::Keys(_)) && signatures.is_empty() => {
                signatures.extend(origin.signature());
                if signatures.is_empty() {
                    return Err(failed);
                }
                Head::fetch(origin, wish.anchor, &signatures)?
            }
            head => head?,
        };
        same(origin, claimed, &head)?;
        refuse_old(place, book, head.superblock.image_version, wish)?;
        let part = Part::begin(&place.part(head.root_digest), head.len)?;
        fill(place, origin, wish, &head, &part, counts)?;
        (part, head)
    } else {
        if matches!(wish.anchor, Anchor::Keys(_)) && signatures.is_empty() {
            signatures.extend(origin.signature());
        }
        whole::download(place, origin, claimed, book, wish, &signatures, counts)?
    };
    if let Err(failed) = read_back(origin, &part, &head, wish) {
        part.discard();
        return Err(failed);
    }
    part.seal()?;
    if !signatures.is_empty() {
        keep_signature(target, &signatures)?;
    }
    let wrap = |err| Failed::io(format_args!("cannot rename to {}", target.display()), err);
    if place.is_single() {
        single::exchange(place, part.path())?;
    } else if target.exists() {
        disk::rename_over(part.path(), target).map_err(wrap)?;
    } else {
        disk::rename_new(part.path(), target).map_err(wrap)?;
    }
    Ok(head.superblock.image_version)
}

/// The image gets the name of what it claimed to be at first: it must still be that.
pub(super) fn same(origin: &dyn Origin, claimed: Digest, head: &Head) -> Result<(), Failed> {
    if head.root_digest == claimed {
        return Ok(());
    }
    Err(Failed::new(format_args!("{}: the image changed meanwhile", origin.shown()))
        .hint("run it again"))
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
        let image = Store::open(part.source()?, head.root_digest, NO_CACHE)?;
        for page in 0..image.superblock().page_count() {
            image.table_page(page)?;
        }
        // The end, too: a backup or signatures that are not whole would be found when it is too late.
        let source = part.source()?;
        let backup = store::read_superblock(&*source, head.superblock.backup_offset())?;
        if backup.1 != head.root_digest {
            return Err(Error::from(Untrusted::Backup).into());
        }
        trust::read_trailer(&*source, head.superblock.image_len)?;
        Ok(image)
    };
    if part.was_there
        && let Ok(image) = open()
    {
        return Ok(image);
    }
    part.write(&head.raw, 0)?;
    let mut attempt = 0;
    loop {
        let mut at = head.superblock.table_offset;
        head::read_again(origin, at..head.len, &mut |piece| {
            part.write(piece, at)?;
            at = at.saturating_add(u64_from_usize(piece.len()));
            counts.fetched = counts.fetched.saturating_add(u64_from_usize(piece.len()));
            Ok(())
        })?;
        match open() {
            Err(failed) if attempt < 3 => {
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

/// Reads all of it back from the disk: what is wrong now would have been wrong at boot.
fn read_back(origin: &dyn Origin, part: &Part, head: &Head, wish: &Wish<'_>) -> Result<(), Failed> {
    (wish.progress)(Step::Writing, 0, head.len);
    part.write_down()?;
    disk::step("read back").map_err(|err| Failed::io("cannot read the image back", err))?;
    let source = image::open(part.path(), Method::Pread)?;
    let wrong = |failed: Failed| {
        if !origin.has_ranges() {
            // Nothing of it was looked at before.
            return Failed::new(format_args!("{}: {failed}", origin.shown())).hint(fetch::DAMAGED);
        }
        Failed::new(format_args!("what was written to the disk is not what is read back: {failed}"))
            .hint("the disk may be failing: see the kernel log")
    };
    whole(&source, head.root_digest, wish.progress).map(drop).map_err(wrong)
}

/// Keeps a signature that is not in the image beside it.
fn keep_signature(target: &Path, signatures: &[Vec<u8>]) -> Result<(), Failed> {
    let Some(signature) = signatures.first() else { return Ok(()) };
    let path = signature_beside(target);
    let draft = path.with_extension("minisig.tmp");
    let write = || -> std::io::Result<()> {
        disk::step("write a signature")?;
        std::fs::write(&draft, signature)?;
        std::fs::File::open(&draft)?.sync_all()?;
        disk::rename_over(&draft, &path)
    };
    write().map_err(|err| Failed::io(format_args!("cannot write {}", path.display()), err))
}

/// Has the image tried at the next boot.
fn remember(book: &mut Book, image: Digest, version: u64, wish: &Wish<'_>) -> Result<(), Failed> {
    let mut state = book.state().clone();
    match wish.tries {
        Some(tries) => state.install(image, wish.booted, tries),
        None => {
            state.install(image, wish.booted, 0);
            state.bless(image, version)?;
        }
    }
    if *book.state() != state || !book.is_known() {
        book.write(&state)?;
    }
    Ok(())
}

impl From<super::state::NotPossible> for Failed {
    fn from(why: super::state::NotPossible) -> Self {
        Failed::new(why)
    }
}
