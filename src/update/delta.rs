//! How does an update come to a machine without a network? In a file that holds what a new image has and an old one lacks
//! (UPDATE.md, "Delta files").
//!
//! Nothing in it is believed: it is one more place that bytes of an image come from, and each byte is held against the image's
//! own digests. Who reads one needs no code but that which reads an image from anywhere else.

use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::failed::Failed;
use super::origin::{Origin, PIECE, Trouble, pour};
use super::seeds;
use super::whole::whole_trailer;
use crate::error::{Corrupt, Error, Untrusted};
use crate::format::digest::Digest;
use crate::format::entry::Entry;
use crate::format::field::{
    self, Field, field, u32_from_usize, u64_from_usize, usize_from_u32, usize_from_u64,
};
use crate::format::index::BlockIndex;
use crate::format::superblock::{self, Superblock};
use crate::format::trailer;
use crate::image::{self, Method, Source};
use crate::store::{self, Store, proof};
use crate::trust;

/// What a delta begins with.
pub const MAGIC: [u8; 8] = *b"ASHLDLTA";
/// The version that is written, and the only one that is read.
pub const VERSION: u32 = 1;
/// Length of the head in bytes.
pub const HEAD_LEN: usize = 0x38;
/// Length of a range in bytes.
pub const RANGE_LEN: usize = 16;

/// Most ranges: 64 MiB of them, for 256 GiB of blocks of which every second one is new.
const RANGES_MAX: u32 = 4 << 20;

const VERSION_AT: usize = 0x08;
const COUNT_AT: usize = 0x0c;
const BASE_AT: usize = 0x10;
const IMAGE_LEN_AT: usize = 0x30;
const RANGE_LEN_AT: usize = 0x08;

/// The layout of the head, as UPDATE.md has it.
pub const FIELDS: &[Field] = &[
    field(0x00, 8, "magic"),
    field(VERSION_AT, 4, "version"),
    field(COUNT_AT, 4, "count"),
    field(BASE_AT, 32, "base"),
    field(IMAGE_LEN_AT, 8, "image_len"),
];

/// The layout of a range, as UPDATE.md has it.
pub const RANGE_FIELDS: &[Field] = &[field(0x00, 8, "offset"), field(RANGE_LEN_AT, 8, "len")];

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Written {
    /// Length of the delta.
    pub bytes: u64,
    /// Blocks in it.
    pub blocks: u64,
    /// The image that a machine must have.
    pub base_digest: Digest,
    /// The image that it gets.
    pub new_digest: Digest,
    /// Length of that image with its signatures: what a full download takes.
    pub new_bytes: u64,
}

/// Blocks in a row that the base lacks, and where they lie.
#[derive(Debug)]
struct Stretch {
    blocks: Range<u32>,
    bytes: Range<u64>,
}

