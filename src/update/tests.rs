//! Is there always a whole image to boot, wherever the power fails? Each change of a whole update is cut before, by turns.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::book::Book;
use super::failed::Failed;
use super::install::{Installed, install};
use super::keep;
use super::origin::FileOrigin;
use super::place::{Place, SINGLE, SINGLE_PREVIOUS};
use super::single;
use super::wish::Wish;
use crate::format::digest::Digest;
use crate::power;
use crate::trust::Anchor;
use crate::{Options, verify};

/// Images of a tree that changed a little from one to the next, in a directory.
struct Images {
    directory: tempfile::TempDir,
    digests: Vec<Digest>,
}

impl Images {
    fn build(count: u64) -> Images {
        let directory = tempfile::tempdir().unwrap();
        let tree = directory.path().join("tree");
        fs::create_dir(&tree).unwrap();
        for nth in 0..8 {
            fs::write(tree.join(format!("same-{nth}")), noise(nth, 40_000)).unwrap();
        }
        let mut images = Images { directory, digests: Vec::new() };
        for version in 1..=count {
            fs::write(tree.join("changes"), noise(1000 + version, 50_000)).unwrap();
            let image = images.path(version);
            let version = version.to_string();
            let args = ["mkimage", "-q", "-b", "16K", "-z", "none", "--image-version", &version];
            let paths = [tree.to_str().unwrap(), image.to_str().unwrap()];
            let summary = ashlarfs_mkimage::run(args.into_iter().chain(paths)).unwrap();
            images.digests.push(summary.root_digest.parse().unwrap());
        }
        images
    }

    fn path(&self, version: u64) -> PathBuf {
        self.directory.path().join(format!("{version}.img"))
    }

    fn digest(&self, version: u64) -> Digest {
        self.digests[usize::try_from(version).unwrap() - 1]
    }

    /// A data partition that runs the first image.
    fn machine(&self) -> (tempfile::TempDir, Place) {
        let data = tempfile::tempdir().unwrap();
        fs::create_dir(data.path().join("images")).unwrap();
        let place = Place::new(data.path()).unwrap();
        self.install(&place, 1).unwrap();
        keep::bless(&place, self.digest(1)).unwrap();
        (data, place)
    }

    fn install(&self, place: &Place, version: u64) -> Result<Installed, Failed> {
        self.install_from(place, version, &self.path(version), |_| ())
    }

    fn install_from(
        &self,
        place: &Place,
        version: u64,
        path: &Path,
        change: impl FnOnce(&mut Wish<'_>),
    ) -> Result<Installed, Failed> {
        let anchor = Anchor::RootDigest(self.digest(version));
        let mut wish = Wish::new(&anchor);
        change(&mut wish);
        install(place, &FileOrigin::open(path)?, &wish)
    }
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..len).map(|_| next()).collect()
}

/// Whether all of an image is as it was sealed.
fn is_whole(path: &Path, digest: Digest) -> bool {
    let source = crate::image::open(path, crate::Method::Pread).unwrap();
    let options = Options::new(Anchor::RootDigest(digest));
    verify::verify_source(source, &options, &verify::Options::default()).is_clean()
}

/// What would be booted is there, and whole.
fn assert_boots(place: &Place, what: &str) -> Digest {
    let order = Book::read(place.data()).state().order();
    let first = *order.first().unwrap_or_else(|| panic!("{what}: nothing is booted"));
    let path = place.find(first).unwrap_or_else(|| panic!("{what}: {first} is not there"));
    assert!(is_whole(&path, first), "{what}: {first} is not whole");
    first
}

/// Does something with the power cut before each of its changes; after each cut, what `check` says must hold, and doing it again
/// must work. Returns how many changes there are.
fn cut_everywhere(
    begin: impl Fn() -> (tempfile::TempDir, Place),
    work: impl Fn(&Place) -> Result<(), Failed>,
    check: impl Fn(&Place, &str),
) -> usize {
    let (_data, place) = begin();
    power::cut_after(None);
    work(&place).unwrap();
    let steps = power::done();
    check(&place, "at the end");
    for (cut, step) in steps.iter().enumerate() {
        let (_data, place) = begin();
        power::cut_after(Some(cut));
        let result = work(&place);
        power::cut_after(None);
        assert!(
            result.is_err(),
            "the power was cut before step {cut}, `{step}`, and nobody noticed"
        );
        check(&place, &format!("cut before step {cut}, `{step}`"));
        work(&place).unwrap_or_else(|err| panic!("again, after a cut before step {cut}: {err}"));
        check(&place, &format!("again, after a cut before step {cut}"));
        assert!(place.parts().unwrap().is_empty());
    }
    steps.len()
}

