//! Is the prefetch list sound?

use super::Findings;
use crate::error::{Error, Result};
use crate::format::defect::Corrupt;
use crate::format::field::usize_from_u32;
use crate::fs::Tree;

/// Holds the list against S-58 and S-59. Blocks of it that could not be read are findings already.
pub(super) fn check(tree: &Tree, findings: &mut Findings) -> Result<()> {
    if tree.prefetch_len() == 0 {
        return Ok(());
    }
    let mut named = vec![false; usize_from_u32(tree.superblock().data_block_count)];
    for (block, nth) in tree.prefetch_list().zip(0_u64..) {
        match block {
            Ok(block) => {
                // cannot fail: the list's reader has found it to be a data block
                let named = named.get_mut(usize_from_u32(block.0)).ok_or(Error::Invalid)?;
                if std::mem::replace(named, true) {
                    findings.broken(Corrupt::PrefetchTwice { nth, block });
                }
            }
            Err(Error::Corrupt(corrupt)) => findings.broken(corrupt),
            // Damage, which the block's own finding tells.
            Err(_) => return Ok(()),
        }
        if findings.too_many() {
            break;
        }
    }
    Ok(())
}
