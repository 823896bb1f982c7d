//! Is every block true, and does the table describe them all? Blocks are shared out among threads.

use std::sync::atomic::{AtomicU64, Ordering};

use super::account::Account;
use super::{Findings, Options, Progress};
use crate::error::{Corrupt, Error};
use crate::format::entry::{ENTRIES_PER_PAGE, Entry, LEN_ON_DISK};
use crate::format::field::{u32_from_u64, u32_from_usize, usize_from_u32};
use crate::format::index::BlockIndex;
use crate::format::superblock::{self, Section, Superblock};
use crate::store::Store;
use crate::store::parallel::on_threads;

/// Blocks that a thread takes at a time: neighbours in the file, and a few milliseconds of work.
const BLOCKS_AT_A_TIME: u32 = 16;

/// What is known of the blocks.
#[derive(Debug)]
pub(super) struct Blocks {
    /// Length of each block's content; 0 where it is not known because its page of the table is lost.
    content_lens: Vec<u32>,
    /// Blocks that cannot be had, in ascending order.
    pub(super) bad: Vec<Bad>,
}

/// A range of blocks that cannot be had, for one reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Bad {
    pub(super) first: u32,
    pub(super) end: u32,
    /// Place of the reason among the findings, where it was written down.
    pub(super) finding: Option<usize>,
}

impl Blocks {
    /// Reads the whole table. A page that is damaged or breaks a rule costs the blocks that it describes.
    pub(super) fn of_table(store: &Store, findings: &mut Findings, account: &mut Account) -> Self {
        let superblock = store.superblock();
        // `block_count` is backed by a table of 48 bytes for each, which the file was found to be long enough for.
        let mut blocks = Blocks {
            content_lens: vec![0; usize_from_u32(superblock.block_count)],
            bad: Vec::new(),
        };
        // Where the blocks of a page have to start; not known behind a page that is lost.
        let mut due = None;
        for page in 0..superblock.page_count() {
            let first = page.saturating_mul(ENTRIES_PER_PAGE);
            let count = superblock.block_count.saturating_sub(first).min(ENTRIES_PER_PAGE);
            let at = u64::from(first).saturating_mul(LEN_ON_DISK);
            let offset = superblock.table_offset.saturating_add(at);
            let read = store.table_page(page);
            if read.as_ref().err().is_none_or(Error::is_damage) {
                account.add(offset, u64::from(count).saturating_mul(LEN_ON_DISK));
            }
            match read {
                Ok(entries) => {
                    check_place(first, &entries, due, findings);
                    due = entries.last().map(Entry::end);
                    blocks.check_lengths(superblock, first, &entries, findings);
                }
                Err(err) => {
                    let finding = findings.push(err, None, Some(offset));
                    set_part(findings, finding, "digest table");
                    blocks.bad.push(Bad { first, end: first.saturating_add(count), finding });
                    due = None;
                }
            }
        }
        blocks
    }

    /// Notes the content lengths of a page's blocks and holds those of metadata blocks against their section (S-31).
    fn check_lengths(
        &mut self,
        superblock: &Superblock,
        first: u32,
        entries: &[Entry],
        findings: &mut Findings,
    ) {
        for (entry, block) in entries.iter().zip(first..) {
            if let Some(len) = self.content_lens.get_mut(usize_from_u32(block)) {
                *len = entry.content_len;
            }
            let Some((_, expected)) = section_of(superblock, block) else { continue };
            let (block, content_len) = (BlockIndex(block), entry.content_len);
            if content_len != expected {
                let corrupt = Corrupt::SectionBlock { block, content_len, expected };
                findings.push(corrupt.into(), Some(block), Some(entry.offset));
            }
        }
    }

    /// Hashes and expands every block once; returns how many are good.
    pub(super) fn check(
        &mut self,
        store: &Store,
        options: &Options<'_>,
        findings: &mut Findings,
        account: &mut Account,
    ) -> u64 {
        let shared = Shared {
            store,
            content_lens: &self.content_lens,
            next: AtomicU64::new(0),
            bytes_done: AtomicU64::new(0),
            bytes: store.superblock().table_offset.saturating_sub(superblock::LEN_ON_DISK),
            progress: options.progress,
        };
        let workers = options.workers.get().min(self.content_lens.len().max(1));
        let works = on_threads(workers, || shared.work(Work::default()));
        // A thread that panicked has checked nothing; its blocks are missing in the account.
        let mut works: Vec<Work> = works.into_iter().filter_map(Result::ok).collect();
        let mut failures = Vec::new();
        let mut good = 0_u64;
        for work in &mut works {
            failures.append(&mut work.failures);
            account.join(std::mem::take(&mut work.account));
            good = good.saturating_add(work.good);
        }
        failures.sort_unstable_by_key(|failure| failure.block);
        for Failure { block, offset, error } in failures {
            let finding = findings.push(error, Some(block), Some(offset));
            if let Some((section, _)) = section_of(store.superblock(), block.0) {
                set_part(findings, finding, section.name());
            }
            self.bad.push(Bad { first: block.0, end: block.0.saturating_add(1), finding });
        }
        self.bad.sort_unstable();
        good
    }

