//! What if an update is killed at any moment? The machine boots what it would have booted or the new image, whole, and the next run
//! ends it; nothing is left over. `ASHLAR_KILLS=200` for as many kills; a dozen otherwise.
#![cfg(feature = "net")]

#[path = "support/server.rs"]
mod server;
#[path = "support/tree.rs"]
mod tree;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use ashlarfs::{Anchor, Method, Options, image, verify};
use serde_json::Value;
use server::{Answer, Server};
use tempfile::TempDir;
use tree::{Ran, ashlar, command, noise, pack};

/// Two images of which the second has half of the first.
struct Images {
    directory: TempDir,
    digests: [String; 2],
}

impl Images {
    fn build() -> Images {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let source = directory.path().join("source");
        fs::create_dir(&source).unwrap();
        let digests = [1, 2].map(|version| {
            for file in 0..24 {
                let seed = if file % 2 == 0 { file } else { file + version * 100 };
                fs::write(source.join(file.to_string()), noise(seed, 1_000_000)).unwrap();
            }
            let path = directory.path().join(format!("{version}.img"));
            let version = version.to_string();
            pack(&source, &path, &["-b", "32K", "-z", "none", "--image-version", &version]).1
        });
        Images { directory, digests }
    }

    fn path(&self, version: usize) -> PathBuf {
        self.directory.path().join(format!("{version}.img"))
    }
}

/// A data partition that runs the first image.
struct Machine<'a> {
    data: TempDir,
    images: &'a Images,
    /// Where the second one comes from.
    source: String,
}

/// How far a run was when it was killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    NothingYet,
    PartBegun,
    PartFilling,
    PartWhole,
    Named,
    Switched,
    Ended,
}

