//! Is what is damaged healed from where a true copy is, and never from where there is none? Here by the library; `heal_mount.rs`
//! does the same through a mount, `heal_repair.rs` with `ashlar verify --repair`.

#[path = "support/pair.rs"]
mod pair;
#[path = "support/server.rs"]
mod server;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ashlarfs::format::index::BlockIndex;
use ashlarfs::heal::Ladder;
use ashlarfs::heal::siblings::Siblings;
use ashlarfs::store::heal::{Cure, Offer, Wanted};
use ashlarfs::update::ranges;
use ashlarfs::{Anchor, CacheLimits, Healer, Method, Options, Source, Store};
use pair::{Pair, Random};
use server::{Answer, Question, Server};

const NO_CACHE: CacheLimits = CacheLimits { data_bytes_max: 0, metadata_bytes_max: 0 };

fn ladder(image: &Path) -> Vec<Arc<dyn Healer>> {
    Ladder::beside(image).into_healers()
}

fn healed(store: &Store, cure: Cure) -> u64 {
    store.healed().into_iter().find(|(it, _)| *it == cure).unwrap().1
}

/// The new image is damaged at random, again and again: each block that the old one has too is healed, the others are an error.
#[test]
fn what_two_images_share_is_healed_and_nothing_else() {
    let pair = Pair::new();
    let mut healed_in_all = 0;
    for seed in 0..40 {
        let mut random = Random(seed);
        fs::write(&pair.new, &pair.whole).unwrap();
        let damaged = pair.one_percent(&mut random);
        pair.damage(&pair.new, &damaged, &mut random);
        let source = ashlarfs::image::open(&pair.new, Method::Pread).unwrap();
        let store = Store::open_healing(source, pair.digest, NO_CACHE, ladder(&pair.new)).unwrap();
        pair.assert_healed(&store, &damaged);
        healed_in_all += healed(&store, Cure::Image);
    }
    assert!(healed_in_all > 200, "{healed_in_all}");
}

#[test]
fn without_another_image_nothing_is_healed() {
    let pair = Pair::new();
    fs::remove_file(&pair.old).unwrap();
    let mut random = Random(1);
    let damaged = pair.one_percent(&mut random);
    pair.damage(&pair.new, &damaged, &mut random);
    let source = ashlarfs::image::open(&pair.new, Method::Pread).unwrap();
    let store = Store::open_healing(source, pair.digest, NO_CACHE, ladder(&pair.new)).unwrap();
    for block in &damaged {
        assert!(store.stored(BlockIndex(u32::try_from(*block).unwrap())).is_err());
    }
    assert_eq!(store.lost(), damaged.len() as u64);
    assert!(store.healed().iter().all(|(_, count)| *count == 0));
}

/// Images that come later are noticed at the next need, and so are those that go, and those that take another one's place.
/// A little longer than nobody looks again for what nobody had.
const REST: Duration = Duration::from_millis(1100);

#[test]
fn images_come_and_go() {
    let pair = Pair::new();
    let shared = (0..pair.entries.len()).find(|block| pair.is_shared(*block)).unwrap();
    pair.damage(&pair.new, &BTreeSet::from([shared]), &mut Random(3));
    let away = pair.path("away");
    fs::rename(&pair.old, &away).unwrap();
    let source = ashlarfs::image::open(&pair.new, Method::Pread).unwrap();
    let store = Store::open_healing(source, pair.digest, NO_CACHE, ladder(&pair.new)).unwrap();
    let block = BlockIndex(u32::try_from(shared).unwrap());
    assert!(store.stored(block).is_err());
    assert_eq!(store.lost(), 1);
    thread::sleep(REST);
    for _ in 0..3 {
        fs::rename(&away, &pair.old).unwrap();
        assert_eq!(store.stored(block).unwrap(), pair.stored(shared));
        assert_eq!(store.lost(), 0, "what is found again is lost no more");
        fs::rename(&pair.old, &away).unwrap();
        assert!(store.stored(block).is_err());
        // What nobody has is not looked for again at once.
        thread::sleep(REST);
    }
    // Under a name of its own, and after the directory has been quiet for a while.
    fs::rename(&away, pair.path("root.img.prev")).unwrap();
    thread::sleep(Duration::from_millis(3100));
    assert_eq!(store.stored(block).unwrap(), pair.stored(shared));
    fs::write(pair.path("root.img.prev"), b"no image").unwrap();
    assert!(store.stored(block).is_err(), "it is rewritten in place");
    // Nothing is kept open: what is removed is gone.
    let open = fs::read_dir("/proc/self/fd").unwrap().flatten();
    let targets = open.filter_map(|entry| fs::read_link(entry.path()).ok());
    assert!(!targets.into_iter().any(|target| target.to_string_lossy().contains("root.img.prev")));
}

