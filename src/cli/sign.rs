//! `ashlar sign`: someone vouches for an image.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{ArgGroup, Args};
use minisign::SignatureBox;

use super::draft::Draft;
use super::key::{public_key, read_secret};
use super::{Failure, Outcome};
use crate::error::Error;
use crate::fec::{self, Geometry};
use crate::format::defect::Untrusted;
use crate::format::digest::Digest;
use crate::format::field::u64_from_usize;
use crate::format::superblock::Superblock;
use crate::format::trailer::{self, signed_text};
use crate::format::{SIGNATURE_LEN_MAX, SIGNATURES_MAX};
use crate::image::{self, Method, Source};
use crate::store::{self, proof};
use crate::trust::{self, Anchor, key_id};

/// Arguments of `ashlar sign`.
#[derive(Debug, Args)]
#[command(after_help = "\
What is signed is the text that `ashlar inspect --signed-text IMAGE` writes. Where the secret key must not come near
the image, write that text into a file, sign it with `minisign -Sm FILE`, and bring back FILE.minisig for --attach.

The image is replaced by a copy with the signature in its trailer; who has the old one open or mounted keeps it. Where the image
has parity (`mkimage --fec`), the copy gets parity that covers the signature, too.")]
#[command(group(ArgGroup::new("what").required(true).args(["key", "attach", "remove"])))]
pub struct SignArgs {
    /// Secret key (minisign) to sign with
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Put a signature that was made elsewhere into the image
    #[arg(long, value_name = "FILE")]
    attach: Option<PathBuf>,
    /// Take the signatures by a key out of the image
    #[arg(long, value_name = "KEYID")]
    remove: Option<String>,
    /// Write the signature to IMAGE.minisig and leave the image alone
    #[arg(long, requires = "key")]
    detached: bool,
    /// Public key that the attached signature must be by
    #[arg(long, value_name = "FILE", requires = "attach")]
    public_key: Option<PathBuf>,
    /// Sign nothing but the image that has this root digest
    #[arg(long, value_name = "HEX")]
    root_digest: Option<Digest>,
    /// The image
    image: PathBuf,
}

/// The image to be signed.
struct Target {
    /// Where it really is: a symlink is followed, not replaced.
    path: PathBuf,
    root_digest: Digest,
    superblock: Superblock,
    signatures: Vec<Vec<u8>>,
    /// Parity shards, if it has any.
    parity_count: Option<u32>,
}

/// Runs it.
pub fn run(args: &SignArgs) -> Outcome {
    let mut target = open(args)?;
    let text = signed_text(&target.root_digest, target.superblock.image_version);
    let (added, keys) = if let Some(key) = &args.key {
        let secret = read_secret(key)?;
        let public = public_key(&secret)?;
        // No time in it: all that is said is what was signed.
        let version = target.superblock.image_version;
        let comment = format!("ashlar image {} version {version}", target.root_digest);
        let signature = minisign::sign(
            Some(&public),
            &secret,
            text.as_bytes(),
            Some(&comment),
            Some("signature of an ashlar image"),
        )
        .map_err(|err| Failure::new(format!("cannot sign: {err}")))?;
        let key = trust::parse_key(&public.to_base64());
        (Some(signature), vec![key.ok_or_else(|| Failure::new("cannot sign with this key"))?])
    } else if let Some(path) = &args.attach {
        let signature = read_signature(path)?;
        let keys =
            args.public_key.iter().map(|path| trust::read_key(path)).collect::<Result<_, _>>()?;
        (Some(signature), keys)
    } else {
        (None, Vec::new())
    };
    let raw = added.as_ref().map(|signature| signature.to_string().into_bytes());
    let checkable = raw.as_ref().filter(|_| !keys.is_empty());
    if checkable.is_some_and(|raw| !trust::is_signed(&text, raw, &keys)) {
        return Err(Failure::new("the signature is not of this image by that key")
            .hint("what has to be signed is the output of `ashlar inspect --signed-text`"));
    }
    if args.detached {
        let path = trust::signature_beside(&args.image);
        replace(&path, &raw.unwrap_or_default())?;
        eprintln!("ashlar: wrote {}", path.display());
        return Ok(ExitCode::SUCCESS);
    }
    let gone = match (&added, &args.remove) {
        (Some(signature), _) => key_id(signature.keynum()),
        (None, Some(id)) => id.to_ascii_uppercase(),
        (None, None) => String::new(),
    };
    let before = target.signatures.len();
    target.signatures.retain(|raw| signer(raw).as_ref() != Some(&gone));
    if added.is_none() && target.signatures.len() == before {
        return Err(Failure::new(format!("the image has no signature by key {gone}")));
    }
    target.signatures.extend(raw);
    rewrite(&target)?;
    Ok(ExitCode::SUCCESS)
}

