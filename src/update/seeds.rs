//! Which blocks are on this machine already? Those of every image on the data partition, by their digests: equal digests are
//! equal stored bytes.

use std::collections::HashMap;
use std::path::Path;

use super::place::Place;
use crate::format::digest::Digest;
use crate::format::index::BlockIndex;
use crate::image::{self, Method};
use crate::store::{CacheLimits, Store};
use crate::trust::{self, Anchor};

/// Nothing is expanded here.
pub(super) const NO_CACHE: CacheLimits = CacheLimits { data_bytes_max: 0, metadata_bytes_max: 0 };

/// Opens an image that says itself what its digest is. That harms nobody: what is taken from it is held against another image's own.
pub(super) fn open(path: &Path) -> crate::Result<Store> {
    let source = image::open(path, Method::Pread)?;
    let digest = trust::root_digest(&*source, &Anchor::Unauthenticated, &[])?;
    Store::open(source, digest, NO_CACHE)
}

/// Blocks of other images.
#[derive(Debug, Default)]
pub(super) struct Seeds {
    images: Vec<Store>,
    blocks: HashMap<Digest, (usize, BlockIndex)>,
}

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
        if self.images.iter().any(|other| other.root_digest() == image.root_digest()) {
            return Ok(());
        }
        let number = self.images.len();
        let mut block = 0_u32;
        for page in 0..image.superblock().page_count() {
            for entry in &*image.table_page(page)? {
                self.blocks.entry(entry.digest).or_insert((number, BlockIndex(block)));
                block = block.saturating_add(1);
            }
        }
        self.images.push(image);
        Ok(())
    }

    /// The stored bytes of the block with a digest, if some image has it whole.
    pub(super) fn get(&self, digest: &Digest) -> Option<Vec<u8>> {
        let (image, block) = self.blocks.get(digest)?;
        match self.images.get(*image)?.stored(*block) {
            Ok(stored) => Some(stored),
            Err(err) => {
                tracing::warn!("a block is fetched though it is here: {err}");
                None
            }
        }
    }
}
