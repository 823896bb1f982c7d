//! Does any image but a sound one read as if it were? Damaged ones must fail or give right bytes; of those that an enemy sealed,
//! with right digests all over, all readers must say the same.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use ashlarfs::format::superblock;
use ashlarfs::{Anchor, Digest, Options, Tree};

use super::examine;
use super::script::{self, Edit, edits};
use crate::image;
use crate::seal::{Draft, Edits};

/// The sound image that all scripts change: one of everything, as small as it can be.
pub(crate) struct Sound {
    pub(crate) bytes: Vec<u8>,
    pub(crate) root: Digest,
    pub(crate) truth: BTreeMap<Vec<u8>, Option<Digest>>,
    draft: Draft,
    tree: Tree,
}

impl Sound {
    fn new(tar: &[u8]) -> Sound {
        let directory = tempfile::tempdir().unwrap();
        let (path, root) = image::build_tar(directory.path(), tar, &["--image-version", "7"]);
        let bytes = std::fs::read(path).unwrap();
        let tree = image::open(bytes.clone(), root).unwrap();
        let found = examine::examine(&bytes, &Options::new(Anchor::RootDigest(root)));
        assert!(found.is_clean && found.paths.values().all(Option::is_some));
        let mut draft = Draft::of(&tree);
        draft.level = 1;
        draft.list(&[2, 0, 1]);
        Sound { bytes, root, truth: found.paths, draft, tree }
    }

    /// It in pieces, to be changed and sealed again.
    pub(crate) fn draft(&self) -> Draft {
        self.draft.clone()
    }

    pub(crate) fn superblock(&self) -> &superblock::Superblock {
        self.tree.superblock()
    }
}

/// One of everything.
pub(crate) static SMALL: LazyLock<Sound> = LazyLock::new(|| Sound::new(&image::small_tar()));

/// A script of damage: bytes of the sealed file are changed, and the root digest is not.
pub(crate) fn damaged(input: &[u8]) {
    let mut bytes = SMALL.bytes.clone();
    for edit in edits(input) {
        // An edit has 16 bits for the place, which is in one of parts of so many bytes.
        let start = edit.index(bytes.len().div_ceil(4096)) * 4096;
        let tail = bytes.split_off(start.min(bytes.len()));
        let mut tail = tail;
        Edit::shifted(edit).apply(&mut tail, true);
        bytes.extend_from_slice(&tail);
    }
    judge_damaged(&bytes);
}

/// What can be read of a damaged image must be true, and `verify` must see every damage.
pub(crate) fn judge_damaged(bytes: &[u8]) {
    let found = examine::examine(bytes, &Options::new(Anchor::RootDigest(SMALL.root)));
    assert_eq!(found.is_clean, bytes == SMALL.bytes, "verify and the bytes disagree");
    for (path, digest) in &found.paths {
        let truth = SMALL.truth.get(path);
        let is_true = digest.is_none() || truth == Some(digest);
        assert!(is_true, "{} reads as what it is not", path.escape_ascii());
    }
}

pub(crate) fn damaged_seeds() -> Vec<Vec<u8>> {
    let puts = [0, 1, 3, 6, 9].map(|page: u16| Edit::put(17, 3, page, 0xfeff_ff05).to_vec());
    let cut = [0, 8, 5, 0, 9, 0, 0, 0].to_vec();
    puts.into_iter().chain([cut, vec![]]).collect()
}

/// Parts of an image that a script changes before it is sealed, after the six sections.
const SUPERBLOCK: u8 = 6;
const SEALED_SUPERBLOCK: u8 = 7;
const ENTRIES: u8 = 8;
const STORED: u8 = 9;
const CODEC: u8 = 10;
const CONTENT_LEN: u8 = 11;
const SWAP: u8 = 12;
const CONTENT: u8 = 13;
const RECORDS: u8 = 14;
const FILE: u8 = 15;
const PARTS: u8 = 16;

