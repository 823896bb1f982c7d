//! Is every xattr set right, and some inode's?

use std::ops::ControlFlow;

use super::Findings;
use super::walk::is_about_a_block;
use crate::error::{Corrupt, Error};
use crate::format::COMPAT_POSIX_ACL;
use crate::format::field::{u32_from_u64, usize_from_u64};
use crate::format::superblock::Section;
use crate::format::xattr::{COUNT_LEN, POSIX_ACL_PREFIX};
use crate::fs::Tree;

/// The xattr sets that inodes name.
#[derive(Debug)]
pub(super) struct Sets<'a> {
    tree: &'a Tree,
    /// A bit for each byte of the section: whether a set is said to start there. Only what is written to takes memory.
    starts: Vec<u64>,
    /// Bits that are set.
    count: u64,
    /// Whether all inodes are known and every set could be read.
    complete: bool,
}

impl<'a> Sets<'a> {
    pub(super) fn new(tree: &'a Tree) -> Self {
        let words = tree.superblock().sections.get(Section::Xattrs).div_ceil(64);
        Sets { tree, starts: vec![0; usize_from_u64(words)], count: 0, complete: true }
    }

    /// An inode cannot be had: what set it names is not known.
    pub(super) fn skip(&mut self) {
        self.complete = false;
    }

    /// An inode names the set at `at`.
    pub(super) fn name(&mut self, at: u32, findings: &mut Findings) {
        let section_len = self.tree.superblock().sections.get(Section::Xattrs);
        let count_len = u64::try_from(COUNT_LEN).unwrap_or(u64::MAX);
        if u64::from(at).saturating_add(count_len) > section_len {
            findings.broken(Corrupt::XattrOutside { at });
            self.complete = false;
            return;
        }
        let (word, bit) = place(at);
        if let Some(word) = self.starts.get_mut(word)
            && *word & bit == 0
        {
            *word |= bit;
            self.count = self.count.saturating_add(1);
        }
    }

    fn is_named(&self, at: u32) -> bool {
        let (word, bit) = place(at);
        self.starts.get(word).is_some_and(|word| word & bit != 0)
    }

    /// The first place at or behind `at` where a set is said to start.
    fn next_named(&self, at: u64) -> Option<u64> {
        let (word, _) = place(u32_from_u64(at));
        let first =
            self.starts.get(word)? & u64::MAX.checked_shl(u32_from_u64(at % 64)).unwrap_or(0);
        let rest = self.starts.iter().skip(word).skip(1).copied();
        std::iter::once(first)
            .chain(rest)
            .zip(at / 64..)
            .find(|(word, _)| *word != 0)
            .map(|(word, nth)| nth.saturating_mul(64).saturating_add(word.trailing_zeros().into()))
    }

    /// Reads all sets, from front to back: S-70 to S-76.
    pub(super) fn finish(mut self, findings: &mut Findings) {
        let section_len = self.tree.superblock().sections.get(Section::Xattrs);
        let mut at = 0;
        let mut found = 0_u64;
        let mut acl = false;
        while at < section_len && !findings.too_many() {
            let set = u32_from_u64(at);
            let named = self.is_named(set);
            if named {
                found = found.saturating_add(1);
            } else if self.complete {
                findings.broken(Corrupt::XattrLayout { at: set });
                self.complete = false;
            }
            let mut reached = at.saturating_add(1);
            let end = self.tree.visit_xattrs(set, |attribute| {
                acl |= attribute.name.starts_with(POSIX_ACL_PREFIX);
                reached = attribute.end();
                ControlFlow::Continue(())
            });
            at = match end {
                Ok(end) => end,
                Err(err) => {
                    match err {
                        // What no inode names need not be a set.
                        Error::Corrupt(corrupt)
                            if named && !is_about_a_block(&corrupt.clone().into()) =>
                        {
                            findings.broken(corrupt);
                        }
                        _ => {}
                    }
                    self.complete = false;
                    // Where this set ends is not known. On with the next that is named, behind what was read of this one.
                    match self.next_named(reached) {
                        Some(next) => next,
                        None => break,
                    }
                }
            };
        }
        if !self.complete || findings.too_many() {
            return;
        }
        // All sets lie back to back and are named; whatever else is named starts inside one of them.
        if found != self.count {
            findings.broken(Corrupt::XattrLayout { at: self.stray().unwrap_or(0) });
        }
        let flag = self.tree.superblock().compat & COMPAT_POSIX_ACL != 0;
        if flag != acl {
            findings.broken(Corrupt::AclFlag { flag });
        }
    }

    /// The first place that is named as the start of a set and is none.
    fn stray(&self) -> Option<u32> {
        let mut at = 0;
        while let Some(named) = self.next_named(at) {
            if named != at {
                return Some(u32_from_u64(named));
            }
            at = self.tree.visit_xattrs(u32_from_u64(at), |_| ControlFlow::Continue(())).ok()?;
        }
        None
    }
}

/// The word and the bit that stand for a byte of the section.
fn place(at: u32) -> (usize, u64) {
    (usize_from_u64(u64::from(at) / 64), 1_u64.checked_shl(at % 64).unwrap_or(0))
}
