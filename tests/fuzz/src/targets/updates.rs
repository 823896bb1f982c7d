//! Does anything become of an update that lies? Records, manifests, deltas and whole servers are made up; what lands on the disk
//! is the image that was asked for, byte by byte, or nothing.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use ashlarfs::format::trailer::{self, signed_text};
use ashlarfs::store::proof;
use ashlarfs::update::delta::{self, DeltaOrigin};
use ashlarfs::update::failed::Failed;
use ashlarfs::update::install;
use ashlarfs::update::latest::{self, Latest};
use ashlarfs::update::origin::{Origin, Trouble};
use ashlarfs::update::place::Place;
use ashlarfs::update::record::{self, Record};
use ashlarfs::update::state::{BAD_MAX, Bad, State, Trial, Why};
use ashlarfs::update::wish::Wish;
use ashlarfs::{Anchor, Digest};

use super::decoders::array;
use super::images::SMALL;
use super::script::{self, Edit};
use crate::image;

static SCRATCH: LazyLock<PathBuf> = LazyLock::new(|| {
    // Where whoever started us says, and will clear away; else in memory, for nothing here has to last.
    let base = std::env::var_os("ASHLAR_FUZZ_SCRATCH").map(PathBuf::from);
    let base = base.unwrap_or_else(|| Path::new("/dev/shm").to_owned());
    let make = |base: &Path| tempfile::Builder::new().prefix("ashlar-fuzz.").tempdir_in(base);
    let made = make(&base).or_else(|_| make(&std::env::temp_dir()));
    made.expect("a directory for scratch files").keep()
});

/// A directory for this process.
pub(crate) fn scratch() -> &'static Path {
    std::fs::create_dir_all(&*SCRATCH).expect("a directory for scratch files");
    &SCRATCH
}

/// Removes it.
pub(crate) fn sweep() {
    std::fs::remove_dir_all(scratch()).expect("scratch files can be removed");
}

/// A record as it came, and with its checksum made right.
pub(crate) fn record(input: &[u8]) {
    let mut raw: [u8; record::LEN] = array(input);
    assert!(Record::decode(&raw).is_none() || raw.starts_with(&record::MAGIC));
    let fixed = [&record::MAGIC[..], &record::VERSION.to_le_bytes()].concat();
    raw[..fixed.len()].copy_from_slice(&fixed);
    // UPDATE.md, "Boot records".
    let mut hasher = blake3::Hasher::new_derive_key("ashlar update: boot record, version 1");
    let checksum = hasher.update(&raw[..0x1e0]).finalize();
    raw[0x1e0..].copy_from_slice(checksum.as_bytes());
    let Some(record) = Record::decode(&raw) else { return };
    let again = Record::decode(&record.encode());
    assert_eq!(again.as_ref(), Some(&record));
    for event in input.iter().rev().take(8) {
        let mut state = record.state.clone();
        happen(&mut state, *event);
        let written = Record { sequence: record.sequence, state: state.clone() };
        assert_eq!(Record::decode(&written.encode()).map(|it| it.state), Some(state));
    }
    let both = [Some(record.clone()), again];
    assert_eq!(record::newer(&both), Some(0));
}

/// What becomes of a state when something happens to the machine: still one that can be written down, and booted.
fn happen(state: &mut State, event: u8) {
    let known = state.kept();
    let image = known.get(usize::from(event / 8)).copied().unwrap_or(Digest([event | 1; 32]));
    let had_default = state.default.is_some();
    match event % 8 {
        0 => state.install(image, known.first().copied(), event / 8),
        1 => {
            state.begin_boot();
        }
        2 => {
            state.refuse(image, Why::Refused);
        }
        3 => {
            state.bless(image, u64::from(event)).ok();
        }
        4 => {
            state.roll_back(None).ok();
        }
        5 => {
            state.roll_back(Some(image)).ok();
        }
        _ => {
            state.mark_bad(image, Why::Marked).ok();
        }
    }
    let order = state.order();
    let mut once = order.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), order.len(), "an image is in the order once");
    assert!(state.bad.len() <= BAD_MAX);
    // Whoever had a default goes on having one.
    assert!(!had_default || state.default.is_some(), "{event}: nothing is left to boot");
}

