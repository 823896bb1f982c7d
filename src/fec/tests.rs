//! Is the code what SPEC says, and does the matrix undo it?

use std::io;
use std::sync::RwLock;

use proptest::prelude::*;
use reed_solomon_simd::engine::{CANTOR_BASIS, GF_POLYNOMIAL};

use super::code::{Code, strips};
use super::scan::Damage;
use super::{Geometry, Repairer, Share, encode, find, restore, scan, search};
use crate::image::Source;

#[derive(Debug)]
struct Memory(RwLock<Vec<u8>>);

impl Source for Memory {
    fn len(&self) -> u64 {
        self.0.read().unwrap().len() as u64
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let bytes = self.0.read().unwrap();
        let from = bytes.get(offset as usize..).and_then(|rest| rest.get(..buf.len()));
        buf.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

fn memory(bytes: Vec<u8>) -> Memory {
    Memory(RwLock::new(bytes))
}

/// Bytes that have nothing to do with each other (`SplitMix64`).
fn noise(mut seed: u64, len: usize) -> Vec<u8> {
    let mut next = || {
        seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let mut bytes: Vec<u8> = (0..len.div_ceil(8)).flat_map(|_| next().to_le_bytes()).collect();
    bytes.truncate(len);
    bytes
}

/// The file with its parity.
fn with_parity(covered: &[u8], parity_count: u32) -> Vec<u8> {
    let file = tempfile::tempfile().unwrap();
    io::Write::write_all(&mut &file, covered).unwrap();
    let geometry = Geometry::new(covered.len() as u64, parity_count).unwrap();
    encode(&file, geometry, 2, &|_, _| {}).unwrap();
    read_back(&file)
}

fn read_back(file: &std::fs::File) -> Vec<u8> {
    use std::os::unix::fs::FileExt;
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

/// The field of SPEC §10.1, as plain as it can be.
mod field {
    use super::{CANTOR_BASIS, GF_POLYNOMIAL};

    /// The polynomial that a number stands for.
    pub(super) fn polynomial(value: u16) -> u32 {
        let bits = (0..16).filter(|bit| value >> bit & 1 == 1);
        bits.fold(0, |sum, bit| sum ^ u32::from(CANTOR_BASIS[bit]))
    }

    /// What gives 1 with `a`: its power to two less than there are elements.
    pub(super) fn inverse(a: u32) -> u32 {
        (0..65_534).fold(1, |power, _| product(power, a))
    }

    /// Product of two polynomials modulo the field's.
    pub(super) fn product(a: u32, b: u32) -> u32 {
        let mut sum = 0;
        for bit in (0..16).rev() {
            sum <<= 1;
            if sum >> 16 & 1 == 1 {
                sum ^= GF_POLYNOMIAL as u32;
            }
            if b >> bit & 1 == 1 {
                sum ^= a;
            }
        }
        sum
    }
}

/// The symbol in the `nth` place of columns.
fn symbol(columns: &[u8], nth: usize) -> u16 {
    let piece = &columns[nth / 32 * 64..][..64];
    u16::from_le_bytes([piece[nth % 32], piece[32 + nth % 32]])
}

/// Each symbol of parity is the sum that SPEC says it is.
#[test]
fn parity_is_that_of_the_specification() {
    for (covered_len, parity_count) in [(4096 * 5 + 9, 3), (4096 * 3, 2), (4096 * 19, 4), (100, 7)]
    {
        let file = with_parity(&noise(covered_len, covered_len as usize), parity_count);
        let geometry = Geometry::new(covered_len, parity_count).unwrap();
        let shard = |nth| {
            let place = geometry.place(nth);
            let mut bytes = file[place.start as usize..place.end as usize].to_vec();
            bytes.resize(geometry.shard_len() as usize, 0);
            bytes
        };
        let element = |symbol: u32| field::polynomial(u16::try_from(symbol).unwrap());
        let chunk = geometry.chunk();
        let whole = (1..chunk).map(element).fold(1, field::product);
        for j in 0..parity_count {
            let parity = shard(geometry.data_count() + j);
            for column in [0, 1, 31, 32, 1000, 2047] {
                let mut sum = 0;
                for i in 0..geometry.data_count() {
                    let p = chunk + i;
                    let s = (0..chunk).map(|k| element(p ^ k)).fold(1, field::product);
                    let factor =
                        field::product(s, field::inverse(field::product(whole, element(p ^ j))));
                    sum ^= field::product(element(symbol(&shard(i), column).into()), factor);
                }
                assert_eq!(sum, element(symbol(&parity, column).into()), "{j}, column {column}");
            }
        }
    }
    // Fewer parity shards are the first ones of more.
    let covered = noise(1, 4096 * 9);
    let (three, four) = (with_parity(&covered, 3), with_parity(&covered, 4));
    let at = |count| Geometry::new(covered.len() as u64, count).unwrap().parity_offset() as usize;
    assert_eq!(three[at(3)..][..3 * 4096], four[at(4)..][..3 * 4096]);
}

/// The crate's own encoder, which has all shards in memory, makes the same of them.
#[test]
fn parity_is_what_the_crate_makes() {
    use reed_solomon_simd::engine::DefaultEngine;
    use reed_solomon_simd::rate::{HighRateEncoder, RateEncoder};
    for (covered_len, parity_count) in
        [(4096 * 40 + 1, 5), (4096 * 8, 8), (4096 * 3, 17), (4096 * 100 - 9, 2)]
    {
        let covered = noise(covered_len, covered_len as usize);
        let file = with_parity(&covered, parity_count);
        let geometry = Geometry::new(covered_len, parity_count).unwrap();
        let (data, parity) = (geometry.data_count() as usize, parity_count as usize);
        let mut encoder =
            HighRateEncoder::new(data, parity, 4096, DefaultEngine::new(), None).unwrap();
        for shard in covered.chunks(4096) {
            let mut shard = shard.to_vec();
            shard.resize(4096, 0);
            encoder.add_original_shard(&shard).unwrap();
        }
        let result = encoder.encode().unwrap();
        let expected: Vec<u8> = result.recovery_iter().flatten().copied().collect();
        let at = geometry.parity_offset() as usize;
        assert!(file[at..][..expected.len()] == expected, "{geometry:?}");
    }
}

/// Strips and threads change nothing.
#[test]
fn narrow_strips_are_pieces_of_wide_ones() {
    let covered = noise(7, 4096 * 23 + 77);
    let file = with_parity(&covered, 6);
    let geometry = Geometry::new(covered.len() as u64, 6).unwrap();
    let source = memory(file.clone());
    for workers in [1, 3] {
        let code = Code::new(geometry, workers);
        for strip in [0..64, 64..192, 4032..4096] {
            let found = code.parity(&source, &Damage::default(), &strip, &|_| {}).unwrap();
            for (nth, columns) in
                found.as_flattened().chunks((strip.end - strip.start) as usize).enumerate()
            {
                let place = geometry.place(geometry.data_count() + nth as u32).start;
                let stored = &file[(place + strip.start) as usize..(place + strip.end) as usize];
                assert!(columns == stored, "{strip:?} of shard {nth}");
            }
        }
    }
    // All columns come once, in order, in whole pieces.
    for (len, parity_count, workers) in [(4096, 2, 1), (1 << 20, 4096, 8), (1 << 30, 300, 2)] {
        let geometry = Geometry::new(len * 32_768, parity_count).unwrap();
        let mut due = 0;
        for strip in strips(geometry, 0..geometry.shard_len(), workers) {
            assert_eq!(strip.start, due);
            assert!((strip.end - strip.start).is_multiple_of(64) && !strip.is_empty());
            due = strip.end;
        }
        assert_eq!(due, geometry.shard_len());
    }
}

/// What `restore` makes of a file, or why it makes nothing.
fn restored(bytes: Vec<u8>) -> Result<Vec<u8>, String> {
    let source = memory(bytes);
    let head = search(&source).ok_or("no parity")?;
    let out = tempfile::tempfile().unwrap();
    restore(&source, &head, &out, 2, &|_, _| {}).map_err(|err| err.to_string())?;
    Ok(read_back(&out))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn what_is_lost_comes_back(
        covered_len in 1_usize..60 * 4096,
        parity_count in 2_u32..12,
        seed in any::<u64>(),
        lost in proptest::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let whole = with_parity(&noise(seed, covered_len), parity_count);
        let geometry = Geometry::new(covered_len as u64, parity_count).unwrap();
        let mut lost: Vec<u32> = lost.iter().map(|nth| nth.index(geometry.count() as usize) as u32).collect();
        lost.sort_unstable();
        lost.dedup();
        let mut bytes = whole.clone();
        for shard in &lost {
            let place = geometry.place(*shard);
            // One byte is as bad as all of them.
            let at = place.start + seed % (place.end - place.start);
            bytes[at as usize] ^= 1;
        }
        let (data, parity): (Vec<u32>, Vec<u32>) = lost.iter().copied().partition(|shard| *shard < geometry.data_count());
        let source = memory(bytes.clone());
        let damage = scan(&source, &find(&source).unwrap(), 2, &|_, _| {}).unwrap();
        prop_assert_eq!(damage.data(), &data[..]);
        prop_assert_eq!(damage.parity().len(), parity.len());
        prop_assert_eq!(damage.is_curable(geometry), lost.len() <= parity_count as usize);
        match restored(bytes) {
            Ok(found) => prop_assert!(found == whole && lost.len() <= parity_count as usize),
            Err(why) => prop_assert!(lost.len() > parity_count as usize, "{why}"),
        }
    }
}

#[test]
fn a_repairer_gives_the_bytes_that_were() {
    let covered = noise(3, 4096 * 50 + 123);
    let whole = with_parity(&covered, 4);
    let mut bytes = whole.clone();
    for at in [5, 4096 * 7, 4096 * 50 + 100] {
        bytes[at] ^= 0x80;
    }
    let source = std::sync::Arc::new(memory(bytes));
    let shared: std::sync::Arc<dyn Source> = source.clone();
    let repairer = Repairer::open(shared).unwrap().unwrap();
    let check = |offset: usize, len: usize| {
        let mut buf = vec![0; len];
        repairer.repair(offset as u64, &mut buf).unwrap();
        assert!(buf == covered[offset..offset + len], "{len} bytes at {offset}");
    };
    // From several threads at once, parts of shards and ranges of them.
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for (offset, len) in
                    [(0, 1), (5, 1), (4000, 20_000), (4096 * 50, 123), (0, covered.len())]
                {
                    check(offset, len);
                }
            });
        }
    });
    // A shard that is lost later is noticed where it is asked for; elsewhere it is the caller who notices.
    source.0.write().unwrap()[4096 * 20] ^= 1;
    check(4096 * 20, 10);
    source.0.write().unwrap()[4096 * 30] ^= 1;
    repairer.forget();
    let failed = repairer.repair(0, &mut [0; 10]).unwrap_err().to_string();
    assert!(failed.contains("4 of 51 shards") || failed.contains("5 of 51 shards"), "{failed}");
    for (offset, len) in [(covered.len() as u64, 1), (u64::MAX, 1), (0, covered.len() + 1), (0, 0)]
    {
        assert!(repairer.repair(offset, &mut vec![0; len]).is_err());
    }
    assert!(Repairer::open(std::sync::Arc::new(memory(covered))).unwrap().is_none());
}

