//! Which files are in these blocks? Asked when something is wrong with them: the tree knows only the other way.

use std::collections::{BTreeMap, BTreeSet};

use super::Tree;
use crate::format::index::{BlockIndex, InodeIndex};
use crate::format::inode::Kind;

/// Paths that are told of one block.
const PATHS_MAX: usize = 8;
/// Stretches of files that are looked at. A tree that was made to need more has no list worth waiting for.
const STEPS_MAX: u64 = 10_000_000;

/// Files whose content is in a block.
#[derive(Debug, Default)]
pub struct Holders {
    /// Paths from the root without a leading slash, as many as are told.
    pub paths: Vec<Vec<u8>>,
    /// How many more there are.
    pub more: u64,
}

impl Tree {
    /// The files that are in data blocks. What of the tree cannot be read is left out.
    pub fn holders(&self, blocks: &BTreeSet<BlockIndex>) -> BTreeMap<BlockIndex, Holders> {
        let mut holders = BTreeMap::<BlockIndex, Holders>::new();
        if blocks.is_empty() {
            return holders;
        }
        let mut steps = 0_u64;
        let visits = self.walk(InodeIndex::ROOT).filter_map(|(_, visit)| visit.ok());
        for visit in visits.filter(|visit| visit.inode.kind == Kind::File) {
            let Ok(file) = self.file_of(visit.index, &visit.inode) else { continue };
            let mut own = BTreeSet::new();
            for extent in file.extents().map_while(Result::ok) {
                steps = steps.saturating_add(1);
                let range = extent.place.blocks();
                own.extend(blocks.range(BlockIndex(range.start)..BlockIndex(range.end)));
                if steps > STEPS_MAX {
                    return holders;
                }
            }
            for block in own {
                let of_block = holders.entry(block).or_default();
                if of_block.paths.len() < PATHS_MAX {
                    of_block.paths.push(visit.path.clone());
                } else {
                    of_block.more = of_block.more.saturating_add(1);
                }
            }
        }
        holders
    }
}
