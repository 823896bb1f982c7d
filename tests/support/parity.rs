//! An image with parity, and what comes back of it.
#![allow(dead_code, unreachable_pub, reason = "each test binary includes it and uses a part")]

#[path = "image.rs"]
pub mod image;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use ashlarfs::fec::{self, Geometry};
use ashlarfs::{Digest, Source, verify};
use image::{Memory, noise};

/// An image with parity in a directory of its own.
pub struct Bench {
    pub directory: tempfile::TempDir,
    pub digest: Digest,
    pub whole: Vec<u8>,
}

/// A tree of some megabytes that do not compress, as a tar archive.
fn tree() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for file in 0..40_u64 {
        let content = noise(file, 40_000 + 4000 * usize::try_from(file).unwrap());
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        tar.append_data(&mut header, format!("file{file:02}"), content.as_slice()).unwrap();
    }
    tar.into_inner().unwrap()
}

pub fn ashlar(args: &[&str], image: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ashlar")).args(args).arg(image).output().unwrap()
}

impl Bench {
    pub fn new(extra: &[&str]) -> Bench {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let (path, digest) = image::build_tar(directory.path(), &tree(), extra);
        let whole = fs::read(path).unwrap();
        Bench { directory, digest, whole }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn geometry(&self) -> Geometry {
        fec::find(&*Memory::new(self.whole.clone())).unwrap().geometry
    }

    /// What comes back of these bytes, if it is found whole.
    pub fn repaired(&self, bytes: Vec<u8>) -> Option<Vec<u8>> {
        let source = Memory::new(bytes);
        let found = fec::search(&*source, 2, &|_, _| {}).unwrap()?;
        let out = tempfile::tempfile().unwrap();
        fec::restore(&*source, &found, &out, 2, &|_, _| {}).ok()?;
        let mut bytes = vec![0; usize::try_from(out.metadata().unwrap().len()).unwrap()];
        out.read_exact_at(&mut bytes, 0).unwrap();
        let found: Arc<dyn Source> = Memory::new(bytes.clone());
        let report = verify::verify(&found, self.digest, &verify::Options::default());
        report.is_clean().then_some(bytes)
    }

    /// Runs `ashlar verify --repair` with the root digest.
    pub fn repair(&self, args: &[&str], name: &str) -> Output {
        let digest = self.digest.to_string();
        let args = [&["verify", "--repair", "--root-digest", &digest], args].concat();
        ashlar(&args, &self.path(name))
    }

    /// Nothing else is left in the directory.
    pub fn is_tidy(&self) -> bool {
        fs::read_dir(self.directory.path())
            .unwrap()
            .all(|entry| entry.unwrap().path().extension().is_none_or(|kind| kind != "tmp"))
    }
}

pub fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

pub fn text(output: &Output) -> String {
    String::from_utf8([output.stdout.as_slice(), &output.stderr].concat()).unwrap()
}
