//! Trees in memory go in, images come out and are read with the library.

use std::io;
use std::path::Path;

use ashlarfs::format::entry::Codec;
use ashlarfs::format::inode::Kind;
use ashlarfs::fs::file::Place;
use ashlarfs::{Anchor, Tree};

use super::{Options, Summary, build};
use crate::Failure;
use crate::options::Progress;
use crate::plan::Wanted;
use crate::testing::Warnings;
use crate::tree::{Body, Content, Contents, Node, NodeId, SourceTree};

struct Memory(Vec<Vec<u8>>);

impl Contents for Memory {
    fn open(&self, node: NodeId) -> Result<Box<dyn Content + '_>, Failure> {
        Ok(Box::new(Piece(&self.0[node as usize])))
    }
}

struct Piece<'a>(&'a [u8]);

impl Content for Piece<'_> {
    fn read_exact_at(&mut self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let start = offset as usize;
        buf.copy_from_slice(&self.0[start..start + buf.len()]);
        Ok(())
    }

    fn next_data(&mut self, offset: u64) -> io::Result<u64> {
        Ok(offset)
    }

    fn finish(&mut self) -> Result<(), String> {
        Ok(())
    }
}

struct Quiet;

impl Progress for Quiet {
    fn start(&self, _: u64, _: u64) {}
    fn advance(&self, _: u64) {}
    fn warn(&self, _: &str) {}
    fn phase(&self, _: &'static str) {}
}

fn options(workers: usize) -> Options {
    Options {
        block_bits: 12,
        level: Some(3),
        workers,
        label: "test".into(),
        image_version: 7,
        build_time: 0,
        base: None,
        order: Vec::new(),
        ignore_changed: false,
        sign_keys: Vec::new(),
        parity: None,
    }
}

fn node(kind: Kind, body: Body) -> Node {
    Node {
        kind,
        permissions: 0o755,
        uid: 1,
        gid: 2,
        mtime_sec: -5,
        mtime_nsec: 999_999_999,
        xattrs: None,
        body,
    }
}

/// Bytes that do not compress and differ from seed to seed.
fn noise(seed: u32, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// A tree of files in one directory, in the order given.
fn flat(files: &[(&str, Vec<u8>)]) -> (SourceTree, Memory) {
    let mut nodes = vec![node(Kind::Dir, Body::Plain)];
    let mut contents = vec![Vec::new()];
    let mut children = Vec::new();
    for (name, content) in files {
        children.push((name.as_bytes().into(), nodes.len() as NodeId));
        nodes.push(node(Kind::File, Body::File { size: content.len() as u64 }));
        contents.push(content.clone());
    }
    nodes[0].body = Body::Dir(children);
    (SourceTree { nodes, xattr_sets: Vec::new() }, Memory(contents))
}

fn make(files: &[(&str, Vec<u8>)], image: &Path, options: &Options) -> Summary {
    let (tree, contents) = flat(files);
    build(tree, &contents, image, options, &Quiet).unwrap()
}

fn open(image: &Path, summary: &Summary) -> Tree {
    let anchor = Anchor::RootDigest(summary.root_digest.parse().unwrap());
    ashlarfs::open(image, &ashlarfs::Options::new(anchor)).unwrap()
}

fn content(tree: &Tree, path: &str) -> Vec<u8> {
    let inode = tree.resolve(path.as_bytes()).unwrap();
    let size = tree.attr(inode).unwrap().size;
    let mut content = vec![0; size as usize];
    assert_eq!(tree.read_at(inode, 0, &mut content).unwrap(), content.len());
    content
}

/// An ELF file that calls one of 16 places again and again: with relative calls nothing of it is there twice.
fn program(machine: u8, len: u32) -> Vec<u8> {
    let mut file = [b"\x7fELF\x02\x01", &[0; 12][..], &[machine, 0]].concat();
    for (call, n) in (24..len).step_by(8).zip(0..) {
        let chosen = u32::from(noise(n, 1)[0] % 16);
        file.resize(call as usize, 0x90);
        if machine == 183 {
            let distance = (0x10_0000 + chosen * 0x1234 - call / 4) & 0x03ff_ffff;
            file.extend_from_slice(&(0x9400_0000 | distance).to_le_bytes());
        } else {
            let distance = 0x10_0000 + chosen * 0x1234 - (call + 5);
            file.push(0xe8);
            file.extend_from_slice(&distance.to_le_bytes());
        }
    }
    file
}

fn files() -> Vec<(&'static str, Vec<u8>)> {
    let mut sparse = vec![0; 10 * 4096];
    sparse[3 * 4096 + 7] = 1;
    sparse[8 * 4096..9 * 4096].copy_from_slice(&noise(3, 4096));
    vec![
        ("empty", vec![]),
        ("small", b"a few bytes".to_vec()),
        ("same", b"a few bytes".to_vec()),
        ("block", noise(1, 4096)),
        ("blocks and tail", noise(2, 3 * 4096 + 100)),
        ("zeros", vec![0; 5 * 4096 + 9]),
        ("sparse", sparse),
        ("text", b"over and over ".repeat(3000)),
        ("program", program(62, 3 * 4096 + 1500)),
        ("arm program", program(183, 2 * 4096)),
    ]
}

#[test]
fn what_goes_in_comes_out() {
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("image");
    let summary = make(&files(), &image, &options(2));
    let tree = open(&image, &summary);
    for (name, wanted) in files() {
        assert_eq!(content(&tree, name), wanted, "{name}");
    }
    assert_eq!(tree.superblock().label, "test");
    assert_eq!(tree.superblock().image_version, 7);
    let attr = tree.attr(tree.resolve(b"small").unwrap()).unwrap();
    assert_eq!((attr.uid, attr.gid, attr.mtime_sec, attr.mtime_nsec), (1, 2, -5, 999_999_999));

    let sparse = tree.file(tree.resolve(b"sparse").unwrap()).unwrap();
    assert_eq!(sparse.seek_data(0).unwrap(), Some(3 * 4096));
    assert_eq!(sparse.seek_hole(3 * 4096).unwrap(), Some(4 * 4096));
    assert_eq!(sparse.seek_data(9 * 4096).unwrap(), None);
    let zeros = tree.file(tree.resolve(b"zeros").unwrap()).unwrap();
    assert_eq!(zeros.seek_data(0).unwrap(), None);
    assert_eq!(zeros.seek_hole(0).unwrap(), Some(0));

    assert!(summary.duplicate_bytes >= 11);
    assert_eq!(summary.image_bytes, std::fs::metadata(&image).unwrap().len());
    assert_eq!(
        std::fs::read_dir(directory.path()).unwrap().count(),
        1,
        "nothing is left beside it"
    );
}

#[test]
fn code_is_filtered_where_that_is_shorter() {
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("image");
    let (x86, arm) = (program(62, 2 * 4096), program(183, 2 * 4096));
    let unknown = [b"no ELF", &x86[6..]].concat();
    // The same instructions at each place: distances are equal, and places would not be.
    let local = [&x86[..24], &[0xe8, 0, 1, 0, 0].repeat(4096)].concat();
    let small = program(62, 3000);
    let files =
        [("arm", arm), ("local", local), ("small", small), ("unknown", unknown), ("x86", x86)];
    let tree = open(&image, &make(&files, &image, &options(2)));
    let codec = |path: &str| {
        let file = tree.file(tree.resolve(path.as_bytes()).unwrap()).unwrap();
        let block = match file.extent_at(0).unwrap().place {
            Place::Blocks { first, .. } => first,
            Place::Tail { block, .. } => block,
            Place::Hole => panic!("{path} is a hole"),
        };
        tree.store().entry(block).unwrap().codec
    };
    assert_eq!(codec("x86"), Codec::ZstdX86);
    assert_eq!(codec("arm"), Codec::ZstdArm64);
    assert_eq!(codec("small"), Codec::ZstdX86, "what shares a block is tried, too");
    assert_eq!(codec("local"), Codec::Zstd, "not shorter");
    assert_eq!(codec("unknown"), Codec::Zstd, "not tried");
    for (path, wanted) in &files {
        assert!(content(&tree, path) == *wanted, "{path}");
    }

    let new = directory.path().join("new");
    let options = Options { base: Some(image.clone()), level: Some(19), ..options(1) };
    let summary = make(&files, &new, &options);
    assert_eq!(summary.base_blocks, summary.data_blocks, "whatever their codecs");
}

#[test]
fn threads_and_order_change_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let image = |name: &str| directory.path().join(name);
    let summary = make(&files(), &image("1"), &options(1));
    let mut shuffled = files();
    shuffled.reverse();
    for (name, workers) in [("2", 2), ("16", 16)] {
        assert_eq!(
            make(&shuffled, &image(name), &options(workers)).root_digest,
            summary.root_digest
        );
        assert_eq!(std::fs::read(image(name)).unwrap(), std::fs::read(image("1")).unwrap());
    }
}

#[test]
fn a_base_gives_its_blocks() {
    let directory = tempfile::tempdir().unwrap();
    let (old, new) = (directory.path().join("old"), directory.path().join("new"));
    let mut many: Vec<(String, Vec<u8>)> =
        (0..40).map(|n| (format!("file {n:02}"), noise(n, 300 + 200 * n as usize))).collect();
    let borrow = |files: &[(String, Vec<u8>)]| -> Vec<(&'static str, Vec<u8>)> {
        files.iter().map(|(name, content)| (&*name.clone().leak(), content.clone())).collect()
    };
    let old_summary = make(&borrow(&many), &old, &options(2));
    many.remove(3);
    many[20].1 = noise(99, 5000);
    // Another level makes other stored bytes, but for those of the base.
    let options = Options { base: Some(old.clone()), level: Some(19), ..options(2) };
    let new_summary = make(&borrow(&many), &new, &options);
    let tree = open(&new, &new_summary);
    for (name, wanted) in &many {
        assert_eq!(&content(&tree, name), wanted, "{name}");
    }
    assert!(
        new_summary.base_blocks + 6 >= old_summary.data_blocks,
        "{new_summary:?} {old_summary:?}"
    );
    let again = directory.path().join("again");
    assert_eq!(make(&borrow(&many), &again, &options).root_digest, new_summary.root_digest);
}

#[test]
fn order_puts_named_files_first() {
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("image");
    let order = [&b"block"[..], b"missing", b"a/b", b"missing"]
        .map(|path| wanted(path, 0..u64::MAX))
        .into();
    let options = Options { order, ..options(2) };
    let (tree, contents) = flat(&[("a", noise(1, 4096)), ("block", noise(2, 4096))]);
    let warnings = Warnings::default();
    let summary = build(tree, &contents, &image, &options, &warnings).unwrap();
    let warnings = warnings.0.into_inner();
    assert_eq!(warnings, ["--order names 2 paths that will not be in the image: `missing` first"]);
    let tree = open(&image, &summary);
    let file = tree.file(tree.resolve(b"block").unwrap()).unwrap();
    let place = file.extent_at(0).unwrap().place;
    let first = ashlarfs::format::index::BlockIndex(0);
    assert_eq!(place, Place::Blocks { first, count: 1 });
}

fn wanted(path: &[u8], piece: std::ops::Range<u64>) -> Wanted {
    Wanted { path: path.to_vec(), piece }
}

#[test]
fn pieces_of_files_become_a_list_of_their_blocks() {
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("image");
    // Three full blocks and a tail; a hole between two blocks; a tail that shares its block.
    let long = noise(1, 3 * 4096 + 100);
    let sparse = [noise(2, 4096), vec![0; 4096], noise(3, 4096)].concat();
    let files =
        [("long", long), ("small", noise(4, 50)), ("sparse", sparse), ("twin", noise(4, 50))];
    let pieces: [(&[u8], _); 7] = [
        (b"sparse", 8192..u64::MAX),
        (b"long", 4095..4097),
        (b"long", 3 * 4096 + 99..3 * 4096 + 100),
        (b"small", 0..1),
        (b"twin", 0..1),
        (b"sparse", 0..12_288),
        (b"long", 1 << 40..1 << 41),
    ];
    let order = pieces.map(|(path, piece)| wanted(path, piece)).into();
    let (tree, contents) = flat(&files);
    let options = Options { order, ..options(2) };
    let summary = build(tree, &contents, &image, &options, &Quiet).unwrap();
    let tree = open(&image, &summary);
    let block = |path: &str, at| {
        let file = tree.file(tree.resolve(path.as_bytes()).unwrap()).unwrap();
        let extent = file.extent_at(at).unwrap();
        match extent.place {
            Place::Blocks { first, .. } => first.0 + ((at - extent.offset) / 4096) as u32,
            Place::Tail { block, .. } => block.0,
            Place::Hole => panic!("a hole"),
        }
    };
    let expected = [
        block("sparse", 8192),
        block("long", 0),
        block("long", 4096),
        block("long", 3 * 4096),
        block("sparse", 0),
    ];
    let list: Vec<u32> = tree.prefetch_list().map(|block| block.unwrap().0).collect();
    assert_eq!(list, expected);
    assert_eq!(block("long", 3 * 4096), block("small", 0), "they share a block");
}

#[test]
fn a_failed_build_leaves_the_old_image() {
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("image");
    make(&files(), &image, &options(1));
    let before = std::fs::read(&image).unwrap();
    let (tree, contents) = flat(&[("a/b", vec![])]);
    assert!(build(tree, &contents, &image, &options(1), &Quiet).is_err());
    assert_eq!(std::fs::read(&image).unwrap(), before);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn a_target_may_have_the_longest_name_and_no_longer_one() {
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("i".repeat(255));
    make(&files(), &image, &options(1));
    make(&files(), &image, &options(1));
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    let too_long = directory.path().join("i".repeat(256));
    let failure = crate::emit::Draft::create(&too_long).unwrap_err();
    assert!(failure.message.contains("too long"), "{}", failure.message);
}

#[test]
fn builds_side_by_side_keep_out_of_each_others_way() {
    let directory = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        for nth in 0..4_u32 {
            let image = directory.path().join(nth.to_string());
            scope.spawn(move || {
                let one = vec![("a", noise(nth, 5000))];
                let tree = open(&image, &make(&one, &image, &options(1)));
                assert_eq!(content(&tree, "a"), one[0].1);
            });
        }
    });
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 4);
}

