//! Two images of which the second one has most of the first, and machines that are updated to it over HTTP.
#![allow(dead_code, unreachable_pub, reason = "each test binary includes it and uses a part")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use ashlarfs::update::failed::Failed;
use ashlarfs::update::http::{Http, HttpOptions};
use ashlarfs::update::install::{Installed, install};
use ashlarfs::update::origin::{FileOrigin, Origin};
use ashlarfs::update::place::Place;
use ashlarfs::update::wish::Wish;
use ashlarfs::{Anchor, Digest};
use tempfile::TempDir;

use crate::server::{Answer, Question, Server};

/// An image as it is on the server.
pub struct Image {
    pub bytes: Vec<u8>,
    pub digest: Digest,
}

pub fn work() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

pub fn build(fill: impl FnOnce(&Path)) -> Image {
    let work = work();
    let (tree, path) = (work.path().join("tree"), work.path().join("image"));
    fs::create_dir(&tree).unwrap();
    fill(&tree);
    let args = [&["mkimage", "--quiet"][..], &[tree.to_str().unwrap(), path.to_str().unwrap()]];
    let summary = ashlarfs_mkimage::run(args.concat()).unwrap();
    Image { bytes: fs::read(path).unwrap(), digest: summary.root_digest.parse().unwrap() }
}

/// Files that one version has; another one has most of them.
pub fn files(tree: &Path, other: &[u64]) {
    for number in 0..30 {
        let seed = if other.contains(&number) { 1000 + number } else { number };
        fs::write(tree.join(format!("file{number}")), noise(seed, 150_000)).unwrap();
    }
    for number in 0..200 {
        let text = format!("{number} of many small ones\n").repeat(20);
        fs::write(tree.join(format!("small{number}")), text).unwrap();
    }
}

pub static OLD: LazyLock<Image> = LazyLock::new(|| build(|tree| files(tree, &[])));
pub static NEW: LazyLock<Image> = LazyLock::new(|| build(|tree| files(tree, &[7, 20])));

pub fn options() -> HttpOptions {
    HttpOptions {
        timeout: Duration::from_secs(5),
        pause: Duration::from_millis(1),
        ..HttpOptions::default()
    }
}

/// Those of somebody who does not wait.
pub fn hasty() -> HttpOptions {
    HttpOptions { timeout: Duration::from_millis(300), ..options() }
}

/// A data partition, and what is done with it.
pub struct Machine {
    pub data: TempDir,
}

impl Machine {
    pub fn new() -> Machine {
        Machine { data: work() }
    }

    /// One that has the old image already.
    pub fn with_old() -> Machine {
        let machine = Machine::new();
        let path = machine.data.path().join("offered");
        fs::write(&path, &OLD.bytes).unwrap();
        machine.install(&FileOrigin::open(&path).unwrap(), &OLD).unwrap();
        fs::remove_file(path).unwrap();
        machine
    }

    pub fn path(&self, image: &Image) -> PathBuf {
        self.data.path().join("images").join(format!("{}.img", image.digest))
    }

    /// Installs an image. It is there as it is on the server, or nothing is.
    pub fn install(&self, origin: &dyn Origin, image: &Image) -> Result<Installed, Failed> {
        self.install_as(origin, image, &Anchor::RootDigest(image.digest))
    }

    pub fn install_as(
        &self,
        origin: &dyn Origin,
        image: &Image,
        anchor: &Anchor,
    ) -> Result<Installed, Failed> {
        let start = Instant::now();
        let wish = Wish::new(anchor);
        let installed = install(&Place::new(self.data.path()).unwrap(), origin, &wish);
        match &installed {
            Ok(installed) => {
                assert_eq!(installed.path, self.path(image));
                assert!(fs::read(&installed.path).unwrap() == image.bytes, "other bytes");
            }
            Err(failed) => {
                println!("{failed} (hint: {:?})", failed.hint);
                assert!(!self.path(image).exists(), "{failed}, and still it is there");
                assert!(failed.message.starts_with("http"), "{failed}");
            }
        }
        assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
        installed
    }

    pub fn update(&self, server: &Server, options: &HttpOptions) -> Result<Installed, Failed> {
        self.install(&Http::open(&server.url("/new.img"), options)?, &NEW)
    }
}

pub fn good(question: &Question) -> Answer {
    Answer::good(question, &NEW.bytes, "\"one\"")
}
