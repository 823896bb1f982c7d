//! Images that nobody should have to read, made by rules and always the same: each field of each structure gets each number at
//! which mistakes are at home, and each part of the file is damaged in each way.

use ashlarfs::Anchor;
use std::ops::Range;

use ashlarfs::format::entry::{self, ENTRIES_PER_PAGE, Entry};
use ashlarfs::format::field::Field;
use ashlarfs::format::index::BlockIndex;
use ashlarfs::format::{dirent, inode, prefetch, run, superblock, xattr};
use ashlarfs::trust;

use crate::cases;
use crate::image::noise;
use crate::seal::{Draft, Edits, Stored};
use crate::targets::images::SMALL;
use crate::targets::script::SPECIAL;

/// One image.
pub(crate) struct Hostile {
    /// What was done, for example `inode 3: size = 0xffffffff`.
    pub(crate) name: String,
    /// Whether it was changed after it was sealed.
    pub(crate) is_damaged: bool,
    make: Box<dyn Fn() -> (Vec<u8>, Anchor) + Send + Sync>,
}

impl Hostile {
    /// Its bytes, and who vouches for them.
    pub(crate) fn make(&self) -> (Vec<u8>, Anchor) {
        (self.make)()
    }
}

/// All of them.
pub(crate) fn all() -> Vec<Hostile> {
    let mut images = Images(Vec::new());
    for case in cases::all() {
        let key = case.key.as_deref().and_then(trust::parse_key);
        let anchor = match (case.root, key) {
            (Some(root), _) => Anchor::RootDigest(root),
            (None, Some(key)) => Anchor::Keys(vec![key]),
            (None, None) => Anchor::Unauthenticated,
        };
        let name = format!("case {}", case.name);
        let make = move || (case.image.clone(), anchor.clone());
        images.0.push(Hostile { name, is_damaged: false, make: Box::new(make) });
    }
    images.superblocks();
    images.entries();
    images.records("inode", 0, inode::LEN, inode::FIELDS, usize::MAX);
    images.records("run", 1, run::LEN, run::FIELDS, 4);
    images.directories();
    images.xattrs();
    images.records("prefetch", 5, prefetch::LEN, prefetch::FIELDS, 2);
    images.bytes_of("target", 3, 0..8);
    images.sections();
    images.blocks();
    images.damages();
    images.0
}

/// What may be put where a number of `len` bytes stands: special numbers, and the neighbours of the one that is there.
fn numbers(raw: &[u8]) -> Vec<Vec<u8>> {
    let len = raw.len();
    let now = raw.iter().rev().fold(0_u64, |now, byte| now << 8 | u64::from(*byte));
    let near = [now.wrapping_add(1), now.wrapping_sub(1), now << 1, now.swap_bytes()];
    let all = SPECIAL.into_iter().chain(near).map(|number| number.to_le_bytes()[..len].to_vec());
    let mut all: Vec<Vec<u8>> = all.filter(|new| new != raw).collect();
    all.sort();
    all.dedup();
    all
}

/// What a field may become, and how that is called: a number, or where it is a digest, a text or nothing, other bits.
fn variants(raw: &[u8], field: &Field) -> Vec<(String, Vec<u8>)> {
    let now = &raw[field.at..field.at + field.len];
    if field.len <= 8 {
        return numbers(now).into_iter().map(|new| (format!("is {new:02x?}"), new)).collect();
    }
    let flipped = |(at, bits): (usize, u8)| {
        let mut new = now.to_vec();
        new[at] ^= bits;
        (format!("has other bits at {at}"), new)
    };
    [(0, 1), (now.len() - 1, 0x80), (now.len() / 2, 0x1f)].map(flipped).to_vec()
}

struct Images(Vec<Hostile>);

impl Images {
    /// The sound image with changes to its pieces, sealed again.
    fn sealed(&mut self, name: String, change: impl Fn(&mut Draft) + Send + Sync + 'static) {
        self.edited(name, move |draft| {
            change(draft);
            Edits::default()
        });
    }

    /// The same, with changes on the way.
    fn edited(
        &mut self,
        name: String,
        change: impl Fn(&mut Draft) -> Edits + Send + Sync + 'static,
    ) {
        let make = move || {
            let mut draft = SMALL.draft();
            let edits = change(&mut draft);
            let (bytes, root) = draft.seal(edits);
            (bytes, Anchor::RootDigest(root))
        };
        self.0.push(Hostile { name, is_damaged: false, make: Box::new(make) });
    }

    /// Each field of the superblock.
    fn superblocks(&mut self) {
        let sound = SMALL.superblock().encode().unwrap();
        for field in superblock::FIELDS {
            for (what, new) in variants(&sound, field) {
                let at = field.at;
                self.edited(format!("superblock: {} {what}", field.name), move |_| {
                    let new = new.clone();
                    let edit = move |raw: &mut [u8; superblock::LEN]| put(raw, at, &new);
                    Edits { superblock: Some(Box::new(edit)), ..Edits::default() }
                });
            }
        }
    }

