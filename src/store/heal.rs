//! What if bytes are not what was sealed, or cannot be read? Other copies of them are looked for, and judged as the first one was.
//!
//! Whoever has other copies is a [`Healer`], and is believed no more than the image: a copy is hashed here, in memory of our own,
//! and only one that has the digest is used. Nothing of this happens, and nothing is locked, as long as the image is whole.

mod calls;
mod late;
mod search;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::proof::{self, BlockKind};
use super::{Store, copy, read_into};
use crate::error::{Error, Result};
use crate::format::defect::Untrusted;
use crate::format::digest::Digest;
use crate::format::index::BlockIndex;
use crate::image::Source;
use search::{Found, Healing};

/// A part of an image that has a digest of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// The superblock, whose digest is the root digest.
    Superblock,
    /// The digests of the table's pages.
    PageList,
    /// A page of the digest table.
    TablePage(u32),
    /// The stored bytes of a block.
    Block(BlockIndex, BlockKind),
}

impl Part {
    /// Which block it is, if it is one.
    pub fn block(self) -> Option<BlockIndex> {
        match self {
            Part::Block(block, _) => Some(block),
            _ => None,
        }
    }

    fn hash(self, bytes: &[u8]) -> Digest {
        match self {
            Part::Superblock => proof::hash_superblock(bytes),
            Part::PageList => proof::hash_page_list(bytes),
            Part::TablePage(_) => proof::hash_table_page(bytes),
            Part::Block(_, kind) => proof::hash_block(kind, bytes),
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Part::Superblock => write!(f, "the superblock"),
            Part::PageList => write!(f, "the page list"),
            Part::TablePage(page) => write!(f, "page {page} of the digest table"),
            Part::Block(block, BlockKind::Data) => write!(f, "block {}", block.0),
            Part::Block(block, BlockKind::Metadata) => write!(f, "metadata block {}", block.0),
        }
    }
}

/// Bytes that are wanted: what they are, where they should be, and what they must hash to.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// What they are.
    pub part: Part,
    /// Where they start in the image.
    pub offset: u64,
    /// How many they are.
    pub len: usize,
    /// What they must hash to.
    pub digest: Digest,
}

impl Wanted {
    /// Holds bytes against the digest.
    fn judge(&self, bytes: &[u8]) -> Result<()> {
        let (expected, found) = (self.digest, self.part.hash(bytes));
        if found == expected {
            return Ok(());
        }
        let offset = self.offset;
        Err(Error::from(match self.part {
            Part::Superblock => Untrusted::Superblock { expected, found },
            Part::PageList => Untrusted::PageList { expected, found },
            Part::TablePage(page) => Untrusted::TablePage { page, expected, found },
            Part::Block(block, _) => Untrusted::Block { block, offset, expected, found },
        }))
    }
}

/// Where a true copy came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cure {
    /// From the same place, past the page cache.
    Reread,
    /// From another image on this machine.
    Image,
    /// From the image's own parity (forward error correction).
    Fec,
    /// From a server.
    Server,
}

impl Cure {
    /// All of them, in the order in which they are tried, with their names in reports.
    pub const ALL: [(Cure, &'static str); 4] = [
        (Cure::Reread, "reread"),
        (Cure::Image, "image"),
        (Cure::Fec, "fec"),
        (Cure::Server, "server"),
    ];

    /// Its name in reports and messages.
    pub fn name(self) -> &'static str {
        Cure::ALL.iter().find(|(cure, _)| *cure == self).map_or("?", |(_, name)| name)
    }
}

/// There is no answer now, which says nothing of what there is: whoever would know is busy, or does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unknown;

/// Bytes that somebody offers.
pub type Offer = Result<Vec<u8>, Unknown>;

/// Somebody who may have other copies of an image's bytes.
pub trait Healer: fmt::Debug + Send + Sync {
    /// How it heals, for the reports.
    fn cure(&self) -> Cure;

    /// Copies of the bytes, each looked for when it is asked for. They may be anything: the first one that is true is used. Who
    /// cannot tell now whether it has one says so: then the bytes are not lost.
    ///
    /// It must not read through the store that asks, which would ask again.
    fn copies<'a>(&'a self, wanted: &'a Wanted) -> Box<dyn Iterator<Item = Offer> + 'a>;
}

/// All who may have other copies, and how they are asked.
#[derive(Debug, Clone)]
pub struct Healers {
    /// One after the other.
    pub all: Vec<Arc<dyn Healer>>,
    /// What each thread does first that is started to ask them: it gives up its privileges, say.
    pub first: fn(),
    /// Until when one who wants bytes waits for them, if that is longer than usual.
    pub patient_until: Option<Instant>,
}

