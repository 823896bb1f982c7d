//! How long does it take to build? The same tree four times: as it is, which is all but compression; compressed little and much,
//! which differ by that alone; and with an older image whose blocks are used again.

#[path = "support/bed.rs"]
mod bed;

use std::path::Path;

use bed::{Bed, build};
use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};

fn builds(criterion: &mut Criterion) {
    let bed = Bed::new();
    let (again, base) = (bed.path("again"), bed.image.to_str().unwrap());
    let bytes = bed::LARGE_LEN as u64 + (0..u64::from(bed::FILES)).map(|n| 500 + n).sum::<u64>();
    let mut group = criterion.benchmark_group("mkimage");
    group.throughput(Throughput::Bytes(bytes)).sample_size(10).sampling_mode(SamplingMode::Flat);
    let hows: [(&str, &[&str]); 4] = [
        ("scan, read, hash, write", &["-z", "none"]),
        ("zstd,1", &["-z", "zstd,1"]),
        ("zstd,9", &["-z", "zstd,9"]),
        ("base", &["-z", "zstd,3", "--base", base]),
    ];
    for (name, how) in hows {
        let digest = build(&bed.source, &again, how);
        group.bench_function(name, |bencher| {
            bencher.iter(|| build(&bed.source, &again, how));
        });
        assert_eq!(build(&bed.source, &again, how), digest, "{name}: one tree has one image");
    }
    assert_eq!(digest_of(&again), bed.digest, "the same blocks make the same image");
    group.finish();

    // What each file costs beyond its bytes: a tree of nothing else.
    let many = bed.path("source/many");
    let mut group = criterion.benchmark_group("mkimage/files");
    group.throughput(Throughput::Elements(bed::FILES.into())).sample_size(10);
    let digest = build(&many, &again, &["-z", "none"]);
    group.bench_function("2000 small", |bencher| {
        bencher.iter(|| build(&many, &again, &["-z", "none"]));
    });
    assert_eq!(digest_of(&again), digest);
    group.finish();
}

fn digest_of(image: &Path) -> ashlarfs::Digest {
    let options = ashlarfs::Options::new(ashlarfs::Anchor::Unauthenticated);
    ashlarfs::open(image, &options).unwrap().root_digest()
}

criterion_group! { name = benches; config = bed::config(); targets = builds }
criterion_main!(benches);
