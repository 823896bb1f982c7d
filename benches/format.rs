//! How long does it take to understand bytes? Records of each kind, decoded and held against their rules; nothing is read or
//! hashed.

#[path = "support/bed.rs"]
mod bed;

use std::hint::black_box;

use ashlarfs::format::dirent::{self, Dirent};
use ashlarfs::format::entry::{self, Codec, Entry};
use ashlarfs::format::index::{BlockIndex, InodeIndex};
use ashlarfs::format::inode::{self, Inode, Kind};
use ashlarfs::format::superblock::Superblock;
use ashlarfs::{Digest, Method, store};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

/// Records at a time: a full page of the table.
const COUNT: u32 = entry::ENTRIES_PER_PAGE;
const BLOCK_LEN: u32 = 1 << 17;

fn decode(criterion: &mut Criterion) {
    let bed = bed::Bed::new();
    let tree = bed.open(Method::Pread, bed::CACHE);
    let (raw, _) = store::read_superblock(tree.store().source(), 0).unwrap();
    assert_eq!(Superblock::decode(&raw).unwrap().inode_count(), bed::INODES);
    criterion.bench_function("format/superblock", |bencher| {
        bencher.iter(|| Superblock::decode(black_box(&raw)));
    });

    let mut group = criterion.benchmark_group("format");
    group.throughput(Throughput::Elements(COUNT.into()));

    let entries: Vec<Entry> = (0..COUNT)
        .map(|n| Entry {
            digest: Digest(*blake3::hash(&n.to_le_bytes()).as_bytes()),
            offset: 4096 + u64::from(n) * 1000,
            codec: Codec::Zstd,
            stored_len: 1000,
            content_len: BLOCK_LEN,
        })
        .collect();
    let table: Vec<u8> = entries.iter().flat_map(Entry::encode).collect();
    let (table, _) = table.as_chunks::<{ entry::LEN }>();
    let decode = |raw, block| Entry::decode(raw, BlockIndex(block), BLOCK_LEN);
    let decoded: Result<Vec<_>, _> = table.iter().zip(0..).map(|(raw, n)| decode(raw, n)).collect();
    assert_eq!(decoded.unwrap(), entries);
    group.bench_function("1024 table entries", |bencher| {
        bencher.iter(|| {
            let good = black_box(table).iter().zip(0..).filter(|(raw, n)| decode(raw, *n).is_ok());
            black_box(good.count())
        });
    });

    let inodes: Vec<Inode> = (0..COUNT).map(|n| tree.inode(InodeIndex(n)).unwrap()).collect();
    let section: Vec<u8> = inodes.iter().flat_map(Inode::encode).collect();
    let (section, _) = section.as_chunks::<{ inode::LEN }>();
    let bits = tree.superblock().block_bits;
    let decode = |raw, n| Inode::decode(raw, InodeIndex(n), bits);
    let decoded: Result<Vec<_>, _> =
        section.iter().zip(0..).map(|(raw, n)| decode(raw, n)).collect();
    assert_eq!(decoded.unwrap(), inodes);
    group.bench_function("1024 inodes", |bencher| {
        bencher.iter(|| {
            let good =
                black_box(section).iter().zip(0..).filter(|(raw, n)| decode(raw, *n).is_ok());
            black_box(good.count())
        });
    });

    let names: Vec<u8> =
        (0..COUNT).flat_map(|n| dirent::encode(n, (n + 1) * 10, Kind::File)).collect();
    let (names, _) = names.as_chunks::<{ dirent::LEN }>();
    assert!(names.iter().zip(0..).all(|(raw, n)| {
        let entry = Dirent::decode(raw);
        entry.inode == n && entry.name_end == (n + 1) * 10 && entry.kind == Some(Kind::File)
    }));
    group.bench_function("1024 directory entries", |bencher| {
        bencher.iter(|| {
            let entries = black_box(names).iter().map(Dirent::decode);
            black_box(entries.filter(|entry| entry.reserved_is_zero).count())
        });
    });
    group.finish();
}

criterion_group! { name = benches; config = bed::config(); targets = decode }
criterion_main!(benches);