/// Runs a script on the sound image, and seals what came out; returns it with its root digest.
pub(crate) fn seal(input: &[u8]) -> (Vec<u8>, Digest) {
    let mut draft = SMALL.draft();
    let (mut of_blocks, mut of_entries, mut of_superblock, mut of_file) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for edit in edits(input) {
        match edit.part % PARTS {
            nth @ 0..SUPERBLOCK => edit.apply(&mut draft.sections[usize::from(nth)], true),
            SUPERBLOCK => edit_superblock(edit, &mut draft.superblock),
            SEALED_SUPERBLOCK => of_superblock.push(edit),
            ENTRIES => of_entries.push(edit),
            RECORDS => copy_record(edit, &mut draft.sections),
            FILE => of_file.push(edit),
            _ => of_blocks.push(edit),
        }
    }
    let (mut bytes, root) = draft.seal(Edits {
        blocks: Some(Box::new(move |blocks| {
            for edit in of_blocks {
                let (nth, other) = (edit.index(blocks.len()), edit.other(blocks.len()));
                // The part's high bits say what is done inside of the block.
                let inner = Edit::shifted(edit);
                match edit.part % PARTS {
                    STORED => inner.apply(&mut blocks[nth].bytes, true),
                    CODEC => blocks[nth].codec = edit.number().to_le_bytes()[0] % 6,
                    CONTENT_LEN => blocks[nth].content_len = edit.number() as u32,
                    CONTENT => {
                        let mut content = vec![0; blocks[nth].content_len.min(1 << 20) as usize];
                        inner.apply(&mut content, true);
                        blocks[nth] = crate::seal::Stored::at(&content, 1);
                    }
                    _ => blocks.swap(nth, other),
                }
            }
        })),
        entries: Some(Box::new(move |entries| {
            for edit in of_entries {
                let mut raw = entries.as_flattened().to_vec();
                edit.apply(&mut raw, false);
                for (entry, raw) in entries.iter_mut().zip(raw.as_chunks().0) {
                    *entry = *raw;
                }
            }
        })),
        superblock: Some(Box::new(move |raw| {
            for edit in of_superblock {
                edit_superblock(edit, raw);
            }
        })),
    });
    for edit in of_file {
        let mut tail = bytes.split_off(superblock::LEN.min(bytes.len()));
        edit.apply(&mut tail, true);
        bytes.extend_from_slice(&tail);
    }
    (bytes, root)
}

/// Fields end before 0xe0; what is behind is zero and one rule.
fn edit_superblock(edit: Edit, raw: &mut [u8; superblock::LEN]) {
    let mut fields = raw[..0xe8].to_vec();
    edit.apply(&mut fields, false);
    raw[..0xe8].copy_from_slice(&fields);
}

/// Copies one record of a section over another: of the same length, and both sound.
fn copy_record(edit: Edit, sections: &mut [Vec<u8>; 6]) {
    let (nth, len) = [(0, 64), (1, 12), (2, 12), (5, 4)][usize::from(edit.part / PARTS % 4)];
    let section = &mut sections[nth];
    let count = section.len() / len;
    let (to, from) = (edit.index(count) * len, edit.other(count) * len);
    if count > 0 {
        section.copy_within(from..from + len, to);
    }
}

pub(crate) fn sealed(input: &[u8]) {
    let (bytes, root) = seal(input);
    judge_sealed(&bytes, root);
}

/// All readers agree about it; and with nobody who vouches for it, or with another digest, nothing becomes of it but that.
pub(crate) fn judge_sealed(bytes: &[u8], root: Digest) -> bool {
    let found = examine::examine(bytes, &Options::new(Anchor::RootDigest(root)));
    let other = Options::new(Anchor::RootDigest(SMALL.root));
    if root != SMALL.root {
        assert!(ashlarfs::open_source(image::Memory::new(bytes.to_vec()), &other).is_err());
    }
    let _read_on_its_own_word = ashlarfs::open_source(
        image::Memory::new(bytes.to_vec()),
        &Options::new(Anchor::Unauthenticated),
    );
    if let Ok(tree) = image::open(bytes.to_vec(), root) {
        assert_eq!(tree.root_digest(), root);
        for difference in ashlarfs::diff::diff(&SMALL.tree, &tree).take(10_000) {
            drop(difference);
        }
    }
    found.is_clean
}

pub(crate) fn sealed_seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![Vec::new()];
    for part in 0..PARTS {
        for (how, at, value) in [(2, 0x30, 0xfeff_ff0c), (2, 0, 1), (10, 64, 5), (7, 0, 64)] {
            seeds.push(Edit::put(part, how, at, value).to_vec());
        }
    }
    for records in 0..4 {
        seeds.push(Edit::put(RECORDS + records * PARTS, 0, 3, 5).to_vec());
    }
    seeds
}

/// What a script makes of the sound image's bytes, wherever they are.
pub(crate) fn edited(input: &[u8]) -> Vec<u8> {
    script::edited(&SMALL.bytes, input)
}
