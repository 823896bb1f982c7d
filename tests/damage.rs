//! Does damage ever show as anything but an error? An image that uses every feature is damaged at random, again and again:
//! what can still be read must be right, what cannot must say so, and `verify` must find each damage.
//!
//! `ASHLAR_DAMAGES` sets how often (20,000 if not given), `ASHLAR_SEED` where to start; a failure names its seed.

#[path = "support/image.rs"]
mod image;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ashlarfs::format::index::{BlockIndex, InodeIndex};
use ashlarfs::format::inode::Kind;
use ashlarfs::fs::file::Place;
use ashlarfs::fs::walk::Visit;
use ashlarfs::{Anchor, Digest, Error, Options, Source, Tree, verify};

/// Everything that can be read of one path, hashed.
type Truth = BTreeMap<Vec<u8>, Digest>;

/// Reads all there is of one file: attributes, content or target, extended attributes.
fn read(tree: &Tree, visit: &Visit) -> Result<Digest, Error> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(format!("{:?}", tree.attr(visit.index)?).as_bytes());
    match visit.inode.kind {
        Kind::File => {
            let file = tree.file(visit.index)?;
            let mut buf = vec![0; 10_000];
            let mut offset = 0;
            loop {
                let len = file.read_at(offset, &mut buf)?;
                if len == 0 {
                    break;
                }
                hasher.update(&buf[..len]);
                offset += len as u64;
            }
        }
        Kind::Link => {
            hasher.update(&tree.read_link(visit.index)?);
        }
        Kind::Dir => {
            for entry in tree.directory(visit.index)?.iter_from(0) {
                hasher.update(&entry?.name);
            }
        }
        _ => {}
    }
    for name in tree.xattr_names(visit.index)? {
        hasher.update(&name).update(&tree.xattr(visit.index, &name)?.unwrap());
    }
    Ok(Digest(*hasher.finalize().as_bytes()))
}

/// Walks through all of it; what is read is held against `truth`, what fails must fail as damage does.
fn read_all(tree: &Tree, mut each: impl FnMut(&[u8], Result<Digest, Error>)) {
    for (path, visit) in tree.walk(InodeIndex::ROOT) {
        each(&path, visit.and_then(|visit| read(tree, &visit)));
    }
}

/// A small fast generator (SplitMix64): one seed, one damage, for ever.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap()
    }
}

/// Damages the image; returns what was done and the range of bytes that may differ now.
fn damage(bytes: &mut Vec<u8>, random: &mut Random) -> (&'static str, Range<usize>) {
    let len = bytes.len();
    let piece = |random: &mut Random| {
        let bits = random.below(14);
        let size = 1 + random.below(1 << bits);
        let start = random.below(len - size.min(len - 1));
        start..(start + size).min(len)
    };
    match random.below(7) {
        0 | 1 => {
            let at = random.below(len);
            bytes[at] ^= 1 << random.below(8);
            ("flipped a bit", at..at + 1)
        }
        2 => {
            let range = piece(random);
            bytes[range.clone()].fill(0);
            ("zeroed a range", range)
        }
        3 => {
            let range = piece(random);
            let noise = image::noise(random.next(), range.len());
            bytes[range.clone()].copy_from_slice(&noise);
            ("overwrote a range", range)
        }
        4 => {
            let (a, b) = (piece(random), piece(random));
            let size = a.len().min(b.len());
            for n in 0..size {
                bytes.swap(a.start + n, b.start + n);
            }
            ("swapped two ranges", a.start.min(b.start)..(a.start + size).max(b.start + size))
        }
        5 => {
            let at = random.below(len);
            bytes.truncate(at);
            ("truncated", at..len)
        }
        _ => {
            let size = 1 + random.below(5000);
            let junk = image::noise(random.next(), size);
            bytes.extend_from_slice(&junk);
            ("appended junk", len..len + size)
        }
    }
}

