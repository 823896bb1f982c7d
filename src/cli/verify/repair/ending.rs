//! What stood behind the image, when the end of its file is damaged or gone? Another copy of the same image may tell: one that was
//! named, one beside it, one on a server.
//!
//! It is no part of what is sealed, so no digest tells whether it is right. Signatures have a checksum, and are those of this image or of
//! nothing; parity is computed anew, only how much there was is taken over.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};

use crate::cli::elsewhere;
use crate::error::Error;
use crate::format::field::usize_from_u64;
use crate::format::{superblock, trailer};
use crate::heal::siblings::{IMAGES, NAMES_MAX, is_image_or_previous};
use crate::image::{self, Method, Source};
use crate::store::{parity_of, read_superblock};
use crate::{Digest, trust};

/// What stands behind an image in its file.
#[derive(Debug, Default)]
pub(super) struct Ending {
    /// The trailer with its signatures; nothing where there is none.
    pub(super) trailer: Vec<u8>,
    /// Parity shards, where there are any.
    pub(super) parity_count: Option<u32>,
}

impl Ending {
    /// What is behind the image there, as far as it is a trailer and parity; anything else there is dropped.
    pub(super) fn read(source: &dyn Source, image_len: u64) -> crate::Result<Ending> {
        let signatures = trust::read_trailer(source, image_len)?;
        let mut trailer = vec![0; usize_from_u64(trailer::len(&signatures))];
        if !trailer.is_empty() {
            let read = source.read_exact_at(&mut trailer, image_len);
            read.map_err(|err| Error::io("cannot read the signature trailer", err))?;
        }
        let parity = parity_of(source, image_len, &signatures);
        Ok(Ending { trailer, parity_count: parity.map(|head| head.geometry.parity_count()) })
    }
}

/// Whether a file ends before the image does, or in the first bytes of its trailer: what was behind that is gone without a trace.
pub(super) fn is_cut(source: &dyn Source, image_len: u64) -> bool {
    let Some(rest) = source.len().checked_sub(image_len) else { return true };
    let begun = trailer::MAGIC.get(..usize_from_u64(rest));
    let begun = begun.filter(|begun| (1..trailer::MAGIC.len()).contains(&begun.len()));
    begun.is_some_and(|begun| {
        let mut found = [0; trailer::MAGIC.len()];
        let found = found.get_mut(..begun.len()).unwrap_or_default();
        source.read_exact_at(found, image_len).is_ok() && found == begun
    })
}

/// Looks for other copies of an image, the nearest first.
#[derive(Debug)]
pub(super) struct Search<'a> {
    /// The image's path, without links.
    pub(super) real: &'a Path,
    /// Images and directories that were named.
    pub(super) named: &'a [PathBuf],
    pub(super) url: Option<&'a str>,
    pub(super) image_len: u64,
    pub(super) root_digest: Digest,
}

impl Search<'_> {
    /// The ending of the first copy that has signatures; else of one that has parity.
    pub(super) fn run(&self) -> Option<Ending> {
        let named = self.named.iter().flat_map(|path| named(path));
        let distant = self.url.into_iter().filter_map(on_server);
        let mut best = None;
        for copy in named.chain(self.beside()).chain(distant) {
            let Some(ending) = self.ending_of(&*copy) else { continue };
            if !ending.trailer.is_empty() {
                return Some(ending);
            }
            if ending.parity_count.is_some() {
                best.get_or_insert(ending);
            }
        }
        best
    }

    /// What is behind a file's image, if it is this image: one of its superblocks says so.
    fn ending_of(&self, copy: &dyn Source) -> Option<Ending> {
        let backup = self.image_len.checked_sub(superblock::LEN_ON_DISK)?;
        let is_it = |offset| {
            read_superblock(copy, offset).is_ok_and(|(_, digest)| digest == self.root_digest)
        };
        if !is_it(0) && !is_it(backup) {
            return None;
        }
        Ending::read(copy, self.image_len).ok()
    }

    /// The images in the directory where the image is, and on a data partition in both that have images. It is one of them itself, and has
    /// nothing to say.
    fn beside(&self) -> Vec<Arc<dyn Source>> {
        // Beside a block device there are devices.
        let own = self.real.metadata().ok().filter(Metadata::is_file);
        let (Some(own), Some(directory)) = (own, self.real.parent()) else { return Vec::new() };
        let up = directory.parent().filter(|_| directory.ends_with(IMAGES));
        let places =
            [Some(directory.to_owned()), Some(directory.join(IMAGES)), up.map(Path::to_owned)];
        // A file of somebody else's may be such that reading it never ends.
        let owners = [0, rustix::process::geteuid().as_raw(), own.uid()];
        let is_ours = |metadata: &Metadata| owners.contains(&metadata.uid());
        let places = places.into_iter().flatten().filter(|place| !place.is_symlink());
        places.flat_map(|place| images_in(&place, is_ours)).collect()
    }
}

/// What was named: an image, or all in a directory.
fn named(path: &Path) -> Vec<Arc<dyn Source>> {
    if path.is_dir() {
        return images_in(path, |_| true);
    }
    image::open(path, Method::Pread).into_iter().collect()
}

fn images_in(directory: &Path, is_wanted: impl Fn(&Metadata) -> bool) -> Vec<Arc<dyn Source>> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let names = entries.take(NAMES_MAX).flatten().map(|entry| entry.path());
    let open = |path: PathBuf| {
        let file = open_unlinked(&path).ok()?;
        let metadata = file.metadata().ok().filter(Metadata::is_file)?;
        is_wanted(&metadata).then(|| image::from_file(file, Method::Pread).ok()).flatten()
    };
    names.filter(|path| is_image_or_previous(path)).filter_map(open).collect()
}

/// Opens what has this name itself, and waits for nobody.
fn open_unlinked(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let flags = flags | OFlags::NONBLOCK | OFlags::NOCTTY;
    Ok(rustix::fs::open(path, flags, Mode::empty())?.into())
}

fn on_server(url: &str) -> Option<Arc<dyn Source>> {
    let told = |err: &io::Error| eprintln!("ashlar: warning: {url}: {err}");
    elsewhere::open(url).inspect_err(told).ok()
}
