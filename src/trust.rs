//! Who vouches for it? Keys and signatures become a root digest here; from then on only the digest counts.

use std::path::{Path, PathBuf};

use minisign_verify::{PublicKey, Signature};

use crate::error::{Error, Result};
use crate::format::defect::{Corrupt, Untrusted};
use crate::format::digest::Digest;
use crate::format::field::{self, u64_from_usize, usize_from_u32};
use crate::format::superblock;
use crate::format::trailer::{self, signed_text};
use crate::image::Source;
use crate::store::{proof, read_superblock, superblock_offsets};

/// A minisign public key.
pub type Key = PublicKey;

/// What an image is held against.
#[derive(Debug, Clone)]
pub enum Anchor {
    /// The root digest itself.
    RootDigest(Digest),
    /// A signature by one of these keys.
    Keys(Vec<PublicKey>),
    /// Nothing: the image is only found to agree with itself.
    Unauthenticated,
}

/// Most bytes of a key or signature file that are read.
const FILE_LEN_MAX: u64 = 16 * 1024;

/// Reads a minisign public key file.
pub fn read_key(path: &Path) -> Result<PublicKey> {
    let text = read_text(path, "key")?;
    parse_key(&text).ok_or_else(|| {
        let what = std::io::Error::other("no minisign public key");
        Error::io(format!("cannot use {}", path.display()), what)
    })
}

/// A minisign public key: the text of its file, or its second line only.
pub fn parse_key(text: &str) -> Option<PublicKey> {
    PublicKey::decode(text).or_else(|_| PublicKey::from_base64(text.trim())).ok()
}

/// The bytes that a minisign key file holds: its second line, decoded. `None` when that is not base64.
pub fn key_file_bytes(text: &str) -> Option<Vec<u8>> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits = text.lines().nth(1)?.trim().trim_end_matches('=').bytes();
    let mut raw = Vec::new();
    let (mut bits, mut held) = (0_u32, 0_u32);
    for digit in digits {
        let value = DIGITS.iter().position(|known| *known == digit)?;
        held = ((held << 6) | u32::try_from(value).ok()?) & 0xffff;
        bits = bits.saturating_add(6);
        if bits >= 8 {
            bits = bits.saturating_sub(8);
            raw.push(u8::try_from(held.checked_shr(bits)? & 0xff).ok()?);
        }
    }
    Some(raw)
}

/// A key's id as minisign writes it: 16 hexadecimal digits.
#[cfg(feature = "cli")]
pub(crate) fn key_id(keynum: &[u8]) -> String {
    let id = keynum.iter().rev().fold(0_u64, |id, byte| id << 8 | u64::from(*byte));
    format!("{id:016X}")
}

/// Key id and trusted comment of a minisign signature, nothing of which is checked, or why it is none.
#[cfg(feature = "cli")]
pub(crate) fn describe_signature(text: &str) -> Result<(String, String), String> {
    let signature = Signature::decode(text).map_err(|err| err.to_string())?;
    // Two bytes say the algorithm, eight the key.
    let raw = key_file_bytes(text).unwrap_or_default();
    let id = raw.get(2..10).ok_or("it names no key")?;
    Ok((key_id(id), signature.trusted_comment().to_owned()))
}

/// What ends the name of a signature beside an image, or beside anything else that is signed.
pub const SIGNATURE_SUFFIX: &str = ".minisig";

/// Where the signature beside a file is.
pub fn signature_beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(SIGNATURE_SUFFIX);
    PathBuf::from(name)
}

/// Reads a detached signature file.
pub fn read_signature(path: &Path) -> Result<Vec<u8>> {
    Ok(read_text(path, "signature")?.into_bytes())
}

fn read_text(path: &Path, what: &str) -> Result<String> {
    use std::io::Read;
    let wrap = |err| Error::io(format!("cannot read {what} {}", path.display()), err);
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(wrap)?;
    file.take(FILE_LEN_MAX).read_to_string(&mut text).map_err(wrap)?;
    Ok(text)
}