/// The data blocks of each file, and where they lie in the image.
fn data_ranges(tree: &Tree) -> BTreeMap<Vec<u8>, Vec<Range<usize>>> {
    let range = |block: u32| {
        let entry = tree.store().entry(BlockIndex(block)).unwrap();
        usize::try_from(entry.offset).unwrap()..usize::try_from(entry.end()).unwrap()
    };
    let mut ranges = BTreeMap::new();
    for (path, visit) in tree.walk(InodeIndex::ROOT) {
        let visit = visit.unwrap();
        let mut of_file = Vec::new();
        if visit.inode.kind == Kind::File {
            for extent in tree.file(visit.index).unwrap().extents() {
                match extent.unwrap().place {
                    Place::Hole => {}
                    Place::Blocks { first, count } => {
                        of_file.extend((first.0..first.0 + count).map(range))
                    }
                    Place::Tail { block, .. } => of_file.push(range(block.0)),
                }
            }
        }
        ranges.insert(path, of_file);
    }
    ranges
}

#[test]
fn no_damage_shows_as_anything_but_an_error() {
    let count: u64 = std::env::var("ASHLAR_DAMAGES").map_or(20_000, |text| text.parse().unwrap());
    let first: u64 = std::env::var("ASHLAR_SEED").map_or(1, |text| text.parse().unwrap());
    let directory = tempfile::tempdir().unwrap();
    let (path, digest) = image::build_tar(directory.path(), &image::every_feature_tar(), &[]);
    let sound = std::fs::read(path).unwrap();
    let tree = image::open(sound.clone(), digest).unwrap();
    let mut truth = Truth::new();
    read_all(&tree, |path, found| assert!(truth.insert(path.to_vec(), found.unwrap()).is_none()));
    assert!(truth.len() > 300);
    let data = data_ranges(&tree);
    let metadata_start = {
        let first = tree.superblock().data_block_count;
        usize::try_from(tree.store().entry(BlockIndex(first)).unwrap().offset).unwrap()
    };

    let next = AtomicU64::new(first);
    let slowest = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count {
                        return;
                    }
                    let mut random = Random(seed);
                    let mut bytes = sound.clone();
                    let (what, range) = damage(&mut bytes, &mut random);
                    if bytes == sound {
                        continue;
                    }
                    let context = format!("ASHLAR_SEED={seed}: {what} at {range:?}");
                    let started = Instant::now();
                    one(&bytes, digest, &truth, &data, &range, metadata_start, &context);
                    slowest.fetch_max(
                        u64::try_from(started.elapsed().as_millis()).unwrap(),
                        Ordering::Relaxed,
                    );
                }
            });
        }
    });
    println!("{count} damages, the slowest took {} ms", slowest.load(Ordering::Relaxed));
}

/// Reads and verifies one damaged image.
fn one(
    bytes: &[u8],
    digest: Digest,
    truth: &Truth,
    data: &BTreeMap<Vec<u8>, Vec<Range<usize>>>,
    range: &Range<usize>,
    metadata_start: usize,
    context: &str,
) {
    let started = Instant::now();
    let source = image::Memory::new(bytes.to_vec());
    let options = Options::new(Anchor::RootDigest(digest));
    let tree = ashlarfs::open_source(source.clone(), &options);
    match &tree {
        Err(err) => assert!(err.is_damage() || matches!(err, Error::Io { .. }), "{context}: {err}"),
        Ok(tree) => {
            // Damage to data blocks alone touches only the files in them.
            let only_data = range.start >= 4096 && range.end <= metadata_start;
            read_all(tree, |path, found| match found {
                Ok(found) => {
                    assert_eq!(Some(&found), truth.get(path), "{context}: wrong bytes in {path:?}");
                }
                Err(err) => {
                    assert!(err.is_damage() || matches!(err, Error::Io { .. }), "{context}: {err}");
                    let hit =
                        |lost: &Range<usize>| lost.start < range.end && range.start < lost.end;
                    if only_data {
                        assert!(
                            data[path].iter().any(hit),
                            "{context}: {path:?} is not damaged, yet: {err}"
                        );
                    }
                }
            });
        }
    }
    let source: Arc<dyn Source> = source;
    let report = verify::verify(
        &source,
        digest,
        &verify::Options { workers: NonZeroUsize::MIN, ..Default::default() },
    );
    assert!(!report.is_clean(), "{context}: verify found nothing");
    assert!(started.elapsed() < Duration::from_secs(20), "{context}: too slow");
}