pub(crate) fn record_seeds() -> Vec<Vec<u8>> {
    let digest = |byte| Digest([byte; 32]);
    let states = [
        State::default(),
        State {
            default: Some(digest(1)),
            previous: Some(digest(2)),
            last_good: Some(digest(1)),
            trial: Some(Trial { image: digest(3), tries_left: 2, tries_done: 1 }),
            bad: Why::ALL.into_iter().map(|why| Bad { image: digest(9), why }).collect(),
            version_floor: 7,
        },
    ];
    states.map(|state| Record { sequence: 5, state }.encode().to_vec()).to_vec()
}

/// A manifest; or the address of one, and behind a line feed what stands in it.
pub(crate) fn latest(input: &[u8]) {
    match Latest::decode(input) {
        Ok(latest) => {
            assert_eq!(latest.encode().expect("it was decoded").as_bytes(), input);
            assert!(!latest.name.is_empty() && latest.name.len() <= latest::NAME_MAX);
            leads("https://example.org/images/latest", &latest.url);
            leads("/srv/images/latest", &latest.url);
        }
        Err(failed) => assert!(!failed.message.is_empty()),
    }
    let text = String::from_utf8_lossy(input);
    if let Some((manifest, url)) = text.split_once('\n') {
        leads(manifest, url);
    }
}

/// Where an address leads: elsewhere only when it says so itself.
fn leads(manifest: &str, url: &str) {
    let Ok(led) = latest::resolve(manifest, url) else { return };
    if led == url && url.contains("://") {
        return;
    }
    let host = |text: &str| {
        let (scheme, rest) = text.split_once("://")?;
        Some((scheme.to_owned(), rest.split(['/', '?', '#']).next()?.to_owned()))
    };
    match host(manifest).filter(|_| manifest.contains("://")) {
        Some(home) => assert_eq!(host(&led), Some(home), "{manifest} and {url} lead to {led}"),
        None => assert!(
            !led.contains("://") || url.contains("://") || manifest.contains("://"),
            "{led}"
        ),
    }
    // In the name of a file a question mark is one.
    let path = if led.contains("://") { led.split('?').next().unwrap_or_default() } else { &led };
    assert!(!path.ends_with('/'), "{led} names no file");
}

pub(crate) fn latest_seeds() -> Vec<Vec<u8>> {
    let manifest = |url: &str| {
        let latest = Latest {
            name: "kiosk-2.x".to_owned(),
            image_version: 7,
            root_digest: Digest([0xab; 32]),
            bytes: 123_456,
            url: url.to_owned(),
        };
        latest.encode().unwrap().into_bytes()
    };
    vec![
        manifest("https://other.example.org/a.img?x=1"),
        manifest("../b/./c%20d.img"),
        b"https://example.org/a/b/latest?token=1\n../c/d.img?e=f".to_vec(),
        b"http://u:p@[::1]:80\n/x".to_vec(),
        b"a/../../latest\n../..//x".to_vec(),
        b"/srv/latest\n%2e%2E/x".to_vec(),
    ]
}

/// The image that an update would bring.
struct Next {
    bytes: Vec<u8>,
    root: Digest,
    /// The same with a signature behind it, and the key that made it.
    signed: Vec<u8>,
    keys: Anchor,
    delta: Vec<u8>,
}

