//! What if a server knows no ranges? Then all of an image comes, from its beginning, and what it is is known when it is there.

use super::admission::refuse_old;
use super::book::Book;
use super::failed::Failed;
use super::fetch::pause;
use super::head::{self, Head, TRAILER_LEN_MAX};
use super::origin::{FileOrigin, Origin, Trouble};
use super::part::Part;
use super::place::Place;
use super::wish::{Counts, Step, Wish};
use crate::error::{Error, Untrusted};
use crate::format::digest::Digest;
use crate::format::field::u64_from_usize;
use crate::format::superblock::{self, Superblock};
use crate::trust::Anchor;

/// So often it is begun.
const ATTEMPTS: u32 = 4;

/// Downloads all of an image.
pub(super) fn download(
    place: &Place,
    origin: &dyn Origin,
    claimed: Digest,
    book: &Book,
    wish: &Wish<'_>,
    signatures: &[Vec<u8>],
    counts: &mut Counts,
) -> Result<(Part, Head), Failed> {
    let len = believable_len(origin, claimed, wish.anchor)?;
    let part = Part::begin(&place.part(claimed), len)?;
    let mut come = || {
        fill(origin, wish, &part, len, counts)?;
        let here = FileOrigin::open(part.path())?;
        let head = Head::fetch(&here, wish.anchor, signatures).map_err(|failed| Failed {
            message: format!("{}: {failed}", origin.shown()),
            ..failed
        })?;
        head::same(origin, claimed, &head)?;
        refuse_old(place, book, head.superblock.image_version, wish)?;
        // Behind the image there is what we know of, and nothing else.
        part.write(&head.trailer, head.superblock.image_len)?;
        part.cut(head.len())?;
        Ok(head)
    };
    match come() {
        Ok(head) => Ok((part, head)),
        Err(failed) => {
            // It would be begun anew anyhow.
            part.discard();
            Err(failed)
        }
    }
}

/// How much is taken of what is offered: as long as the image says that it is. A server may offer more than the disk holds.
fn believable_len(origin: &dyn Origin, claimed: Digest, anchor: &Anchor) -> Result<u64, Failed> {
    let about = |err| Failed::about(origin.shown(), err);
    if let Anchor::RootDigest(expected) = anchor
        && *expected != claimed
    {
        // It will not be another one when all of it is there.
        let untrusted = Untrusted::Superblock { expected: *expected, found: claimed };
        return Err(about(untrusted.into()));
    }
    let raw = head::read_whole(origin, 0..superblock::LEN_ON_DISK.min(origin.len()))?;
    let raw = raw.first_chunk().ok_or_else(|| about(Error::Invalid))?;
    let says = Superblock::decode(raw).map_err(|defect| about(defect.into()))?;
    if origin.len() < says.image_len {
        let (shown, len, want) = (origin.shown(), origin.len(), says.image_len);
        return Err(Failed::new(format_args!("{shown}: it has {len} bytes, the image has {want}"))
            .hint("the file on the server is not whole"));
    }
    Ok(origin.len().min(says.image_len.saturating_add(TRAILER_LEN_MAX)))
}

/// Writes all of it to its place, from the beginning each time.
fn fill(
    origin: &dyn Origin,
    wish: &Wish<'_>,
    part: &Part,
    len: u64,
    counts: &mut Counts,
) -> Result<(), Failed> {
    let mut attempt: u32 = 0;
    loop {
        let mut at = 0;
        (wish.progress)(Step::Fetching, 0, len);
        let read = origin.read(0..len, &mut |piece| {
            part.write(piece, at)?;
            at = at.saturating_add(u64_from_usize(piece.len()));
            counts.fetched = counts.fetched.saturating_add(u64_from_usize(piece.len()));
            (wish.progress)(Step::Fetching, at, len);
            Ok(())
        });
        let trouble = match read {
            Ok(()) if at >= len => return Ok(()),
            Ok(()) => {
                let what = format_args!("{}: {at} bytes came of {len}", origin.shown());
                Trouble::Passing(Failed::new(what))
            }
            Err(trouble) => trouble,
        };
        attempt = attempt.saturating_add(1);
        match trouble {
            Trouble::Passing(failed) if attempt < ATTEMPTS => {
                tracing::info!("{failed}: beginning again, for the server knows no ranges");
                std::thread::sleep(pause(origin.pause(), attempt));
            }
            trouble => return Err(trouble.into_failed()),
        }
    }
}
