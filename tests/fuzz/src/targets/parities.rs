//! Does parity, whatever it says, ever make wrong bytes or hide damage? What an enemy wrote must be harmless, and what only rotted must
//! come back as it was.

use std::os::unix::fs::FileExt;
use std::sync::{Arc, LazyLock};

use ashlarfs::fec::{self, Geometry, Repairer};
use ashlarfs::format::fec::{HEAD_LEN, Head};
use ashlarfs::format::trailer;
use ashlarfs::store::proof;
use ashlarfs::{Anchor, Options, Source};

use super::decoders::array;
use super::examine;
use super::images::SMALL;
use super::script::{Edit, edits};
use crate::image::Memory;

/// The sound image, with signatures of nobody and parity of both.
static WHOLE: LazyLock<(Vec<u8>, Geometry)> = LazyLock::new(|| {
    let signatures = [b"one".to_vec(), b"two".to_vec()];
    let trailer = trailer::encode(&signatures, proof::hash_trailer).unwrap();
    let covered = [&SMALL.bytes[..], &trailer].concat();
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(&covered, 0).unwrap();
    let geometry = Geometry::new(covered.len() as u64, 3).unwrap();
    fec::encode(&file, geometry, 1, &|_, _| {}).unwrap();
    (content(&file), geometry)
});

