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
use super::{copy, read_into};
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

    /// How often bytes were healed, by each cure.
    pub(super) fn healed(&self) -> Vec<(Cure, u64)> {
        self.healing.healed()
    }

    /// How many parts of the image nobody has.
    pub(super) fn lost(&self) -> u64 {
        self.healing.lost()
    }
}

/// Where the superblock is wanted.
pub(super) fn wanted_superblock(root_digest: Digest) -> Wanted {
    let len = crate::format::superblock::LEN;
    Wanted { part: Part::Superblock, offset: 0, len, digest: root_digest }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::RwLock;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::search::Limits;

    /// Bytes that are wrong, or an error, and a count of how often they were read.
    #[derive(Debug)]
    struct Rotten(Option<Vec<u8>>);

    impl Source for Rotten {
        fn len(&self) -> u64 {
            1 << 20
        }

        fn read_exact_at(&self, buf: &mut [u8], _: u64) -> std::io::Result<()> {
            let bytes = self.0.as_ref().ok_or(std::io::ErrorKind::InvalidData)?;
            buf.copy_from_slice(bytes);
            Ok(())
        }
    }

    /// Offers these copies, and takes its time.
    #[derive(Debug)]
    struct Doctor {
        copies: Vec<Vec<u8>>,
        asked: AtomicUsize,
        takes: Duration,
        cure: Cure,
    }

    impl Healer for Doctor {
        fn cure(&self) -> Cure {
            self.cure
        }

        fn copies<'a>(&'a self, _: &'a Wanted) -> Box<dyn Iterator<Item = Offer> + 'a> {
            self.asked.fetch_add(1, Ordering::SeqCst);
            std::thread::sleep(self.takes);
            Box::new(self.copies.iter().cloned().map(Ok))
        }
    }

    const GOOD: &[u8] = b"these are the bytes";

    fn wanted() -> Wanted {
        let digest = proof::hash_block(BlockKind::Data, GOOD);
        let part = Part::Block(BlockIndex(7), BlockKind::Data);
        Wanted { part, offset: 4096, len: GOOD.len(), digest }
    }

    fn sealed(own: Option<&[u8]>, copies: &[&[u8]], takes: Duration) -> (Arc<Sealed>, Arc<Doctor>) {
        let copies = copies.iter().map(|copy| copy.to_vec()).collect();
        let cure = Cure::Image;
        let doctor = Arc::new(Doctor { copies, asked: AtomicUsize::new(0), takes, cure });
        let healers: Vec<Arc<dyn Healer>> = vec![doctor.clone()];
        let source = Arc::new(Rotten(own.map(<[u8]>::to_vec)));
        (Arc::new(Sealed::new(source, healers.into(), false)), doctor)
    }

    #[test]
    fn nobody_is_asked_while_the_image_is_whole() {
        let (sealed, doctor) = sealed(Some(GOOD), &[GOOD], Duration::ZERO);
        let mut into = vec![0; GOOD.len()];
        sealed.read(&wanted(), &mut into).unwrap();
        assert_eq!(into, GOOD);
        assert_eq!(doctor.asked.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn the_first_true_copy_is_used_and_no_other_ever() {
        let mut wrong = GOOD.to_vec();
        wrong[3] ^= 1;
        for own in [Some(&wrong[..]), None] {
            let mut into = vec![9; GOOD.len()];
            let (sealed, _) = sealed(own, &[&wrong, b"", &GOOD[1..], GOOD, &wrong], Duration::ZERO);
            sealed.read(&wanted(), &mut into).unwrap();
            assert_eq!(into, GOOD);
            assert_eq!(sealed.healed()[1], (Cure::Image, 1));
            assert_eq!(sealed.lost(), 0);
        }
        let (sealed, _) = sealed(Some(&wrong), &[&wrong, b"", &wrong], Duration::ZERO);
        let mut into = vec![9; GOOD.len()];
        let err = sealed.read(&wanted(), &mut into).unwrap_err();
        assert!(matches!(err, Error::Untrusted(Untrusted::Block { block: BlockIndex(7), .. })));
        assert_eq!(into, vec![0; GOOD.len()], "what is not true is not left there");
        assert_eq!(sealed.lost(), 1);
        assert!(sealed.read(&wanted(), &mut into).is_err());
        assert_eq!(sealed.lost(), 1, "the same one again");
    }

    #[test]
    fn many_who_ask_cause_one_search_and_all_have_its_end() {
        for copies in [&[GOOD][..], &[]] {
            let (sealed, doctor) = sealed(None, copies, Duration::from_millis(300));
            std::thread::scope(|scope| {
                for _ in 0..8 {
                    scope.spawn(|| {
                        let mut into = vec![0; GOOD.len()];
                        let read = sealed.read(&wanted(), &mut into);
                        assert_eq!(read.is_ok(), !copies.is_empty());
                        assert_eq!(into == GOOD, !copies.is_empty());
                    });
                }
            });
            assert_eq!(doctor.asked.load(Ordering::SeqCst), 1);
            assert!(sealed.healing.is_idle());
        }
    }

    /// Comes back when it is let go, with nothing.
    #[derive(Debug)]
    struct Hung {
        held: RwLock<()>,
        asked: AtomicUsize,
        cure: Cure,
    }

    impl Hung {
        fn new(cure: Cure) -> Arc<Self> {
            Arc::new(Hung { held: RwLock::default(), asked: AtomicUsize::new(0), cure })
        }
    }

    impl Healer for Hung {
        fn cure(&self) -> Cure {
            self.cure
        }

        fn copies<'a>(&'a self, _: &'a Wanted) -> Box<dyn Iterator<Item = Offer> + 'a> {
            self.asked.fetch_add(1, Ordering::SeqCst);
            drop(self.held.read());
            Box::new(std::iter::empty())
        }
    }

    #[test]
    fn who_hangs_keeps_nobody_from_healing() {
        let hung = Hung::new(Cure::Image);
        let parity = Arc::new(Doctor {
            copies: vec![GOOD.to_vec()],
            asked: AtomicUsize::new(0),
            takes: Duration::ZERO,
            cure: Cure::Fec,
        });
        let healers: Vec<Arc<dyn Healer>> = vec![hung.clone(), parity];
        let mut healing = Healing::new(healers.into(), false);
        healing.limits.hang = Duration::from_millis(500);
        let sealed = Sealed { source: Arc::new(Rotten(None)), healing: Arc::new(healing) };
        let read = |nth: u32| {
            let part = Part::Block(BlockIndex(nth), BlockKind::Data);
            let mut into = vec![0; GOOD.len()];
            let read = sealed.read(&Wanted { part, ..wanted() }, &mut into);
            assert_eq!(read.is_ok(), into == GOOD);
            read
        };
        let held = hung.held.write().unwrap();
        // As many as there are searches at once, before it is known that it hangs, and then more.
        std::thread::scope(|scope| {
            let first: Vec<_> = (0..8).map(|nth| scope.spawn(move || read(nth))).collect();
            for thread in first {
                thread.join().unwrap().unwrap();
            }
        });
        let asked = hung.asked.load(Ordering::SeqCst);
        (8..24).for_each(|nth| read(nth).unwrap());
        assert_eq!((asked, hung.asked.load(Ordering::SeqCst)), (8, 8));
        assert_eq!(sealed.healed()[2], (Cure::Fec, 24));
        drop(held);
        // It comes back, and is asked again.
        for _ in 0..1000 {
            read(7).unwrap();
            if hung.asked.load(Ordering::SeqCst) > asked {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("it is passed over for good");
    }

    /// Has one of many blocks.
    #[derive(Debug)]
    struct Sibling(BlockIndex);

    impl Healer for Sibling {
        fn cure(&self) -> Cure {
            Cure::Image
        }

        fn copies<'a>(&'a self, wanted: &'a Wanted) -> Box<dyn Iterator<Item = Offer> + 'a> {
            let has = wanted.part.block() == Some(self.0);
            Box::new(has.then(|| Ok(GOOD.to_vec())).into_iter())
        }
    }

    #[test]
    fn many_who_wait_for_parity_keep_nobody_from_healing() {
        const MANY: u32 = 20;
        let parity = Hung::new(Cure::Fec);
        let healers: Vec<Arc<dyn Healer>> =
            vec![Arc::new(Sibling(BlockIndex(MANY))), parity.clone()];
        let sealed = Sealed::new(Arc::new(Rotten(None)), healers.into(), false);
        let read = |nth: u32| {
            let part = Part::Block(BlockIndex(nth), BlockKind::Data);
            sealed.read(&Wanted { part, ..wanted() }, &mut vec![0; GOOD.len()])
        };
        let held = parity.held.write().unwrap();
        std::thread::scope(|scope| {
            for nth in 0..MANY {
                scope.spawn(move || read(nth).unwrap_err());
                let is_asked = || parity.asked.load(Ordering::SeqCst) > nth as usize;
                let begun = Instant::now();
                while !is_asked() && begun.elapsed() < Duration::from_secs(5) {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            read(MANY).unwrap();
            drop(held);
        });
    }

    #[test]
    fn what_only_one_has_that_hangs_is_not_lost() {
        let hung = Hung::new(Cure::Image);
        let healers: Vec<Arc<dyn Healer>> = vec![hung.clone()];
        let mut healing = Healing::new(healers.into(), false);
        healing.limits =
            Limits { patience: Duration::from_secs(2), hang: Duration::from_millis(200) };
        let sealed = Sealed { source: Arc::new(Rotten(None)), healing: Arc::new(healing) };
        let mut into = vec![0; GOOD.len()];
        let held = hung.held.write().unwrap();
        for nth in [1, 2, 1] {
            let part = Part::Block(BlockIndex(nth), BlockKind::Data);
            let err = sealed.read(&Wanted { part, ..wanted() }, &mut into).unwrap_err();
            assert!(err.is_timeout(), "{err}");
        }
        assert_eq!(sealed.lost(), 0);
        drop(held);
        let part = Part::Block(BlockIndex(3), BlockKind::Data);
        let err = sealed.read(&Wanted { part, ..wanted() }, &mut into).unwrap_err();
        assert!(!err.is_timeout(), "{err}");
        assert!(sealed.lost() > 0);
    }

    /// Cannot tell.
    #[derive(Debug)]
    struct Busy;

    impl Healer for Busy {
        fn cure(&self) -> Cure {
            Cure::Fec
        }

        fn copies<'a>(&'a self, _: &'a Wanted) -> Box<dyn Iterator<Item = Offer> + 'a> {
            Box::new([Ok(Vec::new()), Err(Unknown), Ok(Vec::new())].into_iter())
        }
    }

    #[test]
    fn what_somebody_cannot_tell_is_not_lost() {
        let doctor = |copies| {
            let asked = AtomicUsize::new(0);
            Arc::new(Doctor { copies, asked, takes: Duration::ZERO, cure: Cure::Server })
        };
        let read = |doctor: &Arc<Doctor>| {
            let healers: Vec<Arc<dyn Healer>> = vec![Arc::new(Busy), doctor.clone()];
            let sealed = Sealed::new(Arc::new(Rotten(None)), healers.into(), false);
            let mut into = vec![0; GOOD.len()];
            let read = sealed.read(&wanted(), &mut into);
            assert_eq!((sealed.lost(), read.is_ok()), (0, into == GOOD));
            read
        };
        // Who comes after is asked.
        let nobody = doctor(Vec::new());
        let begun = Instant::now();
        let err = read(&nobody).unwrap_err();
        assert!(err.is_timeout() && begun.elapsed() < Duration::from_secs(5), "{err}");
        assert_eq!(nobody.asked.load(Ordering::SeqCst), 1);
        read(&doctor(vec![GOOD.to_vec()])).unwrap();
    }

    #[test]
    fn who_is_asked_is_asked_by_threads_that_did_something_first() {
        thread_local! {
            static HAS_BEGUN: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
        }
        #[derive(Debug)]
        struct Witness;
        impl Healer for Witness {
            fn cure(&self) -> Cure {
                Cure::Image
            }
            fn copies<'a>(&'a self, _: &'a Wanted) -> Box<dyn Iterator<Item = Offer> + 'a> {
                Box::new(HAS_BEGUN.get().then(|| Ok(GOOD.to_vec())).into_iter())
            }
        }
        let first = || HAS_BEGUN.set(true);
        let healers =
            Healers { first, ..Healers::from(vec![Arc::new(Witness) as Arc<dyn Healer>]) };
        let sealed = Sealed::new(Arc::new(Rotten(None)), healers, false);
        sealed.read(&wanted(), &mut vec![0; GOOD.len()]).unwrap();
        assert!(!HAS_BEGUN.get(), "whoever reads has nothing to do with it");
    }

    /// An image that is opened with patience, such that its searches take longer than anybody waits.
    fn slow(patient_until: Option<Instant>) -> Arc<Sealed> {
        let (asked, takes) = (AtomicUsize::new(0), Duration::from_millis(600));
        let doctor = Doctor { copies: vec![GOOD.to_vec()], asked, takes, cure: Cure::Fec };
        let healers: Vec<Arc<dyn Healer>> = vec![Arc::new(doctor)];
        let mut healing = Healing::new(Healers { patient_until, ..healers.into() }, false);
        healing.limits.patience = Duration::from_millis(300);
        Arc::new(Sealed { source: Arc::new(Rotten(None)), healing: Arc::new(healing) })
    }

    #[test]
    fn who_opens_an_image_may_have_more_patience() {
        let read = |until| slow(until).read(&wanted(), &mut vec![0; GOOD.len()]);
        assert!(read(None).unwrap_err().is_timeout());
        let now = Instant::now();
        assert!(read(Some(now)).unwrap_err().is_timeout(), "it ends");
        read(Some(now + Duration::from_mins(1))).unwrap();
    }

    #[test]
    fn what_is_found_too_late_is_there_for_who_asks_again() {
        let sealed = slow(None);
        let mut into = vec![0; GOOD.len()];
        assert!(sealed.read(&wanted(), &mut into).unwrap_err().is_timeout());
        while !sealed.healing.is_idle() {
            std::thread::sleep(Duration::from_millis(10));
        }
        sealed.read(&wanted(), &mut into).unwrap();
        assert_eq!((&into[..], sealed.healed()[2]), (GOOD, (Cure::Fec, 1)));
        assert!(sealed.read(&wanted(), &mut into).is_err(), "it is given away once");
    }

    #[test]
    fn what_is_news_is_told_once() {
        let (sealed, _) = sealed(None, &[GOOD], Duration::ZERO);
        let told = Arc::new(AtomicUsize::new(0));
        let theirs = Arc::clone(&told);
        sealed.listen(Box::new(move |outcome| {
            assert_eq!(outcome.cure, Some(Cure::Image));
            theirs.fetch_add(1, Ordering::SeqCst);
        }));
        let mut into = vec![0; GOOD.len()];
        for _ in 0..3 {
            sealed.read(&wanted(), &mut into).unwrap();
        }
        assert_eq!(told.load(Ordering::SeqCst), 1);
        assert_eq!(sealed.healed()[1].1, 3);
    }
}
