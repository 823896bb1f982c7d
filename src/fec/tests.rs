//! Is the code what SPEC says, and does the matrix undo it?

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use reed_solomon_simd::engine::{CANTOR_BASIS, GF_POLYNOMIAL};

use super::code::{Code, strips};
use super::scan::Damage;
use super::{Geometry, Look, Repairer, Share, encode, find, heads, restore, scan, search};
use crate::image::Source;
use crate::image::pread::Pread;

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
    restored_from(&memory(bytes))
}

fn restored_from(source: &dyn Source) -> Result<Vec<u8>, String> {
    let found = search(source, 2, &|_, _| {}).unwrap().ok_or("no parity")?;
    let out = tempfile::tempfile().unwrap();
    // What was reserved, and what is left from before, is no part of it.
    io::Write::write_all(&mut &out, &noise(9, source.len() as usize + 9000)).unwrap();
    restore(source, &found, &out, 2, &|_, _| {}).map_err(|err| err.to_string())?;
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
    let mut repairer = Repairer::open(shared).unwrap().unwrap();
    (repairer.limits.rest, repairer.limits.rest_factor) = (Duration::ZERO, 0);
    let check = |offset: usize, len: usize| {
        let mut buf = vec![0; len];
        let look = repairer.repair(offset as u64, &mut buf).unwrap();
        assert!(buf == covered[offset..offset + len], "{len} bytes at {offset}");
        look
    };
    // From several threads at once, parts of shards and ranges of them.
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for (offset, len) in
                    [(0, 1), (5, 1), (4000, 20_000), (4096 * 50, 123), (0, covered.len())]
                {
                    let _: Look = check(offset, len);
                }
            });
        }
    });
    // A shard that is lost later is noticed where it is asked for; elsewhere it is the caller who notices.
    source.0.write().unwrap()[4096 * 20] ^= 1;
    let look = check(4096 * 20, 10);
    source.0.write().unwrap()[4096 * 30] ^= 1;
    repairer.forget(look);
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
    let covered = noise(4, 4096 * 2000);
    let mut bytes = with_parity(&covered, 90);
    for shard in 0..90 {
        bytes[shard * 20 * 4096 + 17] ^= 1;
    }
    let mut repairer = Repairer::open(std::sync::Arc::new(memory(bytes))).unwrap().unwrap();
    repairer.limits.kept_len = 4096 * 89;
    for (offset, len) in [(0, 40), (20 * 4096 + 1000, 3000), (20 * 4096 - 10, 4200)] {
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

/// A source of which some pages cannot be read, and which counts how many bytes are asked for.
#[derive(Debug)]
struct Worn {
    bytes: RwLock<Vec<u8>>,
    bad: RwLock<Vec<u64>>,
    read: AtomicU64,
    /// How long each question takes.
    takes: Duration,
}

impl Worn {
    fn new(bytes: Vec<u8>, bad: &[u64]) -> Worn {
        let (bytes, bad) = (RwLock::new(bytes), RwLock::new(bad.to_vec()));
        Worn { bytes, bad, read: AtomicU64::new(0), takes: Duration::ZERO }
    }
}

impl Source for Worn {
    fn len(&self) -> u64 {
        self.bytes.read().unwrap().len() as u64
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        std::thread::sleep(self.takes);
        self.read.fetch_add(buf.len() as u64, Ordering::Relaxed);
        let place = offset..offset + buf.len() as u64;
        if self.bad.read().unwrap().iter().any(|bad| place.start < bad + 512 && *bad < place.end) {
            return Err(io::Error::from_raw_os_error(5));
        }
        memory(self.bytes.read().unwrap().clone()).read_exact_at(buf, offset)
    }
}

/// A sector costs the page that it is in: the head, the table and the shards around it are found.
#[test]
fn bad_sectors_cost_no_more_than_their_pages() {
    let covered = noise(5, 4096 * 50 + 123);
    let whole = with_parity(&covered, 6);
    let geometry = Geometry::new(covered.len() as u64, 6).unwrap();
    // Nothing but a search finds the first head where the last one cannot be read; and of both tables a part is lost.
    let table = geometry.second_table_offset();
    for bad in [
        vec![geometry.end() - 512],
        vec![geometry.end() - 512, 0, 4096 * 3],
        vec![geometry.table_offset(), 512],
        vec![table + 3, geometry.second_head_offset(), 4096 * 30],
    ] {
        let found = restored_from(&Worn::new(whole.clone(), &bad));
        assert!(found.is_ok_and(|found| found == whole), "{bad:?}");
    }
    // A MiB is searched at a time.
    let source = Worn::new(whole.clone(), &[geometry.end() - 512]);
    assert!(find(&source).is_none() && heads(&source).next().is_some());
}

/// What a partition still holds of a longer image from before is not what is repaired.
#[test]
fn of_several_parities_the_one_that_fits_is_taken() {
    let old = with_parity(&noise(6, 4096 * 90), 5);
    let new = with_parity(&noise(7, 4096 * 60), 5);
    let mut partition = old.clone();
    partition[..new.len()].copy_from_slice(&new);
    for at in [0, 4096 * 7, 4096 * 59 + 4000] {
        partition[at] ^= 1;
    }
    let source = memory(partition.clone());
    assert_eq!(find(&source).unwrap().geometry.covered_len(), 4096 * 90, "the last one");
    assert!(restored(partition.clone()).is_ok_and(|found| found == new));
    // Also where one copy of the head is all there is of each.
    let geometry = Geometry::new(4096 * 60, 5).unwrap();
    partition[geometry.section_offset() as usize] ^= 1;
    partition.extend(noise(8, 10_000));
    assert!(restored(partition.clone()).is_ok_and(|found| found == new));
    // When none fits, why is told of the first one.
    partition[4096 * 20..4096 * 30].fill(0);
    assert!(restored(partition).is_err_and(|why| why.contains("of 60 shards")));
}

/// A disk is not read over and over for nothing.
#[test]
fn nobody_looks_again_soon_when_nothing_came_of_it() {
    let covered = noise(10, 4096 * 40);
    let mut bytes = with_parity(&covered, 3);
    for shard in 0..4 {
        bytes[4096 * shard] ^= 1;
    }
    let source = Arc::new(Worn::new(bytes.clone(), &[]));
    let shared: Arc<dyn Source> = source.clone();
    let mut repairer = Repairer::open(shared).unwrap().unwrap();
    (repairer.limits.rest, repairer.limits.rest_factor) = (Duration::from_secs(2), 0);
    let ask =
        |repairer: &Repairer| repairer.repair(0, &mut [0; 100]).map_err(|err| err.to_string());
    assert!(ask(&repairer).unwrap_err().contains("4 of 40 shards"));
    let read = source.read.load(Ordering::Relaxed);
    assert!(read >= 4096 * 43);
    for _ in 0..5 {
        let err = repairer.repair(0, &mut [0; 100]).unwrap_err();
        assert!(err.to_string().contains("a moment ago"), "{err}");
        assert!(!err.is_timeout(), "it is known that parity cannot help: {err}");
    }
    assert_eq!(source.read.load(Ordering::Relaxed), read, "it was looked at again");
    // What is mended meanwhile is found after the rest.
    source.bytes.write().unwrap()[0] ^= 1;
    std::thread::sleep(repairer.limits.rest);
    ask(&repairer).unwrap();
}

/// An image that has lost a byte, and a repairer that keeps nothing: all that is whole is needed for each question.
fn damaged_and_not_kept(covered: &[u8]) -> (Arc<Worn>, Repairer) {
    let mut bytes = with_parity(covered, 3);
    bytes[5] ^= 1;
    let source = Arc::new(Worn::new(bytes, &[]));
    let shared: Arc<dyn Source> = source.clone();
    let mut repairer = Repairer::open(shared).unwrap().unwrap();
    repairer.limits.kept_len = 0;
    (source, repairer)
}

/// More may have been lost since all shards were looked at: that is found out when bytes are wrong, and for nothing only once.
#[test]
fn bytes_that_are_wrong_are_a_reason_to_look_again_once() {
    let covered = noise(10, 4096 * 40);
    let (source, repairer) = damaged_and_not_kept(&covered);
    let ask = || {
        let mut buf = [0; 100];
        repairer.repair(0, &mut buf).map(|look| (look, buf == covered[..100]))
    };
    let (first, is_true) = ask().unwrap();
    assert!(is_true);
    source.bytes.write().unwrap()[4096 * 20 + 5] ^= 1;
    let (same, is_true) = ask().unwrap();
    assert!(same == first && !is_true);
    repairer.forget(first);
    let (second, is_true) = ask().unwrap();
    assert!(second != first && is_true);
    // One who was told before that is too late, and one for whom it is wrong all the same is not worth another look.
    repairer.forget(first);
    repairer.forget(second);
    assert_eq!(ask().unwrap(), (second, true));
}

/// Where only what is asked for is restored, each time from all that is whole: a part of that may become unreadable, too.
#[test]
fn a_shard_that_cannot_be_read_any_more_is_one_more_that_is_lost() {
    let covered = noise(12, 4096 * 40);
    let (source, mut repairer) = damaged_and_not_kept(&covered);
    (repairer.limits.rest, repairer.limits.rest_factor) = (Duration::from_secs(2), 0);
    let ask = |repairer: &Repairer| {
        let mut buf = [0; 100];
        let asked = repairer.repair(0, &mut buf).map_err(|err| err.to_string());
        assert!(asked.is_err() || buf == covered[..100]);
        asked
    };
    ask(&repairer).unwrap();
    // The same columns of a data shard and of a parity shard, which are needed for that.
    let parity_offset = Geometry::new(covered.len() as u64, 3).unwrap().parity_offset();
    for bad in [4096 * 20, parity_offset] {
        source.bad.write().unwrap().push(bad);
        ask(&repairer).unwrap();
    }
    // One more is too many. That is not found out again and again.
    source.bad.write().unwrap().push(4096 * 21);
    let why = ask(&repairer).unwrap_err();
    assert!(why.contains("3 of 40 shards and 1 of 3 parity shards"), "{why}");
    let read = source.read.load(Ordering::Relaxed);
    assert!(ask(&repairer).unwrap_err().contains("a moment ago"));
    assert_eq!(source.read.load(Ordering::Relaxed), read);
    source.bad.write().unwrap().pop();
    std::thread::sleep(repairer.limits.rest);
    ask(&repairer).unwrap();
}

#[test]
fn who_comes_meanwhile_does_not_wait_for_ever() {
    let covered = noise(11, 4096 * 400);
    let mut bytes = with_parity(&covered, 3);
    bytes[5] ^= 1;
    let mut source = Worn::new(bytes, &[]);
    source.takes = Duration::from_millis(2);
    let mut repairer = Repairer::open(Arc::new(source)).unwrap().unwrap();
    repairer.limits.patience = Duration::from_millis(20);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| {
            let mut buf = [0; 100];
            repairer.repair(0, &mut buf).unwrap();
            assert!(buf == covered[..100]);
        });
        std::thread::sleep(Duration::from_millis(50));
        let begun = Instant::now();
        let err = repairer.repair(0, &mut [0; 100]).unwrap_err();
        assert!(err.to_string().contains("somebody else") && !first.is_finished(), "{err}");
        assert!(err.is_timeout(), "it says nothing of what can be restored: {err}");
        assert!(begun.elapsed() < Duration::from_millis(400));
    });
    let mut buf = [0; 100];
    repairer.repair(0, &mut buf).unwrap();
    assert!(buf == covered[..100]);
}

