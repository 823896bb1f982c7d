//! How do damaged bytes come back? From parity that the image carries (SPEC §10), made by `mkimage --fec`.
//!
//! A file is cut into shards, and Reed-Solomon parity is computed across all of them: as many shards as parity has may be
//! lost, wherever they lie. Which ones are lost, their checksums tell. Nothing that comes from here is believed: whoever asks
//! holds it against the digest that hangs from the root digest.
//!
//! What lies at the same place of all shards belongs together, so shards are gone through side by side, as many bytes of each as fit
//! into 32 MiB with the parity of them (and 8 MiB of tables), however long the image is: all of them up to some hundred megabytes, and
//! of a longer image one strip after another. Each byte is read once for parity, and once for the checksums.

mod code;
mod encode;
mod matrix;
mod progress;
mod repair;
mod restore;
mod scan;
#[cfg(test)]
mod tests;

use crate::error::Result;
use crate::format::fec::{END_MAGIC, HEAD_LEN_ON_DISK, Head, MAGIC, UNIT};
use crate::format::field::{get_u64, u64_from_usize, usize_from_u64};
use crate::format::superblock;
use crate::image::Source;
use crate::store::{self, last_parity_head, parity_head, parity_of, read_pages};
use crate::trust;

pub use crate::format::fec::{Geometry, Share};
pub use encode::encode;
pub use progress::Progress;
pub use repair::{Look, Repairer};
pub use restore::{Restored, restore};
pub use scan::{Damage, scan};

/// Parity of a file, and what it says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What its head says.
    pub head: Head,
    /// What is lost.
    pub damage: Damage,
}

/// Parity that is looked at in one file, at most: anybody may have written a head, and to hold it against the file costs reading
/// all of that.
const CANDIDATES_MAX: usize = 8;

/// The head of an image's parity where it is known to be: behind image and trailer, or at the end of the file.
pub fn find(source: &dyn Source) -> Option<Head> {
    behind_image(source).or_else(|| last_parity_head(source))
}

/// Behind the image that the first superblock tells of, and its trailer.
fn behind_image(source: &dyn Source) -> Option<Head> {
    let (raw, _) = store::read_superblock(source, 0).ok()?;
    if !raw.starts_with(&superblock::MAGIC) {
        return None;
    }
    let image_len = get_u64(&raw, 0x20);
    let signatures = trust::read_trailer(source, image_len).ok()?;
    parity_of(source, image_len, &signatures)
}

/// The parity that undoes what is wrong with a file. Where none can, the likeliest one; where there is none, `None`.
///
/// On a partition that held a longer image before, its parity may lie behind the right one.
pub fn search(
    source: &dyn Source,
    workers: usize,
    progress: Progress<'_>,
) -> Result<Option<Found>> {
    let mut likeliest = None;
    for head in heads(source) {
        let found = Found { head, damage: scan(source, &head, workers, progress)? };
        if found.damage.is_curable(head.geometry) {
            return Ok(Some(found));
        }
        likeliest.get_or_insert(found);
    }
    Ok(likeliest)
}

/// Heads where they are known to be, and then wherever else they are, which reads the whole file.
pub fn heads(source: &dyn Source) -> impl Iterator<Item = Head> + '_ {
    let known = [behind_image, last_parity_head].into_iter().filter_map(|find| find(source));
    let mut seen = Vec::new();
    let is_new = move |head: &Head| {
        let is_new = !seen.contains(head);
        seen.push(*head);
        is_new
    };
    // `seen` has no more than twice as many as are taken: each head is there twice.
    known.chain(everywhere(source)).filter(is_new).take(CANDIDATES_MAX)
}

/// All heads that are in their places, in the order in which they lie in the file.
fn everywhere(source: &dyn Source) -> impl Iterator<Item = Head> + '_ {
    const PIECE: usize = 1 << 20;
    (0..source.len()).step_by(PIECE).flat_map(move |start| {
        let len = usize_from_u64(source.len().saturating_sub(start)).min(PIECE);
        let mut piece = vec![0; len];
        read_pages(source, &mut piece, start);
        let unit = usize_from_u64(UNIT);
        let places = (start..).step_by(unit);
        let heads =
            piece.chunks(unit).zip(places).filter_map(|(page, at)| head_in(source, page, at));
        heads.collect::<Vec<Head>>()
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
