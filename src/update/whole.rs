//! Is all of an image as it was sealed? Read from the disk, block by block, with what is around them.

use std::path::Path;
use std::sync::Arc;

use super::disk;
use super::failed::Failed;
use super::fetch::DAMAGED;
use super::head::Head;
use super::origin::Origin;
use super::part::Part;
use super::wish::{Progress, Step, Wish, workers};
use crate::error::{Error, Untrusted};
use crate::format::digest::Digest;
use crate::format::entry::ENTRIES_PER_PAGE;
use crate::format::index::BlockIndex;
use crate::format::trailer;
use crate::image::{self, Method, Source};
use crate::store::{self, CacheLimits, Store};
use crate::trust::{self, Anchor};

/// The version of an image that is here, if it is authentic and whole.
/// Signatures are those that a boot would find, too.
pub(super) fn is_whole_at(path: &Path, claimed: Digest, wish: &Wish<'_>) -> Result<u64, Failed> {
    let source = image::open(path, Method::Pread)?;
    let signatures: Vec<_> =
        trust::read_signature(&trust::signature_beside(path)).into_iter().collect();
    let digest = trust::root_digest(&*source, wish.anchor, &signatures)?;
    if digest != claimed {
        return Err(Error::from(Untrusted::Superblock { expected: claimed, found: digest }).into());
    }
    whole(&source, digest, wish.progress)
}

/// The digest of an image that nobody has to vouch for, if all of it is as its superblock says.
pub(super) fn sound_digest(path: &Path) -> Result<Digest, Failed> {
    let source = image::open(path, Method::Pread)?;
    let digest = trust::root_digest(&*source, &Anchor::Unauthenticated, &[])?;
    whole(&source, digest, &|_, _, _| {}).map(|_| digest)
}

/// Reads all of an image. Returns its version.
fn whole(source: &Arc<dyn Source>, digest: Digest, progress: Progress<'_>) -> Result<u64, Failed> {
    let image = Store::open(Arc::clone(source), digest, CacheLimits::NONE)?;
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
    whole_trailer(&**source, superblock.image_len)?;
    Ok(superblock.image_version)
}

/// Reads all of it back from the disk: what is wrong now would have been wrong at boot.
pub(super) fn read_back(
    origin: &dyn Origin,
    part: &Part,
    head: &Head,
    wish: &Wish<'_>,
) -> Result<(), Failed> {
    (wish.progress)(Step::Writing, 0, head.len());
    part.write_down()?;
    disk::step("read back").map_err(|err| Failed::io("cannot read the image back", err))?;
    let source = image::open(part.path(), Method::Pread)?;
    let wrong = |failed: Failed| {
        if !origin.has_ranges() {
            // Nothing of it was looked at before.
            return Failed::new(format_args!("{}: {failed}", origin.shown())).hint(DAMAGED);
        }
        Failed::new(format_args!("what was written to the disk is not what is read back: {failed}"))
            .hint("the disk may be failing: see the kernel log")
    };
    whole(&source, head.root_digest, wish.progress).map(drop).map_err(wrong)
}

/// The signatures behind an image. There must be nothing else, but for what a block device has behind its content (S-04).
pub(super) fn whole_trailer(source: &dyn Source, image_len: u64) -> crate::Result<Vec<Vec<u8>>> {
    let signatures = trust::read_trailer(source, image_len)?;
    let offset = image_len.saturating_add(trailer::len(&signatures));
    match source.len().checked_sub(offset) {
        // What parity is there for is whole: it does not matter how that itself is.
        Some(len) if len > 0 && store::parity_behind(source, offset).is_some() => Ok(signatures),
        Some(len) if len > 0 && !source.has_slack() => {
            Err(Untrusted::Trailing { offset, len }.into())
        }
        Some(_) => Ok(signatures),
        None => Err(Untrusted::Truncated { len: source.len(), image_len }.into()),
    }
}