/// Writes what the image at `new` has and the one at `base` lacks. Nobody vouches for either: who installs the one has to.
pub fn write(base: &Path, new: &Path, out: &mut impl Write) -> Result<Written, Failed> {
    let known = digests(base)?;
    let about = |err| Failed::about(new.display(), err);
    let image = open_image(new)?;
    let ends = Ends::of(&image).map_err(|err| {
        let hint = "build or copy the image again: a part of it is not what it was";
        Failed { hint: Some(hint.to_owned()), ..about(err) }
    })?;
    let stretches = lacking(&known.digests, &image).map_err(about)?;
    let table_offset = image.superblock().table_offset;
    let image_len = image.superblock().image_len.saturating_add(u64_from_usize(ends.trailer.len()));

    let first = Some(0..superblock::LEN_ON_DISK);
    let last = Some(table_offset..image_len);
    let blocks = stretches.iter().map(|stretch| stretch.bytes.clone());
    let ranges: Vec<Range<u64>> = first.into_iter().chain(blocks).chain(last).collect();
    let mut head = [0; HEAD_LEN];
    field::put(&mut head, 0, &MAGIC);
    field::put(&mut head, VERSION_AT, &VERSION.to_le_bytes());
    field::put(&mut head, COUNT_AT, &u32_from_usize(ranges.len()).to_le_bytes());
    field::put(&mut head, BASE_AT, &known.root_digest.0);
    field::put(&mut head, IMAGE_LEN_AT, &image_len.to_le_bytes());

    let mut out = Out { out, bytes: 0 };
    out.write(&head)?;
    for range in &ranges {
        let mut raw = [0; RANGE_LEN];
        field::put(&mut raw, 0, &range.start.to_le_bytes());
        let len = range.end.saturating_sub(range.start);
        field::put(&mut raw, RANGE_LEN_AT, &len.to_le_bytes());
        out.write(&raw)?;
    }
    out.write(&ends.superblock)?;
    let mut blocks = 0_u64;
    for block in stretches.into_iter().flat_map(|stretch| stretch.blocks) {
        out.write(&image.stored(BlockIndex(block)).map_err(about)?)?;
        blocks = blocks.saturating_add(1);
    }
    let mut page_list = Vec::new();
    for page in 0..image.superblock().page_count() {
        let entries = image.table_page(page).map_err(about)?;
        let raw: Vec<u8> = entries.iter().flat_map(Entry::encode).collect();
        page_list.extend_from_slice(&proof::hash_table_page(&raw).0);
        out.write(&raw)?;
    }
    for raw in [page_list.as_slice(), &ends.superblock, &ends.trailer] {
        out.write(raw)?;
    }
    out.out.flush().map_err(cannot_write)?;
    Ok(Written {
        bytes: out.bytes,
        blocks,
        base_digest: known.root_digest,
        new_digest: image.root_digest(),
        new_bytes: image_len,
    })
}

fn cannot_write(err: io::Error) -> Failed {
    Failed::io("cannot write the delta", err)
}

/// Counts what goes out.
struct Out<'a, W> {
    out: &'a mut W,
    bytes: u64,
}

impl<W: Write> Out<'_, W> {
    fn write(&mut self, raw: &[u8]) -> Result<(), Failed> {
        self.out.write_all(raw).map_err(cannot_write)?;
        self.bytes = self.bytes.saturating_add(u64_from_usize(raw.len()));
        Ok(())
    }
}

fn open_image(path: &Path) -> Result<Store, Failed> {
    seeds::open(path).map_err(|err| Failed::about(path.display(), err))
}

/// What an image is called, and what its blocks are called, in order of their digests.
struct Known {
    root_digest: Digest,
    digests: Vec<Digest>,
}

fn digests(path: &Path) -> Result<Known, Failed> {
    let image = open_image(path)?;
    let mut digests = Vec::new();
    for page in 0..image.superblock().page_count() {
        let entries = image.table_page(page).map_err(|err| Failed::about(path.display(), err))?;
        digests.extend(entries.iter().map(|entry| entry.digest));
    }
    digests.sort_unstable();
    Ok(Known { root_digest: image.root_digest(), digests })
}

/// The blocks of an image whose digests are not known, in their order, as few stretches as can be.
fn lacking(known: &[Digest], image: &Store) -> crate::Result<Vec<Stretch>> {
    let mut stretches: Vec<Stretch> = Vec::new();
    let mut blocks = 0..0_u32;
    let mut expected = superblock::LEN_ON_DISK;
    for page in 0..image.superblock().page_count() {
        for entry in &*image.table_page(page)? {
            blocks = blocks.end..blocks.end.saturating_add(1);
            let bytes = entry.offset..entry.end();
            // Each page was found to be in order, but not with the one before it.
            if bytes.start != expected {
                let block = BlockIndex(blocks.start);
                return Err(Corrupt::EntryOffset { block, offset: bytes.start, expected }.into());
            }
            expected = bytes.end;
            if known.binary_search(&entry.digest).is_ok() {
                continue;
            }
            match stretches.last_mut() {
                Some(last) if last.bytes.end == bytes.start => {
                    last.blocks.end = blocks.end;
                    last.bytes.end = bytes.end;
                }
                _ => stretches.push(Stretch { blocks: blocks.clone(), bytes }),
            }
        }
    }
    Ok(stretches)
}

/// What lies around blocks and table.
struct Ends {
    superblock: [u8; superblock::LEN],
    trailer: Vec<u8>,
}