/// The server of `/` lives in an empty directory: it finds nothing by a path.
#[test]
fn siblings_are_found_without_a_path() {
    let pair = Pair::new();
    let shared = (0..pair.entries.len()).find(|block| pair.is_shared(*block)).unwrap();
    pair.damage(&pair.new, &BTreeSet::from([shared]), &mut Random(3));
    let store = {
        let source = ashlarfs::image::open(&pair.new, Method::Pread).unwrap();
        Store::open_healing(source, pair.digest, NO_CACHE, ladder(&pair.new)).unwrap()
    };
    // By a path, its directory is somewhere else now.
    let moved = pair.directory.path().with_extension("moved");
    fs::rename(pair.directory.path(), &moved).unwrap();
    let stored = store.stored(BlockIndex(u32::try_from(shared).unwrap()));
    fs::rename(&moved, pair.directory.path()).unwrap();
    assert_eq!(stored.unwrap(), pair.stored(shared));
}

/// An index that was made in idle time is one that need not be made when it is needed.
#[test]
fn tables_are_read_in_idle_time() {
    let pair = Pair::new();
    let shared = (0..pair.entries.len()).find(|block| pair.is_shared(*block)).unwrap();
    pair.damage(&pair.new, &BTreeSet::from([shared]), &mut Random(3));
    let healers = Ladder {
        prepare_after: Some((Duration::from_millis(10), || {})),
        ..Ladder::beside(&pair.new)
    };
    let source = ashlarfs::image::open(&pair.new, Method::Pread).unwrap();
    let store = Store::open_healing(source, pair.digest, NO_CACHE, healers.into_healers()).unwrap();
    let begun = Instant::now();
    while threads("heal-idle") > 0 && begun.elapsed() < Duration::from_mins(5) {
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(threads("heal-idle"), 0, "they end when they are done");
    assert_eq!(
        store.stored(BlockIndex(u32::try_from(shared).unwrap())).unwrap(),
        pair.stored(shared)
    );
}

/// Threads of this process whose names begin so; those of tests are called by the tests.
fn threads(name: &str) -> usize {
    let tasks = fs::read_dir("/proc/self/task").unwrap().flatten();
    let names = tasks.filter_map(|task| fs::read_to_string(task.path().join("comm")).ok());
    names.filter(|comm| comm.trim() == name).count()
}

/// A sibling that lies: its table has the digests, its blocks other bytes.
#[test]
fn a_sibling_that_lies_heals_nothing() {
    let pair = Pair::new();
    let table = usize::try_from(
        pair.entries.iter().map(ashlarfs::format::entry::Entry::end).max().unwrap(),
    )
    .unwrap();
    let mut random = Random(5);
    let damaged = pair.one_percent(&mut random);
    pair.damage(&pair.new, &damaged, &mut random);
    // A copy of the very image, with every block of it changed and the table as it was.
    let mut liar = pair.whole.clone();
    liar[4096..table].iter_mut().for_each(|byte| *byte ^= 0x55);
    fs::write(pair.path("liar.img"), liar).unwrap();
    let source = ashlarfs::image::open(&pair.new, Method::Pread).unwrap();
    let store = Store::open_healing(source, pair.digest, NO_CACHE, ladder(&pair.new)).unwrap();
    // The honest one is asked as well: the liar costs nothing.
    pair.assert_healed(&store, &damaged);
    fs::remove_file(&pair.old).unwrap();
    for block in &damaged {
        assert!(store.stored(BlockIndex(u32::try_from(*block).unwrap())).is_err());
    }
}

/// While blocks are healed, the only other image shrinks, grows, vanishes, comes again and turns into something else.
#[test]
fn a_sibling_that_changes_all_the_time_never_makes_a_wrong_byte() {
    let pair = Pair::new();
    let mut random = Random(6);
    let damaged = pair.one_percent(&mut random);
    pair.damage(&pair.new, &damaged, &mut random);
    let source = ashlarfs::image::open(&pair.new, Method::Pread).unwrap();
    let store = Store::open_healing(source, pair.digest, NO_CACHE, ladder(&pair.new)).unwrap();
    let old = fs::read(&pair.old).unwrap();
    let (over, healed_count, failed) =
        (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    for block in &damaged {
                        match store.stored(BlockIndex(u32::try_from(*block).unwrap())) {
                            Ok(stored) => {
                                assert_eq!(stored, pair.stored(*block));
                                healed_count.fetch_add(1, Ordering::Relaxed);
                            }
                            Err(_) => drop(failed.fetch_add(1, Ordering::Relaxed)),
                        }
                    }
                }
            });
        }
        let mut random = Random(7);
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(4) {
            match random.below(6) {
                0 => drop(
                    File::options()
                        .write(true)
                        .open(&pair.old)
                        .map(|file| file.set_len(random.next() % 100_000)),
                ),
                1 => drop(fs::remove_file(&pair.old)),
                2 => {
                    let junk = pair::noise(random.next(), 4096);
                    let file = File::options()
                        .write(true)
                        .create(true)
                        .truncate(false)
                        .open(&pair.old)
                        .unwrap();
                    file.write_all_at(&junk, random.next() % old.len() as u64).unwrap();
                }
                _ => {
                    // A new file, as an updater puts it there.
                    fs::write(pair.path("part"), &old).unwrap();
                    fs::rename(pair.path("part"), &pair.old).unwrap();
                    thread::sleep(Duration::from_millis(30));
                }
            }
        }
        over.store(true, Ordering::Relaxed);
    });
    assert!(healed_count.load(Ordering::Relaxed) > 0 && failed.load(Ordering::Relaxed) > 0);
}