/// A file whose content is `size` bytes of which all but a few are holes, and which cannot be read anywhere else.
struct Sparse {
    data: Vec<(u64, u8)>,
    size: u64,
}

impl Contents for Sparse {
    fn open(&self, _: NodeId) -> Result<Box<dyn Content + '_>, Failure> {
        Ok(Box::new(Hollow(self)))
    }
}

struct Hollow<'a>(&'a Sparse);

impl Content for Hollow<'_> {
    fn read_exact_at(&mut self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        buf.fill(0);
        let end = offset + buf.len() as u64;
        let inside: Vec<_> =
            self.0.data.iter().filter(|(at, _)| (offset..end).contains(at)).collect();
        assert!(!inside.is_empty(), "a hole is read at {offset}: a panic that a test may want");
        for (at, byte) in inside {
            buf[(at - offset) as usize] = *byte;
        }
        Ok(())
    }

    fn next_data(&mut self, offset: u64) -> io::Result<u64> {
        let block = |at: u64| (at / 4096 * 4096).max(offset);
        let next = self.0.data.iter().find(|(at, _)| *at >= offset);
        Ok(next.map_or(self.0.size, |(at, _)| block(*at)))
    }

    fn finish(&mut self) -> Result<(), String> {
        Ok(())
    }
}