    /// Each field of the entries of four blocks: the first and last of each kind.
    fn entries(&mut self) {
        let superblock = SMALL.superblock();
        let (all, data) = (superblock.block_count, superblock.data_block_count);
        assert!(all < ENTRIES_PER_PAGE);
        let table = usize::try_from(superblock.table_offset).unwrap();
        for block in [0, data - 1, data, all - 1].map(|block| block as usize) {
            let start = table + block * entry::LEN;
            for field in entry::FIELDS {
                for (what, new) in variants(&SMALL.bytes[start..start + entry::LEN], field) {
                    let at = field.at;
                    self.edited(format!("entry {block}: {} {what}", field.name), move |_| {
                        let new = new.clone();
                        let edit = move |entries: &mut Vec<[u8; entry::LEN]>| {
                            put(&mut entries[block], at, &new)
                        };
                        Edits { entries: Some(Box::new(edit)), ..Edits::default() }
                    });
                }
            }
        }
    }

    /// Each field of some records of a section.
    fn records(&mut self, what: &str, section: usize, len: usize, fields: &[Field], count: usize) {
        let sound = SMALL.draft().sections[section].clone();
        for (record, nth) in sound.chunks_exact(len).zip(0..count) {
            self.fields(&format!("{what} {nth}"), section, nth * len, record, fields);
        }
    }

    fn fields(&mut self, what: &str, section: usize, start: usize, sound: &[u8], fields: &[Field]) {
        for field in fields {
            for (how, new) in variants(sound, field) {
                let at = start + field.at;
                self.sealed(format!("{what}: {} {how}", field.name), move |draft| {
                    put(&mut draft.sections[section], at, &new);
                });
            }
        }
    }

    /// Each field of some entries of the root directory, and its names.
    fn directories(&mut self) {
        let mut sound = SMALL.draft();
        let (start, entries) = sound.directory(0);
        for nth in [0, 1, entries / 2, entries - 1] {
            let at = start + nth * dirent::LEN;
            let record = sound.dirent(0, nth).to_vec();
            self.fields(&format!("dirent {nth}"), 2, at, &record, dirent::FIELDS);
        }
        let names = start + entries * dirent::LEN;
        self.bytes_of("name", 2, names..names + 20);
    }

    /// Bytes of a text become such as no text should have.
    fn bytes_of(&mut self, what: &str, section: usize, range: Range<usize>) {
        let sound = SMALL.draft().sections[section].clone();
        for (at, now) in range.clone().zip(sound.get(range.start..).unwrap_or_default()) {
            for new in [0, b'/', 0xff].into_iter().filter(|new| new != now) {
                self.sealed(format!("{what}: byte {at} is {new:#x}"), move |draft| {
                    draft.sections[section][at] = new;
                });
            }
        }
    }

    /// Counts and heads of the xattr sets.
    fn xattrs(&mut self) {
        let sound = SMALL.draft().sections[4].clone();
        let count = Field { at: 0, len: xattr::COUNT_LEN, name: "count" };
        let head = |field: &Field| Field { at: field.at + xattr::COUNT_LEN, ..*field };
        let fields: Vec<Field> =
            std::iter::once(count).chain(xattr::FIELDS.iter().map(head)).collect();
        self.fields("xattr set", 4, 0, &sound, &fields);
        self.bytes_of("xattr", 4, 10..30);
    }

    /// Sections that are shorter, longer or elsewhere than those who point into them think.
    fn sections(&mut self) {
        for nth in 0..6 {
            let unit = [inode::LEN, run::LEN, 1, 1, 1, prefetch::LEN][nth];
            for lost in [unit, 2 * unit] {
                self.sealed(format!("section {nth}: lost {lost} bytes"), move |draft| {
                    let section = &mut draft.sections[nth];
                    section.truncate(section.len().saturating_sub(lost));
                });
            }
            for gained in [unit, 300 * unit] {
                self.sealed(format!("section {nth}: gained {gained} bytes"), move |draft| {
                    let len = draft.sections[nth].len();
                    draft.sections[nth].resize(len + gained, 1);
                });
            }
            for from in (0..6).filter(|from| *from != nth) {
                self.sealed(format!("section {nth} is that of {from}"), move |draft| {
                    let other = draft.sections[from].clone();
                    draft.sections[nth] = other;
                });
            }
        }
    }

    /// Stored bytes that are not what their entry says, with the right digest.
    fn blocks(&mut self) {
        let count = SMALL.superblock().block_count as usize;
        for (nth, what) in (0..count).flat_map(|nth| STORED.map(|what| (nth, what))) {
            self.edited(format!("stored block {nth}: {what}"), move |_| {
                let edit = move |blocks: &mut Vec<Stored>| {
                    let next = blocks[(nth + 1) % count].clone();
                    let block = &mut blocks[nth];
                    match what {
                        "cut" => block.bytes.truncate(block.bytes.len() / 2),
                        "longer" => block.bytes.extend([0; 3]),
                        "noise" => block.bytes = noise(9, block.bytes.len()),
                        "another head" => block.bytes[4] ^= 0x21,
                        "the next one's" => *block = next,
                        "empty" => block.bytes.clear(),
                        "raw" => block.codec = 0,
                        _ => block.codec = 3 - block.codec.min(1),
                    }
                };
                Edits { blocks: Some(Box::new(edit)), ..Edits::default() }
            });
        }
    }