#[test]
fn an_update_may_be_cut_before_any_of_its_changes() {
    let images = Images::build(2);
    let steps = cut_everywhere(
        || images.machine(),
        |place| images.install(place, 2).map(drop),
        |place, what| {
            let next = assert_boots(place, what);
            assert!(images.digests.contains(&next));
        },
    );
    assert!(steps > 10, "{steps} steps");
}

#[test]
fn the_first_image_of_all_may_be_cut_too() {
    let images = Images::build(1);
    cut_everywhere(
        || {
            let data = tempfile::tempdir().unwrap();
            let place = Place::new(data.path()).unwrap();
            (data, place)
        },
        |place| images.install(place, 1).map(drop),
        |place, _| {
            // None, or a whole one: never a broken one under its name.
            for image in place.stored().unwrap() {
                assert!(is_whole(&image.path, image.root_digest));
            }
        },
    );
}

#[test]
fn blessing_rolling_back_and_removing_may_be_cut() {
    let images = Images::build(3);
    let begin = || {
        let (data, place) = images.machine();
        images.install(&place, 2).unwrap();
        keep::bless(&place, images.digest(2)).unwrap();
        images.install(&place, 3).unwrap();
        (data, place)
    };
    let check = |place: &Place, what: &str| {
        assert_boots(place, what);
    };
    cut_everywhere(
        begin,
        |place| {
            keep::bless(place, images.digest(3))
                .and_then(|_| keep::roll_back(place, Some(images.digest(3))))
                .map(drop)
        },
        check,
    );
    cut_everywhere(
        begin,
        |place| {
            keep::roll_back(place, Some(images.digest(1)))?;
            keep::pin(place, images.digest(2), true)?;
            keep::collect_garbage(place, &BTreeSet::new(), false).map(drop)
        },
        check,
    );
}

#[test]
fn one_image_alone_is_exchanged() {
    let images = Images::build(3);
    let begin = || {
        let data = tempfile::tempdir().unwrap();
        fs::copy(images.path(1), data.path().join(SINGLE)).unwrap();
        let place = Place::new(data.path()).unwrap();
        (data, place)
    };
    let digest_at = |place: &Place, name: &str| {
        let path = place.data().join(name);
        let source = crate::image::open(&path, crate::Method::Pread).ok()?;
        let digest = crate::store::read_superblock(&*source, 0).ok()?.1;
        assert!(is_whole(&path, digest));
        Some(digest)
    };
    cut_everywhere(
        begin,
        |place| images.install(place, 2).map(drop),
        |place, what| {
            single::recover(place).unwrap();
            let (current, previous) = (digest_at(place, SINGLE), digest_at(place, SINGLE_PREVIOUS));
            let (one, two) = (Some(images.digest(1)), Some(images.digest(2)));
            // Until the last step of all, the old one; from then on both.
            assert!(
                (current, previous) == (one, None) || (current, previous) == (two, one),
                "{what}"
            );
        },
    );
    let (_data, place) = begin();
    images.install(&place, 2).unwrap();
    assert_eq!(keep::roll_back(&place, None).unwrap(), images.digest(1));
    assert_eq!(digest_at(&place, SINGLE), Some(images.digest(1)));
    assert_eq!(keep::roll_back(&place, None).unwrap(), images.digest(2));
    let old = images.install(&place, 1).unwrap_err();
    assert!(old.to_string().contains("older"), "{old}");
    assert!(!images.install(&place, 3).unwrap().was_here);
    assert_eq!(digest_at(&place, SINGLE_PREVIOUS), Some(images.digest(2)));
}