/// Where all of them would take too much memory, only what is asked for is restored.
#[test]
fn few_columns_of_many_lost_shards() {
    // Shards of 12 KiB; 1,400 of them are 16.4 MiB.
    let covered = noise(4, 4096 * 3 * 32_000);
    let whole = with_parity(&covered, 1400);
    let geometry = Geometry::new(covered.len() as u64, 1400).unwrap();
    assert_eq!(geometry.shard_len(), 3 * 4096);
    let mut bytes = whole;
    for shard in 0..1400 {
        bytes[shard * 20 * 3 * 4096 + 17] ^= 1;
    }
    let repairer = Repairer::open(std::sync::Arc::new(memory(bytes))).unwrap().unwrap();
    for (offset, len) in [(0, 40), (20 * 3 * 4096 + 1000, 5000), (3 * 4096 * 20 - 10, 12_300)] {
        let mut buf = vec![0; len];
        repairer.repair(offset as u64, &mut buf).unwrap();
        assert!(buf == covered[offset..offset + len], "{len} bytes at {offset}");
    }
}

#[test]
fn a_share_of_an_image_is_its_parity() {
    let geometry = Geometry::of_share(200_000_000, Share::DEFAULT).unwrap();
    assert_eq!((geometry.shard_len(), geometry.data_count()), (8192, 24_415));
    assert_eq!(geometry.parity_count(), 200);
    let section = geometry.end() - geometry.covered_len();
    assert!(section * 1000 < 200_000_000 * 10, "{section}");
}