/// An image so long that its shards are longer than a page, and so much parity that its columns do not fit at once.
#[test]
fn long_shards_come_back_strip_by_strip() {
    use std::os::unix::fs::FileExt;
    // Holes but for a few shards, so that it takes neither disk nor time.
    let covered_len = 4096 * 32_768 + 4096 * 5 + 77;
    let geometry = Geometry::new(covered_len, 600).unwrap();
    assert_eq!(geometry.shard_len(), 8192);
    assert!(strips(geometry, 0..8192, 2).count() > 1);
    let file = tempfile::tempfile().unwrap();
    file.set_len(covered_len).unwrap();
    let shards = [0, 1, 777, 16_000, geometry.data_count() - 1];
    let content = |shard: u32| {
        let place = geometry.place(shard);
        (place.start, noise(shard.into(), (place.end - place.start) as usize))
    };
    for (at, bytes) in shards.map(content) {
        file.write_all_at(&bytes, at).unwrap();
    }
    encode(&file, geometry, 2, &|_, _| {}).unwrap();
    // The last columns of one, all of others, and parity itself.
    file.write_all_at(&[9; 100], 8192 + 8000).unwrap();
    for shard in [0, 777, geometry.data_count() - 1, geometry.data_count() + 3] {
        let place = geometry.place(shard);
        file.write_all_at(&vec![0xa5; (place.end - place.start) as usize], place.start).unwrap();
    }
    let source = Pread::new(file.try_clone().unwrap()).unwrap();
    let found = search(&source, 2, &|_, _| {}).unwrap().unwrap();
    assert_eq!(found.damage.data(), [0, 1, 777, geometry.data_count() - 1]);
    assert_eq!(found.damage.parity(), [3]);
    let out = tempfile::tempfile().unwrap();
    restore(&source, &found, &out, 2, &|_, _| {}).unwrap();
    for (at, bytes) in shards.map(content) {
        let mut found = vec![0; bytes.len()];
        out.read_exact_at(&mut found, at).unwrap();
        assert!(found == bytes, "at {at}");
    }
    let restored = Pread::new(out).unwrap();
    let again = scan(&restored, &found.head, 2, &|_, _| {}).unwrap();
    assert!(again.is_empty() && restored.len() == geometry.end());
}