fn one_file(size: u64) -> SourceTree {
    let (mut tree, _) = flat(&[("sparse", Vec::new())]);
    tree.nodes[1].body = Body::File { size };
    tree
}

#[test]
fn a_large_file_is_read_in_pieces_and_its_holes_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    // Holes at the start, across several pieces, and at the end, which is no whole block.
    let size = (1 << 40) + 5;
    let data = vec![(5000, 1), (3 << 20, 2), ((3 << 20) + 4096, 3), (1 << 39, 4)];
    let sparse = Sparse { data: data.clone(), size };
    let summary = build(one_file(size), &sparse, &image, &options(2), &Quiet).unwrap();
    assert_eq!(summary.content_bytes, size);
    assert_eq!(summary.hole_bytes, size - 4 * 4096);
    let tree = open(&image, &summary);
    let inode = tree.resolve(b"sparse").unwrap();
    for (at, byte) in data {
        let mut found = [9; 3];
        assert_eq!(tree.read_at(inode, at - 1, &mut found).unwrap(), 3);
        assert_eq!(found, [0, byte, 0]);
    }
    let mut end = [9; 8];
    assert_eq!(tree.read_at(inode, size - 5, &mut end).unwrap(), 5);
    assert_eq!(end, [0, 0, 0, 0, 0, 9, 9, 9]);
}

#[test]
fn a_panic_of_a_reader_ends_the_build_with_an_error() {
    /// Says that there is data, and panics where it is read.
    struct Liar;
    impl Contents for Liar {
        fn open(&self, _: NodeId) -> Result<Box<dyn Content + '_>, Failure> {
            panic!("a panic that a test wants")
        }
    }
    let dir = tempfile::tempdir().unwrap();
    for size in [100, 100 << 20] {
        let built = build(one_file(size), &Liar, &dir.path().join("image"), &options(2), &Quiet);
        assert!(built.unwrap_err().message.contains("panicked"));
    }
}
