//! Is an image still whole on its disk? All of it is read past the memory that has it already, while nothing else wants the
//! processor or the disk.

use std::fs::File;
use std::sync::Arc;

use rustix::fs::Advice;

use super::checked::{self, Checked};
use super::failed::Failed;
use super::place::Place;
use super::wish::Step;
use crate::format::digest::Digest;
use crate::format::index::BlockIndex;
use crate::image::{self, Method, Source};
use crate::store::{self, CacheLimits, Store};

/// Damaged blocks that are named; of more, only the number is told.
const NAMED_MAX: usize = 100;
/// Blocks after which what was read is forgotten by the memory: it was read once, and others need the room.
const FORGET_AFTER: u32 = 256;

/// From now on this thread gets a processor and the disk when nobody else wants them.
pub fn become_idle() {
    crate::store::prefetch::idle::become_idle();
}

/// What was found.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Scrubbed {
    /// The image.
    pub root_digest: String,
    /// Blocks that were read.
    pub blocks: u64,
    /// Stored bytes of those that are as they were sealed.
    pub bytes: u64,
    /// How many could not be had.
    pub damaged: u64,
    /// What is wrong with them, the first hundred.
    pub findings: Vec<String>,
}

impl Scrubbed {
    /// Whether all of it is as it was sealed.
    pub fn is_good(&self) -> bool {
        self.damaged == 0
    }
}

/// Reads all of an image whose root digest is known.
pub fn scrub(
    place: &Place,
    image: Digest,
    progress: &(dyn Fn(Step, u64, u64) + Sync),
) -> Result<Scrubbed, Failed> {
    let path = place.expect(image)?;
    let file = image::open_regular(&path)
        .map_err(|err| Failed::io(format_args!("cannot open {}", path.display()), err))?;
    let again = file.try_clone().and_then(|file| image::from_file(file, Method::Pread));
    let source =
        again.map_err(|err| Failed::io(format_args!("cannot read {}", path.display()), err))?;
    read_all(&source, &file, image, progress)
}

/// Notes what was found.
pub fn note(place: &Place, image: Digest, found: &Scrubbed) -> Result<(), Failed> {
    let Scrubbed { damaged, .. } = *found;
    let note = Checked { time: checked::now(), good: found.is_good(), damaged, installed_at: None };
    checked::note(place, image, note)
}

fn read_all(
    source: &Arc<dyn Source>,
    file: &File,
    image: Digest,
    progress: &(dyn Fn(Step, u64, u64) + Sync),
) -> Result<Scrubbed, Failed> {
    let store = Store::open(Arc::clone(source), image, CacheLimits::NONE)?;
    let superblock = store.superblock();
    let mut found = Scrubbed {
        root_digest: image.to_string(),
        blocks: superblock.block_count.into(),
        bytes: 0,
        damaged: 0,
        findings: Vec::new(),
    };
    // Memory that has the image must not answer for the disk.
    let forget = || rustix::fs::fadvise(file, 0, None, Advice::DontNeed).unwrap_or_default();
    forget();
    for block in (0..superblock.block_count).map(BlockIndex) {
        match store.entry(block).and_then(|entry| store.stored(block).map(|_| entry)) {
            Ok(entry) => {
                found.bytes = found.bytes.saturating_add(entry.stored_len.into());
                progress(Step::Verifying, entry.end(), superblock.table_offset);
            }
            Err(err) => found.damage(&err),
        }
        if block.0.is_multiple_of(FORGET_AFTER) {
            forget();
        }
    }
    for offset in [0, superblock.backup_offset()] {
        match store::read_superblock(&**source, offset) {
            Ok((_, digest)) if digest == image => {}
            Ok(_) => found.damage(&format!("the superblock at offset {offset} is damaged")),
            Err(err) => found.damage(&err),
        }
    }
    forget();
    Ok(found)
}

impl Scrubbed {
    fn damage(&mut self, what: &dyn std::fmt::Display) {
        self.damaged = self.damaged.saturating_add(1);
        if self.findings.len() < NAMED_MAX {
            self.findings.push(what.to_string());
        }
    }
}