    /// Length of a block's content; nothing when it is not known.
    pub(super) fn content_len(&self, block: u32) -> Option<u32> {
        self.content_lens.get(usize_from_u32(block)).copied().filter(|len| *len > 0)
    }

    /// For each data block, how many before it have a known length other than that of a full one; and for the end.
    pub(super) fn count_short(&self, superblock: &Superblock) -> Vec<u32> {
        let data = usize_from_u32(superblock.data_block_count);
        let mut count = 0_u32;
        let mut counts = vec![0];
        counts.extend(self.content_lens.iter().take(data).map(|len| {
            if *len != 0 && *len != superblock.block_size() {
                count = count.saturating_add(1);
            }
            count
        }));
        counts
    }
}

/// The first block of a page lies where the last one of the page before ended (S-26).
fn check_place(first: u32, entries: &[Entry], due: Option<u64>, findings: &mut Findings) {
    if let (Some(expected), Some(entry)) = (due, entries.first())
        && entry.offset != expected
    {
        let (block, offset) = (BlockIndex(first), entry.offset);
        let corrupt = Corrupt::EntryOffset { block, offset, expected };
        findings.push(corrupt.into(), Some(block), Some(offset));
    }
}

fn set_part(findings: &mut Findings, finding: Option<usize>, part: &'static str) {
    if let Some(finding) = finding.and_then(|at| findings.list.get_mut(at)) {
        finding.part = Some(part);
    }
}

/// The section that a metadata block is part of, and how long its content has to be.
pub(super) fn section_of(superblock: &Superblock, block: u32) -> Option<(Section, u32)> {
    Section::ALL.into_iter().find_map(|section| {
        let nth = block.checked_sub(superblock.section_first_block(section))?;
        let size = u64::from(superblock.metadata_block_size());
        let before = u64::from(nth).saturating_mul(size);
        let rest = superblock.sections.get(section).checked_sub(before).filter(|rest| *rest > 0)?;
        Some((section, u32_from_u64(rest.min(size))))
    })
}

/// What the threads share.
struct Shared<'a> {
    store: &'a Store,
    content_lens: &'a [u32],
    next: AtomicU64,
    bytes_done: AtomicU64,
    bytes: u64,
    progress: Progress<'a>,
}

/// What a thread has done.
#[derive(Default)]
struct Work {
    good: u64,
    account: Account,
    failures: Vec<Failure>,
}

struct Failure {
    block: BlockIndex,
    offset: u64,
    error: Error,
}

impl Shared<'_> {
    fn work(&self, mut work: Work) -> Work {
        let count = u32_from_usize(self.content_lens.len());
        let mut content = Vec::new();
        loop {
            let first = self.next.fetch_add(BLOCKS_AT_A_TIME.into(), Ordering::Relaxed);
            let first = u32_from_u64(first);
            if first >= count {
                return work;
            }
            let mut bytes = 0_u64;
            for block in (first..first.saturating_add(BLOCKS_AT_A_TIME).min(count)).map(BlockIndex)
            {
                // A block whose page is lost is part of the page's finding.
                if self.content_lens.get(usize_from_u32(block.0)) == Some(&0) {
                    continue;
                }
                let entry = match self.store.entry(block) {
                    Ok(entry) => entry,
                    // The page was good a moment ago.
                    Err(error) => {
                        work.failures.push(Failure { block, offset: 0, error });
                        continue;
                    }
                };
                bytes = bytes.saturating_add(entry.stored_len.into());
                self.check(block, &entry, &mut content, &mut work);
            }
            let done = self.bytes_done.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
            (self.progress)(done, self.bytes);
        }
    }

    fn check(&self, block: BlockIndex, entry: &Entry, content: &mut Vec<u8>, work: &mut Work) {
        let len = usize_from_u32(entry.content_len);
        content.resize(content.len().max(len), 0);
        let result = match content.get_mut(..len) {
            Some(content) => self.store.get_into(block, content),
            None => Err(Error::Invalid),
        };
        if result.as_ref().err().is_none_or(Error::is_damage) {
            work.account.add(entry.offset, entry.stored_len.into());
        }
        match result {
            Ok(()) => work.good = work.good.saturating_add(1),
            Err(error) => work.failures.push(Failure { block, offset: entry.offset, error }),
        }
    }
}