/// A source whose disk fails at some places.
#[derive(Debug)]
struct Failing {
    bytes: Vec<u8>,
    bad: Vec<std::ops::Range<u64>>,
}

impl Source for Failing {
    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset + buf.len() as u64;
        if self.bad.iter().any(|bad| bad.start < end && offset < bad.end) {
            return Err(io::Error::from_raw_os_error(5));
        }
        let start = usize::try_from(offset).unwrap();
        let bytes = self.bytes.get(start..start + buf.len());
        buf.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// What cannot be read is healed as what is wrong: blocks, pages of the table, the page list and the superblock.
#[test]
fn io_errors_are_healed() {
    let pair = Pair::new();
    let damaged = pair.one_percent(&mut Random(8));
    let range = |block: &usize| pair.entries[*block].offset..pair.entries[*block].end();
    let bad = damaged.iter().map(range).collect();
    let source = Arc::new(Failing { bytes: pair.whole.clone(), bad });
    let siblings =
        || -> Vec<Arc<dyn Healer>> { vec![Arc::new(Siblings::beside(&pair.new).unwrap())] };
    fs::rename(&pair.new, pair.path("away")).unwrap();
    fs::write(&pair.new, b"").unwrap();
    let store = Store::open_healing(source, pair.digest, NO_CACHE, siblings()).unwrap();
    pair.assert_healed(&store, &damaged);
    // All behind the blocks, and the first superblock: only a copy of the same image has that.
    let table = pair.entries.iter().map(ashlarfs::format::entry::Entry::end).max().unwrap();
    let rest =
        || Arc::new(Failing { bytes: pair.whole.clone(), bad: vec![0..4096, table..u64::MAX] });
    assert!(Store::open_restoring(rest(), pair.digest, NO_CACHE, siblings()).is_err());
    fs::write(pair.path("copy.img"), &pair.whole).unwrap();
    // Which image it is, its own superblock must say, unless it is restored.
    assert!(Store::open_healing(rest(), pair.digest, NO_CACHE, siblings()).is_err());
    let store = Store::open_restoring(rest(), pair.digest, NO_CACHE, siblings()).unwrap();
    pair.assert_healed_all(&store);
    assert!(healed(&store, Cure::Image) >= 3);
}

impl Pair {
    fn assert_healed_all(&self, store: &Store) {
        for block in 0..self.entries.len() {
            let stored = store.stored(BlockIndex(u32::try_from(block).unwrap()));
            assert_eq!(stored.unwrap(), self.stored(block));
        }
    }
}

/// A file that was cut is read as far as it goes, and the rest comes from a copy.
#[test]
fn what_was_cut_off_is_healed() {
    let pair = Pair::new();
    File::options().write(true).open(&pair.new).unwrap().set_len(50_000).unwrap();
    let err = pair.open_with(ladder(&pair.new)).unwrap_err();
    assert!(err.to_string().contains("50000"), "{err}");
    fs::write(pair.path("copy.img"), &pair.whole).unwrap();
    let tree = pair.open_with(ladder(&pair.new)).unwrap();
    let found = tree.resolve(b"own/noise007").unwrap();
    let mut content = vec![0; 9000];
    let len = tree.read_at(found, 0, &mut content).unwrap();
    assert_eq!(content[..len], fs::read(pair.tree.join("own/noise007")).unwrap());
}

/// One that says anything, and counts how often it is asked.
#[derive(Debug)]
struct Liar(Vec<u8>, AtomicU64);

impl Healer for Liar {
    fn cure(&self) -> Cure {
        Cure::Fec
    }

