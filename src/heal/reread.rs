//! Is it only a copy in memory that is wrong? Then the same place, read past the page cache, is right.

use std::io;
use std::iter;
use std::path::Path;

use super::is_passing;
use crate::image::uncached::Uncached;
use crate::store::heal::{Cure, Healer, Offer, Unknown, Wanted};

/// Reads the image's own bytes once more, from the disk.
#[derive(Debug)]
pub struct Reread(pub(super) Uncached);

impl Reread {
    /// Of the image at a path.
    pub fn open(image: &Path) -> io::Result<Self> {
        Uncached::open(image).map(Reread)
    }
}

impl Healer for Reread {
    fn cure(&self) -> Cure {
        Cure::Reread
    }

    fn copies<'a>(&'a self, wanted: &'a Wanted) -> Box<dyn Iterator<Item = Offer> + 'a> {
        let read = || {
            let read = self.0.read(wanted.offset, wanted.len);
            read.map_or_else(
                |err| {
                    tracing::debug!("{} read once more: {err}", wanted.part);
                    is_passing(&err).then_some(Err(Unknown))
                },
                |bytes| Some(Ok(bytes)),
            )
        };
        Box::new(iter::once_with(read).flatten())
    }
}
