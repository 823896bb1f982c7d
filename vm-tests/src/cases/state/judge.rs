//! What would be booted from a disk? The host's kernel mounts it, and the program's own code chooses, as at the start of a boot.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use ashlarfs::boot::choose::{self, Keys};
use ashlarfs::boot::cmdline::BootArgs;
use ashlarfs::boot::data::Data;
use ashlarfs::boot::slots::Slots;
use ashlarfs::update::book::Book;
use ashlarfs::update::state::{Attempt, State};
use ashlarfs::{Anchor, Digest, Method, verify};

use crate::disk::{self, FileSystem};
use crate::mounted::{self, Mounted};
use crate::outcome::{Doing, Result, Stop, failed, run};

/// Who knows what may be on a disk.
pub(super) struct Judge {
    /// What the data partition is.
    pub(super) file_system: FileSystem,
    /// Images by their names, as they were made.
    pub(super) images: Vec<(&'static str, Digest, PathBuf)>,
    /// The kernel command line.
    pub(super) words: String,
    /// The keys by which images are signed.
    pub(super) keys: Keys,
    /// A place in memory for disks.
    pub(super) memory: PathBuf,
}

/// What was found on a disk.
#[derive(Debug)]
pub(super) struct Found {
    /// What would be booted.
    pub(super) name: &'static str,
    /// Where it is on the disk.
    pub(super) path: PathBuf,
    /// What was remembered, if anything.
    pub(super) state: Option<State>,
    /// Whether a boot record was there and torn.
    pub(super) is_torn: bool,
    /// Whether mounting was not enough.
    pub(super) was_repaired: bool,
}

impl Judge {
    /// What is remembered on a disk that nothing happened to; the disk is left as it is.
    pub(super) fn remembered(&self, disk: &Path) -> Result<Option<State>> {
        let copy = self.memory.join("remembered.img");
        copy_sparse(disk, &copy)?;
        let mounted = Mounted::disk(self.file_system, &copy, &self.memory.join("mnt"))?;
        let book = Book::read(mounted.at());
        let state = book.is_known().then(|| book.state().clone());
        mounted.end()?;
        Ok(state)
    }

    /// Recovers the file system, chooses as a boot does, and holds that what is chosen is whole, and is the first that would
    /// be tried; so is everything else that bears an image's name. The disk is what a boot makes of it then.
    pub(super) fn found(&self, disk: &Path) -> Result<Found> {
        let (mounted, was_repaired) = self.mount(disk)?;
        let mut found = self.look(mounted.at())?;
        found.was_repaired = was_repaired;
        mounted.end()?;
        disk::check_as(self.file_system, disk)?;
        Ok(found)
    }

    fn mount(&self, disk: &Path) -> Result<(Mounted, bool)> {
        let at = self.memory.join("mnt");
        match Mounted::disk(self.file_system, disk, &at) {
            Err(Stop::Failed(first)) => {
                if self.file_system == FileSystem::Btrfs {
                    // Another state of the same file system may be remembered by the kernel.
                    run(Command::new("btrfs").args(["device", "scan", "--forget"])).ok();
                    if let Ok(mounted) = Mounted::disk(self.file_system, disk, &at) {
                        return Ok((mounted, false));
                    }
                }
                let explain = |stop: Stop| stop.at(format!("{first}, and then"));
                mounted::repair(self.file_system, disk).map_err(explain)?;
                let mounted = Mounted::disk(self.file_system, disk, &at);
                Ok((mounted.map_err(explain)?, true))
            }
            mounted => Ok((mounted?, false)),
        }
    }

    fn look(&self, at: &Path) -> Result<Found> {
        let book = Book::read(at);
        let state = book.is_known().then(|| book.state().clone());
        let is_torn = book.is_damaged();
        let args = BootArgs::parse(&self.words).doing("a bad command line")?.unwrap_or_default();
        let data = Data { path: at.to_owned(), source: PathBuf::new(), device: (0, 0) };
        let slots = Slots::begin(&data, &args);
        let candidates =
            choose::candidates(at, &args, &self.keys, &slots).doing("nothing can be booted")?;
        let Some(first) = candidates.images.first() else {
            return failed("no image can be booted");
        };
        let path = first.path.clone();
        let chosen = choose::open(first, &args, &self.keys);
        let digest = chosen.doing(format!("{} is refused", path.display()))?.tree.root_digest();
        let Some((name, ..)) = self.images.iter().find(|(_, image, _)| *image == digest) else {
            return failed(format!("{} is none of ours: {digest}", path.display()));
        };
        whole(&path, digest)?;
        self.all_whole(at)?;
        if let Some(state) = &state {
            counted(at, state, digest)?;
        }
        let path = path.strip_prefix(at).unwrap_or(&path).to_owned();
        Ok(Found { name, path, state, is_torn, was_repaired: false })
    }

    /// Whatever bears an image's name is that image, to the last byte.
    fn all_whole(&self, at: &Path) -> Result<()> {
        let named = self
            .images
            .iter()
            .map(|(_, digest, image)| (at.join(format!("images/{digest}.img")), vec![image]));
        let all: Vec<&PathBuf> = self.images.iter().map(|(.., image)| image).collect();
        let others = ["root.img", "root.img.prev", "images/one.img"];
        let others = others.into_iter().map(|name| (at.join(name), all.clone()));
        for (path, images) in named.chain(others).filter(|(path, _)| path.exists()) {
            let bytes = read(&path)?;
            let is = |image: &&PathBuf| fs::read(image).is_ok_and(|expected| expected == bytes);
            if !images.iter().any(is) {
                return failed(format!("{} is not whole", path.display()));
            }
        }
        Ok(())
    }
}

/// The boot was counted before anything was chosen, and what was chosen is what the record asks for.
fn counted(at: &Path, before: &State, chosen: Digest) -> Result<()> {
    let mut expected = before.clone();
    let trial = match expected.begin_boot() {
        Attempt::Trial(trial) => Some(trial.image),
        Attempt::GivenUp(_) | Attempt::Default => None,
    };
    if expected.order_from(trial).first() != Some(&chosen) {
        return failed(format!("{chosen} would be booted; the record says {before:?}"));
    }
    let book = Book::read(at);
    if *book.state() != expected || !book.is_known() {
        return failed(format!("the boot left {:?}, not {expected:?}", book.state()));
    }
    Ok(())
}

/// Holds that an image is whole.
fn whole(path: &Path, digest: Digest) -> Result<()> {
    let doing = format!("cannot read {}", path.display());
    let source = ashlarfs::image::open(path, Method::Pread).doing(doing)?;
    let options = ashlarfs::Options::new(Anchor::RootDigest(digest));
    let report = verify::verify_source(source, &options, &verify::Options::default());
    if report.is_clean() {
        return Ok(());
    }
    failed(format!("{} is damaged: {:?}", path.display(), report.findings.first()))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).doing(format!("cannot read {}", path.display()))
}

/// Copies a disk; what nobody wrote takes no room.
pub(super) fn copy_sparse(from: &Path, to: &Path) -> Result<()> {
    run(Command::new("cp").arg("--sparse=auto").arg(from).arg(to)).map(drop)
}