#[test]
fn what_is_here_is_not_fetched() {
    let images = Images::build(2);
    let (_data, place) = images.machine();
    let installed = images.install(&place, 2).unwrap();
    let bytes = fs::metadata(images.path(2)).unwrap().len();
    assert_eq!(fs::read(&installed.path).unwrap(), fs::read(images.path(2)).unwrap());
    assert!(installed.bytes_fetched < bytes / 2, "{installed:?}");
    assert!(installed.bytes_copied > bytes / 2, "{installed:?}");
    assert!(!installed.was_here && installed.is_next);
    let again = images.install(&place, 2).unwrap();
    assert!(again.was_here && again.bytes_fetched == 0);
    // A seed that is damaged is no seed.
    let damaged = place.image(images.digest(1));
    let mut raw = fs::read(&damaged).unwrap();
    raw[4096..300_000].fill(7);
    fs::remove_file(&damaged).unwrap();
    fs::write(&damaged, &raw).unwrap();
    keep::roll_back(&place, None).unwrap();
    fs::remove_file(place.image(images.digest(2))).unwrap();
    let installed = images.install_from(&place, 2, &images.path(2), |_| ()).unwrap();
    assert_eq!(fs::read(&installed.path).unwrap(), fs::read(images.path(2)).unwrap());
    assert!(installed.bytes_fetched > bytes / 2, "{installed:?}");
}

#[test]
fn an_interrupted_run_goes_on_where_it_stopped() {
    let images = Images::build(1);
    let data = tempfile::tempdir().unwrap();
    let place = Place::new(data.path()).unwrap();
    power::cut_after(Some(15));
    images.install(&place, 1).unwrap_err();
    power::cut_after(None);
    assert_eq!(place.parts().unwrap().len(), 1);
    let installed = images.install(&place, 1).unwrap();
    assert!(installed.bytes_resumed > 0, "{installed:?}");
    assert!(is_whole(&installed.path, images.digest(1)));
}

#[test]
fn a_part_of_anything_else_is_no_harm() {
    let images = Images::build(2);
    let (_data, place) = images.machine();
    for junk in [Vec::new(), noise(5, 10), noise(6, 3_000_000), fs::read(images.path(1)).unwrap()] {
        fs::write(place.part(images.digest(2)), junk).unwrap();
        let installed = images.install(&place, 2).unwrap();
        assert_eq!(fs::read(&installed.path).unwrap(), fs::read(images.path(2)).unwrap());
        keep::roll_back(&place, None).unwrap();
        fs::remove_file(installed.path).unwrap();
    }
    let part = place.part(images.digest(2));
    std::os::unix::fs::symlink("/etc/passwd", &part).unwrap();
    images.install(&place, 2).unwrap_err();
    fs::remove_file(&part).unwrap();
    fs::create_dir(&part).unwrap();
    images.install(&place, 2).unwrap_err();
    assert_boots(&place, "with a directory in the way");
}

#[test]
fn wrong_images_are_refused_and_nothing_of_them_is_kept() {
    let images = Images::build(3);
    // With nothing to take blocks from, all of them count.
    let data = tempfile::tempdir().unwrap();
    let place = Place::new(data.path()).unwrap();
    let wrong = data.path().join("wrong");
    let whole = fs::read(images.path(2)).unwrap();
    let attempt = |raw: &[u8]| {
        fs::write(&wrong, raw).unwrap();
        let result = images.install_from(&place, 2, &wrong, |_| ());
        // What was right of it would be taken by the next attempt.
        place.parts().unwrap().iter().for_each(|part| fs::remove_file(part).unwrap());
        result
    };
    let mut raw = whole.clone();
    // A block, the table, the superblock, its backup, the end.
    for at in [5000, whole.len() / 2, whole.len() - 6000, 100, whole.len() - 100] {
        raw[at] ^= 1;
        let failed = attempt(&raw).expect_err(&format!("byte {at}"));
        assert!(!failed.to_string().is_empty());
        assert!(place.stored().unwrap().is_empty(), "byte {at}");
        raw[at] ^= 1;
    }
    for len in [0, 10, 4096, 5000, whole.len() / 2, whole.len() - 1] {
        attempt(&whole[..len]).expect_err(&format!("{len} bytes"));
        assert!(place.stored().unwrap().is_empty(), "{len} bytes");
    }
    // Another digest than it should have.
    let other = images.install_from(&place, 2, &images.path(3), |_| ()).unwrap_err();
    assert!(other.to_string().contains("superblock"), "{other}");
    assert!(!Book::read(place.data()).is_known());
    attempt(&whole).unwrap();
}

