//! Is all of it true? Every block is hashed and expanded, every rule of SPEC is held against every record, and every byte
//! of the file is accounted for. What is wrong is told as findings, not as a first error, with the files it hits.
//!
//! Time is linear in what the image holds and memory is a few bytes for each block and each inode, also for an image
//! that was sealed by an enemy: the layout rules (S-49, S-57, S-69, S-76) let every section be read once, from front to
//! back, and what lies elsewhere is reported and not followed.

mod account;
mod blocks;
mod cursor;
mod directories;
mod files;
mod hits;
mod inodes;
mod names;
mod node;
mod prefetch;
mod rest;
mod walk;
mod xattrs;

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;

use crate::error::{Corrupt, Error, Result, Untrusted};
use crate::format::digest::Digest;
use crate::format::index::{BlockIndex, InodeIndex};
use crate::format::superblock::{self, Superblock};
use crate::fs::Tree;
use crate::image::Source;
use crate::store::{self, CacheLimits, Store};
use crate::trust;
use account::Account;
use blocks::Blocks;

/// Findings that are kept; further ones are counted. Far more than a person reads, and 20 MiB at most.
const FINDINGS_MAX: usize = 65_536;
/// After so many broken rules the records of an image are not looked at any further.
const CORRUPT_MAX: u64 = 10_000;
/// Metadata blocks that are read side by side, six at most, have 1 MiB at most. Data blocks are not kept.
const CACHE: CacheLimits = CacheLimits { data_bytes_max: 0, metadata_bytes_max: 16 << 20 };

/// Something that is wrong.
#[derive(Debug)]
pub struct Finding {
    /// What it is.
    pub error: Error,
    /// The block it concerns.
    pub block: Option<BlockIndex>,
    /// Where in the file it is.
    pub offset: Option<u64>,
    /// What the bytes at fault are, where that is no block of file content.
    pub part: Option<&'static str>,
    /// Paths of the files that cannot be read in full because of it, from the root, ascending.
    pub files: Vec<Vec<u8>>,
    /// Inodes that it hits and whose paths are lost or were too many.
    pub unnamed: Vec<InodeIndex>,
    /// Whether more files are hit than were written down.
    pub more_files: bool,
}

/// What `verify` found.
#[derive(Debug)]
pub struct Report {
    /// The root digest that the image was held against, when there was one.
    pub root_digest: Option<Digest>,
    /// The superblock, when it is true.
    pub superblock: Option<Superblock>,
    /// Length of the file or device.
    pub file_bytes: u64,
    /// Bytes that were read and held against a digest.
    pub bytes_checked: u64,
    /// Bytes behind the image on a block device, which are no part of it.
    pub slack_bytes: u64,
    /// Blocks that were found true.
    pub blocks_good: u64,
    /// Inodes whose records were looked at.
    pub inodes_checked: u64,
    /// Signatures in the trailer.
    pub signatures: Vec<Vec<u8>>,
    /// What is wrong, from front to back: parts of the file first, then the tree.
    pub findings: Vec<Finding>,
    /// How many more findings there are.
    pub findings_omitted: u64,
}

impl Report {
    /// Whether nothing is wrong and no byte is left.
    pub fn is_clean(&self) -> bool {
        let accounted = self.bytes_checked.checked_add(self.slack_bytes);
        self.findings.is_empty() && accounted == Some(self.file_bytes)
    }

    /// A report of one finding: nothing could be looked at.
    fn failed(source: &dyn Source, error: Error) -> Self {
        let mut findings = Findings::default();
        findings.push(error, None, None);
        Report { findings: findings.list, ..Report::new(source) }
    }

    fn new(source: &dyn Source) -> Self {
        Report {
            root_digest: None,
            superblock: None,
            file_bytes: source.len(),
            bytes_checked: 0,
            slack_bytes: 0,
            blocks_good: 0,
            inodes_checked: 0,
            signatures: Vec::new(),
            findings: Vec::new(),
            findings_omitted: 0,
        }
    }
}

/// Told how far a verification is: bytes of blocks done, and bytes of blocks in all. Called from several threads.
pub type Progress<'a> = &'a (dyn Fn(u64, u64) + Sync);

/// How an image is verified.
#[derive(Clone, Copy)]
pub struct Options<'a> {
    /// Threads that hash and expand.
    pub workers: NonZeroUsize,
    /// Who is told.
    pub progress: Progress<'a>,
}

impl Default for Options<'_> {
    /// One thread for each processor, and nobody is told.
    fn default() -> Self {
        let workers = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        Options { workers, progress: &|_, _| {} }
    }
}

impl fmt::Debug for Options<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").field("workers", &self.workers).finish_non_exhaustive()
    }
}

