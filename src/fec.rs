//! How do damaged bytes come back? From parity that the image carries (SPEC §10), made by `mkimage --fec`.
//!
//! A file is cut into shards, and Reed-Solomon parity is computed across all of them: as many shards as parity has may be
//! lost, wherever they lie. Which ones are lost, their checksums tell. Nothing that comes from here is believed: whoever asks
//! holds it against the digest that hangs from the root digest.
//!
//! The image is read from front to back, a group of shards at a time, with memory for that group only (32 MiB at most, and
//! 8 MiB of tables), however long the image is.

mod code;
mod encode;
mod matrix;
mod repair;
mod restore;
mod scan;
#[cfg(test)]
mod tests;

use crate::format::fec::{END_MAGIC, HEAD_LEN_ON_DISK, Head, MAGIC, UNIT};
use crate::format::field::{get_u64, u64_from_usize};
use crate::format::{superblock, trailer};
use crate::image::Source;
use crate::store::{self, last_parity_head, parity_behind, parity_head};
use crate::trust;

pub use crate::format::fec::{Geometry, Share};
pub use encode::encode;
pub use repair::Repairer;
pub use restore::{Restored, restore};
pub use scan::{Damage, scan};

/// Told how far a work is: bytes done, and bytes in all. Called from several threads.
pub type Progress<'a> = &'a (dyn Fn(u64, u64) + Sync);

/// The head of an image's parity where it is known to be: at the end of the file, or behind image and trailer.
pub fn find(source: &dyn Source) -> Option<Head> {
    last_parity_head(source).or_else(|| behind_image(source))
}

/// Behind the image that the first superblock tells of, and its trailer.
fn behind_image(source: &dyn Source) -> Option<Head> {
    let (raw, _) = store::read_superblock(source, 0).ok()?;
    if !raw.starts_with(&superblock::MAGIC) {
        return None;
    }
    let image_len = get_u64(&raw, 0x20);
    let signatures = trust::read_trailer(source, image_len).ok()?;
    let covered_len = image_len.checked_add(trailer::len(&signatures))?;
    parity_behind(source, covered_len)
}

/// The same, and where it is not there, wherever it may be: reads the whole file.
pub fn search(source: &dyn Source) -> Option<Head> {
    find(source).or_else(|| {
        const PIECE: usize = 1 << 20;
        let unit = usize::try_from(UNIT).ok()?;
        let mut buf = vec![0; PIECE];
        let mut found = None;
        let mut at = 0;
        while at < source.len() {
            let len = usize::try_from(source.len().saturating_sub(at)).unwrap_or(PIECE).min(PIECE);
            let piece = buf.get_mut(..len)?;
            // What cannot be read has no head that could be.
            if source.read_exact_at(piece, at).is_ok() {
                for (nth, page) in piece.chunks(unit).enumerate() {
                    let offset = at.saturating_add(u64_from_usize(nth.saturating_mul(unit)));
                    found = head_in(source, page, offset).or(found);
                }
            }
            at = at.saturating_add(u64_from_usize(len));
        }
        found
    })
}

/// The head that a page of the file starts or ends with, if that is its place.
fn head_in(source: &dyn Source, page: &[u8], offset: u64) -> Option<Head> {
    if page.starts_with(&MAGIC) {
        let head = parity_head(source, offset).ok();
        let head = head.filter(|head| head.geometry.section_offset() == offset);
        if head.is_some() {
            return head;
        }
    }
    if page.ends_with(&END_MAGIC) {
        let end = offset.saturating_add(u64_from_usize(page.len()));
        let head = parity_head(source, end.checked_sub(HEAD_LEN_ON_DISK)?).ok();
        return head.filter(|head| head.geometry.end() == end);
    }
    None
}
