//! Where does an image end? What lies behind it, trailer and parity, is found from the end of the file.

use crate::error::{Error, Result};
use crate::format::defect::Untrusted;
use crate::format::fec::{self, Head};
use crate::format::field::u64_from_usize;
use crate::format::{superblock, trailer};
use crate::image::Source;

use super::{proof, read_into};

/// Where superblocks may be: at the start, and at the end in front of trailer and parity if there are such.
pub fn superblock_offsets(source: &dyn Source) -> Vec<u64> {
    let mut offsets = vec![0];
    let len = covered_len(source);
    let foot_len = u64_from_usize(trailer::FOOT_LEN);
    let mut foot = [0; trailer::FOOT_LEN];
    let trailer_len = len
        .checked_sub(foot_len)
        .filter(|offset| source.read_exact_at(&mut foot, *offset).is_ok())
        .and_then(|_| trailer::decode_foot(&foot))
        .unwrap_or(0);
    offsets.extend(
        len.checked_sub(u64::from(trailer_len))
            .and_then(|end| end.checked_sub(superblock::LEN_ON_DISK))
            .filter(|offset| *offset > 0),
    );
    offsets
}

/// Length of the file without its parity: image and trailer.
pub fn covered_len(source: &dyn Source) -> u64 {
    last_parity_head(source).map_or(source.len(), |head| head.geometry.covered_len())
}

/// The head of parity that ends the file, if there is one. It is nobody's word: it tells where to look.
pub fn last_parity_head(source: &dyn Source) -> Option<Head> {
    let len = source.len();
    let offset = len.checked_sub(fec::HEAD_LEN_ON_DISK)?;
    // As most files have none, nothing but its last bytes is hashed.
    let head = parity_head(source, offset).ok()?;
    (head.geometry.end() == len).then_some(head)
}

/// The head of parity at `offset`.
pub fn parity_head(source: &dyn Source, offset: u64) -> Result<Head> {
    let mut raw = [0; fec::HEAD_LEN];
    read_into(source, offset, &mut raw)?;
    Head::decode(&raw, proof::hash_parity_head)
        .map_err(|what| Error::from(Untrusted::Parity { what }))
}

/// The head of the parity of an image with such signatures in its trailer.
pub fn parity_of(source: &dyn Source, image_len: u64, signatures: &[Vec<u8>]) -> Option<Head> {
    parity_behind(source, image_len.checked_add(trailer::len(signatures))?)
}

/// The head of the parity of the first `covered_len` bytes: the one that ends the file, or the one in front.
pub fn parity_behind(source: &dyn Source, covered_len: u64) -> Option<Head> {
    let is_its = |head: &Head| head.geometry.covered_len() == covered_len;
    last_parity_head(source).filter(is_its).or_else(|| {
        let offset = covered_len.checked_next_multiple_of(fec::UNIT)?;
        parity_head(source, offset).ok().filter(is_its)
    })
}

/// Reads all of it that can be read, and zeros where nothing can: a bad sector costs its page and not what is around it.
pub fn read_pages(source: &dyn Source, buf: &mut [u8], offset: u64) {
    const PAGE: u16 = 4096;
    if source.read_exact_at(buf, offset).is_ok() {
        return;
    }
    let places = (offset..).step_by(PAGE.into());
    for (page, at) in buf.chunks_mut(PAGE.into()).zip(places) {
        if source.read_exact_at(page, at).is_err() {
            page.fill(0);
        }
    }
}
