//! Who is asked for other copies, when, and what is believed.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use super::search::{Healing, Limits};
use super::{Cure, Healer, Healers, Offer, Part, Sealed, Unknown, Wanted};
use crate::error::Error;
use crate::format::defect::Untrusted;
use crate::format::index::BlockIndex;
use crate::image::Source;
use crate::store::proof::{self, BlockKind};

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
    let healers: Vec<Arc<dyn Healer>> = vec![Arc::new(Sibling(BlockIndex(MANY))), parity.clone()];
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
    healing.limits = Limits { patience: Duration::from_secs(2), hang: Duration::from_millis(200) };
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
    let healers = Healers { first, ..Healers::from(vec![Arc::new(Witness) as Arc<dyn Healer>]) };
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
    let sealed = slow(Some(now + Duration::from_mins(1)));
    sealed.end_patience();
    let read = sealed.read(&wanted(), &mut vec![0; GOOD.len()]);
    assert!(read.unwrap_err().is_timeout(), "others wait by now");
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
