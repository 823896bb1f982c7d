//! Who vouches for an image of which only a few bytes were fetched? Its superblock and its signatures suffice.

use std::io;
use std::ops::Range;
#[cfg(feature = "fec")]
use std::path::Path;

use super::failed::Failed;
use super::fetch::{PROGRESS, pause};
use super::origin::{Origin, Trouble};
use crate::error::Untrusted;
use crate::format::digest::Digest;
use crate::format::field::u64_from_usize;
use crate::format::superblock::{self, Superblock};
use crate::format::trailer;
use crate::format::{SIGNATURE_LEN_MAX, SIGNATURES_MAX};
use crate::image::Source;
#[cfg(feature = "fec")]
use crate::image::{self, Method};
use crate::store::{self, proof};
use crate::trust::{self, Anchor};

/// More than a trailer has with the head of parity behind it. A block device goes on behind it; so much of that is fetched in vain.
pub(super) const TRAILER_LEN_MAX: u64 = 128 << 10;
const _: () = assert!((SIGNATURE_LEN_MAX + 4) * SIGNATURES_MAX + 64 + 4096 + 96 < 128 << 10);

/// What is known of an image before any block of it is there: who vouches for it, and what its superblock says.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) raw: [u8; superblock::LEN],
    pub(super) superblock: Superblock,
    pub(super) root_digest: Digest,
    /// What follows the image: all signatures that are known, also those from beside it.
    pub(super) trailer: Vec<u8>,
    /// Parity shards, where what is offered has parity. That itself is not fetched: what follows the image may be longer here, and to
    /// make parity is quicker than to fetch it.
    #[cfg_attr(not(feature = "fec"), expect(dead_code, reason = "nothing else makes parity"))]
    pub(super) parity: Option<u32>,
}

impl Head {
    /// Fetches what is needed and authenticates it; where the image has no signature that counts, also by the one beside it.
    pub(super) fn find(
        origin: &dyn Origin,
        anchor: &Anchor,
        mut signatures: Vec<Vec<u8>>,
    ) -> Result<Head, Failed> {
        match Head::fetch(origin, anchor, &signatures) {
            Err(failed) if matches!(anchor, Anchor::Keys(_)) && signatures.is_empty() => {
                signatures.extend(origin.signature());
                if signatures.is_empty() {
                    return Err(failed);
                }
                Head::fetch(origin, anchor, &signatures)
            }
            head => head,
        }
    }

    /// Fetches what is needed and authenticates it.
    pub(super) fn fetch(
        origin: &dyn Origin,
        anchor: &Anchor,
        signatures: &[Vec<u8>],
    ) -> Result<Head, Failed> {
        let about = |err| Failed::about(origin.shown(), err);
        let mut pieces = Pieces { len: origin.len(), ..Pieces::default() };
        let start = 0..superblock::LEN_ON_DISK.min(pieces.len);
        pieces.fetch(origin, start)?;
        // Nothing of it is trusted yet but what says where the signatures are, and those are looked for in a bounded place.
        let (raw, root_digest) = store::read_superblock(&pieces, 0).map_err(about)?;
        let claimed = Superblock::decode(&raw).map_err(|defect| about(defect.into()))?;
        if pieces.len < claimed.image_len {
            let untrusted = Untrusted::Truncated { len: pieces.len, image_len: claimed.image_len };
            return Err(about(untrusted.into()).hint("it was not copied whole: copy it again"));
        }
        let end = pieces.len.min(claimed.image_len.saturating_add(TRAILER_LEN_MAX));
        pieces.fetch(origin, claimed.image_len.min(end)..end)?;
        let vouched = trust::root_digest(&pieces, anchor, signatures).map_err(about)?;
        if vouched != root_digest {
            // With a digest, or by a backup that is authentic where the first superblock is not.
            let untrusted = Untrusted::Superblock { expected: vouched, found: root_digest };
            return Err(about(untrusted.into()));
        }
        let trailer = trailer_of(&pieces, &claimed, signatures).map_err(about)?;
        let parity = parity_of(&pieces, &claimed);
        Ok(Head { raw, superblock: claimed, root_digest, trailer, parity })
    }

    /// Length of image and trailer.
    pub(super) fn len(&self) -> u64 {
        self.superblock.image_len.saturating_add(u64_from_usize(self.trailer.len()))
    }
}

