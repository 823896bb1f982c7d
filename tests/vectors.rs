//! Does every vector of the specification give what it says, and is there one for every rule?
//!
//! A vector is a text header (`spec:`, `expect:`, `root:` or `key:`, `comment:`; `content:`, the BLAKE3 of its manifest, where nothing
//! is wrong), a blank line, and the bytes of an image.
//! `cargo test --test vectors -- --ignored` writes them anew from `tests/support/cases.rs`.

#[path = "support/cases.rs"]
mod cases;
#[path = "support/image.rs"]
mod image;
#[path = "support/seal.rs"]
mod seal;
#[path = "support/verdict.rs"]
mod verdict;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use ashlarfs::Digest;
use ashlarfs::format::defect::{Corrupt, Unsupported, Untrusted};

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("format-spec/vectors")
}

/// Headers and images of all vectors, by name.
fn vectors() -> BTreeMap<String, (BTreeMap<String, String>, Vec<u8>)> {
    let mut vectors = BTreeMap::new();
    for file in fs::read_dir(directory()).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "vec") {
            continue;
        }
        let raw = fs::read(&path).unwrap();
        let end = raw.windows(2).position(|pair| pair == b"\n\n").unwrap();
        let header = String::from_utf8(raw[..end].to_vec()).unwrap();
        let header = header
            .lines()
            .map(|line| line.split_once(": ").unwrap())
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        vectors.insert(name, (header, raw[end + 2..].to_vec()));
    }
    vectors
}

/// The BLAKE3 of an image's manifest.
fn manifest(image: &[u8], root: Option<Digest>) -> String {
    let source = image::Memory::new(image.to_vec());
    let tree = ashlarfs::open_source(source, &verdict::options(root, None)).unwrap();
    let mut hasher = blake3::Hasher::new();
    ashlarfs::manifest::write(&tree, true, &mut hasher).unwrap();
    hasher.finalize().to_string()
}

#[test]
fn every_vector_gives_what_it_says() {
    let mut wrong = Vec::new();
    let vectors = vectors();
    assert!(vectors.len() > 100);
    for (name, (header, image)) in vectors {
        let root = header.get("root").filter(|root| *root != "-").map(|root| root.parse().unwrap());
        let found = verdict::of(&image, root, header.get("key").map(String::as_str));
        if found != BTreeSet::from([header["expect"].clone()]) {
            wrong.push(format!("{name}: expected {}, found {found:?}", header["expect"]));
        }
        let is_another = |wanted: &String| manifest(&image, root) != *wanted;
        if header.get("content").is_some_and(is_another) {
            wrong.push(format!("{name}: another manifest"));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn every_rule_has_a_vector() {
    let found: BTreeSet<String> = vectors()
        .into_values()
        .map(|(header, _)| format!("{} {}", header["spec"], header["expect"]))
        .collect();
    let kinds = [
        ("untrusted", Untrusted::RULES),
        ("corrupt", Corrupt::RULES),
        ("unsupported", Unsupported::RULES),
    ];
    for (class, rules) in kinds {
        for (rule, name) in rules {
            assert!(
                found.contains(&format!("{rule} {class} {name}")),
                "no vector for {rule} {name}"
            );
        }
    }
}

#[test]
fn vectors_stay_small() {
    let mut total = 0;
    for file in fs::read_dir(directory()).unwrap() {
        let file = file.unwrap();
        let len = file.metadata().unwrap().len();
        assert!(len < 100_000, "{} has {len} bytes", file.path().display());
        total += len;
    }
    assert!(total < 3 << 20, "{total} bytes of vectors");
}

#[test]
#[ignore = "writes the vectors"]
fn write() {
    for file in fs::read_dir(directory()).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "vec") {
            fs::remove_file(path).unwrap();
        }
    }
    for case in cases::all() {
        let spec = if case.name.starts_with("S-") { case.rule() } else { "-" };
        let root = case.root.map_or("-".to_owned(), |root| root.to_string());
        let mut header = format!("spec: {spec}\nexpect: {}\nroot: {root}\n", case.expect);
        if let Some(key) = &case.key {
            header.push_str(&format!("key: {key}\n"));
        } else if case.expect == "ok" {
            header.push_str(&format!("content: {}\n", manifest(&case.image, case.root)));
        }
        header.push_str(&format!("comment: {}\n\n", case.comment));
        let raw = [header.as_bytes(), &case.image].concat();
        fs::write(directory().join(format!("{}.vec", case.name)), raw).unwrap();
    }
}
