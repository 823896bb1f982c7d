//! What is fuzzed, and what must hold for any input? Each target is a plain function over bytes: libFuzzer calls it
//! (`tests/fuzz/fuzz_targets`), and so does `tests/hostile.rs`, which needs nothing but stable Rust.
//!
//! A target fails by a panic: its own, where two things disagree, or one of the product. Time and memory are limits too.

pub(crate) mod boot;
pub(crate) mod branch;
pub(crate) mod decoders;
pub(crate) mod examine;
pub(crate) mod heap;
#[cfg(feature = "net")]
pub(crate) mod http;
pub(crate) mod images;
pub(crate) mod lists;
pub(crate) mod parities;
pub(crate) mod script;
pub(crate) mod signatures;
pub(crate) mod superblocks;
pub(crate) mod tars;
pub(crate) mod updates;

/// One thing that is fed with anything.
#[derive(Debug)]
pub(crate) struct Target {
    /// Its name: that of the program, and of its directory in the corpus.
    pub(crate) name: &'static str,
    /// What is asked, in a few words.
    pub(crate) about: &'static str,
    /// Longest input in bytes.
    pub(crate) len_max: usize,
    /// Most memory that one input may take, in bytes.
    heap_max: usize,
    run: fn(&[u8]),
    /// Inputs that lead far, to start from.
    pub(crate) seeds: fn() -> Vec<Vec<u8>>,
}

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

pub(crate) const fn target(
    name: &'static str,
    about: &'static str,
    len_max: usize,
    heap_max: usize,
    run: fn(&[u8]),
    seeds: fn() -> Vec<Vec<u8>>,
) -> Target {
    Target { name, about, len_max, heap_max, run, seeds }
}

/// All of them.
pub(crate) const ALL: &[Target] = &[
    target("superblock", "SPEC 3", 4096, MIB, superblocks::superblock, superblocks::seeds),
    target(
        "entry",
        "entries of the digest table, SPEC 4",
        64,
        MIB,
        decoders::entry,
        decoders::entry_seeds,
    ),
    target("inode", "inodes, SPEC 6", 65, MIB, decoders::inode, decoders::inode_seeds),
    target("run", "run records, SPEC 6.1", 24, MIB, decoders::run, decoders::run_seeds),
    target(
        "prefetch",
        "prefetch records, SPEC 6.2",
        4,
        MIB,
        decoders::prefetch,
        decoders::prefetch_seeds,
    ),
    target(
        "dirent",
        "directory entries, SPEC 7",
        12,
        MIB,
        decoders::dirent,
        decoders::dirent_seeds,
    ),
    target("name", "file names, SPEC 7", 300, MIB, decoders::name, decoders::name_seeds),
    target("xattr", "xattr sets, SPEC 8", 4 * KIB, MIB, decoders::xattr, decoders::xattr_seeds),
    target(
        "trailer",
        "signature trailers, SPEC 9",
        16 * KIB,
        2 * MIB,
        decoders::trailer,
        decoders::trailer_seeds,
    ),
    target(
        "parity",
        "parity that rotted, and what an enemy makes of it, SPEC 10",
        256,
        128 * MIB,
        parities::parity,
        parities::seeds,
    ),
    target(
        "branch",
        "filters of machine code, SPEC 5.1",
        8 * KIB,
        MIB,
        branch::branch,
        branch::seeds,
    ),
    target("trace", "what a mount wrote down", 4 * KIB, 2 * MIB, lists::trace, lists::trace_seeds),
    target(
        "damaged",
        "an image that was changed after it was sealed",
        256,
        96 * MIB,
        images::damaged,
        images::damaged_seeds,
    ),
    target(
        "sealed",
        "an image that an enemy sealed",
        512,
        96 * MIB,
        images::sealed,
        images::sealed_seeds,
    ),
    target(
        "cmdline",
        "the kernel command line",
        4 * KIB,
        2 * MIB,
        boot::cmdline,
        boot::cmdline_seeds,
    ),
    target("config", "ashlar.toml", 4 * KIB, 4 * MIB, boot::config, boot::config_seeds),
    target(
        "mountinfo",
        "/proc/self/mountinfo",
        4 * KIB,
        2 * MIB,
        boot::mountinfo,
        boot::mountinfo_seeds,
    ),
    target("etc", "what was in /etc before", 4 * KIB, 2 * MIB, boot::etc, boot::etc_seeds),
    target("record", "boot records", 512, MIB, updates::record, updates::record_seeds),
    target(
        "latest",
        "manifests of the newest image, and where they lead",
        9 * KIB,
        2 * MIB,
        updates::latest,
        updates::latest_seeds,
    ),
    target("delta", "delta files", 256, 64 * MIB, updates::delta, updates::delta_seeds),
    target(
        "head",
        "who vouches for what a server offers",
        256,
        64 * MIB,
        updates::head,
        updates::head_seeds,
    ),
    target(
        "install",
        "what lands on the disk",
        256,
        128 * MIB,
        updates::install,
        updates::install_seeds,
    ),
    target(
        "minisign",
        "keys and signatures",
        2 * KIB,
        2 * MIB,
        signatures::minisign,
        signatures::seeds,
    ),
    target("tar", "archives for mkimage", 16 * KIB, 256 * MIB, tars::tar, tars::seeds),
    #[cfg(feature = "net")]
    target("http", "what a web server answers", 8 * KIB, 32 * MIB, http::http, http::seeds),
];

impl Target {
    /// The target of this name.
    pub(crate) fn find(name: &str) -> &'static Target {
        let found = ALL.iter().find(|target| target.name == name);
        found.unwrap_or_else(|| panic!("no target is called {name}"))
    }

    /// Feeds it. Panics where something does not hold.
    pub(crate) fn feed(&self, input: &[u8]) {
        let Target { name, heap_max, .. } = self;
        let input = &input[..input.len().min(self.len_max)];
        let taken = heap::peak(|| (self.run)(input));
        assert!(taken <= *heap_max, "{name}: {taken} bytes of memory, {heap_max} are enough");
    }
}