#[test]
fn old_and_bad_images_come_back_only_when_somebody_says_so() {
    let images = Images::build(3);
    let (_data, place) = images.machine();
    images.install(&place, 3).unwrap();
    keep::bless(&place, images.digest(3)).unwrap();
    let old = images.install(&place, 2).unwrap_err();
    assert!(old.to_string().contains("version 2, which is older than version 3"), "{old}");
    let allow = |wish: &mut Wish<'_>| wish.allow_downgrade = true;
    images.install_from(&place, 2, &images.path(2), allow).unwrap();
    keep::mark_bad(&place, images.digest(2), super::state::Why::Marked).unwrap();
    let bad = images.install_from(&place, 2, &images.path(2), allow).unwrap_err();
    assert!(bad.to_string().contains("was given up on this machine"), "{bad}");
    images
        .install_from(&place, 2, &images.path(2), |wish| {
            wish.allow_downgrade = true;
            wish.allow_bad = true;
        })
        .unwrap();
    assert_eq!(assert_boots(&place, "at the end"), images.digest(2));
}

#[test]
fn two_at_once_keep_out_of_each_others_way() {
    let images = Images::build(2);
    let (_data, place) = images.machine();
    let lock = place.lock().unwrap();
    let busy = images.install(&place, 2).unwrap_err();
    assert!(busy.to_string().contains("another update is at work"), "{busy}");
    drop(lock);
    images.install(&place, 2).unwrap();
}

#[test]
fn garbage_is_what_nothing_needs() {
    let images = Images::build(3);
    let (data, place) = images.machine();
    for version in [2, 3] {
        images.install(&place, version).unwrap();
        keep::bless(&place, images.digest(version)).unwrap();
    }
    fs::copy(images.path(1), place.images().join("by-hand.img")).unwrap();
    fs::write(place.part(images.digest(1)), "left").unwrap();
    let would = keep::collect_garbage(&place, &BTreeSet::new(), true).unwrap();
    assert_eq!(would.paths.len(), 2);
    assert!(place.image(images.digest(1)).exists());
    keep::pin(&place, images.digest(1), true).unwrap();
    assert_eq!(keep::collect_garbage(&place, &BTreeSet::new(), true).unwrap().paths.len(), 1);
    keep::pin(&place, images.digest(1), false).unwrap();
    fs::write(data.path().join("state/etc.last"), format!("{}\n", images.digest(1))).unwrap();
    assert_eq!(keep::collect_garbage(&place, &BTreeSet::new(), true).unwrap().paths.len(), 1);
    fs::remove_file(data.path().join("state/etc.last")).unwrap();
    // The first is here by another name, the other never was.
    let etc = |digest: Digest| data.path().join(format!("state/etc.{digest}"));
    let gone = Digest([9; 32]);
    for digest in [images.digest(1), images.digest(2), gone] {
        fs::create_dir_all(etc(digest).join("default/deep")).unwrap();
        fs::write(etc(digest).with_extension(format!("{digest}.pristine")), "record").unwrap();
    }
    fs::write(etc(gone).join("default/file"), "changed here").unwrap();
    let would = keep::collect_garbage(&place, &BTreeSet::from([gone]), true).unwrap();
    assert_eq!(would.paths.len(), 2, "{would:?}");
    let removed = keep::collect_garbage(&place, &BTreeSet::new(), false).unwrap();
    assert_eq!(removed.paths.len(), 4, "{removed:?}");
    let mut names: Vec<_> = fs::read_dir(data.path().join("state")).unwrap().collect();
    names.retain(|entry| entry.as_ref().unwrap().file_name().to_str().unwrap().starts_with("etc."));
    assert_eq!(names.len(), 4, "those of the images that are here: {names:?}");
    let left: Vec<Digest> = place.stored().unwrap().iter().map(|it| it.root_digest).collect();
    assert_eq!(left.len(), 3, "two that are needed, and the one with another name: {left:?}");
    // What is needed is not known: nothing is removed.
    for name in super::book::FILES {
        fs::write(data.path().join(name), "junk").unwrap();
    }
    keep::collect_garbage(&place, &BTreeSet::new(), false).unwrap_err();
}

#[test]
fn records_that_cannot_be_written_are_an_error_and_the_old_one_counts() {
    let images = Images::build(2);
    let (data, place) = images.machine();
    // The first was written by the installation, the second by the blessing: the first is next, where a directory is now.
    let next = data.path().join(super::book::FILES[0]);
    fs::remove_file(&next).unwrap();
    fs::create_dir(&next).unwrap();
    let failed = images.install(&place, 2).unwrap_err();
    assert!(failed.to_string().contains("cannot write boot record"), "{failed}");
    assert_eq!(assert_boots(&place, "unwritable"), images.digest(1));
    fs::remove_dir(&next).unwrap();
    assert!(images.install(&place, 2).unwrap().was_here, "it only has to be remembered");
    assert_eq!(assert_boots(&place, "at the end"), images.digest(2));
}

