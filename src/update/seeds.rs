//! Which blocks are on this machine already? Those of every image on the data partition, by their digests: equal digests are
//! equal stored bytes.

use std::path::Path;

use super::place::Place;
use crate::format::digest::Digest;
use crate::heal::index::{Index, open_unknown};
use crate::image::{self, Method};
use crate::store::Store;

/// Opens an image that says itself what its digest is. That harms nobody: what is taken from it is held against another image's own.
pub(super) fn open(path: &Path) -> crate::Result<Store> {
    open_unknown(image::open(path, Method::Pread)?)
}

/// Blocks of other images.
#[derive(Debug, Default)]
pub(super) struct Seeds(Vec<(Store, Index)>);

impl Seeds {
    /// Those of the images at a place, and of `more`. What cannot be read is no loss: it is fetched.
    pub(super) fn collect(place: &Place, more: &[std::path::PathBuf]) -> Seeds {
        let mut seeds = Seeds::default();
        let stored = place.stored().unwrap_or_default();
        for path in more.iter().chain(stored.iter().map(|stored| &stored.path)) {
            if let Err(err) = seeds.add(path) {
                tracing::info!("nothing is taken from {}: {err}", path.display());
            }
        }
        seeds
    }

    fn add(&mut self, path: &Path) -> crate::Result<()> {
        let image = open(path)?;
        if self.0.iter().any(|(other, _)| other.root_digest() == image.root_digest()) {
            return Ok(());
        }
        let index = Index::of(&image, |_| false)?;
        self.0.push((image, index));
        Ok(())
    }

    /// The stored bytes of the block with a digest, if some image has it whole.
    pub(super) fn get(&self, digest: &Digest) -> Option<Vec<u8>> {
        let mut copies = self.0.iter().flat_map(|(image, index)| index.copies(image, *digest));
        copies.find_map(|copy| {
            copy.inspect_err(|err| tracing::warn!("a block is fetched though it is here: {err}"))
                .ok()
        })
    }
}