    /// Each part of the file, damaged in each way.
    fn damages(&mut self) {
        for (part, range) in parts() {
            for what in DAMAGES {
                let range = range.clone();
                // Some parts are the same all over.
                if damaged(&range, what) == SMALL.bytes {
                    continue;
                }
                let make = move || (damaged(&range, what), Anchor::RootDigest(SMALL.root));
                let name = format!("{part}: {what}");
                self.0.push(Hostile { name, is_damaged: true, make: Box::new(make) });
            }
        }
    }
}

fn put(raw: &mut [u8], at: usize, new: &[u8]) {
    raw[at..at + new.len()].copy_from_slice(new);
}

/// What is done to the stored bytes of a block.
const STORED: [&str; 8] =
    ["cut", "longer", "noise", "another head", "the next one's", "empty", "raw", "another filter"];

/// What is done to a part of a file.
const DAMAGES: [&str; 9] = [
    "first bit",
    "last bit",
    "zeros",
    "noise",
    "turned",
    "from elsewhere",
    "cut",
    "cut within",
    "one more",
];

/// Superblock, blocks, table, page list and backup.
fn parts() -> Vec<(String, Range<usize>)> {
    let superblock = SMALL.superblock();
    let at = |offset: u64| usize::try_from(offset).unwrap();
    let (table, list) = (at(superblock.table_offset), at(superblock.page_list_offset()));
    let backup = at(superblock.backup_offset());
    let mut parts = vec![("superblock".to_owned(), 0..superblock::LEN)];
    for (raw, block) in SMALL.bytes[table..list].chunks_exact(entry::LEN).zip(0..) {
        let raw: &[u8; entry::LEN] = raw.first_chunk().unwrap();
        let entry = Entry::decode(raw, BlockIndex(block), 1 << 20).unwrap();
        parts.push((format!("block {block}"), at(entry.offset)..at(entry.end())));
    }
    parts.push(("table".to_owned(), table..list));
    parts.push(("page list".to_owned(), list..backup));
    parts.push(("backup".to_owned(), backup..SMALL.bytes.len()));
    parts
}

/// The sound image with one part damaged.
fn damaged(range: &Range<usize>, what: &str) -> Vec<u8> {
    let mut bytes = SMALL.bytes.clone();
    let middle = range.start + range.len() / 2;
    match what {
        "first bit" => bytes[range.start] ^= 1,
        "last bit" => bytes[range.end - 1] ^= 0x80,
        "zeros" => bytes[range.clone()].fill(0),
        "noise" => put(&mut bytes, range.start, &noise(5, range.len())),
        "turned" => bytes[range.clone()].rotate_left(1),
        "from elsewhere" => {
            let from = if range.start == 0 { bytes.len() - 2 * superblock::LEN } else { 0 };
            bytes.copy_within(from..from + range.len(), range.start);
        }
        "cut" => bytes.truncate(range.start),
        "cut within" => bytes.truncate(middle),
        _ => bytes.insert(middle, 0),
    }
    bytes
}

/// A small fast generator (SplitMix64): one seed, one sequence, for ever.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Some number below `limit`, or 0.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit.max(1) as u64).unwrap()
    }
}

/// Makes a new input of old ones, as fuzzers do.
pub(crate) fn mutated(inputs: &[Vec<u8>], len_max: usize, random: &mut Random) -> Vec<u8> {
    let mut input = inputs[random.below(inputs.len())].clone();
    for _ in 0..=random.below(4) {
        let (len, at) = (input.len(), random.below(input.len()));
        let end = len.min(at + 1 + random.below(32));
        let special = SPECIAL[random.below(SPECIAL.len())].to_le_bytes();
        match random.below(9) {
            0 if len > 0 => input[at] ^= 1 << random.below(8),
            1 if len > 0 => input[at] = special[0] ^ (random.next() as u8),
            2 if len > 0 => {
                let size = (1 << random.below(4)).min(len - at);
                input[at..at + size].copy_from_slice(&special[..size]);
            }
            3 => {
                input.drain(at..end);
            }
            4 => input.truncate(at),
            // Pieces of others are the words of this language.
            5 | 6 => {
                let other = &inputs[random.below(inputs.len())];
                let from = random.below(other.len());
                let piece = &other[from..other.len().min(from + 1 + random.below(64))];
                input.splice(at..at, piece.iter().copied());
            }
            7 => {
                let piece = input[at..end].to_vec();
                input.extend(piece);
            }
            _ => input.extend(std::iter::repeat_n(random.next() as u8, 1 + random.below(16))),
        }
    }
    input.truncate(len_max);
    input
}