fn content(file: &std::fs::File) -> Vec<u8> {
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

/// What a script changes, by its parts: bytes of image and trailer, bytes of the section, fields of both heads, and whether an
/// enemy makes all checksums right afterwards.
const COVERED: u8 = 0;
const SECTION: u8 = 1;
const HEADS: u8 = 2;
const ENEMY: u8 = 3;
const PARTS: u8 = 4;
/// A head that asks for more is looked at, but nothing is computed of it: it may ask for minutes.
const PARITY_COUNT_MAX: u32 = 64;

pub(crate) fn parity(input: &[u8]) {
    head(input);
    let (whole, geometry) = &*WHOLE;
    let mut bytes = whole.clone();
    let mut is_enemy = false;
    for edit in edits(input) {
        let section = geometry.section_offset() as usize;
        match edit.part % PARTS {
            COVERED => {
                let page = edit.index(section / 4096) * 4096;
                let mut tail = bytes.split_off(page.min(bytes.len()));
                Edit::shifted(edit).apply(&mut tail, false);
                bytes.extend_from_slice(&tail);
            }
            SECTION => {
                let mut tail = bytes.split_off(section.min(bytes.len()));
                edit.apply(&mut tail, true);
                bytes.extend_from_slice(&tail);
            }
            HEADS => {
                is_enemy = true;
                for at in [geometry.section_offset(), geometry.second_head_offset()] {
                    if let Some(head) = bytes.get_mut(at as usize..at as usize + HEAD_LEN) {
                        let mut fields = head[8..0x38].to_vec();
                        edit.apply(&mut fields, false);
                        head[8..0x38].copy_from_slice(&fields);
                        seal_head(head);
                    }
                }
            }
            _ => {
                is_enemy = true;
                seal(&mut bytes, *geometry, edit);
            }
        }
    }
    judge(&bytes, is_enemy);
}

fn judge(bytes: &[u8], is_enemy: bool) {
    let (whole, _) = &*WHOLE;
    let options = Options::new(Anchor::RootDigest(SMALL.root));
    let found = examine::examine(bytes, &options);
    for (path, digest) in &found.paths {
        assert!(digest.is_none() || SMALL.truth.get(path) == Some(digest), "{path:?}");
    }
    let is_whole = bytes == whole;
    assert!(is_enemy || found.is_clean == is_whole, "verify and the bytes disagree");
    let source: Arc<dyn Source> = Memory::new(bytes.to_vec());
    let nobody: fec::Progress<'_> = &|_, _| {};
    let Some(parity) = fec::search(&*source, 1, nobody).unwrap() else { return };
    let geometry = parity.head.geometry;
    if geometry.parity_count() > PARITY_COUNT_MAX {
        return;
    }
    let out = tempfile::tempfile().unwrap();
    let restored = fec::restore(&*source, &parity, &out, 1, nobody);
    assert_eq!(restored.is_ok(), parity.damage.is_curable(geometry));
    if restored.is_ok() {
        let bytes = content(&out);
        assert_eq!(bytes.len() as u64, geometry.end());
        assert!(is_enemy || bytes == *whole, "what rotted came back as something else");
        let restored = Memory::new(bytes);
        assert!(fec::scan(&*restored, &parity.head, 1, nobody).unwrap().is_empty());
    }
    let Some(repairer) = Repairer::open(source).unwrap() else { return };
    for (offset, len) in [(0, 4096), (4096 * 2 - 7, 5000), (geometry.covered_len(), 1)] {
        let mut buf = vec![0; len];
        if repairer.repair(offset, &mut buf).is_ok() && !is_enemy {
            assert_eq!(buf, whole[offset as usize..][..len], "{len} bytes at {offset}");
        }
    }
}

/// What is a head is encoded as it was.
fn head(input: &[u8]) {
    let mut raw: [u8; HEAD_LEN] = array(input);
    let as_it_is = Head::decode(&raw, proof::hash_parity_head);
    if let Ok(head) = as_it_is {
        assert_eq!(head.encode(proof::hash_parity_head), raw);
    }
    raw[..8].copy_from_slice(b"ASHLFECS");
    raw[HEAD_LEN - 8..].copy_from_slice(b"ASHLFECE");
    seal_head(&mut raw);
    let Ok(head) = Head::decode(&raw, proof::hash_parity_head) else { return };
    assert_eq!(head.encode(proof::hash_parity_head), raw);
    let geometry = head.geometry;
    assert!(geometry.covered_len() <= geometry.section_offset());
    assert!(geometry.place(geometry.count() - 1).end == geometry.second_table_offset());
    assert!(geometry.second_head_offset() + HEAD_LEN as u64 == geometry.end());
}

fn seal_head(head: &mut [u8]) {
    head[0x38..0x58].fill(0);
    let sum = proof::hash_parity_head(head);
    head[0x38..0x58].copy_from_slice(&sum.0);
}

/// Makes tables and heads those of the bytes that are there, but for one shard that shall be called damaged.
fn seal(bytes: &mut Vec<u8>, geometry: Geometry, edit: Edit) {
    bytes.resize(geometry.end() as usize, 0);
    let wrong = edit.index(geometry.count() as usize + 1);
    let sum = |shard: u32| {
        let place = geometry.place(shard);
        let mut hasher = proof::ShardHasher::default();
        hasher.update(&bytes[place.start as usize..place.end as usize]);
        let mut sum = hasher.finish();
        sum[0] ^= u8::from(wrong == shard as usize);
        sum
    };
    let table: Vec<u8> = (0..geometry.count()).flat_map(sum).collect();
    let head = Head { geometry, table_digest: proof::hash_parity_table(&table) };
    let raw = head.encode(proof::hash_parity_head);
    for (at, part) in [
        (geometry.section_offset(), raw.as_slice()),
        (geometry.table_offset(), &table),
        (geometry.second_table_offset(), &table),
        (geometry.second_head_offset(), &raw),
    ] {
        bytes[at as usize..][..part.len()].copy_from_slice(part);
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let (whole, geometry) = &*WHOLE;
    let head = &whole[geometry.section_offset() as usize..][..HEAD_LEN];
    let put = |part, bits, at, value| Edit::put(part, bits, at, value);
    let scripts = [
        // A byte in each of as many shards as can be lost, and in one more.
        vec![put(COVERED, 0, 0, 0), put(COVERED, 0, 1, 7), put(COVERED, 0, 2, 9)],
        vec![
            put(COVERED, 0, 0, 0),
            put(COVERED, 0, 1, 7),
            put(COVERED, 0, 2, 9),
            put(SECTION, 0, 5000, 1),
        ],
        // Heads and tables.
        vec![put(SECTION, 0, 0, 0)],
        vec![put(SECTION, 2, 96, 0), put(COVERED, 0, 1, 7)],
        vec![put(HEADS, 2, 8, 4)],
        vec![put(HEADS, 2, 8, 4096)],
        vec![put(HEADS, 3, 0, 4096)],
        vec![put(HEADS, 3, 0, 0xfeff_ff0f)],
        vec![put(HEADS, 0, 20, 1)],
        // Wrong bytes that are called right, right ones that are called wrong, and other parity.
        vec![put(COVERED, 0, 1, 7), put(ENEMY, 0, 1000, 0)],
        vec![put(ENEMY, 0, 1, 0)],
        vec![put(SECTION, 3, 4096, 0), put(ENEMY, 0, 2, 0)],
        // What is cut off, and what follows.
        vec![put(SECTION, 5, 4096, 100)],
        vec![put(SECTION, 8, 5, 0)],
    ];
    scripts.iter().map(|script| script.concat()).chain([head.to_vec(), Vec::new()]).collect()
}
