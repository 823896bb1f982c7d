//! Does one tree make one image? Whatever the threads, the order in which a file system lists names, and the place.

use std::fs;
use std::path::{Path, PathBuf};

use ashlarfs_mkimage::run;

/// Makes the same tree with names created in another order; `tmpfs` lists the last one first.
fn fill(tree: &Path, names: impl Iterator<Item = u32>) {
    fs::create_dir_all(tree).unwrap();
    for n in names {
        let directory = tree.join(format!("directory {}", n % 7));
        fs::create_dir_all(&directory).unwrap();
        fs::write(
            directory.join(format!("file {n}")),
            vec![u8::try_from(n % 251).unwrap(); 3000 + n as usize * 50],
        )
        .unwrap();
    }
}

fn listed(tree: &Path) -> Vec<PathBuf> {
    let directory = tree.join("directory 3");
    fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into()).collect()
}

#[test]
fn one_tree_makes_one_image() {
    // A file system that remembers the order of creation, where there is one.
    let place =
        if Path::new("/dev/shm").is_dir() { "/dev/shm".into() } else { std::env::temp_dir() };
    let directory = tempfile::tempdir_in(place).unwrap();
    let at = |name: &str| directory.path().join(name);
    fill(&at("up"), 0..200);
    fill(&at("down"), (0..200).rev());
    if listed(&at("up")) == listed(&at("down")) {
        eprintln!(
            "skipped: one_tree_makes_one_image: this file system lists both trees in the same order"
        );
    }
    let build = |tree: &str, workers: &str| {
        let (tree, image) = (at(tree), at("image"));
        let args = ["mkimage", "-q", "-z", "zstd,3", "-b", "16K", "--all-time", "7", "-j", workers];
        run(args.into_iter().chain([tree.to_str().unwrap(), image.to_str().unwrap()])).unwrap();
        fs::read(image).unwrap()
    };
    let first = build("up", "1");
    for (tree, workers) in [("up", "2"), ("up", "16"), ("down", "1"), ("down", "16")] {
        assert!(build(tree, workers) == first, "{tree}, {workers} workers");
    }
}
