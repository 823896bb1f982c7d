//! What does a true block cost? Its hash, its expansion, both with the read before them, and finding it in the cache.

#[path = "support/bed.rs"]
mod bed;

use std::hint::black_box;

use ashlarfs::format::index::BlockIndex;
use ashlarfs::store::proof::{BlockKind, hash_block};
use ashlarfs::{Method, Store};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

/// Length of the blocks, all full ones.
const BLOCK_LEN: usize = 128 << 10;
/// Full blocks of the file `large`.
const BLOCKS: u32 = (bed::LARGE_LEN / BLOCK_LEN) as u32;

/// The first block that holds a full block of `large`, which is packed first: by its content.
fn first_block(store: &Store) -> u32 {
    let mut content = vec![0; BLOCK_LEN];
    let want = &bed::large()[..BLOCK_LEN];
    let is_first = |block: &u32| {
        let block = BlockIndex(*block);
        store.entry(block).unwrap().content_len as usize == BLOCK_LEN
            && store.get_into(block, &mut content).is_ok()
            && content == want
    };
    let mut is_first = is_first;
    (0..store.superblock().data_block_count).find(|block| is_first(block)).unwrap()
}

fn hash(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("store/hash");
    for len in [4 << 10, 64 << 10, BLOCK_LEN] {
        let block = bed::noise(1, len);
        assert_eq!(
            hash_block(BlockKind::Data, &block),
            hash_block(BlockKind::Data, &block.clone())
        );
        assert_ne!(hash_block(BlockKind::Data, &block), hash_block(BlockKind::Metadata, &block));
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(format!("{} KiB", len >> 10), |bencher| {
            bencher.iter(|| hash_block(BlockKind::Data, black_box(&block)));
        });
    }
    group.finish();
}

fn blocks(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("store/block of 128 KiB");
    group.throughput(Throughput::Bytes(BLOCK_LEN as u64));
    for (name, how) in [("verified", "none"), ("verified and expanded", "zstd,3")] {
        let bed = bed::Bed::with(&["-z", how]);
        let tree = bed.open(Method::Pread, 0);
        let first = first_block(tree.store());
        let mut content = vec![0; BLOCK_LEN];
        let mut nth = 0;
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                nth = (nth + 1) % BLOCKS;
                tree.store().get_into(BlockIndex(first + nth), &mut content).unwrap();
            });
        });
        assert_eq!(content, bed::large()[nth as usize * BLOCK_LEN..][..BLOCK_LEN]);
    }

    let bed = bed::Bed::new();
    let tree = bed.open(Method::Pread, bed::CACHE);
    let first = first_block(tree.store());
    let mut nth = 0;
    group.bench_function("cached", |bencher| {
        bencher.iter(|| {
            nth = (nth + 1) % 64;
            tree.store().get(BlockIndex(first + nth)).unwrap()
        });
    });
    let content = tree.store().get(BlockIndex(first + nth)).unwrap();
    assert_eq!(content[..], bed::large()[nth as usize * BLOCK_LEN..][..BLOCK_LEN]);
    // A cache of no bytes, or one that is too small for 64 blocks, would have been measured as a miss.
    let counters = tree.store().counters();
    let hits = counters.cache_hits.load(std::sync::atomic::Ordering::Relaxed);
    let verified = counters.blocks_verified.load(std::sync::atomic::Ordering::Relaxed);
    assert!(hits > 10 * verified, "{hits} hits, {verified} blocks verified");
    group.finish();
}

criterion_group! { name = benches; config = bed::config(); targets = hash, blocks }
criterion_main!(benches);