fn open(args: &SignArgs) -> Result<Target, Failure> {
    let shown = args.image.display();
    let about = |err: &Error| Failure::about(args.image.display(), err);
    let path = fs::canonicalize(&args.image)
        .map_err(|err| Failure::new(format!("cannot open {shown}: {err}")))?;
    if !path.is_file() && !args.detached {
        return Err(Failure::new(format!("{shown} is no regular file"))
            .hint("use --detached, or sign the image before it is written to a device"));
    }
    let source = image::open(&path, Method::Pread)?;
    let anchor = args.root_digest.map_or(Anchor::Unauthenticated, Anchor::RootDigest);
    let root_digest = trust::root_digest(&*source, &anchor, &[]).map_err(|err| about(&err))?;
    let (superblock, _) =
        store::open_superblock(&*source, root_digest).map_err(|err| about(&err))?;
    if source.len() < superblock.image_len {
        return Err(Failure::new(format!("{shown} is truncated")));
    }
    // A digest that was taken from the image says nothing of damage; two superblocks that agree do (S-03).
    for offset in [0, superblock.backup_offset()] {
        let (_, found) = store::read_superblock(&*source, offset).map_err(|err| about(&err))?;
        if found != root_digest {
            return Err(Failure::about(shown, &Untrusted::Backup.into())
                .hint("one of the two is damaged: build or copy the image again, then sign it"));
        }
    }
    if args.root_digest.is_none() && args.public_key.is_none() && args.remove.is_none() {
        eprintln!(
            "ashlar: warning: {shown} is not authenticated: give --root-digest to be sure of what is signed"
        );
    }
    let trailer = trust::read_trailer(&*source, superblock.image_len);
    // What is behind the image, as far as that can be told: a trailer that is damaged explains it all.
    let known_len = trailer.as_ref().map_or(source.len(), |signatures| {
        superblock.image_len.saturating_add(trailer::len(signatures))
    });
    let signatures = trailer.unwrap_or_else(|err| {
        eprintln!("ashlar: warning: {shown}: {err}; the signatures in it are lost");
        Vec::new()
    });
    let parity_count =
        if args.detached { None } else { parity_count(&args.image, &*source, known_len)? };
    Ok(Target { path, root_digest, superblock, signatures, parity_count })
}

fn read_signature(path: &Path) -> Result<SignatureBox, Failure> {
    let raw = trust::read_signature(path)?;
    let text = String::from_utf8_lossy(&raw);
    SignatureBox::from_string(&text)
        .map_err(|err| Failure::new(format!("{} is no minisign signature: {err}", path.display())))
}

/// The id of the key that made a signature, if it is one.
fn signer(raw: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(raw).ok()?;
    Some(key_id(SignatureBox::from_string(text).ok()?.keynum()))
}

/// Puts a copy of the image with the new trailer in its place.
fn rewrite(target: &Target) -> Result<(), Failure> {
    let trailer = trailer::encode(&target.signatures, proof::hash_trailer).ok_or_else(|| {
        Failure::new(format!(
            "a trailer holds {SIGNATURES_MAX} signatures of {SIGNATURE_LEN_MAX} bytes at most, this would be {}",
            target.signatures.len()
        ))
    })?;
    let image_len = target.superblock.image_len;
    let old = File::open(&target.path)
        .map_err(|err| Failure::new(format!("cannot open {}: {err}", target.path.display())))?;
    let draft = Draft::create(&target.path, Some(&old))?;
    let wrap = |err| Failure::new(format!("cannot write {}: {err}", target.path.display()));
    // copy_file_range(2): no copy at all where the filesystem can share the bytes.
    let copied = io::copy(&mut (&old).take(image_len), &mut draft.file()).map_err(wrap)?;
    if copied != image_len {
        return Err(wrap(io::ErrorKind::UnexpectedEof.into()));
    }
    draft.file().write_all(&trailer).map_err(wrap)?;
    if let Some(parity_count) = target.parity_count {
        let covered_len = image_len.saturating_add(u64_from_usize(trailer.len()));
        let geometry = Geometry::new(covered_len, parity_count).ok_or(Error::Invalid)?;
        fec::encode(draft.file(), geometry, workers(), &|_, _| {})?;
    }
    draft.sync()?;
    // Believed only when read back.
    let source = draft.source()?;
    let same = store::open_superblock(&*source, target.root_digest)?.0 == target.superblock;
    if !same || trust::read_trailer(&*source, image_len)? != target.signatures {
        return Err(Failure::about(target.path.display(), &Error::Invalid));
    }
    draft.finish_instead_of(&old)
}

/// The number of parity shards of an image, if it has parity. What is signed gets parity anew, and parity of damaged bytes would
/// keep them damaged for ever: an image must be whole for that. Nor is parity that cannot be found any more dropped in silence.
fn parity_count(path: &Path, source: &dyn Source, known_len: u64) -> Result<Option<u32>, Failure> {
    let Some(head) = fec::find(source) else {
        let unknown = source.len().saturating_sub(known_len);
        if unknown == 0 {
            return Ok(None);
        }
        return Err(Failure::new(format!(
            "{}: behind the image are {unknown} bytes that are neither signatures nor parity, or damaged",
            path.display()
        ))
        .hint(format!("`ashlar verify` tells what they are; `truncate -s {known_len}` takes them away")));
    };
    let damage = fec::scan(source, &head, workers(), &|_, _| {})?;
    if let Some(first) = damage.data().first() {
        let place = head.geometry.place(*first);
        return Err(Failure::new(format!(
            "{}: the bytes from {} to {} are not those that its parity was made of",
            path.display(),
            place.start,
            place.end
        ))
        .hint("repair the image with `ashlar verify --repair`, then sign it"));
    }
    Ok(Some(head.geometry.parity_count()))
}

fn workers() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get)
}

/// Replaces a file by one with this content.
fn replace(path: &Path, content: &[u8]) -> Result<(), Failure> {
    let draft = Draft::create(path, None)?;
    draft
        .file()
        .write_all(content)
        .map_err(|err| Failure::new(format!("cannot write {}: {err}", path.display())))?;
    draft.sync()?;
    draft.finish()
}
