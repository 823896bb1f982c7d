//! How long does the library take with a whole image? Opening it, and verifying all of it. What either is made of has a bench of its
//! own: `format`, `image`, `store`, `fs`.
//!
//! Run with `cargo bench`. Comparisons with other file systems are `benches/compare`'s.

#[path = "support/bed.rs"]
mod bed;

use std::num::NonZeroUsize;

use ashlarfs::{Method, verify};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn library(criterion: &mut Criterion) {
    let bed = bed::Bed::new();
    for (name, method) in [("map", Method::Map), ("pread", Method::Pread)] {
        assert_eq!(bed.open(method, bed::CACHE).superblock().inode_count(), bed::INODES);
        criterion.bench_function(&format!("library/open {name}"), |bencher| {
            bencher.iter(|| bed.open(method, bed::CACHE));
        });
    }

    let mut group = criterion.benchmark_group("library/verify");
    let image_len = std::fs::metadata(&bed.image).unwrap().len();
    group.throughput(Throughput::Bytes(image_len));
    for workers in [1, 2].map(|workers| NonZeroUsize::new(workers).unwrap()) {
        let source = ashlarfs::image::open(&bed.image, Method::Auto).unwrap();
        let options = verify::Options { workers, ..Default::default() };
        let verify = || verify::verify(&source, bed.digest, &options);
        group.bench_function(format!("{workers} workers"), |bencher| bencher.iter(verify));
        let report = verify();
        assert!(report.is_clean());
        assert_eq!(report.bytes_checked, image_len);
    }
    group.finish();
}

criterion_group! { name = benches; config = bed::config(); targets = library }
criterion_main!(benches);
