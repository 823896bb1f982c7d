//! Does `ashlar verify --repair` make the very image that was sealed, or leave everything as it is?

#[path = "support/pair.rs"]
mod pair;
#[path = "support/server.rs"]
mod server;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use pair::{Pair, Random};
use server::{Answer, Server};

fn ashlar(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ashlar")).args(args).stdin(Stdio::null()).output().unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

impl Pair {
    fn repair(&self, more: &[&str]) -> Output {
        let digest = self.digest.to_string();
        let mut args = vec!["verify", "--repair", "--root-digest", &digest];
        args.extend(more);
        args.push(text(&self.new));
        ashlar(&args)
    }

    /// Repaired, and byte for byte what it was.
    fn assert_repaired(&self, output: &Output) {
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(fs::read(&self.new).unwrap() == self.whole, "{output:?}");
        self.assert_nothing_left();
        let again = self.repair(&[]);
        assert_eq!(again.status.code(), Some(0), "a whole image is only verified: {again:?}");
    }

    /// Left as it was, with the damage named.
    fn assert_left(&self, output: &Output, status: i32, before: &[u8]) -> String {
        assert_eq!(output.status.code(), Some(status), "{output:?}");
        assert!(fs::read(&self.new).unwrap() == before, "{output:?}");
        self.assert_nothing_left();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            stderr.contains("ashlar: error: ") && stderr.contains("ashlar: hint: "),
            "{stderr}"
        );
        stderr
    }

    fn assert_nothing_left(&self) {
        let names = fs::read_dir(self.directory.path()).unwrap().flatten();
        let left = names
            .map(|entry| entry.file_name())
            .find(|name| name.to_string_lossy().ends_with(".tmp"));
        assert_eq!(left, None);
    }

    fn shared(&self) -> BTreeSet<usize> {
        (0..self.entries.len()).filter(|block| self.is_shared(*block)).collect()
    }
}

#[test]
fn the_exact_bytes_come_back() {
    let pair = Pair::new();
    fs::set_permissions(&pair.new, fs::Permissions::from_mode(0o640)).unwrap();
    // All that both have, from the image beside it.
    pair.damage(&pair.new, &pair.shared(), &mut Random(1));
    pair.assert_repaired(&pair.repair(&[]));
    assert_eq!(fs::metadata(&pair.new).unwrap().mode() & 0o7777, 0o640);

    // From one that is named, with a report for machines.
    let away = tempfile::tempdir().unwrap();
    let old = away.path().join("old");
    fs::rename(&pair.old, &old).unwrap();
    let damaged: BTreeSet<usize> = pair.shared().into_iter().step_by(7).collect();
    pair.damage(&pair.new, &damaged, &mut Random(2));
    let before = fs::read(&pair.new).unwrap();
    let stderr = pair.assert_left(&pair.repair(&[]), 4, &before);
    assert!(stderr.contains("nobody has block") && stderr.contains("--from"), "{stderr}");
    let output = pair.repair(&["--json", "--from", text(&old)]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["repair"]["done"], true);
    assert_eq!(json["repair"]["blocks_healed"]["image"], damaged.len());
    assert_eq!(json["clean"], false);
    pair.assert_repaired(&output);

    // From a directory, through a symlink, which stays one.
    let link = pair.path("link");
    symlink("new.img", &link).unwrap();
    pair.damage(&pair.new, &damaged, &mut Random(3));
    fs::rename(&old, away.path().join("old.img")).unwrap();
    let digest = pair.digest.to_string();
    let output = ashlar(&[
        "verify",
        "--repair",
        "--root-digest",
        &digest,
        "--from",
        text(away.path()),
        text(&link),
    ]);
    pair.assert_repaired(&output);
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());

    // From a server.
    let server = Server::good(pair.whole.clone());
    let all = (0..pair.entries.len()).collect();
    pair.damage(&pair.new, &all, &mut Random(4));
    let output = pair.repair(&["--from", &server.url("/image")]);
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(stdout.contains("from the server"), "{output:?}");
    pair.assert_repaired(&output);
}