/// Memory is for threads that have work, and a strip is made of whole pages where it can be.
#[test]
fn strips_are_as_wide_as_they_can_be() {
    let width = |covered_len: u64, parity_count, workers| {
        let geometry = Geometry::new(covered_len, parity_count).unwrap();
        let strip = strips(geometry, 0..geometry.shard_len(), workers).next().unwrap();
        strip.end - strip.start
    };
    // 64 groups, 8, and one.
    assert_eq!(width(1 << 30, 264, 2), 3 * 4096);
    assert_eq!(width(1 << 30, 4096, 64), 448);
    assert_eq!(width(1 << 33, 4096, 8), 448);
    assert_eq!(width(4096 * 2, 2, 64), 4096);
}

/// What was taken beforehand is not given back while there may be somebody who takes it.
#[test]
fn what_is_reserved_stays_reserved() {
    use std::os::unix::fs::MetadataExt;
    let covered = noise(12, 4096 * 40 + 5);
    let geometry = Geometry::new(covered.len() as u64, 3).unwrap();
    let (file, out) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    io::Write::write_all(&mut &file, &covered).unwrap();
    for file in [&file, &out] {
        let flags = rustix::fs::FallocateFlags::empty();
        if rustix::fs::fallocate(file, flags, 0, geometry.end()).is_err() {
            eprintln!("skipped: nothing can be reserved here");
            return;
        }
    }
    let least = AtomicU64::new(u64::MAX);
    let watch = |file: &std::fs::File| {
        least.fetch_min(file.metadata().unwrap().blocks() * 512, Ordering::Relaxed);
    };
    encode(&file, geometry, 2, &|_, _| watch(&file)).unwrap();
    let source = Pread::new(file.try_clone().unwrap()).unwrap();
    let found = search(&source, 2, &|_, _| {}).unwrap().unwrap();
    restore(&source, &found, &out, 2, &|_, _| watch(&out)).unwrap();
    let least = least.into_inner();
    assert!((geometry.end()..u64::MAX).contains(&least), "{least} of {}", geometry.end());
    assert!(read_back(&out) == read_back(&file));
}