impl Ends {
    /// Those of an image, which must be what the builder and the signers made: who gets them would find it out too late.
    fn of(image: &Store) -> crate::Result<Ends> {
        let source = image.source();
        let (superblock, first) = store::read_superblock(source, 0)?;
        let (_, backup) = store::read_superblock(source, image.superblock().backup_offset())?;
        if first != image.root_digest() || backup != image.root_digest() {
            return Err(Untrusted::Backup.into());
        }
        let image_len = image.superblock().image_len;
        let signatures = whole_trailer(source, image_len)?;
        let trailer = trailer::encode(&signatures, proof::hash_trailer).ok_or(Error::Invalid)?;
        Ok(Ends { superblock, trailer })
    }
}

/// A delta, as a place that holds an image with gaps.
#[derive(Debug)]
pub struct DeltaOrigin {
    path: PathBuf,
    base_digest: Digest,
    gapped: Gapped,
}

impl DeltaOrigin {
    /// Opens the delta at `path`; `None` where the file does not begin as one does, and so may be an image.
    pub fn open(path: &Path) -> Result<Option<DeltaOrigin>, Failed> {
        let source = image::open(path, Method::Pread)?;
        let damaged = |what: &dyn std::fmt::Display| {
            Failed::new(format_args!("{}: the delta is damaged: {what}", path.display()))
                .hint("fetch or copy it again")
        };
        let read = |raw: &mut [u8], offset| {
            let what = format_args!("cannot read {}", path.display());
            source.read_exact_at(raw, offset).map_err(|err| Failed::io(what, err))
        };
        let mut head = [0; HEAD_LEN];
        let len = HEAD_LEN.min(usize_from_u64(source.len()));
        read(head.get_mut(..len).unwrap_or_default(), 0)?;
        if !head.starts_with(&MAGIC) {
            return Ok(None);
        }
        let version = field::get_u32(&head, VERSION_AT);
        if len >= COUNT_AT && version != VERSION {
            return Err(Failed::new(format_args!(
                "{}: the delta has version {version}, only version {VERSION} is known",
                path.display()
            ))
            .hint("a newer version of this program can read it"));
        }
        let count = field::get_u32(&head, COUNT_AT);
        // A range takes its place in the list and one byte at least: a longer list than fits is not read at all.
        // On a block device almost anything fits.
        if count > RANGES_MAX {
            return Err(damaged(&"it has more ranges than any image has blocks"));
        }
        let len_min = u64_from_usize(RANGE_LEN).saturating_add(1).saturating_mul(u64::from(count));
        if len < HEAD_LEN || len_min > source.len().saturating_sub(u64_from_usize(HEAD_LEN)) {
            return Err(damaged(&"it is cut off"));
        }
        let mut list = vec![0; RANGE_LEN.saturating_mul(usize_from_u32(count))];
        read(&mut list, u64_from_usize(HEAD_LEN))?;
        let image_len = field::get_u64(&head, IMAGE_LEN_AT);
        let gapped = Gapped::new(Arc::clone(&source), image_len, &list);
        let gapped = gapped.map_err(|what| damaged(&what))?;
        let table_offset = gapped.table_offset().map_err(|err| match err {
            // It is sound, as far as anybody knows who does not know what a newer image is.
            Error::Unsupported(_) => Failed::about(path.display(), err),
            _ => damaged(&err),
        })?;
        if gapped.pieces.last().is_none_or(|last| last.image.start != table_offset) {
            return Err(damaged(&"its last range does not start with the digest table"));
        }
        let base_digest = Digest(field::get_32(&head, BASE_AT));
        Ok(Some(DeltaOrigin { path: path.to_owned(), base_digest, gapped }))
    }

    /// The image that a machine must have.
    pub fn base_digest(&self) -> Digest {
        self.base_digest
    }

    fn lacks(&self) -> Failed {
        let Self { base_digest, .. } = self;
        Failed::new(format_args!(
            "{}: the delta is for machines that have image {base_digest}, whole",
            self.shown()
        ))
        .hint("install the full image: what came so far is kept, and not fetched again")
    }
}

impl Origin for DeltaOrigin {
    fn len(&self) -> u64 {
        self.gapped.len
    }

