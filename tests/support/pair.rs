//! An image and its predecessor, and damage to one of them.
#![allow(dead_code, unreachable_pub, reason = "each test binary includes it and uses a part")]

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ashlarfs::format::entry::Entry;
use ashlarfs::format::index::BlockIndex;
use ashlarfs::{Anchor, Digest, Healer, Method, Options, Store, Tree};
use tempfile::TempDir;

/// Two versions of a tree and their images, in one directory.
pub struct Pair {
    pub directory: TempDir,
    /// The tree of the new one.
    pub tree: PathBuf,
    pub old: PathBuf,
    pub new: PathBuf,
    pub digest: Digest,
    /// The new image as it was.
    pub whole: Vec<u8>,
    pub entries: Vec<Entry>,
    /// Digests of the blocks of the old one.
    pub old_digests: BTreeSet<Digest>,
}

/// Bytes that do not compress, the same for the same seed.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// A small fast generator (`SplitMix64`).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap()
    }
}

/// One version: some files that all have, and some of its own.
fn fill(tree: &Path, version: u64) {
    fs::create_dir_all(tree.join("same")).unwrap();
    fs::create_dir_all(tree.join("own")).unwrap();
    for n in 0..120_u64 {
        let len = 4096 * usize::try_from(n % 9).unwrap() + usize::try_from(n * 37).unwrap();
        fs::write(tree.join(format!("same/noise{n:03}")), noise(n, len)).unwrap();
        let line = noise(1000 + n, 16).repeat(len / 16);
        fs::write(tree.join(format!("same/text{n:03}")), line).unwrap();
        let own = noise(10_000 * version + n, 2 * 4096 + 100);
        fs::write(tree.join(format!("own/noise{n:03}")), own).unwrap();
    }
    fs::write(tree.join("version"), format!("{version}")).unwrap();
}

fn build(tree: &Path, image: &Path, extra: &[&str]) -> Digest {
    let mut args = vec!["mkimage", "--quiet", "-b", "4K", "-z", "zstd,3"];
    args.extend(extra);
    args.extend([tree.to_str().unwrap(), image.to_str().unwrap()]);
    ashlarfs_mkimage::run(args).unwrap().root_digest.parse().unwrap()
}

/// Every entry of an image's table.
pub fn entries(image: &[u8], digest: Digest) -> Vec<Entry> {
    #[derive(Debug)]
    struct Memory(Vec<u8>);
    impl ashlarfs::Source for Memory {
        fn len(&self) -> u64 {
            self.0.len() as u64
        }
        fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> std::io::Result<()> {
            let start = usize::try_from(offset).unwrap();
            let bytes = self.0.get(start..start + buf.len());
            buf.copy_from_slice(bytes.ok_or(std::io::ErrorKind::UnexpectedEof)?);
            Ok(())
        }
    }
    let source = Arc::new(Memory(image.to_vec()));
    let tree = ashlarfs::open_source(source, &Options::new(Anchor::RootDigest(digest))).unwrap();
    let count = tree.superblock().block_count;
    (0..count).map(|block| tree.store().entry(BlockIndex(block)).unwrap()).collect()
}

impl Pair {
    pub fn new() -> Pair {
        Pair::build(&[])
    }

    pub fn build(extra: &[&str]) -> Pair {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let at = |name: &str| directory.path().join(name);
        let (old, new) = (at("old.img"), at("new.img"));
        fill(&at("old-tree"), 1);
        fill(&at("new-tree"), 2);
        let old_digest = build(&at("old-tree"), &old, &[]);
        let mut args = vec!["--base", old.to_str().unwrap()];
        args.extend(extra);
        let digest = build(&at("new-tree"), &new, &args);
        let whole = fs::read(&new).unwrap();
        let entries = self::entries(&whole, digest);
        let old_digests: BTreeSet<Digest> = self::entries(&fs::read(&old).unwrap(), old_digest)
            .iter()
            .map(|entry| entry.digest)
            .collect();
        let tree = at("new-tree");
        let pair = Pair { directory, tree, old, new, digest, whole, entries, old_digests };
        let shared = (0..pair.entries.len()).filter(|block| pair.is_shared(*block)).count();
        // Neither too many nor too few, or nothing is shown.
        assert!(shared * 10 > pair.entries.len() * 3 && shared * 10 < pair.entries.len() * 9);
        pair
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Whether the old image has a block's stored bytes, too.
    pub fn is_shared(&self, block: usize) -> bool {
        self.old_digests.contains(&self.entries[block].digest)
    }

    pub fn stored(&self, block: usize) -> &[u8] {
        let entry = &self.entries[block];
        let start = usize::try_from(entry.offset).unwrap();
        &self.whole[start..start + entry.stored_len as usize]
    }

    /// One block in a hundred, at random.
    pub fn one_percent(&self, random: &mut Random) -> BTreeSet<usize> {
        let count = self.entries.len().div_ceil(100);
        let mut chosen = BTreeSet::new();
        while chosen.len() < count {
            chosen.insert(random.below(self.entries.len()));
        }
        chosen
    }

    /// Changes one byte of each of these blocks in an image file.
    pub fn damage(&self, image: &Path, blocks: &BTreeSet<usize>, random: &mut Random) {
        let file = File::options().read(true).write(true).open(image).unwrap();
        for block in blocks {
            let entry = &self.entries[*block];
            let at = entry.offset + random.below(entry.stored_len as usize) as u64;
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            byte[0] ^= 1 << random.below(8);
            file.write_all_at(&byte, at).unwrap();
        }
    }

    pub fn open_with(&self, healers: Vec<Arc<dyn Healer>>) -> ashlarfs::Result<Tree> {
        let mut options = Options::new(Anchor::RootDigest(self.digest));
        options.method = Method::Pread;
        options.healers = healers;
        ashlarfs::open(&self.new, &options)
    }

    /// Reads every block once; those of `damaged` that both images have must be as they were, the others of them an error.
    pub fn assert_healed(&self, store: &Store, damaged: &BTreeSet<usize>) {
        for (block, number) in (0_u32..).zip(0..self.entries.len()).map(|(at, n)| (n, at)) {
            let stored = store.stored(BlockIndex(number));
            match stored {
                Ok(stored) => assert_eq!(stored, self.stored(block), "wrong bytes in {block}"),
                Err(err) => {
                    assert!(damaged.contains(&block), "block {block} is whole, yet: {err}");
                    assert!(!self.is_shared(block), "block {block} is in the other image: {err}");
                }
            }
        }
        let (healed, lost): (Vec<usize>, Vec<usize>) =
            damaged.iter().partition(|block| self.is_shared(**block));
        let by_image = store.healed().iter().find(|(cure, _)| cure.name() == "image").unwrap().1;
        assert_eq!(by_image, healed.len() as u64);
        assert_eq!(store.lost(), lost.len() as u64);
    }
}
