//! How long does it take to get bytes out of a file that is in memory? `pread(2)` beside the map, in pieces as blocks have them;
//! nobody looks at what they are.

#[path = "support/bed.rs"]
mod bed;

use ashlarfs::Method;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const METHODS: [(&str, Method); 2] = [("pread", Method::Pread), ("map", Method::Map)];

fn read(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    let content = bed::large();
    std::fs::write(&path, &content).unwrap();

    for len in [4 << 10, 64 << 10, 1 << 20] {
        let mut group = criterion.benchmark_group(format!("image/{} KiB", len >> 10));
        group.throughput(Throughput::Bytes(len as u64));
        for (name, method) in METHODS {
            let source = ashlarfs::image::open(&path, method).unwrap();
            let mut buf = vec![0; len];
            // A stride that visits every piece before it comes back to one.
            let count = content.len() / len;
            let mut nth = 0;
            group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
                bencher.iter(|| {
                    nth = (nth + 1 + count / 3 * 2) % count;
                    source.read_exact_at(&mut buf, (nth * len) as u64).unwrap();
                });
            });
            assert_eq!(buf, content[nth * len..][..len]);
        }
        group.finish();
    }
}

criterion_group! { name = benches; config = bed::config(); targets = read }
criterion_main!(benches);