static NEXT: LazyLock<Next> = LazyLock::new(|| {
    let directory = tempfile::tempdir().unwrap();
    let mut tar = image::small_tar();
    tar.truncate(tar.len() - 1024);
    let mut more = tar::Builder::new(Vec::new());
    let content = image::noise(77, 3 * 4096 + 9);
    let mut header = tar::Header::new_ustar();
    header.set_path("new").unwrap();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    header.set_cksum();
    more.append(&header, &content[..]).unwrap();
    tar.extend(more.into_inner().unwrap());
    let (path, root) = image::build_tar(directory.path(), &tar, &["--image-version", "8"]);
    let bytes = std::fs::read(&path).unwrap();

    let pair = minisign::KeyPair::generate_unencrypted_keypair().unwrap();
    let text = signed_text(&root, 8);
    let comment = Some("a test");
    let signature = minisign::sign(None, &pair.sk, text.as_bytes(), comment, comment).unwrap();
    let signature = signature.into_string().into_bytes();
    let trailer = trailer::encode(&[signature], proof::hash_trailer).unwrap();
    let key = ashlarfs::trust::parse_key(&pair.pk.to_base64()).unwrap();

    let base = directory.path().join("base.img");
    std::fs::write(&base, &SMALL.bytes).unwrap();
    let mut delta = Vec::new();
    delta::write(&base, &path, &mut delta).unwrap();
    let signed = [&bytes[..], &trailer].concat();
    Next { bytes, root, signed, keys: Anchor::Keys(vec![key]), delta }
});

/// A server that gives these bytes, and says of itself what `shape` says.
struct Bytes {
    bytes: Vec<u8>,
    shape: u8,
}

impl Origin for Bytes {
    fn len(&self) -> u64 {
        let len = self.bytes.len() as u64;
        // It need not be the truth.
        match self.shape % 8 {
            0 => len + 1000,
            1 => u64::MAX,
            2 => len / 2,
            _ => len,
        }
    }

    fn read(
        &self,
        range: Range<u64>,
        take: &mut dyn FnMut(&[u8]) -> Result<(), Failed>,
    ) -> Result<(), Trouble> {
        let place = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(self.bytes.len());
        let there = &self.bytes[place(range.start)..place(range.end).max(place(range.start))];
        let is_all = there.len() as u64 == range.end.saturating_sub(range.start);
        for piece in there.chunks(3000) {
            take(piece)?;
        }
        if is_all || self.shape & 8 != 0 {
            return Ok(());
        }
        Err(Trouble::Final(Failed::new("there is no more")))
    }

    fn has_ranges(&self) -> bool {
        self.shape & 16 == 0
    }

    fn is_local(&self) -> bool {
        self.shape & 32 != 0
    }

    fn pause(&self) -> Duration {
        Duration::ZERO
    }

    fn shown(&self) -> String {
        "a server".to_owned()
    }
}

fn fresh_place() -> (tempfile::TempDir, Place) {
    let data = tempfile::tempdir_in(scratch()).unwrap();
    std::fs::create_dir(data.path().join("images")).unwrap();
    let place = Place::new(data.path()).unwrap();
    (data, place)
}

/// What is believed of an origin: what the key signed, or the digest names.
fn judge_offer(place: &Place, origin: &dyn Origin) {
    for anchor in [Anchor::RootDigest(NEXT.root), NEXT.keys.clone()] {
        if let Ok(offer) = install::look(place, origin, &Wish::new(&anchor)) {
            assert_eq!(offer.root_digest, NEXT.root.to_string());
            assert_eq!(offer.image_version, 8);
        }
    }
    if let Err(failed) = install::look(place, origin, &Wish::new(&Anchor::Unauthenticated)) {
        assert!(!failed.message.is_empty());
    }
}

pub(crate) fn head(input: &[u8]) {
    let Some((shape, script)) = input.split_first() else { return };
    let (_data, place) = fresh_place();
    let mut bytes = script::edited(&NEXT.signed, script);
    // Half of the scripts are for what is behind the image.
    if shape & 64 != 0 {
        bytes.clone_from(&NEXT.bytes);
        bytes.extend(script::edited(&NEXT.signed[NEXT.bytes.len()..], script));
    }
    judge_offer(&place, &Bytes { bytes, shape: *shape });
}

pub(crate) fn head_seeds() -> Vec<Vec<u8>> {
    let put = |shape: u8, bits, at| [&[shape][..], &Edit::put(0, bits, at, 0xfeff_ff0c)].concat();
    vec![
        vec![3],
        vec![67],
        put(3, 3, 0x20),
        put(3, 3, 0x28),
        put(67, 2, 8),
        put(67, 2, 12),
        put(9, 0, 90),
    ]
}