#[test]
fn a_machine_that_was_never_updated_boots_no_image_that_was_not_tried() {
    let images = Images::build(2);
    cut_everywhere(
        || {
            let data = tempfile::tempdir().unwrap();
            fs::create_dir(data.path().join("images")).unwrap();
            fs::copy(images.path(1), data.path().join("images/one.img")).unwrap();
            let place = Place::new(data.path()).unwrap();
            (data, place)
        },
        |place| images.install(place, 2).map(drop),
        |place, what| {
            let state = Book::read(place.data()).state().clone();
            let is_there = place.find(images.digest(2)).is_some();
            assert!(!is_there || state.default == Some(images.digest(1)), "{what}");
        },
    );
}

#[test]
fn the_only_image_that_works_is_kept_where_there_are_two() {
    let images = Images::build(3);
    let data = tempfile::tempdir().unwrap();
    let place = Place::new(data.path()).unwrap();
    let (current, previous) = (data.path().join(SINGLE), data.path().join(SINGLE_PREVIOUS));
    let mut damaged = fs::read(images.path(2)).unwrap();
    damaged[5000] ^= 1;
    fs::write(&current, &damaged).unwrap();
    fs::copy(images.path(1), &previous).unwrap();
    images.install(&place, 3).unwrap();
    assert!(is_whole(&current, images.digest(3)) && is_whole(&previous, images.digest(1)));
    // Whole, but the machine did not run it.
    fs::copy(images.path(2), &current).unwrap_or_else(|_| {
        fs::remove_file(&current).unwrap();
        fs::copy(images.path(2), &current).unwrap()
    });
    images
        .install_from(&place, 3, &images.path(3), |wish| wish.booted = Some(images.digest(1)))
        .unwrap();
    assert!(is_whole(&current, images.digest(3)) && is_whole(&previous, images.digest(1)));
    // What was left by somebody else is no image of ours.
    let part = place.part(images.digest(2));
    fs::write(&part, fs::read(images.path(1)).unwrap()).unwrap();
    assert!(!single::recover(&place).unwrap() && part.exists());
    let part = place.part(images.digest(3));
    fs::write(&part, &damaged).unwrap();
    assert!(!single::recover(&place).unwrap() && part.exists());
}

#[test]
fn what_is_damaged_here_is_made_anew_though_it_was_given_up() {
    let images = Images::build(2);
    let (_data, place) = images.machine();
    let path = images.install(&place, 2).unwrap().path;
    let whole = fs::read(&path).unwrap();
    let mut raw = whole.clone();
    raw[5000] ^= 1;
    fs::remove_file(&path).unwrap();
    fs::write(&path, &raw).unwrap();
    assert!(keep::refuse(&place, images.digest(2)).unwrap());
    images.install(&place, 2).unwrap();
    assert_eq!(fs::read(&path).unwrap(), whole);
    keep::mark_bad(&place, images.digest(2), super::state::Why::Marked).unwrap();
    images.install(&place, 2).unwrap_err();
}

#[test]
fn an_image_that_somebody_names_is_no_garbage() {
    let images = Images::build(3);
    let (data, place) = images.machine();
    for version in [2, 3] {
        images.install(&place, version).unwrap();
        keep::bless(&place, images.digest(version)).unwrap();
    }
    let one = images.digest(1);
    let named = keep::digests_in(format!("ashlar={one} quiet").as_bytes());
    assert_eq!(named, BTreeSet::from([one]));
    assert!(keep::collect_garbage(&place, &named, true).unwrap().paths.is_empty());
    let config = data.path().join("ashlar.toml");
    fs::write(&config, format!("extension = [\"{one}\"]\n")).unwrap();
    assert!(keep::collect_garbage(&place, &BTreeSet::new(), true).unwrap().paths.is_empty());
    fs::remove_file(&config).unwrap();
    assert_eq!(keep::collect_garbage(&place, &BTreeSet::new(), true).unwrap().paths.len(), 1);
}
