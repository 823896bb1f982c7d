//! How long do the library's answers take? Open, lookup, read, verify, build; each asserts what it got.
//!
//! Run with `cargo bench`. The image is made of generated files, half of which compress, so that runs on different machines
//! measure the same work; comparisons with other file systems are `benches/compare`'s.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ashlarfs::format::index::InodeIndex;
use ashlarfs::{Anchor, CacheLimits, Digest, Method, Options, Tree, verify};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

const FILES: u32 = 2000;
const LARGE_LEN: usize = 32 << 20;

fn noise(seed: u32, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Content that zstd halves: every other 32 bytes repeat.
fn half_noise(seed: u32, len: usize) -> Vec<u8> {
    let mut bytes = noise(seed, len);
    bytes.chunks_mut(64).for_each(|chunk| {
        let (_, repeat) = chunk.split_at_mut(chunk.len() / 2);
        repeat.fill(7);
    });
    bytes
}

struct Bed {
    _directory: tempfile::TempDir,
    source: PathBuf,
    image: PathBuf,
    digest: Digest,
}

fn build(source: &Path, image: &Path) -> Digest {
    let (source, image) = (source.to_str().unwrap(), image.to_str().unwrap());
    let args =
        ["mkimage", "--quiet", "--all-time", "0", "--all-root", "-z", "zstd,3", source, image];
    ashlarfs_mkimage::run(args).unwrap().root_digest.parse().unwrap()
}

fn bed() -> Bed {
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("source");
    std::fs::create_dir_all(source.join("many")).unwrap();
    for n in 0..FILES {
        std::fs::write(source.join(format!("many/file-{n:05}")), half_noise(n, 500 + n as usize))
            .unwrap();
    }
    std::fs::write(source.join("large"), half_noise(77, LARGE_LEN)).unwrap();
    let image = directory.path().join("image");
    let digest = build(&source, &image);
    Bed { _directory: directory, source, image, digest }
}

impl Bed {
    fn open(&self, method: Method, cache: usize) -> Tree {
        let mut options = Options::new(Anchor::RootDigest(self.digest));
        options.method = method;
        options.cache = CacheLimits { data_bytes_max: cache, metadata_bytes_max: 8 << 20 };
        ashlarfs::open(&self.image, &options).unwrap()
    }
}

fn library(criterion: &mut Criterion) {
    let bed = bed();
    let want = blake3::hash(&half_noise(77, LARGE_LEN));

    criterion.bench_function("open", |bencher| {
        bencher.iter(|| {
            let tree = bed.open(Method::Auto, 24 << 20);
            assert_eq!(tree.superblock().inode_count(), FILES + 3);
        });
    });

    let tree = bed.open(Method::Auto, 24 << 20);
    let many = tree.resolve(b"many").unwrap();
    let mut n = 0;
    criterion.bench_function("lookup/warm", |bencher| {
        bencher.iter(|| {
            n = (n + 7919) % FILES;
            let (_, inode) = tree.lookup(many, format!("file-{n:05}").as_bytes()).unwrap().unwrap();
            assert_eq!(inode.size, 500 + u64::from(n));
        });
    });
    criterion.bench_function("lookup/cold", |bencher| {
        bencher.iter_batched(
            || bed.open(Method::Auto, 24 << 20),
            |tree| assert!(tree.resolve(b"many/file-01234").is_ok()),
            BatchSize::PerIteration,
        );
    });

    let mut group = criterion.benchmark_group("read");
    group.throughput(Throughput::Bytes(LARGE_LEN as u64));
    for (name, method) in [("map", Method::Map), ("pread", Method::Pread)] {
        let tree = bed.open(method, 0);
        let large = tree.resolve(b"large").unwrap();
        let mut buf = vec![0; LARGE_LEN];
        group.bench_function(format!("large/{name}"), |bencher| {
            bencher.iter(|| assert_eq!(tree.read_at(large, 0, &mut buf).unwrap(), LARGE_LEN));
        });
        assert_eq!(blake3::hash(&buf), want);
    }
    group.finish();

    let mut piece = vec![0; 4096];
    let large = tree.resolve(b"large").unwrap();
    criterion.bench_function("read/4 KiB cached", |bencher| {
        bencher.iter(|| assert_eq!(tree.read_at(large, 12_288, &mut piece).unwrap(), 4096));
    });
    assert_eq!(piece, half_noise(77, LARGE_LEN)[12_288..12_288 + 4096]);

    criterion.bench_function("walk", |bencher| {
        bencher.iter(|| {
            assert_eq!(
                tree.walk(InodeIndex::ROOT).filter(|(_, visit)| visit.is_ok()).count(),
                FILES as usize + 3
            )
        });
    });

    let mut group = criterion.benchmark_group("verify");
    let image_len = std::fs::metadata(&bed.image).unwrap().len();
    group.throughput(Throughput::Bytes(image_len));
    for workers in [1, 2].map(|workers| NonZeroUsize::new(workers).unwrap()) {
        group.bench_function(format!("{workers} workers"), |bencher| {
            bencher.iter(|| {
                let source = ashlarfs::image::open(&bed.image, Method::Auto).unwrap();
                let options = verify::Options { workers, ..Default::default() };
                let report = verify::verify(&source, bed.digest, &options);
                assert!(report.is_clean());
                assert_eq!(report.bytes_checked, image_len);
            });
        });
    }
    group.finish();

    let again = bed.image.with_extension("again");
    criterion.bench_function("build", |bencher| {
        bencher.iter(|| assert_eq!(build(&bed.source, &again), bed.digest));
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).measurement_time(Duration::from_secs(5));
    targets = library
}
criterion_main!(benches);