#[test]
fn superblocks_tables_ends_and_junk_are_mended() {
    let pair = Pair::new();
    let away = tempfile::tempdir().unwrap();
    let copy = away.path().join("copy");
    fs::write(&copy, &pair.whole).unwrap();
    let len = pair.whole.len();
    let table = usize::try_from(
        pair.entries.iter().map(ashlarfs::format::entry::Entry::end).max().unwrap(),
    )
    .unwrap();
    let edit = |edit: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = pair.whole.clone();
        edit(&mut bytes);
        fs::write(&pair.new, bytes).unwrap();
    };
    // One superblock of two needs nobody; neither does junk behind the image.
    edit(&|bytes| bytes[100] ^= 1);
    pair.assert_repaired(&pair.repair(&[]));
    edit(&|bytes| bytes[len - 100] ^= 1);
    pair.assert_repaired(&pair.repair(&[]));
    edit(&|bytes| bytes.extend(pair::noise(1, 5000)));
    pair.assert_repaired(&pair.repair(&[]));
    // Everything else is in a copy only.
    type Edit<'a> = &'a dyn Fn(&mut Vec<u8>);
    let edits: [(&str, Edit<'_>); 5] = [
        ("both superblocks", &|bytes| {
            bytes[100] ^= 1;
            bytes[len - 100] ^= 1;
        }),
        ("the table", &|bytes| bytes[table + 5] ^= 1),
        ("the page list", &|bytes| bytes[len - 4096 - 5] ^= 1),
        ("the end", &|bytes| bytes.truncate(len / 2)),
        ("all of it", &|bytes| *bytes = pair::noise(3, len)),
    ];
    for (what, change) in edits {
        edit(change);
        let before = fs::read(&pair.new).unwrap();
        let output = pair.repair(&[]);
        assert!(matches!(output.status.code(), Some(4 | 8)), "{what}: {output:?}");
        assert!(fs::read(&pair.new).unwrap() == before, "{what}");
        pair.assert_nothing_left();
        let output = pair.repair(&["--from", text(&copy)]);
        assert_eq!(output.status.code(), Some(1), "{what}: {output:?}");
        pair.assert_repaired(&output);
    }
}

#[test]
fn signatures_are_kept_or_found_in_a_copy() {
    let directory = tempfile::tempdir().unwrap();
    let key = directory.path().join("key");
    assert!(ashlar(&["key", "generate", "--no-password", text(&key)]).status.success());
    let pair = Pair::build(&["--sign-key", text(&key)]);
    let image_len = usize::try_from(ashlarfs_len(&pair)).unwrap();
    assert!(image_len < pair.whole.len());
    pair.damage(&pair.new, &pair.shared(), &mut Random(1));
    pair.assert_repaired(&pair.repair(&[]));
    // By the key, too.
    let public = format!("{}.pub", text(&key));
    pair.damage(&pair.new, &pair.shared(), &mut Random(2));
    let output = ashlar(&["verify", "--repair", "--key", &public, text(&pair.new)]);
    pair.assert_repaired(&output);
    // A damaged signature is no part of what is sealed.
    let copy = directory.path().join("copy");
    fs::write(&copy, &pair.whole).unwrap();
    let file = File::options().write(true).open(&pair.new).unwrap();
    file.write_all_at(b"junk", image_len as u64 + 60).unwrap();
    let before = fs::read(&pair.new).unwrap();
    let stderr = pair.assert_left(&pair.repair(&[]), 4, &before);
    assert!(stderr.contains("signatures"), "{stderr}");
    pair.assert_repaired(&pair.repair(&["--from", text(&copy)]));
}

/// The end of the file is gone, and its signatures with it, or these alone are damaged.
#[test]
fn signatures_are_found_wherever_the_image_is() {
    let directory = tempfile::tempdir().unwrap();
    let key = directory.path().join("key");
    assert!(ashlar(&["key", "generate", "--no-password", text(&key)]).status.success());
    let pair = Pair::build(&["--sign-key", text(&key), "--fec"]);
    let image_len = usize::try_from(ashlarfs_len(&pair)).unwrap();
    let server = Server::good(pair.whole.clone());
    let url = server.url("/image");
    let away = tempfile::tempdir().unwrap();
    // One that has the same name and is another image, and one that was never signed.
    fs::write(away.path().join("a.img"), fs::read(&pair.old).unwrap()).unwrap();
    fs::write(away.path().join("b.img"), &pair.whole[..image_len]).unwrap();
    fs::write(away.path().join("c.img.prev"), &pair.whole).unwrap();
    let unsigned = away.path().join("b.img");
    let beside = pair.path("beside.img");
    let cut = |len: usize| pair.whole[..len].to_vec();
    let mut junk = pair.whole.clone();
    junk[image_len + 60..].fill(7);
    let damaged = [cut(image_len / 2), cut(image_len - 1), cut(image_len + 5), junk];
    let maimed = damaged.len() - 1;
    for (nth, bytes) in damaged.iter().enumerate() {
        let repair = |more: &[&str]| {
            fs::write(&pair.new, bytes).unwrap();
            pair.repair(more)
        };
        pair.assert_repaired(&repair(&["--from", text(away.path())]));
        pair.assert_repaired(&repair(&["--from", text(&unsigned), "--from", &url]));
        fs::write(&beside, &pair.whole).unwrap();
        let output = repair(&[]);
        pair.assert_repaired(&output);
        assert!(output.stderr.is_empty(), "{output:?}");
        fs::remove_file(&beside).unwrap();
        // Nobody has them.
        let output = repair(&["--from", text(&unsigned)]);
        if nth == maimed {
            pair.assert_left(&output, 4, bytes);
            continue;
        }
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(stderr.contains("ashlar: warning: ") && stderr.contains("ashlar sign"), "{stderr}");
        assert!(fs::read(&pair.new).unwrap() == pair.whole[..image_len]);
        let json: serde_json::Value =
            serde_json::from_slice(&repair(&["--json", "--from", text(&unsigned)]).stdout).unwrap();
        assert_eq!(json["repair"]["signatures_lost"], true, "{json}");
        let output = repair(&["--json", "--from", text(away.path())]);
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(json["repair"]["signatures_lost"], false, "{json}");
        assert!(output.stderr.is_empty(), "{output:?}");
    }
}