    fn read(
        &self,
        range: Range<u64>,
        take: &mut dyn FnMut(&[u8]) -> Result<(), Failed>,
    ) -> Result<(), Trouble> {
        let mut at = range.start;
        while at < range.end {
            let Some((place, there)) = self.gapped.find(at) else {
                return Err(Trouble::Final(self.lacks()));
            };
            let len = range.end.saturating_sub(at).min(there);
            let places = place..place.saturating_add(len);
            pour(&*self.gapped.source, places, &self.path, take)?;
            at = at.saturating_add(len);
        }
        Ok(())
    }

    fn is_local(&self) -> bool {
        true
    }

    fn connections(&self) -> usize {
        super::wish::workers()
    }

    fn range_len_max(&self) -> u64 {
        4 * PIECE
    }

    fn signature(&self) -> Option<Vec<u8>> {
        trust::read_signature(&trust::signature_beside(&self.path)).ok()
    }

    fn base(&self) -> Option<Digest> {
        Some(self.base_digest)
    }

    fn shown(&self) -> String {
        self.path.display().to_string()
    }
}

/// A range of the image, and where its bytes are in the delta.
#[derive(Debug)]
struct Piece {
    image: Range<u64>,
    place: u64,
}

/// The bytes of an image that a delta holds.
#[derive(Debug)]
struct Gapped {
    source: Arc<dyn Source>,
    len: u64,
    /// Ascending, none empty, none beyond `len`.
    pieces: Vec<Piece>,
}

impl Gapped {
    fn new(source: Arc<dyn Source>, len: u64, list: &[u8]) -> Result<Gapped, &'static str> {
        let mut pieces: Vec<Piece> = Vec::new();
        let mut place = u64_from_usize(HEAD_LEN).saturating_add(u64_from_usize(list.len()));
        let (ranges, _) = list.as_chunks::<RANGE_LEN>();
        for raw in ranges {
            let start = field::get_u64(raw, 0);
            let range_len = field::get_u64(raw, RANGE_LEN_AT);
            let end = start.checked_add(range_len).filter(|end| *end <= len && start < *end);
            let end = end.ok_or("a range is empty, or ends behind the image")?;
            if pieces.last().is_some_and(|last| start < last.image.end) {
                return Err("its ranges are not in order");
            }
            pieces.push(Piece { image: start..end, place });
            place = place.checked_add(range_len).ok_or("it is cut off")?;
        }
        let ends = (pieces.first(), pieces.last());
        let (Some(first), Some(last), 2..) = (ends.0, ends.1, pieces.len()) else {
            return Err("it has no beginning or no end of an image");
        };
        if first.image != (0..superblock::LEN_ON_DISK) || last.image.end != len {
            return Err("it has no beginning or no end of an image");
        }
        match source.len().checked_sub(place) {
            None => Err("it is cut off"),
            Some(rest) if rest > 0 && !source.has_slack() => Err("it goes on behind its end"),
            Some(_) => Ok(Gapped { source, len, pieces }),
        }
    }

    /// Where the digest table starts, by a superblock that nobody vouches for yet. The image must be as long as it says: signatures
    /// are not among what is signed, so nobody would miss them.
    fn table_offset(&self) -> crate::Result<u64> {
        let (raw, _) = store::read_superblock(self, 0)?;
        let Superblock { image_len, table_offset, .. } = Superblock::decode(&raw)?;
        whole_trailer(self, image_len)?;
        Ok(table_offset)
    }

    /// Where the byte at an offset of the image is in the delta, and how many are there from it on.
    fn find(&self, at: u64) -> Option<(u64, u64)> {
        let behind = self.pieces.partition_point(|piece| piece.image.end <= at);
        let piece = self.pieces.get(behind)?;
        let skipped = at.checked_sub(piece.image.start)?;
        Some((piece.place.saturating_add(skipped), piece.image.end.saturating_sub(at)))
    }
}

impl Source for Gapped {
    fn len(&self) -> u64 {
        self.len
    }

    /// What is looked at before an image is installed lies in one range each.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let found = self.find(offset).filter(|(_, there)| u64_from_usize(buf.len()) <= *there);
        let (place, _) = found.ok_or_else(|| io::Error::other("the delta does not have it"))?;
        self.source.read_exact_at(buf, place)
    }
}
