//! What do the benches work on? A tree of generated files, half of whose bytes compress, and its image: the same work on every
//! machine.
#![allow(dead_code, reason = "each bench uses a part of it")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use ashlarfs::{Anchor, CacheLimits, Digest, Method, Options, Tree};
use criterion::Criterion;

/// Small files in the directory `many`; the nth is `file-{n:05}` and has `500 + n` bytes.
pub(crate) const FILES: u32 = 2000;
/// Bytes of the file `large`.
pub(crate) const LARGE_LEN: usize = 32 << 20;
/// The root, `many`, `large`, and what is in `many`.
pub(crate) const INODES: u32 = FILES + 3;
/// The cache that a library user gets.
pub(crate) const CACHE: usize = 24 << 20;

/// How the benches are run: twenty samples, no longer than five seconds each bench unless one turn takes longer.
pub(crate) fn config() -> Criterion {
    Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3))
}

/// Bytes that do not compress.
pub(crate) fn noise(seed: u32, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Content that zstd halves: every other 32 bytes repeat.
pub(crate) fn half_noise(seed: u32, len: usize) -> Vec<u8> {
    let mut bytes = noise(seed, len);
    bytes.chunks_mut(64).for_each(|chunk| {
        let (_, repeat) = chunk.split_at_mut(chunk.len() / 2);
        repeat.fill(7);
    });
    bytes
}

/// The content of `large`.
pub(crate) fn large() -> Vec<u8> {
    half_noise(77, LARGE_LEN)
}

/// Builds an image with blocks of 128 KiB and returns its root digest.
pub(crate) fn build(source: &Path, image: &Path, options: &[&str]) -> Digest {
    let (source, image) = (source.to_str().unwrap(), image.to_str().unwrap());
    let mut args = vec!["mkimage", "--quiet", "-b", "128K", "--all-time", "0", "--all-root"];
    args.extend(options);
    args.extend([source, image]);
    ashlarfs_mkimage::run(args).unwrap().root_digest.parse().unwrap()
}

/// The tree and its image. They go when this does.
pub(crate) struct Bed {
    directory: tempfile::TempDir,
    pub(crate) source: PathBuf,
    pub(crate) image: PathBuf,
    pub(crate) digest: Digest,
}

impl Bed {
    /// Compressed at level 3.
    pub(crate) fn new() -> Self {
        Self::with(&["-z", "zstd,3"])
    }

    /// As the options of mkimage say.
    pub(crate) fn with(options: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let source = directory.path().join("source");
        std::fs::create_dir_all(source.join("many")).unwrap();
        for n in 0..FILES {
            let path = source.join(format!("many/file-{n:05}"));
            std::fs::write(path, half_noise(n, 500 + n as usize)).unwrap();
        }
        std::fs::write(source.join("large"), large()).unwrap();
        let image = directory.path().join("image");
        let digest = build(&source, &image, options);
        Bed { directory, source, image, digest }
    }

    /// A path for something more.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The image with room for so many bytes of data blocks.
    pub(crate) fn open(&self, method: Method, cache: usize) -> Tree {
        let mut options = Options::new(Anchor::RootDigest(self.digest));
        options.method = method;
        options.cache = CacheLimits { data_bytes_max: cache, metadata_bytes_max: 8 << 20 };
        ashlarfs::open(&self.image, &options).unwrap()
    }
}
