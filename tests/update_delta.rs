//! Does a machine get from a delta file exactly the new image, or nothing?

#[path = "support/tree.rs"]
mod tree;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use ashlarfs::format::index::BlockIndex;
use ashlarfs::update::book::Book;
use ashlarfs::update::delta::{self, DeltaOrigin, HEAD_LEN, RANGE_LEN, Written};
use ashlarfs::update::failed::Failed;
use ashlarfs::update::install::{Installed, install};
use ashlarfs::update::latest::Latest;
use ashlarfs::update::origin::{FileOrigin, Origin};
use ashlarfs::update::place::Place;
use ashlarfs::update::wish::Wish;
use ashlarfs::{Anchor, CacheLimits, Digest, Method, Store, image, trust};
use proptest::prelude::*;
use tree::{ashlar, noise, pack};

/// Two images of which the second one is a little different, the key that signed them, and the delta between them.
struct Bench {
    directory: tempfile::TempDir,
    digests: [Digest; 2],
    new: Vec<u8>,
    delta: Vec<u8>,
    written: Written,
}

/// File number `file` of image number `image`: of ten files two are different, at the beginning and in the middle.
fn content(image: u64, file: u64) -> Vec<u8> {
    let seed = if file.is_multiple_of(5) { file + image * 100 } else { file };
    noise(seed, 20_000 + usize::try_from(file).unwrap() * 3)
}

impl Bench {
    fn new() -> Bench {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let path = |name: &str| directory.path().join(name);
        ashlar(["key", "generate", "--no-password", path("key").to_str().unwrap()]).text();
        let digests = [0, 1].map(|image| {
            let source = path(&format!("{image}.d"));
            fs::create_dir(&source).unwrap();
            for file in 0..10 {
                fs::write(source.join(file.to_string()), content(image, file)).unwrap();
            }
            let version = (image + 1).to_string();
            let key = path("key");
            let extra = ["--sign-key", key.to_str().unwrap(), "--image-version", &version];
            let (_, digest) = pack(&source, &path(&image.to_string()), &extra);
            digest.parse().unwrap()
        });
        let mut delta = Vec::new();
        let written = delta::write(&path("0"), &path("1"), &mut delta).unwrap();
        let new = fs::read(path("1")).unwrap();
        fs::write(path("delta"), &delta).unwrap();
        Bench { directory, digests, new, delta, written }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A data partition with the old image on it, or without.
    fn machine(&self, has_base: bool) -> Machine {
        let data = tempfile::tempdir_in(self.directory.path()).unwrap();
        fs::create_dir(data.path().join("images")).unwrap();
        let place = Place::new(data.path()).unwrap();
        let base = place.image(self.digests[0]);
        if has_base {
            fs::copy(self.path("0"), &base).unwrap();
        }
        Machine { data, place, base, target_digest: self.digests[1] }
    }

    /// Installs from a file with these bytes, whatever they are. When it works it must be the new image, and when it does not
    /// there must be nothing.
    fn install(&self, machine: &Machine, raw: &[u8]) -> Result<Installed, Failed> {
        let path = machine.data.path().join("delivered");
        fs::write(&path, raw).unwrap();
        let installed = machine.install(&path, &Anchor::RootDigest(machine.target_digest));
        let target = machine.place.image(machine.target_digest);
        match &installed {
            Ok(installed) => {
                assert_eq!(installed.path, target);
                assert!(fs::read(target).unwrap() == self.new, "another image than the new one");
            }
            Err(_) => machine.has_nothing_new(),
        }
        installed
    }
}

struct Machine {
    data: tempfile::TempDir,
    place: Place,
    base: PathBuf,
    target_digest: Digest,
}

impl Machine {
    fn install(&self, path: &Path, anchor: &Anchor) -> Result<Installed, Failed> {
        let origin: Box<dyn Origin> = match DeltaOrigin::open(path)? {
            Some(delta) => Box::new(delta),
            None => Box::new(FileOrigin::open(path)?),
        };
        let wish = Wish::new(anchor);
        install(&self.place, &*origin, &wish)
    }

