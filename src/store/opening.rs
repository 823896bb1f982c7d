//! Which superblock counts? The first one, its backup, or a copy from elsewhere: the one that has the root digest.

use std::io;

use super::heal::{Sealed, wanted_superblock};
use super::table::wanted_list;
use super::{proof, read_into, superblock_offsets};
use crate::error::{Error, Result};
use crate::format::defect::{Corrupt, Untrusted};
use crate::format::digest::Digest;
use crate::format::field::u64_from_usize;
use crate::format::superblock::{self, Superblock};
use crate::image::Source;

/// The 4096 bytes of a superblock, whatever they are, and their digest.
pub fn read_superblock(
    source: &dyn Source,
    offset: u64,
) -> Result<([u8; superblock::LEN], Digest)> {
    let mut raw = [0; superblock::LEN];
    if let Err(err) = read_into(source, offset, &mut raw) {
        // A file shorter than a superblock is no image; "unexpected end of file" would not say so.
        let is_cut = matches!(&err, Error::Io { source, .. } if source.kind() == io::ErrorKind::UnexpectedEof);
        if is_cut && source.len() < superblock::LEN_ON_DISK {
            let mut found = [0; 8];
            let len = usize::try_from(source.len()).unwrap_or(usize::MAX).min(found.len());
            read_into(source, 0, found.get_mut(..len).unwrap_or_default())?;
            if found == superblock::MAGIC {
                let (len, image_len) = (source.len(), superblock::LEN_ON_DISK);
                return Err(Untrusted::Truncated { len, image_len }.into());
            }
            return Err(Corrupt::NotAnImage { found }.into());
        }
        return Err(err);
    }
    let digest = proof::hash_superblock(&raw);
    Ok((raw, digest))
}

/// The superblock that has the root digest, and whether it is the backup.
pub fn open_superblock(source: &dyn Source, root_digest: Digest) -> Result<(Superblock, bool)> {
    let (raw, used_backup) = find(source, root_digest)?;
    Ok((Superblock::decode(&raw)?, used_backup))
}

/// Its bytes, where the image has them.
fn find(source: &dyn Source, root_digest: Digest) -> Result<([u8; superblock::LEN], bool)> {
    let first = read_superblock(source, 0);
    if let Ok((raw, found)) = &first
        && *found == root_digest
    {
        return Ok((*raw, false));
    }
    let backup = superblock_offsets(source)
        .into_iter()
        .skip(1)
        .filter_map(|offset| read_superblock(source, offset).ok())
        .find(|(_, digest)| *digest == root_digest);
    if let Some((raw, _)) = backup {
        return Ok((raw, true));
    }
    let (first, found) = first?;
    if !first.starts_with(&superblock::MAGIC) {
        let found = first.first_chunk().copied().unwrap_or_default();
        return Err(Corrupt::NotAnImage { found }.into());
    }
    Err(Untrusted::Superblock { expected: root_digest, found }.into())
}

/// Its bytes, whoever has them, and whether the first of the image was not it.
pub(super) fn raw_superblock(
    sealed: &Sealed,
    root_digest: Digest,
) -> Result<([u8; superblock::LEN], bool)> {
    find(sealed.source(), root_digest).or_else(|err| {
        // Whoever asks for another image than this one has nothing to wait for.
        if !sealed.can_heal() || whole_image(sealed.source()).is_some() {
            return Err(err);
        }
        let mut raw = [0; superblock::LEN];
        sealed.heal(&wanted_superblock(root_digest), &mut raw, err)?;
        Ok((raw, true))
    })
}

/// The root digest of the image that a file says it is, where a superblock and its page list agree: damage makes no such thing.
pub fn whole_image(source: &dyn Source) -> Option<Digest> {
    superblock_offsets(source).into_iter().find_map(|offset| {
        let (raw, digest) = read_superblock(source, offset).ok()?;
        let wanted = wanted_list(&Superblock::decode(&raw).ok()?);
        // Nobody has vouched for its length yet.
        let end = wanted.offset.checked_add(u64_from_usize(wanted.len))?;
        if end > source.len() {
            return None;
        }
        let mut list = vec![0; wanted.len];
        read_into(source, wanted.offset, &mut list).ok()?;
        (proof::hash_page_list(&list) == wanted.digest).then_some(digest)
    })
}
