//! How are all inodes gone through, when some of them may not be there?

use std::ops::{ControlFlow, Range};

use crate::error::{Corrupt, Error};
use crate::format::field::u32_from_u64;
use crate::format::index::InodeIndex;
use crate::format::inode::{self, Inode};
use crate::fs::Tree;

/// One step through the inodes.
#[derive(Debug)]
pub(super) enum Step {
    /// An inode.
    Inode(InodeIndex, Inode),
    /// An inode that breaks a rule.
    Corrupt(InodeIndex, Corrupt),
    /// Inodes that cannot be had, because their block cannot.
    Lost(Range<u32>),
}

/// Whether an error is about a block, which has its finding already, and not about a record in it.
pub(super) fn is_about_a_block(err: &Error) -> bool {
    !matches!(err, Error::Corrupt(corrupt) if !matches!(
        corrupt,
        Corrupt::Codec { .. }
            | Corrupt::EntryReserved { .. }
            | Corrupt::EntryLength { .. }
            | Corrupt::EntryOffset { .. }
            | Corrupt::Expansion { .. }
            | Corrupt::SectionBlock { .. }
    ))
}

/// Visits all inodes in order. A block that cannot be had is tried once, not for each of its inodes.
pub(super) fn each(tree: &Tree, mut visit: impl FnMut(Step) -> ControlFlow<()>) {
    let count = tree.superblock().inode_count();
    let per_block = u64::from(tree.superblock().metadata_block_size()) / inode::LEN_ON_DISK;
    let mut at = 0;
    while at < count {
        let index = InodeIndex(at);
        let step = match tree.inode(index) {
            Ok(inode) => Step::Inode(index, inode),
            Err(Error::Corrupt(corrupt)) if !is_about_a_block(&corrupt.clone().into()) => {
                Step::Corrupt(index, corrupt)
            }
            Err(_) => {
                let into_block = u64::from(at).checked_rem(per_block).unwrap_or(0);
                let end = u64::from(at).saturating_add(per_block.saturating_sub(into_block));
                Step::Lost(at..u32_from_u64(end).min(count))
            }
        };
        at = match &step {
            Step::Lost(range) => range.end,
            _ => at.saturating_add(1),
        };
        if visit(step).is_break() {
            return;
        }
    }
}