    fn copies<'a>(&'a self, wanted: &'a Wanted) -> Box<dyn Iterator<Item = Offer> + 'a> {
        self.1.fetch_add(1, Ordering::Relaxed);
        let (zeros, noise) = (vec![0; wanted.len], pair::noise(9, wanted.len));
        let copies = [Vec::new(), zeros, self.0.clone(), noise, vec![1; wanted.len + 1]];
        Box::new(copies.into_iter().map(Ok))
    }
}

/// The store is the judge, whoever heals; and what is whole costs nobody a question.
#[test]
fn a_healer_that_lies_is_not_believed() {
    let pair = Pair::new();
    let damaged = pair.one_percent(&mut Random(10));
    pair.damage(&pair.new, &damaged, &mut Random(10));
    let liar = Arc::new(Liar(pair.stored(0).to_vec(), AtomicU64::new(0)));
    let tree = pair.open_with(vec![liar.clone()]).map(|tree| Arc::clone(tree.store()));
    let store = tree.unwrap_or_else(|_| {
        let source = ashlarfs::image::open(&pair.new, Method::Pread).unwrap();
        let healers: Vec<Arc<dyn Healer>> = vec![liar.clone()];
        Arc::new(Store::open_healing(source, pair.digest, NO_CACHE, healers).unwrap())
    });
    let asked = liar.1.load(Ordering::Relaxed);
    for block in 0..pair.entries.len() {
        let stored = store.stored(BlockIndex(u32::try_from(block).unwrap()));
        match stored {
            Ok(stored) => assert_eq!(stored, pair.stored(block)),
            Err(_) => assert!(damaged.contains(&block)),
        }
    }
    // Block 0 is what it offers, so that one is healed if it is damaged.
    assert_eq!(liar.1.load(Ordering::Relaxed) - asked, damaged.len() as u64);
}

fn heal_from(server: &Server, pair: &Pair) -> Store {
    let url = format!("http://{}/image", server.at);
    let ladder = Ladder { distant: Some(ranges::distant(&url).unwrap()), ..Ladder::default() };
    let source = ashlarfs::image::open(&pair.new, Method::Pread).unwrap();
    Store::open_healing(source, pair.digest, NO_CACHE, ladder.into_healers()).unwrap()
}

/// The same image on a server has everything; the one before it what both have; and neither is asked while nothing is wrong.
#[test]
fn a_server_heals() {
    let pair = Pair::new();
    let old = fs::read(&pair.old).unwrap();
    for (file, is_same) in [(pair.whole.clone(), true), (old, false)] {
        let server = Server::start(move |question| Answer::good(question, &file, "\"1\""));
        fs::write(&pair.new, &pair.whole).unwrap();
        let store = heal_from(&server, &pair);
        pair.assert_healed_all(&store);
        assert_eq!(server.questions().len(), 0, "nothing is wrong");
        let damaged = pair.one_percent(&mut Random(11));
        pair.damage(&pair.new, &damaged, &mut Random(11));
        for block in &damaged {
            let stored = store.stored(BlockIndex(u32::try_from(*block).unwrap()));
            assert_eq!(stored.is_ok(), is_same || pair.is_shared(*block));
            assert!(stored.is_ok_and(|stored| stored == pair.stored(*block)) || !is_same);
        }
        assert!(healed(&store, Cure::Server) > 0);
    }
}

/// Servers that give wrong bytes, break off, say nothing, or change the file: never a wrong byte, and nobody waits for long.
#[test]
fn a_hostile_server_heals_nothing_and_stops_nobody() {
    let pair = Pair::new();
    let damaged = pair.one_percent(&mut Random(12));
    pair.damage(&pair.new, &damaged, &mut Random(12));
    type Trick = fn(&Question, &mut Answer);
    let tricks: [(&str, Trick); 8] = [
        ("other bytes", |question, answer| {
            if question.range.as_ref().is_some_and(|range| range.start > 0) {
                answer.body.iter_mut().for_each(|byte| *byte ^= 1);
            }
        }),
        ("other bytes, table and all", |_, answer| answer.body = pair::noise(1, answer.body.len())),
        ("a byte too few", |_, answer| answer.end = server::End::Cut(answer.body.len() - 1)),
        ("nothing", |_, answer| answer.end = server::End::Silence),
        ("nothing of the blocks", |question, answer| {
            if question.number > 2 {
                answer.end = server::End::Stall(10);
            }
        }),
        ("an error", |_, answer| *answer = Answer::status(503)),
        ("another file each time", |question, answer| {
            answer.header("ETag", format!("\"{}\"", question.number));
        }),
        ("a huge file", |question, answer| {
            let range = question.range.clone().unwrap();
            let value = format!("bytes {}-{}/{}", range.start, range.end - 1, u64::MAX / 2);
            answer.header("Content-Range", value);
        }),
    ];
    for (what, trick) in tricks {
        let file = pair.whole.clone();
        let server = Server::start(move |question| {
            let mut answer = Answer::good(question, &file, "\"1\"");
            trick(question, &mut answer);
            answer
        });
        let store = heal_from(&server, &pair);
        let begun = Instant::now();
        for block in &damaged {
            if let Ok(stored) = store.stored(BlockIndex(u32::try_from(*block).unwrap())) {
                assert_eq!(stored, pair.stored(*block), "{what}");
            }
        }
        // That it does not answer now does not say that it does not have them, so they are not lost.
        let answers = !["nothing", "an error", "another file each time"].contains(&what);
        assert!(answers || store.lost() == 0, "{what}: {}", store.lost());
        // However many ask, a server that does not answer is left alone for a while.
        assert!(begun.elapsed() < Duration::from_secs(40), "{what}: {:?}", begun.elapsed());
        assert!(what != "other bytes, table and all" || healed(&store, Cure::Server) == 0);
    }
}

#[test]
fn the_library_opens_with_healers() {
    let pair = Pair::new();
    let shared = (0..pair.entries.len()).filter(|block| pair.is_shared(*block)).collect();
    pair.damage(&pair.new, &shared, &mut Random(13));
    let mut options = Options::new(Anchor::RootDigest(pair.digest));
    let alone = ashlarfs::open(&pair.new, &options);
    let walk = |tree: ashlarfs::Tree| {
        tree.walk(ashlarfs::format::index::InodeIndex::ROOT).all(|(_, visit)| visit.is_ok())
    };
    assert!(!alone.is_ok_and(walk), "nobody heals who was not asked");
    options.healers = ladder(&pair.new);
    let tree = ashlarfs::open(&pair.new, &options).unwrap();
    for (path, visit) in tree.walk(ashlarfs::format::index::InodeIndex::ROOT) {
        let visit = visit.unwrap();
        let path = pair.tree.join(std::str::from_utf8(&path).unwrap());
        if path.is_file() {
            let want = fs::read(&path).unwrap();
            let mut content = vec![0; want.len()];
            tree.read_at(visit.index, 0, &mut content).unwrap();
            assert_eq!(content, want, "{}", path.display());
        }
    }
    assert!(tree.store().lost() == 0 && healed(tree.store(), Cure::Image) > 100);
    // Which files a block is in is found by the tree.
    let holders = tree.holders(&BTreeSet::from([BlockIndex(0)]));
    assert!(!holders[&BlockIndex(0)].paths.is_empty());
}

/// Has nothing, and counts who asks.
#[derive(Debug, Default)]
struct Nobody(AtomicU64);

impl Healer for Nobody {
    fn cure(&self) -> Cure {
        Cure::Fec
    }