    fn has_nothing_new(&self) {
        let names = fs::read_dir(self.place.images()).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let images: Vec<String> = names.filter(|name| !name.starts_with('.')).collect();
        let base = self.base.file_name().unwrap().to_str().unwrap();
        assert!(images.iter().all(|name| name == base), "{images:?}");
        assert!(!Book::read(self.data.path()).is_known());
    }
}

/// A number in a superblock.
fn number_at(raw: &[u8], at: usize) -> usize {
    u64::from_le_bytes(raw[at..at + 8].try_into().unwrap()).try_into().unwrap()
}

/// Where an image ends and its signatures begin.
fn image_len(raw: &[u8]) -> usize {
    number_at(raw, 0x20)
}

#[test]
fn what_a_delta_brings_is_the_new_image() {
    let bench = Bench::new();
    let written = bench.written;
    assert_eq!(written.base_digest, bench.digests[0]);
    assert_eq!(written.new_digest, bench.digests[1]);
    assert_eq!(written.bytes, bench.delta.len() as u64);
    assert_eq!(written.new_bytes, bench.new.len() as u64);
    assert!(written.bytes * 3 < written.new_bytes, "{written:?}");

    let machine = bench.machine(true);
    let delta = DeltaOrigin::open(&bench.path("delta")).unwrap().unwrap();
    assert_eq!(delta.base_digest(), bench.digests[0]);
    assert_eq!(delta.len(), written.new_bytes);
    let key = trust::read_key(&bench.path("key.pub")).unwrap();
    let installed = machine.install(&bench.path("delta"), &Anchor::Keys(vec![key])).unwrap();
    assert!(fs::read(&installed.path).unwrap() == bench.new);
    assert_eq!(installed.image_version, 2);
    assert!(installed.is_next && !installed.was_here);
    assert_eq!(installed.bytes_resumed, 0);
    assert!(installed.bytes_fetched < written.bytes, "nothing came twice: {installed:?}");
    let order = Book::read(machine.data.path()).state().order();
    assert_eq!(order, [bench.digests[1], bench.digests[0]]);
    // The image's own bytes vouch for it: another key does not.
    ashlar(["key", "generate", "--no-password", bench.path("other").to_str().unwrap()]).text();
    let other = trust::read_key(&bench.path("other.pub")).unwrap();
    let machine = bench.machine(true);
    let refused = machine.install(&bench.path("delta"), &Anchor::Keys(vec![other])).unwrap_err();
    assert!(refused.to_string().contains("none of the image's 1 signatures"), "{refused}");
    machine.has_nothing_new();
}

#[test]
fn a_delta_from_an_image_to_itself_has_no_blocks() {
    let bench = Bench::new();
    let mut delta = Vec::new();
    let written = delta::write(&bench.path("1"), &bench.path("1"), &mut delta).unwrap();
    assert_eq!(written.blocks, 0);
    // It mends what lies around the blocks.
    let machine = bench.machine(false);
    let mut raw = bench.new.clone();
    raw[image_len(&bench.new) - 1] ^= 1;
    fs::write(machine.place.image(bench.digests[1]), raw).unwrap();
    let installed = bench.install(&machine, &delta).unwrap();
    assert!(!installed.was_here && installed.bytes_copied > 0, "{installed:?}");
}

#[test]
fn an_ordinary_image_is_no_delta() {
    let bench = Bench::new();
    assert!(DeltaOrigin::open(&bench.path("1")).unwrap().is_none());
    fs::write(bench.path("empty"), "").unwrap();
    assert!(DeltaOrigin::open(&bench.path("empty")).unwrap().is_none());
    assert!(DeltaOrigin::open(&bench.path("not there")).is_err());
    assert!(DeltaOrigin::open(bench.directory.path()).is_err());
}

#[test]
fn without_the_base_nothing_is_installed_and_a_full_image_goes_on_from_there() {
    let bench = Bench::new();
    let machine = bench.machine(false);
    let failed = bench.install(&machine, &bench.delta).unwrap_err();
    let said = failed.to_string();
    assert!(said.contains("is for machines that have image"), "{said}");
    assert!(said.contains(&bench.digests[0].to_string()), "{said}");
    assert!(failed.hint.unwrap().contains("install the full image"));
    let installed = bench.install(&machine, &bench.new).unwrap();
    assert!(installed.bytes_fetched < bench.written.new_bytes, "{installed:?}");
}

/// What was begun for an image without signatures is gone on with for the same image with some.
#[test]
fn signatures_are_not_forgotten_where_an_install_goes_on() {
    let bench = Bench::new();
    let unsigned = bench.path("unsigned");
    fs::write(&unsigned, &bench.new[..image_len(&bench.new)]).unwrap();
    let mut delta = Vec::new();
    delta::write(&bench.path("0"), &unsigned, &mut delta).unwrap();
    let machine = bench.machine(false);
    bench.install(&machine, &delta).unwrap_err();
    bench.install(&machine, &bench.new).unwrap();
}

#[test]
fn a_base_that_is_damaged_where_it_is_needed_is_no_base() {
    let bench = Bench::new();
    let machine = bench.machine(true);
    let source = image::open(&machine.base, Method::Pread).unwrap();
    let no_cache = CacheLimits { data_bytes_max: 0, metadata_bytes_max: 0 };
    let store = Store::open(source, bench.digests[0], no_cache).unwrap();
    let needed = (0..store.superblock().block_count)
        .map(|block| store.entry(BlockIndex(block)).unwrap())
        .find(|entry| bench.new.windows(32).any(|bytes| bytes == entry.digest.0))
        .unwrap();
    let mut raw = fs::read(&machine.base).unwrap();
    raw[usize::try_from(needed.offset).unwrap()] ^= 1;
    fs::write(&machine.base, raw).unwrap();
    let failed = bench.install(&machine, &bench.delta).unwrap_err().to_string();
    assert!(failed.contains(&format!("have image {}, whole", bench.digests[0])), "{failed}");
    // All but that one block came from what is here, and stays.
    let installed = bench.install(&machine, &bench.new).unwrap();
    assert!(installed.bytes_resumed > 0, "{installed:?}");
    assert!(installed.bytes_fetched < bench.written.new_bytes / 2, "{installed:?}");
}

#[test]
fn no_delta_is_written_of_damaged_images() {
    let bench = Bench::new();
    let sound = [fs::read(bench.path("0")).unwrap(), bench.new.clone()];
    let write = |damage: &dyn Fn(&mut [Vec<u8>; 2])| {
        let mut images = sound.clone();
        damage(&mut images);
        let paths = ["a", "b"].map(|name| bench.path(name));
        for (path, raw) in paths.iter().zip(&images) {
            fs::write(path, raw).unwrap();
        }
        delta::write(&paths[0], &paths[1], &mut Vec::new())
    };
    assert_eq!(write(&|_| {}).unwrap(), bench.written);
    let table_offset = number_at(&sound[0], 0x48);
    write(&|[base, _]| base[table_offset] ^= 1).unwrap_err();
    write(&|[base, _]| base.truncate(5000)).unwrap_err();
    write(&|[base, _]| base.clear()).unwrap_err();
    // In the first block of the new image: it holds the file that is different.
    write(&|[_, new]| new[4096] ^= 1).unwrap_err();
    write(&|[_, new]| new[100] ^= 1).unwrap_err();
    write(&|[_, new]| new.push(0)).unwrap_err();
    write(&|[_, new]| new.truncate(new.len() - 1)).unwrap_err();
    write(&|[_, new]| {
        let backup = image_len(new) - 4096;
        new[backup + 8] ^= 1;
    })
    .unwrap_err();
    // Without its signatures it is an image like any other.
    write(&|[_, new]| new.truncate(image_len(new))).unwrap();
}

#[test]
fn a_disk_that_is_full_is_told() {
    struct Full;
    impl std::io::Write for Full {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let bench = Bench::new();
    let failed = delta::write(&bench.path("0"), &bench.path("1"), &mut Full).unwrap_err();
    assert!(failed.to_string().starts_with("cannot write the delta: "), "{failed}");
}

#[test]
fn no_truncated_delta_opens() {
    let bench = Bench::new();
    let path = bench.path("delta");
    let file = fs::File::options().write(true).open(&path).unwrap();
    for len in (0..bench.delta.len()).rev() {
        file.set_len(len as u64).unwrap();
        match DeltaOrigin::open(&path) {
            Ok(None) => assert!(len < 8, "{len}"),
            Ok(Some(_)) => panic!("{len} of {} bytes are opened", bench.delta.len()),
            Err(failed) => assert!(len >= 8 && failed.hint.is_some(), "{len}: {failed}"),
        }
    }
}

#[test]
fn a_flipped_bit_gives_the_new_image_or_none() {
    let bench = Bench::new();
    let count = u32::from_le_bytes(bench.delta[12..16].try_into().unwrap());
    let payload = HEAD_LEN + RANGE_LEN * usize::try_from(count).unwrap();
    let random = noise(7, 4 * 300);
    let (random, _) = random.as_chunks::<4>();
    let anywhere = random.iter().map(|raw| u32::from_le_bytes(*raw) as usize % bench.delta.len());
    let mut same = BTreeSet::new();
    for (at, number) in (0..payload).chain(anywhere).zip(0..) {
        let mut raw = bench.delta.clone();
        raw[at] ^= 1 << (number % 8);
        if bench.install(&bench.machine(true), &raw).is_ok() {
            same.insert(at);
            assert!((16..48).contains(&at), "nobody saw a change at offset {at}");
        }
    }
    // Chance may have met some of them a second time.
    assert_eq!(
        same,
        (16..48).collect(),
        "what the base is called, and no other byte, is for people only"
    );
}

/// A head and ranges, with as many bytes behind them as the ranges take and `more`.
fn crafted(
    bench: &Bench,
    count: u32,
    image_len: u64,
    ranges: &[(u64, u64)],
    more: usize,
) -> PathBuf {
    let mut raw = bench.delta[..12].to_vec();
    raw.extend(count.to_le_bytes());
    raw.extend([7; 32]);
    raw.extend(image_len.to_le_bytes());
    for (offset, len) in ranges {
        raw.extend(offset.to_le_bytes());
        raw.extend(len.to_le_bytes());
    }
    let payload = ranges.iter().fold(0_u64, |sum, (_, len)| sum.saturating_add(*len));
    let payload = usize::try_from(payload).unwrap_or(usize::MAX).min(1 << 20);
    // The superblock of the new image comes first, whatever the ranges say.
    raw.extend(bench.new.iter().chain(std::iter::repeat(&0)).take(payload + more));
    let path = bench.path("crafted");
    fs::write(&path, raw).unwrap();
    path
}

#[test]
fn hostile_heads_are_refused() {
    let bench = Bench::new();
    let len = bench.written.new_bytes;
    let max = u64::MAX;
    let cases: &[(&str, u32, u64, &[(u64, u64)], usize)] = &[
        ("no range", 0, len, &[], 0),
        ("no range, and bytes", 0, len, &[], 9000),
        ("one range", 1, len, &[(0, len)], 0),
        ("more ranges than bytes", u32::MAX, len, &[(0, 4096), (4096, len - 4096)], 0),
        ("fewer ranges than it says", 3, len, &[(0, 4096), (4096, 1)], 0),
        ("an empty range", 3, len, &[(0, 4096), (5000, 0), (6000, len - 6000)], 0),
        ("the first range is short", 2, len, &[(0, 4095), (4096, len - 4096)], 0),
        ("the first range starts late", 2, len, &[(1, 4095), (4096, len - 4096)], 0),
        ("the last range ends early", 2, len, &[(0, 4096), (4096, len - 4097)], 0),
        ("ranges overlap", 3, len, &[(0, 4096), (4096, 100), (4195, len - 4195)], 0),
        ("ranges go back", 4, len, &[(0, 4096), (6000, 1), (5000, 1), (7000, len - 7000)], 0),
        ("a range is there twice", 3, len, &[(0, 4096), (0, 4096), (4096, len - 4096)], 0),
        ("a range behind the image", 2, len, &[(0, 4096), (len, 1)], 0),
        ("a range beyond the image", 2, len, &[(0, 4096), (4096, len)], 0),
        ("a sum that wraps", 2, max, &[(0, 4096), (4096, max)], 0),
        ("a sum that wraps to the length", 2, len, &[(0, 4096), (max - 1, len + 2)], 0),
        ("as long as can be", 2, max, &[(0, 4096), (4096, max - 4096)], 0),
        (
            "two that are too long for the file",
            3,
            max,
            &[(0, 4096), (4096, max / 2), (max / 2 + 4096, max / 2 - 4095)],
            0,
        ),
        ("an image without length", 2, 0, &[(0, 4096), (4096, 1)], 0),
        ("bytes behind the end", 2, len, &[(0, 4096), (4096, len - 4096)], 1),
        ("a table elsewhere", 2, len, &[(0, 4096), (4096, len - 4096)], 0),
        ("an image that ends elsewhere", 2, len + 1, &[(0, 4096), (4096, len - 4095)], 0),
    ];
    for (what, count, image_len, ranges, more) in cases {
        let opened = DeltaOrigin::open(&crafted(&bench, *count, *image_len, ranges, *more));
        let failed = opened.expect_err(what);
        assert!(failed.to_string().contains("the delta is damaged"), "{what}: {failed}");
    }
    let mut newer = bench.delta.clone();
    newer[8] = 2;
    fs::write(bench.path("newer"), newer).unwrap();
    let failed = DeltaOrigin::open(&bench.path("newer")).unwrap_err();
    assert!(failed.to_string().contains("version 2"), "{failed}");
    assert!(failed.hint.unwrap().contains("newer version of this program"));
}

#[test]
fn no_head_makes_it_panic() {
    let bench = Bench::new();
    let number = prop_oneof![
        0..20_000_u64,
        (0..64_u32).prop_map(|bits| 1 << bits),
        (0..20_000_u64).prop_map(|less| u64::MAX - less),
    ];
    let ranges = prop::collection::vec((number.clone(), number.clone()), 0..5);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 2000,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    runner
        .run(&(any::<u32>(), number, ranges, any::<bool>()), |(count, len, ranges, is_counted)| {
            let count = if is_counted { u32::try_from(ranges.len()).unwrap() } else { count };
            let path = crafted(&bench, count, len, &ranges, 0);
            prop_assert!(DeltaOrigin::open(&path).is_err());
            Ok(())
        })
        .unwrap();
}

#[test]
fn a_manifest_is_believed_when_a_key_signed_it() {
    let bench = Bench::new();
    let latest = Latest {
        name: "test".to_owned(),
        image_version: 2,
        root_digest: bench.digests[1],
        bytes: bench.written.new_bytes,
        url: "1".to_owned(),
    };
    let text = latest.encode().unwrap();
    let read = |name: &str| fs::read_to_string(bench.path(name)).unwrap();
    let secret = minisign::SecretKeyBox::from_string(&read("key")).unwrap();
    let secret = secret.into_unencrypted_secret_key().unwrap();
    let sign = |text: &str| {
        let signature = minisign::sign(None, &secret, text.as_bytes(), None, None).unwrap();
        signature.to_string().into_bytes()
    };
    let keys = [trust::read_key(&bench.path("key.pub")).unwrap()];
    let signatures = [sign("something else"), sign(&text)];
    assert_eq!(Latest::verify(text.as_bytes(), &signatures, &keys).unwrap(), latest);
    let other = text.replace("version 2", "version 3");
    let said = |text: &str, signatures: &[Vec<u8>], keys: &[trust::Key]| {
        Latest::verify(text.as_bytes(), signatures, keys).unwrap_err().to_string()
    };
    assert!(said(&other, &signatures, &keys).contains("none of the manifest's 2 signatures"));
    assert!(said(&text, &signatures, &[]).contains("none of the manifest's 2 signatures"));
    assert!(said(&text, &[], &keys).contains("not signed"));
    // The same key signs images: their text is no manifest.
    let image = ashlarfs::format::trailer::signed_text(&bench.digests[1], 2);
    assert!(said(&image, &[sign(&image)], &keys).contains("does not begin"));
}
