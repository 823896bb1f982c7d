//! How long do answers about the tree take? Names, attributes, listings and content, from a warm cache but where it says cold.

#[path = "support/bed.rs"]
mod bed;

use ashlarfs::Method;
use ashlarfs::format::index::InodeIndex;
use bed::{Bed, CACHE, FILES, INODES, LARGE_LEN};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

fn names(criterion: &mut Criterion) {
    let bed = Bed::new();
    let tree = bed.open(Method::Pread, CACHE);
    let many = tree.resolve(b"many").unwrap();
    let names: Vec<String> = (0..FILES).map(|n| format!("file-{n:05}")).collect();
    let found = |name: &str| tree.lookup(many, name.as_bytes()).unwrap();
    assert!(names.iter().zip(0..).all(|(name, n)| found(name).unwrap().1.size == 500 + n));
    assert!(found("file-").is_none());

    let mut n = 0;
    criterion.bench_function("fs/lookup warm", |bencher| {
        bencher.iter(|| {
            n = (n + 1171) % names.len();
            found(&names[n])
        });
    });
    criterion.bench_function("fs/lookup of nothing", |bencher| {
        bencher.iter(|| found("file-01000.so"));
    });
    criterion.bench_function("fs/lookup cold", |bencher| {
        bencher.iter_batched(
            || bed.open(Method::Pread, CACHE),
            |tree| tree.resolve(b"many/file-01234").unwrap(),
            BatchSize::PerIteration,
        );
    });
    let mut index = 0;
    criterion.bench_function("fs/attributes", |bencher| {
        bencher.iter(|| {
            index = (index + 1171) % INODES;
            tree.attr(InodeIndex(index)).unwrap()
        });
    });

    let listed = || {
        let directory = tree.directory(many).unwrap();
        directory.iter_from(0).map(|entry| entry.unwrap().name.len()).sum::<usize>()
    };
    assert_eq!(listed(), names.iter().map(String::len).sum::<usize>());
    let walked = || tree.walk(InodeIndex::ROOT).filter(|(_, visit)| visit.is_ok()).count();
    assert_eq!(walked(), INODES as usize);
    let mut group = criterion.benchmark_group("fs");
    group.throughput(Throughput::Elements(FILES.into()));
    group.bench_function("directory of 2000", |bencher| bencher.iter(listed));
    group.bench_function("walk of 2003", |bencher| bencher.iter(walked));
    group.finish();
}

fn content(criterion: &mut Criterion) {
    let bed = Bed::new();
    let want = bed::large();
    let tree = bed.open(Method::Pread, CACHE);
    let large = tree.resolve(b"large").unwrap();
    let mut piece = vec![0; 4096];
    criterion.bench_function("fs/read 4 KiB cached", |bencher| {
        bencher.iter(|| tree.read_at(large, 12_288, &mut piece).unwrap());
    });
    assert_eq!(piece, want[12_288..][..4096]);

    // Small files lie together in blocks, which the cache has: what is measured is the way to them.
    let many = tree.resolve(b"many").unwrap();
    let first = tree.lookup(many, b"file-00000").unwrap().unwrap().0.0;
    let mut whole = vec![0; 500 + FILES as usize];
    let mut n = 0;
    let mut len = 0;
    criterion.bench_function("fs/read small files", |bencher| {
        bencher.iter(|| {
            n = (n + 1171) % FILES;
            len = tree.read_at(InodeIndex(first + n), 0, &mut whole).unwrap();
        });
    });
    assert_eq!(whole[..len], bed::half_noise(n, 500 + n as usize));

    let mut group = criterion.benchmark_group("fs/read 32 MiB");
    group.throughput(Throughput::Bytes(LARGE_LEN as u64));
    for (name, method) in [("map", Method::Map), ("pread", Method::Pread)] {
        let tree = bed.open(method, 0);
        let mut all = vec![0; LARGE_LEN];
        group.bench_function(name, |bencher| {
            bencher.iter(|| tree.read_at(large, 0, &mut all).unwrap());
        });
        assert!(all == want);
    }
    group.finish();
}

criterion_group! { name = benches; config = bed::config(); targets = names, content }
criterion_main!(benches);