/// Verifies the whole image that a source holds, against what `open` names.
#[expect(clippy::needless_pass_by_value, reason = "as `open_source` takes it")]
pub fn verify_source(
    source: Arc<dyn Source>,
    open: &crate::Options,
    options: &Options<'_>,
) -> Report {
    match trust::root_digest(&*source, &open.anchor, &open.detached_signatures) {
        Ok(root_digest) => verify(&source, root_digest, options),
        Err(err) => Report::failed(&*source, err),
    }
}

/// Verifies the whole image with a root digest.
pub fn verify(source: &Arc<dyn Source>, root_digest: Digest, options: &Options<'_>) -> Report {
    let mut check = Check {
        source,
        root_digest,
        account: Account::default(),
        report: Report { root_digest: Some(root_digest), ..Report::new(&**source) },
        findings: Findings::default(),
    };
    if let Err(err) = check.run(options) {
        check.findings.push(err, None, None);
    }
    Report {
        bytes_checked: check.account.total(),
        findings: check.findings.list,
        findings_omitted: check.findings.omitted,
        ..check.report
    }
}

/// Findings so far.
#[derive(Debug, Default)]
struct Findings {
    list: Vec<Finding>,
    omitted: u64,
    corrupt: u64,
}

impl Findings {
    /// Writes a finding down; returns its place in the list when there was room.
    fn push(
        &mut self,
        error: Error,
        block: Option<BlockIndex>,
        offset: Option<u64>,
    ) -> Option<usize> {
        if matches!(error, Error::Corrupt(_)) {
            self.corrupt = self.corrupt.saturating_add(1);
        }
        if self.list.len() >= FINDINGS_MAX {
            self.omitted = self.omitted.saturating_add(1);
            return None;
        }
        self.list.push(Finding {
            error,
            block,
            offset,
            part: None,
            files: Vec::new(),
            unnamed: Vec::new(),
            more_files: false,
        });
        self.list.len().checked_sub(1)
    }

    /// Writes down that a rule about the tree is broken.
    fn broken(&mut self, corrupt: Corrupt) {
        self.push(corrupt.into(), None, None);
    }

    /// Whether it is time to stop looking.
    fn too_many(&self) -> bool {
        self.corrupt >= CORRUPT_MAX
    }
}

/// A verification under way.
struct Check<'a> {
    source: &'a Arc<dyn Source>,
    root_digest: Digest,
    account: Account,
    report: Report,
    findings: Findings,
}

impl Check<'_> {
    /// An error ends it: without what failed, nothing further can be judged.
    fn run(&mut self, options: &Options<'_>) -> Result<()> {
        let source = &**self.source;
        let (superblock, used_backup) = store::open_superblock(source, self.root_digest)?;
        self.report.superblock = Some(superblock.clone());
        self.account.add(0, superblock::LEN_ON_DISK);
        if used_backup {
            let found = store::read_superblock(source, 0)?.1;
            let expected = self.root_digest;
            self.findings.push(Untrusted::Superblock { expected, found }.into(), None, Some(0));
        }
        if source.len() < superblock.image_len {
            let (len, image_len) = (source.len(), superblock.image_len);
            return Err(Untrusted::Truncated { len, image_len }.into());
        }
        self.check_backup(&superblock);
        self.check_rest(&superblock);

        let page_list = (superblock.page_list_offset(), superblock.page_list_len());
        let store = match Store::open(Arc::clone(self.source), self.root_digest, CACHE) {
            Ok(store) => Arc::new(store),
            Err(err) => {
                if err.is_damage() {
                    self.account.add(page_list.0, page_list.1);
                }
                self.findings.push(err, None, Some(page_list.0));
                return Ok(());
            }
        };
        self.account.add(page_list.0, page_list.1);
        let mut blocks = Blocks::of_table(&store, &mut self.findings, &mut self.account);
        self.report.blocks_good =
            blocks.check(&store, options, &mut self.findings, &mut self.account);
        let tree = Tree::unchecked(store);
        self.report.inodes_checked = inodes::check(&tree, &blocks, &mut self.findings)?;
        prefetch::check(&tree, &mut self.findings)?;
        if !blocks.bad.is_empty() {
            hits::name_files(&tree, &blocks.bad, &mut self.findings.list);
        }
        Ok(())
    }

    /// The backup superblock (S-03).
    fn check_backup(&mut self, superblock: &Superblock) {
        let offset = superblock.backup_offset();
        match store::read_superblock(&**self.source, offset) {
            Ok((_, digest)) => {
                self.account.add(offset, superblock::LEN_ON_DISK);
                if digest != self.root_digest {
                    self.findings.push(Untrusted::Backup.into(), None, Some(offset));
                }
            }
            Err(err) => {
                self.findings.push(err, None, Some(offset));
            }
        }
    }
}
