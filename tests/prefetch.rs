//! Is what an image lists expanded ahead of those who read, no more of it than has room, and whatever the list says?

#[path = "support/image.rs"]
mod image;

use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use ashlarfs::format::index::BlockIndex;
use ashlarfs::{Anchor, CacheLimits, Options, Tree};

const BLOCK: usize = 4096;
const BLOCKS: u32 = 64;
/// Blocks that the cache holds; three quarters of them may wait for somebody.
const ROOM: usize = 16;
const WAITING: u64 = 12;

/// One file of [`BLOCKS`] blocks that do not compress, with a flipped bit in those named.
fn tree(damaged: &[u32]) -> Tree {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    let content = content();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, "file", &*content).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let tar = tar.into_inner().unwrap();
    let (path, root) = image::build_tar(directory.path(), &tar, &[]);
    let mut bytes = std::fs::read(path).unwrap();
    for block in damaged {
        bytes[4096 + *block as usize * BLOCK] ^= 1;
    }
    let mut options = Options::new(Anchor::RootDigest(root));
    options.cache = CacheLimits { data_bytes_max: ROOM * BLOCK, metadata_bytes_max: 1 << 20 };
    ashlarfs::open_source(image::Memory::new(bytes), &options).unwrap()
}

fn content() -> Vec<u8> {
    image::noise(5, BLOCKS as usize * BLOCK)
}

fn follow(tree: &Tree, list: impl IntoIterator<Item = u32>) {
    tree.store().follow_list(list.into_iter().map(BlockIndex).collect()).unwrap();
}

/// Waits until so many blocks were found true, and a little longer, for there shall be no more.
fn settles_at(tree: &Tree, blocks: u64) {
    let begin = Instant::now();
    while verified(tree) < blocks {
        assert!(begin.elapsed() < Duration::from_mins(1), "{} of {blocks}", verified(tree));
        thread::sleep(Duration::from_millis(1));
    }
    thread::sleep(Duration::from_millis(100));
    assert_eq!(verified(tree), blocks);
}

fn verified(tree: &Tree) -> u64 {
    tree.store().counters().blocks_verified.load(Ordering::Relaxed)
}

fn read(tree: &Tree, offset: usize, len: usize) {
    let mut buf = vec![0; len];
    let file = tree.resolve(b"file").unwrap();
    assert_eq!(tree.read_at(file, offset as u64, &mut buf).unwrap(), len);
    assert_eq!(buf, content()[offset..offset + len]);
}

#[test]
fn who_reads_makes_room_for_the_next() {
    let tree = tree(&[]);
    tree.resolve(b"file").unwrap();
    let metadata = verified(&tree);
    follow(&tree, 0..BLOCKS);
    settles_at(&tree, metadata + WAITING);
    // A whole block, two halves, and a few at once: each is there, and each makes room.
    read(&tree, 0, BLOCK);
    settles_at(&tree, metadata + WAITING + 1);
    read(&tree, BLOCK, 100);
    settles_at(&tree, metadata + WAITING + 2);
    read(&tree, BLOCK + 100, BLOCK - 100);
    settles_at(&tree, metadata + WAITING + 2);
    read(&tree, 2 * BLOCK, 5 * BLOCK);
    settles_at(&tree, metadata + WAITING + 7);
    // To the end, as fast as it goes: who is as fast as the list expands what it has begun, and does not wait for it.
    for nth in 7..BLOCKS as usize {
        read(&tree, nth * BLOCK, BLOCK);
    }
}

#[test]
fn a_list_that_comes_late_is_followed_all_the_same() {
    let tree = tree(&[]);
    read(&tree, 0, BLOCKS as usize * BLOCK);
    let before = verified(&tree);
    // The list knows nothing of that.
    follow(&tree, [3, 4]);
    settles_at(&tree, before + 2);
    read(&tree, 0, 3 * BLOCK);
    read(&tree, 3 * BLOCK, 2 * BLOCK);
    settles_at(&tree, before + 2 + 3);
}

#[test]
fn a_list_that_repeats_itself_and_damage_stop_nothing() {
    let damaged: Vec<u32> = (0..20).collect();
    let tree = tree(&damaged);
    tree.resolve(b"file").unwrap();
    let metadata = verified(&tree);
    let repeated = std::iter::repeat_n(40, 30);
    follow(&tree, damaged.iter().copied().chain(repeated).chain(30..BLOCKS));
    settles_at(&tree, metadata + WAITING);
    let file = tree.resolve(b"file").unwrap();
    assert!(tree.read_at(file, 0, &mut [0; BLOCK]).is_err(), "damage is told to who asks");
    read(&tree, 40 * BLOCK, BLOCK);
    settles_at(&tree, metadata + WAITING + 1);
}

#[test]
fn a_second_list_and_a_list_without_room_do_nothing() {
    let tree = tree(&[]);
    tree.resolve(b"file").unwrap();
    let metadata = verified(&tree);
    follow(&tree, 0..2);
    follow(&tree, 10..20);
    settles_at(&tree, metadata + 2);
}

#[test]
fn a_store_ends_while_its_list_waits() {
    let tree = tree(&[]);
    follow(&tree, 0..BLOCKS);
    let store = std::sync::Arc::downgrade(tree.store());
    drop(tree);
    let begin = Instant::now();
    while store.strong_count() > 0 {
        assert!(begin.elapsed() < Duration::from_mins(1));
        thread::sleep(Duration::from_millis(1));
    }
}