/// The root digest that an anchor vouches for. `detached` are signatures from beside the image.
pub fn root_digest(source: &dyn Source, anchor: &Anchor, detached: &[Vec<u8>]) -> Result<Digest> {
    match anchor {
        Anchor::RootDigest(digest) => Ok(*digest),
        Anchor::Keys(keys) => signed_root_digest(source, keys, detached),
        Anchor::Unauthenticated => own_root_digest(source),
    }
}

/// The digest of the first superblock that looks like one.
fn own_root_digest(source: &dyn Source) -> Result<Digest> {
    let (first, digest) = read_superblock(source, 0)?;
    if first.starts_with(&superblock::MAGIC) {
        return Ok(digest);
    }
    superblock_offsets(source)
        .into_iter()
        .skip(1)
        .filter_map(|offset| read_superblock(source, offset).ok())
        .find(|(raw, _)| raw.starts_with(&superblock::MAGIC))
        .map(|(_, digest)| digest)
        .ok_or_else(|| not_an_image(&first).into())
}

fn not_an_image(raw: &[u8]) -> Corrupt {
    Corrupt::NotAnImage { found: raw.first_chunk().copied().unwrap_or_default() }
}

/// The digest of a superblock whose signed text one of the keys has signed.
///
/// Two fields are read from a superblock that is not trusted yet: its version, which is part of the signed text and so
/// proved with it, and the image's length, which only tells where to look for signatures.
fn signed_root_digest(
    source: &dyn Source,
    keys: &[PublicKey],
    detached: &[Vec<u8>],
) -> Result<Digest> {
    let mut found = 0_usize;
    let mut damage = None;
    let mut seen_image = false;
    let first = read_superblock(source, 0);
    for offset in superblock_offsets(source) {
        let Ok((raw, digest)) = read_superblock(source, offset) else { continue };
        if !raw.starts_with(&superblock::MAGIC) {
            continue;
        }
        seen_image = true;
        let text = signed_text(&digest, field::get_u64(&raw, 0x28));
        let embedded = match read_trailer(source, field::get_u64(&raw, 0x20)) {
            Ok(signatures) => signatures,
            Err(err) => {
                damage = Some(err);
                Vec::new()
            }
        };
        found = found.max(embedded.len().saturating_add(detached.len()));
        if embedded.iter().chain(detached).any(|signature| is_signed(&text, signature, keys)) {
            return Ok(digest);
        }
    }
    if !seen_image {
        return Err(not_an_image(&first?.0).into());
    }
    Err(damage.filter(|_| found == 0).unwrap_or_else(|| Untrusted::Signature { found }.into()))
}

/// Whether one of the keys made this signature of this text.
pub fn is_signed(text: &str, signature: &[u8], keys: &[PublicKey]) -> bool {
    let Some(signature) =
        std::str::from_utf8(signature).ok().and_then(|text| Signature::decode(text).ok())
    else {
        return false;
    };
    // Stock minisign makes prehashed signatures since 0.10 and reads both kinds; so do we.
    keys.iter().any(|key| key.verify(text.as_bytes(), &signature, true).is_ok())
}

/// The signatures in the trailer that starts at `image_len`; none when the image ends there.
pub fn read_trailer(source: &dyn Source, image_len: u64) -> Result<Vec<Vec<u8>>> {
    let rest = source.len().saturating_sub(image_len);
    let mut head = [0; trailer::HEAD_LEN];
    if rest < u64_from_usize(head.len()) {
        return Ok(Vec::new());
    }
    source
        .read_exact_at(&mut head, image_len)
        .map_err(|err| Error::io("cannot read the signature trailer", err))?;
    if !head.starts_with(&trailer::MAGIC) {
        return Ok(Vec::new());
    }
    let damaged = |what| Error::from(Untrusted::Trailer { what });
    let len = trailer::decode_len(&head).map_err(damaged)?;
    if u64::from(len) > rest {
        return Err(damaged("it is cut off"));
    }
    let mut raw = vec![0; usize_from_u32(len)];
    source
        .read_exact_at(&mut raw, image_len)
        .map_err(|err| Error::io("cannot read the signature trailer", err))?;
    trailer::decode(&raw, proof::hash_trailer).map_err(damaged)
}