/// The trailer that the image gets here: its own signatures and those from beside it, so that they can never be parted.
fn trailer_of(
    source: &dyn Source,
    superblock: &Superblock,
    beside: &[Vec<u8>],
) -> crate::Result<Vec<u8>> {
    let mut signatures = trust::read_trailer(source, superblock.image_len)?;
    for signature in beside {
        if !signatures.contains(signature) {
            signatures.push(signature.clone());
        }
    }
    if signatures.is_empty() {
        return Ok(Vec::new());
    }
    let what = "there are too many signatures, or one is too long";
    trailer::encode(&signatures, proof::hash_trailer).ok_or(Untrusted::Trailer { what }.into())
}

/// How many parity shards what is offered has.
fn parity_of(source: &dyn Source, superblock: &Superblock) -> Option<u32> {
    let signatures = trust::read_trailer(source, superblock.image_len).ok()?;
    Some(store::parity_of(source, superblock.image_len, &signatures)?.geometry.parity_count())
}

/// How many parity shards an image on this machine has.
#[cfg(feature = "fec")]
pub(super) fn parity_here(path: &Path) -> Option<u32> {
    let source = image::open(path, Method::Pread).ok()?;
    let (raw, _) = store::read_superblock(&*source, 0).ok()?;
    parity_of(&*source, &Superblock::decode(&raw).ok()?)
}

/// Bytes that were fetched, as a source that lacks all others.
#[derive(Debug, Default)]
struct Pieces {
    pieces: Vec<(u64, Vec<u8>)>,
    len: u64,
}

impl Pieces {
    fn fetch(&mut self, origin: &dyn Origin, range: Range<u64>) -> Result<(), Failed> {
        let start = range.start;
        self.pieces.push((start, read_whole(origin, range)?));
        Ok(())
    }
}

/// The bytes of a short range.
pub(super) fn read_whole(origin: &dyn Origin, range: Range<u64>) -> Result<Vec<u8>, Failed> {
    let mut raw = Vec::new();
    read_again(origin, range, &mut |piece| {
        raw.extend_from_slice(piece);
        Ok(())
    })?;
    Ok(raw)
}

/// So often in a row bytes are asked for of which none come.
const ATTEMPTS: u32 = 5;

/// Reads a range on one connection, from where it stopped if that did not work.
pub(super) fn read_again(
    origin: &dyn Origin,
    range: Range<u64>,
    take: &mut dyn FnMut(&[u8]) -> Result<(), Failed>,
) -> Result<(), Failed> {
    let mut at = range.start;
    let mut attempt = 0;
    while at < range.end {
        let start = at;
        // The tables of a large image are longer than what one question is worth.
        let end = range.end.min(at.saturating_add(origin.range_len_max()));
        let read = origin.read(at..end, &mut |piece| {
            at = at.saturating_add(u64_from_usize(piece.len()));
            take(piece)
        });
        let came = at.saturating_sub(start);
        if at >= end || came >= PROGRESS {
            attempt = 0;
        }
        let trouble = match read {
            Ok(()) if at >= end => continue,
            // Asked again at once, an origin that says so and gives nothing would be asked for ever.
            Ok(()) => Trouble::Passing(Failed::new(format_args!(
                "{}: {came} bytes came of {}",
                origin.shown(),
                end.saturating_sub(start)
            ))),
            Err(trouble) => trouble,
        };
        match trouble {
            Trouble::Passing(failed) if attempt < ATTEMPTS => {
                tracing::debug!("{failed}: asking again");
                std::thread::sleep(pause(origin.pause(), attempt));
                attempt = attempt.saturating_add(1);
            }
            trouble => return Err(trouble.into_failed()),
        }
    }
    Ok(())
}

impl Source for Pieces {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let found = self.pieces.iter().find_map(|(start, raw)| {
            let from = usize::try_from(offset.checked_sub(*start)?).ok()?;
            raw.get(from..)?.get(..buf.len())
        });
        buf.copy_from_slice(found.ok_or_else(|| io::Error::other("it was not fetched"))?);
        Ok(())
    }
}

/// The image gets the name of what it claimed to be at first: it must still be that.
pub(super) fn same(origin: &dyn Origin, claimed: Digest, head: &Head) -> Result<(), Failed> {
    if head.root_digest == claimed {
        return Ok(());
    }
    Err(Failed::new(format_args!("{}: the image changed meanwhile", origin.shown()))
        .hint("run it again"))
}