fn ashlarfs_len(pair: &Pair) -> u64 {
    let options = ashlarfs::Options::new(ashlarfs::Anchor::RootDigest(pair.digest));
    ashlarfs::open(&pair.new, &options).unwrap().superblock().image_len
}

#[test]
fn nothing_is_written_that_nobody_vouches_for() {
    let pair = Pair::new();
    pair.damage(&pair.new, &pair.shared(), &mut Random(1));
    let before = fs::read(&pair.new).unwrap();
    let output = ashlar(&["verify", "--repair", text(&pair.new)]);
    let stderr = pair.assert_left(&output, 16, &before);
    assert!(stderr.contains("--root-digest or --key"), "{stderr}");
    // Copies that lie: all blocks changed, and the table as it was.
    let old = fs::read(&pair.old).unwrap();
    fs::remove_file(&pair.old).unwrap();
    let mut liar = pair.whole.clone();
    let table = usize::try_from(
        pair.entries.iter().map(ashlarfs::format::entry::Entry::end).max().unwrap(),
    )
    .unwrap();
    liar[4096..table].iter_mut().for_each(|byte| *byte ^= 1);
    let path = pair.path("liar.img");
    fs::write(&path, &liar).unwrap();
    pair.assert_left(&pair.repair(&["--from", text(&path)]), 4, &before);
    let server = Server::good(liar);
    pair.assert_left(&pair.repair(&["--from", &server.url("/image")]), 4, &before);
    // Another image, and a whole one, is not overwritten, though the one that is asked for is beside it.
    fs::write(pair.path("copy.img"), &pair.whole).unwrap();
    fs::write(pair.path("other.img"), &old).unwrap();
    let digest = pair.digest.to_string();
    let output =
        ashlar(&["verify", "--repair", "--root-digest", &digest, text(&pair.path("other.img"))]);
    assert_eq!(output.status.code(), Some(16), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("is another image"), "{output:?}");
    assert!(fs::read(pair.path("other.img")).unwrap() == old);
    fs::remove_file(pair.path("copy.img")).unwrap();
}

/// An update while an image is repaired: the newer one stays.
#[test]
fn an_image_that_came_meanwhile_is_not_replaced() {
    let pair = Pair::new();
    let newer = b"a newer image";
    let (part, new, whole) = (pair.path("part"), pair.new.clone(), pair.whole.clone());
    // Whoever is asked for blocks knows that the repair has begun.
    let server = Server::start(move |question| {
        fs::write(&part, newer).unwrap();
        fs::rename(&part, &new).unwrap();
        Answer::good(question, &whole, "\"one\"")
    });
    let output = pair.path("output");
    for more in [&["--output", text(&output)][..], &[]] {
        fs::write(&pair.new, &pair.whole).unwrap();
        let all = (0..pair.entries.len()).collect();
        pair.damage(&pair.new, &all, &mut Random(1));
        let repaired = pair.repair(&[&["--from", &server.url("/image")], more].concat());
        if more.is_empty() {
            let stderr = pair.assert_left(&repaired, 8, newer);
            assert!(stderr.contains("was replaced"), "{stderr}");
        } else {
            // Nothing is in the way of another name.
            assert_eq!(repaired.status.code(), Some(1), "{repaired:?}");
            assert!(fs::read(&output).unwrap() == pair.whole);
        }
    }
}

#[test]
fn whoever_has_the_old_file_open_goes_on_with_it() {
    let pair = Pair::new();
    let open = File::open(&pair.new).unwrap();
    pair.damage(&pair.new, &pair.shared(), &mut Random(1));
    let before = fs::read(&pair.new).unwrap();
    pair.assert_repaired(&pair.repair(&[]));
    let mut still = vec![0; before.len()];
    open.read_exact_at(&mut still, 0).unwrap();
    assert!(still == before, "it was written in place");
}

/// What parity cannot restore any more comes from other images, and the new file has parity again.
#[test]
fn an_image_with_parity_has_it_again() {
    let pair = Pair::build(&["--fec"]);
    let few: BTreeSet<usize> = [*pair.shared().iter().next_back().unwrap()].into();
    pair.damage(&pair.new, &few, &mut Random(1));
    let output = pair.repair(&["--json"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(json["repair"]["data_shards"].as_u64().unwrap() > 0, "{json}");
    pair.assert_repaired(&output);
    pair.damage(&pair.new, &pair.shared(), &mut Random(2));
    let output = pair.repair(&["--json"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(json["repair"]["blocks_healed"]["image"].as_u64().unwrap() > 0, "{json}");
    pair.assert_repaired(&output);
    // Neither can: both say so.
    let all = (0..pair.entries.len()).collect();
    pair.damage(&pair.new, &all, &mut Random(3));
    let before = fs::read(&pair.new).unwrap();
    let stderr = pair.assert_left(&pair.repair(&[]), 4, &before);
    assert!(stderr.contains("shards") && stderr.contains("nobody has"), "{stderr}");
}
