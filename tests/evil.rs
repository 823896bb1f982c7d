//! What does an image do that was sealed by an enemy? Each of these has a right root digest and breaks one rule; `verify`
//! must name that rule and no other, and reading must end, quickly and without harm.

#[path = "support/cases.rs"]
mod cases;
#[path = "support/image.rs"]
mod image;
#[path = "support/seal.rs"]
mod seal;
#[path = "support/verdict.rs"]
mod verdict;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use ashlarfs::Digest;
use ashlarfs::format::defect::{Corrupt, Unsupported, Untrusted};
use ashlarfs::format::index::InodeIndex;
use ashlarfs::format::inode::Kind;

#[test]
fn verify_names_the_rule_that_is_broken() {
    let mut wrong = Vec::new();
    for case in cases::all() {
        let started = Instant::now();
        let found = verdict::of(&case.image, case.root, case.key.as_deref());
        if found != BTreeSet::from([case.expect.clone()]) {
            wrong.push(format!("{}: expected {}, found {found:?}", case.name, case.expect));
        }
        assert!(started.elapsed() < Duration::from_secs(5), "{} took too long", case.name);
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn every_rule_is_broken_by_some_image() {
    let names: BTreeSet<String> =
        cases::all().into_iter().map(|case| format!("{} {}", case.rule(), case.expect)).collect();
    let rules = [
        ("untrusted", Untrusted::RULES),
        ("corrupt", Corrupt::RULES),
        ("unsupported", Unsupported::RULES),
    ];
    for (class, rules) in rules {
        for (rule, name) in rules {
            assert!(
                names.contains(&format!("{rule} {class} {name}")),
                "no image breaks {rule} {name}"
            );
        }
    }
}

/// Right digests over records that were changed at random. Nothing is said of what is found, but it ends well.
#[test]
fn random_records_do_no_harm() {
    let directory = tempfile::tempdir().unwrap();
    let (path, root) = image::build_tar(directory.path(), &image::every_feature_tar(), &[]);
    let tree = image::open(std::fs::read(path).unwrap(), root).unwrap();
    let mut sound = seal::Draft::of(&tree);
    sound.list(&[2, 0, 1]);
    let count = std::env::var("ASHLAR_MUTATIONS").map_or(400, |text| text.parse().unwrap());
    for seed in 0..count {
        let random = image::noise(seed, 64);
        let number = |at: usize| seal::get32(&random, at);
        let mut draft = sound.clone();
        let section = &mut draft.sections[[0, 0, 0, 1, 2, 2, 3, 4, 5][random[0] as usize % 9]];
        for change in 0..=random[1] as usize % 3 {
            let at = number(4 + change * 8) as usize % section.len();
            let special = [0, 1, 2, u32::MAX, u32::MAX - 1, 1 << 31, number(8 + change * 8) % 400];
            match random[2 + change] as usize % 14 {
                nth if nth < special.len() && at & !3 < section.len() - 4 => {
                    seal::put32(section, at & !3, special[nth]);
                }
                nth => section[at] ^= 1 << (nth % 8),
            }
        }
        let (bytes, root) = draft.seal(seal::Edits::default());
        let started = Instant::now();
        verdict::of(&bytes, Some(root), None);
        read_all(&bytes, Some(root), None);
        assert!(started.elapsed() < Duration::from_secs(5), "seed {seed} took too long");
    }
}

/// Reading is not verifying: much of this goes unseen. But it ends, with right bytes or an error.
#[test]
fn reading_ends() {
    for case in cases::all() {
        let started = Instant::now();
        read_all(&case.image, case.root, case.key.as_deref());
        assert!(started.elapsed() < Duration::from_secs(5), "{} took too long", case.name);
    }
}

/// A thousand directories share one record of a thousand names (S-69): a walk sees no million of them.
#[test]
fn a_shared_record_is_not_walked_for_each_directory() {
    let directory = tempfile::tempdir().unwrap();
    let (path, root) = image::build_tar(directory.path(), &image::every_feature_tar(), &[]);
    let tree = image::open(std::fs::read(path).unwrap(), root).unwrap();
    let mut visits = tree.walk(InodeIndex::ROOT).map(|(_, visit)| visit.unwrap());
    let fifo = visits.find(|visit| visit.inode.kind == Kind::Fifo).unwrap().index.0;
    let mut draft = seal::Draft::of(&tree);
    let mut fifo = draft.inode(fifo).to_vec();
    draft.sections = [const { Vec::new() }; 6];
    draft.data.clear();
    // A block size of metadata that holds a record in one piece, and no ACL.
    draft.superblock[0x39] = 18;
    draft.superblock[0x18] = 0;
    let count = 1000;
    let record_len = u32::try_from(record(count, |_| 0, 0).len()).unwrap();
    for index in 0..=count {
        let mut inode = fifo.clone();
        seal::put16(&mut inode, 0, 0x41ed);
        seal::put32(&mut inode, 0x04, if index == 0 { count + 2 } else { 2 });
        seal::put64(&mut inode, 0x10, record_len.into());
        seal::put32(&mut inode, 0x24, u32::MAX);
        seal::put64(&mut inode, 0x28, if index == 0 { 0 } else { record_len.into() });
        seal::put32(&mut inode, 0x30, count);
        seal::put32(&mut inode, 0x34, 0);
        draft.sections[0].extend(inode);
    }
    seal::put32(&mut fifo, 0x04, count);
    seal::put32(&mut fifo, 0x24, u32::MAX);
    draft.sections[0].extend(fifo);
    draft.sections[2].extend(record(count, |nth| nth + 1, 0x4000));
    draft.sections[2].extend(record(count, |_| count + 1, 0x1000));
    let (bytes, root) = draft.seal(seal::Edits::default());
    let found = verdict::of(&bytes, Some(root), None);
    assert_eq!(found, BTreeSet::from(["corrupt DirectoryLayout".to_owned()]));
    let tree = image::open(bytes, root).unwrap();
    assert!(
        matches!(list(&tree), Err(ashlarfs::Error::Corrupt(Corrupt::Parent { .. }))),
        "{:?}",
        list(&tree)
    );
    let visits: Vec<_> = tree.walk(InodeIndex::ROOT).map(|(_, visit)| visit).collect();
    assert!(visits.len() < 5000, "{} visits", visits.len());
    let (last, before) = visits.split_last().unwrap();
    assert!(before.iter().all(Result::is_ok));
    assert!(
        matches!(last, Err(ashlarfs::Error::Corrupt(Corrupt::DirectoryLayout { .. }))),
        "{last:?}"
    );
}

/// A manifest goes as deep as SPEC allows, and no deeper.
#[test]
fn a_manifest_keeps_to_the_depth() {
    for case in cases::all().into_iter().filter(|case| case.name.starts_with("S-68")) {
        let tree = image::open(case.image, case.root.unwrap()).unwrap();
        let found = list(&tree).map_err(|err| match err {
            ashlarfs::Error::Corrupt(corrupt) => format!("corrupt {}", corrupt.name()),
            other => other.to_string(),
        });
        assert_eq!(found.err().unwrap_or("ok".to_owned()), case.expect, "{}", case.name);
    }
}

/// Writes a manifest to nowhere.
fn list(tree: &ashlarfs::Tree) -> Result<(), ashlarfs::Error> {
    use ashlarfs::manifest::{Stop, write};
    write(tree, false, &mut std::io::sink()).map_err(|stop| match stop {
        Stop::Image { error, .. } => error,
        Stop::Output(err) => panic!("{err}"),
    })
}

/// The record of a directory of so many entries.
fn record(count: u32, inode: impl Fn(u32) -> u32, kind: u16) -> Vec<u8> {
    let entries = (0..count).flat_map(|nth| {
        let fields = [inode(nth).to_le_bytes(), ((nth + 1) * 4).to_le_bytes()];
        [fields.as_flattened(), &kind.to_le_bytes(), &[0, 0]].concat()
    });
    entries.chain((0..count).flat_map(|nth| format!("{nth:04}").into_bytes())).collect()
}

/// Reads everything that can be read.
fn read_all(image: &[u8], root: Option<Digest>, key: Option<&str>) {
    let source = image::Memory::new(image.to_vec());
    let Ok(tree) = ashlarfs::open_source(source, &verdict::options(root, key)) else { return };
    let mut buf = vec![0; 100_000];
    for (_, visit) in tree.walk(InodeIndex::ROOT) {
        let Ok(visit) = visit else { continue };
        if visit.inode.kind == Kind::File {
            // From the start, and around the end: a hostile size may have no end that is worth waiting for.
            for offset in [0, visit.inode.size.saturating_sub(5000)] {
                tree.read_at(visit.index, offset, &mut buf).unwrap_or_default();
            }
        }
        tree.read_link(visit.index).unwrap_or_default();
        for name in tree.xattr_names(visit.index).unwrap_or_default() {
            tree.xattr(visit.index, &name).unwrap_or_default();
        }
    }
    tree.prefetch_list().for_each(drop);
}