impl<'a> Machine<'a> {
    fn new(images: &'a Images, source: String) -> Machine<'a> {
        let data = tempfile::tempdir_in(images.directory.path()).unwrap();
        let machine = Machine { data, images, source };
        let first = images.path(1);
        let first = ["--no-trial", "--root-digest", &images.digests[0], first.to_str().unwrap()];
        machine.update("install", &first);
        // Both records are there from now on.
        machine.update("install", &machine.second());
        machine.go_back();
        machine
    }

    fn second(&self) -> [&str; 4] {
        ["--json", "--root-digest", &self.images.digests[1], &self.source]
    }

    /// Runs a command that must work.
    fn update(&self, what: &str, args: &[&str]) -> Ran {
        let data = self.data.path().to_str().unwrap();
        let ran = ashlar(["update", "--data", data, what].iter().chain(args));
        assert_eq!(ran.status, 0, "{what}: {}", ran.err);
        ran
    }

    fn json(&self, what: &str, args: &[&str]) -> Value {
        serde_json::from_slice(&self.update(what, args).out).unwrap()
    }

    fn image(&self, nth: usize) -> PathBuf {
        self.data.path().join("images").join(format!("{}.img", self.images.digests[nth]))
    }

    /// As it was before.
    fn go_back(&self) {
        self.update("rollback", &["--to", &self.images.digests[0]]);
        self.update("gc", &[]);
        assert!(!self.image(1).exists());
    }

    fn start(&self) -> Child {
        let mut command = command();
        command.args(["update", "--data"]).arg(self.data.path()).arg("install").args(self.second());
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    /// What is booted next.
    fn next(&self) -> String {
        let status = self.json("status", &["--json"]);
        assert_eq!(status["records"], "good");
        assert_eq!(status["default"], self.images.digests[0].as_str());
        status["next"].as_str().unwrap().to_owned()
    }

    /// What a run left that was killed, and how many bytes of the new image are in their places.
    fn phase(&self, next: &str, new: &[u8]) -> (Phase, usize) {
        if next == self.images.digests[1] {
            return (Phase::Switched, new.len());
        }
        if self.image(1).exists() {
            return (Phase::Named, new.len());
        }
        let part = self.data.path().join(format!("images/.{}.part", self.images.digests[1]));
        let Ok(part) = fs::read(part) else { return (Phase::NothingYet, 0) };
        let pairs = part.chunks(4096).zip(new.chunks(4096));
        let there = pairs.filter(|(a, b)| a == b).map(|(a, _)| a.len()).sum();
        let phase = match there {
            _ if part == new => Phase::PartWhole,
            // Superblock, trailer, tables.
            0..200_000 => Phase::PartBegun,
            _ => Phase::PartFilling,
        };
        (phase, there)
    }

    /// Nothing is here but two images and what is remembered.
    fn is_tidy(&self) {
        let mut found = BTreeMap::new();
        for directory in ["images", "state"] {
            for entry in fs::read_dir(self.data.path().join(directory)).unwrap() {
                let entry = entry.unwrap();
                let name = entry.file_name().into_string().unwrap();
                let metadata = entry.metadata().unwrap();
                let (len, taken) = (metadata.len(), metadata.blocks() * 512);
                // A block of the file system, and one for a list of extents.
                assert!(taken <= len.next_multiple_of(4096) + 4096, "{name}: {taken} for {len}");
                found.insert(format!("{directory}/{name}"), len);
            }
        }
        let images = self.images.digests.each_ref().map(|digest| format!("images/{digest}.img"));
        let records =
            ["boot.a", "boot.b", "checked.json", "update.lock"].map(|it| format!("state/{it}"));
        let mut expected: Vec<&String> = images.iter().chain(&records).collect();
        expected.sort();
        assert_eq!(found.keys().collect::<Vec<_>>(), expected);
        for (nth, image) in images.iter().enumerate() {
            assert_eq!(found[image], fs::metadata(self.images.path(nth + 1)).unwrap().len());
        }
    }
}

fn is_whole(path: &Path, digest: &str) -> bool {
    let source = image::open(path, Method::Pread).unwrap();
    let options = Options::new(Anchor::RootDigest(digest.parse().unwrap()));
    verify::verify_source(source, &options, &verify::Options::default()).is_clean()
}

/// Kills runs at moments that are spread over the time that one takes.
fn kill_runs(machine: &Machine<'_>, kills: u32, seed: u64) {
    let [old, new] = machine.images.digests.each_ref();
    let new_bytes = fs::read(machine.images.path(2)).unwrap();
    let clean = (0..3).map(|_| {
        let start = Instant::now();
        assert!(machine.start().wait().unwrap().success());
        let took = start.elapsed();
        machine.go_back();
        took
    });
    let mut clean: Vec<Duration> = clean.collect();
    clean.sort();
    let clean = clean[1];
    println!("a run takes {clean:?}");
    let moments = noise(seed, usize::try_from(kills).unwrap());
    let mut phases: BTreeMap<Phase, u32> = BTreeMap::new();
    let (mut fetched_again, mut kept) = (0, 0);
    for (nth, within) in (0..kills).zip(moments) {
        let moment =
            clean.mul_f64((f64::from(nth) + f64::from(within) / 256.0) / f64::from(kills) * 1.1);
        let mut run = machine.start();
        std::thread::sleep(moment);
        run.kill().unwrap();
        let ended = run.wait().unwrap();
        let next = machine.next();
        assert!(next == *old || next == *new, "{next}");
        let path = machine.image(usize::from(next == *new));
        assert!(is_whole(&path, &next), "after {moment:?}");
        let (mut phase, there) = machine.phase(&next, &new_bytes);
        if ended.success() {
            assert_eq!(phase, Phase::Switched);
            phase = Phase::Ended;
        }
        *phases.entry(phase).or_default() += 1;

        let installed = machine.json("install", &machine.second());
        let count = |key: &str| usize::try_from(installed[key].as_u64().unwrap()).unwrap();
        println!("{moment:?}: {phase:?}, {there} bytes there, then {installed}");
        assert_eq!(installed["is_next"], true);
        assert_eq!(installed["was_here"], phase >= Phase::Named);
        assert!(fs::read(machine.image(1)).unwrap() == new_bytes, "other bytes");
        if phase < Phase::Named {
            assert!(count("bytes_copied") + count("bytes_resumed") > new_bytes.len() / 3);
            // Blocks that were whole are not fetched again: all but those that were being written just then.
            let come = count("bytes_fetched") + count("bytes_copied");
            assert!(come <= new_bytes.len() - there + (1 << 20), "{come} and {there}");
            fetched_again += count("bytes_fetched");
            kept += count("bytes_resumed");
        }
        if phase == Phase::PartWhole {
            assert_eq!((count("bytes_fetched"), count("bytes_copied")), (0, 0));
        }
        machine.update("gc", &[]);
        machine.is_tidy();
        machine.go_back();
    }
    println!(
        "{kills} kills: {phases:?}; {kept} bytes went on, {fetched_again} were fetched after them"
    );
}

fn kills() -> u32 {
    std::env::var("ASHLAR_KILLS").map_or(12, |text| text.parse().expect("a number of kills"))
}

#[test]
fn an_update_from_a_file_may_be_killed() {
    let images = Images::build();
    let source = images.path(2).to_str().unwrap().to_owned();
    kill_runs(&Machine::new(&images, source), kills().div_ceil(2), 1);
}

#[test]
fn an_update_over_http_may_be_killed() {
    let images = Images::build();
    let file = fs::read(images.path(2)).unwrap();
    let server = Server::start(move |question| {
        // As slow as a network, so that there is something to be killed.
        std::thread::sleep(Duration::from_millis(5));
        Answer::good(question, &file, "\"one\"")
    });
    kill_runs(&Machine::new(&images, server.url("/2.img")), kills().div_ceil(2), 2);
}