    fn copies<'a>(&'a self, _: &'a Wanted) -> Box<dyn Iterator<Item = Offer> + 'a> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Box::new(std::iter::empty())
    }
}

/// Parity may have to read all of an image: not for whoever is wrong about a digest, and not each time that somebody wants what is
/// lost.
#[test]
fn nobody_looks_for_another_image_or_again_and_again() {
    let pair = Pair::new();
    let nobody = Arc::new(Nobody::default());
    let asked = || nobody.0.load(Ordering::SeqCst);
    let open = |digest| {
        let source = ashlarfs::image::open(&pair.new, Method::Pread).unwrap();
        Store::open_healing(source, digest, NO_CACHE, vec![Arc::clone(&nobody) as Arc<dyn Healer>])
    };
    assert!(open("11".repeat(32).parse().unwrap()).is_err());
    assert_eq!(asked(), 0, "it is whole, and another one");
    pair.damage(&pair.new, &BTreeSet::from([0]), &mut Random(1));
    let store = open(pair.digest).unwrap();
    for _ in 0..100 {
        assert!(store.stored(BlockIndex(0)).is_err());
    }
    assert!((1..=3).contains(&asked()), "{}", asked());
    thread::sleep(REST);
    let before = asked();
    assert!(store.stored(BlockIndex(0)).is_err());
    assert_eq!(asked(), before + 1);
    // With both superblocks gone it may be the one that is asked for.
    let file = File::options().write(true).open(&pair.new).unwrap();
    file.write_all_at(&[0; 100], 0).unwrap();
    file.write_all_at(&[0; 100], file.metadata().unwrap().len() - 4096).unwrap();
    let before = asked();
    assert!(open(pair.digest).is_err());
    assert_eq!(asked(), before + 1);
}

/// A disk that does not answer in time is not asked once more past the page cache, where nobody would be told in time.
#[test]
fn a_disk_that_does_not_answer_is_no_damage() {
    #[derive(Debug)]
    struct Stuck(Arc<dyn Source>, AtomicBool);
    impl Source for Stuck {
        fn len(&self) -> u64 {
            self.0.len()
        }
        fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
            if self.1.load(Ordering::SeqCst) {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.0.read_exact_at(buf, offset)
        }
    }
    let pair = Pair::new();
    let nobody = Arc::new(Nobody::default());
    let source = ashlarfs::image::open(&pair.new, Method::Pread).unwrap();
    let disk = Arc::new(Stuck(source, AtomicBool::new(false)));
    let healers = vec![Arc::clone(&nobody) as Arc<dyn Healer>];
    let source = Arc::clone(&disk) as Arc<dyn Source>;
    let store = Store::open_healing(source, pair.digest, NO_CACHE, healers).unwrap();
    assert!(store.stored(BlockIndex(0)).is_ok());
    disk.1.store(true, Ordering::SeqCst);
    assert!(store.stored(BlockIndex(0)).unwrap_err().is_timeout());
    assert_eq!((nobody.0.load(Ordering::SeqCst), store.lost()), (0, 0));
}