impl From<Vec<Arc<dyn Healer>>> for Healers {
    fn from(all: Vec<Arc<dyn Healer>>) -> Self {
        Healers { all, first: || {}, patient_until: None }
    }
}

/// How the search for other copies ended.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// What was wanted.
    pub wanted: Wanted,
    /// What was wrong with the image's own bytes.
    pub why: String,
    /// Where a true copy came from; `None` when there was none.
    pub cure: Option<Cure>,
    /// How long it took.
    pub took: Duration,
}

/// Told of outcomes that are news, while those who wanted the bytes wait: it must be quick.
pub type Listener = Box<dyn Fn(Outcome) + Send + Sync>;

/// The bytes of an image, as they were sealed.
pub(super) struct Sealed {
    source: Arc<dyn Source>,
    healing: Arc<Healing>,
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (source, healers) = (&self.source, &self.healing.healers.all);
        f.debug_struct("Sealed")
            .field("source", source)
            .field("healers", healers)
            .finish_non_exhaustive()
    }
}

impl Sealed {
    pub(super) fn new(source: Arc<dyn Source>, healers: Healers, is_restored: bool) -> Self {
        Sealed { source, healing: Arc::new(Healing::new(healers, is_restored)) }
    }

    /// Whether there is anybody to ask.
    pub(super) fn can_heal(&self) -> bool {
        !self.healing.healers.all.is_empty()
    }

    pub(super) fn source(&self) -> &dyn Source {
        &*self.source
    }

    /// Copies what is wanted into `into` and proves the copy, whoever has it. On error the buffer holds nothing to be used.
    pub(super) fn read(&self, wanted: &Wanted, into: &mut [u8]) -> Result<()> {
        self.read_here(wanted, into).or_else(|err| self.heal(wanted, into, err))
    }

    /// The same where only the image itself is looked at: for those who may not lock anything.
    pub(super) fn read_here(&self, wanted: &Wanted, into: &mut [u8]) -> Result<()> {
        let read = read_into(&*self.source, wanted.offset, into);
        read.and_then(|()| wanted.judge(into)).inspect_err(|_| into.fill(0))
    }

    /// Looks elsewhere for what the image does not have. Several who want the same bytes cause one search. When nobody has any,
    /// what was wrong with the image's own is the error; when it takes too long, or somebody cannot tell, that it is not known.
    #[cold]
    pub(super) fn heal(&self, wanted: &Wanted, into: &mut [u8], err: Error) -> Result<()> {
        let healing = &self.healing;
        // Of a disk that does not answer in time nothing is known to be wrong, and the next read of it would not be answered either.
        if err.is_timeout() || healing.has_given_up(wanted.part) {
            return Err(err);
        }
        if !self.can_heal() {
            healing.lose(wanted, &err);
            return Err(err);
        }
        match healing.find(wanted, &err) {
            Found::Bytes(bytes) => copy(&bytes, into),
            Found::Nowhere => Err(err),
            Found::NotYet => Err(Error::io(
                format!("it is not known yet whether somebody else has {}", wanted.part),
                io::Error::new(io::ErrorKind::TimedOut, err.to_string()),
            )),
        }
    }

    /// From now on, somebody is told of outcomes. There is one at most.
    pub(super) fn listen(&self, listener: Listener) {
        self.healing.listen(listener);
    }

    /// From now on whoever wants bytes waits for them as long as usual, and no longer.
    pub(super) fn end_patience(&self) {
        self.healing.end_patience();
    }

    /// How often bytes were healed, by each cure.
    pub(super) fn healed(&self) -> Vec<(Cure, u64)> {
        self.healing.healed()
    }

    /// How many parts of the image nobody has.
    pub(super) fn lost(&self) -> u64 {
        self.healing.lost()
    }
}

/// What a store says of that.
impl Store {
    /// How often bytes were healed, by each cure.
    pub fn healed(&self) -> Vec<(Cure, u64)> {
        self.sealed.healed()
    }

    /// How many blocks, pages and the like were wanted, and nobody has them.
    pub fn lost(&self) -> u64 {
        self.sealed.lost()
    }

    /// From now on, somebody is told of what is healed and what is lost, each once. A second listener hears nothing.
    pub fn listen(&self, listener: Listener) {
        self.sealed.listen(listener);
    }

    /// Others wait for who reads from now on: nobody waits longer than usual for bytes that the image does not have any more, whatever
    /// [`crate::Options::heal_until`] said.
    pub fn end_patience(&self) {
        self.sealed.end_patience();
    }
}

/// Where the superblock is wanted.
pub(super) fn wanted_superblock(root_digest: Digest) -> Wanted {
    let len = crate::format::superblock::LEN;
    Wanted { part: Part::Superblock, offset: 0, len, digest: root_digest }
}

#[cfg(test)]
mod tests;