pub(crate) fn delta(input: &[u8]) {
    let path = scratch().join("delta");
    let raw = script::edited(&NEXT.delta, input);
    std::fs::write(&path, &raw).unwrap();
    let origin = match DeltaOrigin::open(&path) {
        Ok(Some(origin)) => origin,
        Ok(None) => {
            assert!(!raw.starts_with(&delta::MAGIC));
            return;
        }
        Err(failed) => {
            assert!(!failed.message.is_empty());
            return;
        }
    };
    let len = origin.len();
    for range in [0..4096, 4000..5000, len.saturating_sub(5000)..len, 0..len.min(1 << 20), 7..7] {
        let mut came = Vec::new();
        let read = origin.read(range.clone(), &mut |piece| {
            came.extend_from_slice(piece);
            Ok(())
        });
        let wanted = range.end - range.start;
        assert!(came.len() as u64 <= wanted);
        assert!(read.is_err() || came.len() as u64 == wanted);
        if range.start == 0 {
            let start = raw.windows(4096).position(|window| came.starts_with(window));
            assert!(came.len() < 4096 || start.is_some(), "its beginning is a range of it");
        }
    }
    let (_data, place) = fresh_place();
    judge_offer(&place, &origin);
    // With what the delta is for, or without.
    if input.len() % 3 != 1 {
        std::fs::write(place.image(SMALL.root), &SMALL.bytes).unwrap();
    }
    judge_install(&place, &origin, false);
}

pub(crate) fn delta_seeds() -> Vec<Vec<u8>> {
    let put = |bits, at, value| Edit::put(0, bits, at, value).to_vec();
    vec![
        vec![],
        put(2, 0x0c, 5),
        put(3, 0x30, 9),
        put(3, 0x38, 4096),
        put(3, 0x40, 1),
        put(3, 0x48, 0),
    ]
}

/// Installs what an origin gives; whatever that is, what then is there is the image that was asked for, or none.
fn judge_install(place: &Place, origin: &dyn Origin, is_sound: bool) {
    let anchor = Anchor::RootDigest(NEXT.root);
    match install::install(place, origin, &Wish::new(&anchor)) {
        Ok(installed) => {
            let there = std::fs::read(&installed.path).unwrap();
            assert!(there.starts_with(&NEXT.bytes), "another image was installed");
            let rest = &there[NEXT.bytes.len()..];
            assert!(
                rest.is_empty() || rest.starts_with(&trailer::MAGIC),
                "something was installed behind it"
            );
        }
        Err(failed) => {
            assert!(!is_sound, "{failed}");
            assert!(
                !place.image(NEXT.root).exists(),
                "what could not be installed is there: {failed}"
            );
        }
    }
}

pub(crate) fn install(input: &[u8]) {
    let Some((shape, script)) = input.split_first() else { return };
    let (_data, place) = fresh_place();
    if shape & 128 != 0 {
        std::fs::write(place.image(SMALL.root), &SMALL.bytes).unwrap();
    }
    let bytes = script::edited(&NEXT.signed, script);
    judge_install(&place, &Bytes { bytes, shape: *shape }, false);
    // From an honest server it works, whatever the other one left behind.
    judge_install(&place, &Bytes { bytes: NEXT.signed.clone(), shape: 3 }, true);
}

pub(crate) fn install_seeds() -> Vec<Vec<u8>> {
    let edit = |shape: u8, how, at, value| [&[shape][..], &Edit::put(0, how, at, value)].concat();
    vec![
        vec![3],
        vec![128 + 3],
        vec![16 + 3],
        edit(3, 5, 9000, 3),
        edit(32 + 3, 6, 5000, 200),
        edit(128 + 3, 8, 12_000, 0),
        edit(8 + 3, 8, 12_000, 0),
        edit(0, 9, 100, 7),
    ]
}
