//! Which other images of this machine have the same bytes? Those in the image's directory, and wherever else somebody says.
//!
//! Directories are held by their descriptors: the server of `/` can find nothing by a path. What is in them is looked at when it
//! is needed, so that images may come and go; none is kept open, for one that was removed would fill the disk until then.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{Dir, Mode, OFlags, ResolveFlags};
use serde::{Deserialize, Serialize};

use super::index::{BLOCKS_MAX, Index, copy_at_place, copy_of_table, open_unknown};
use super::is_passing;
use crate::format::superblock;
use crate::image::{self, Method, is_image_name};
use crate::store::heal::{Cure, Healer, Offer, Unknown, Wanted};
use crate::store::{Store, lock};

/// Most images that are looked into; of more, the newest.
const IMAGES_MAX: usize = 16;
/// Most names of a directory that are looked at.
pub(crate) const NAMES_MAX: usize = 4096;
/// Most directories: all of them are handed on in one message.
const PLACES_MAX: usize = 32;
/// What an updater puts behind the name of the one before.
const PREVIOUS_SUFFIX: &str = "prev";
/// Where images are on a data partition, beside its single one.
pub(crate) const IMAGES: &str = "images";
/// How much everybody else comes before who prepares for the future: as much as can be (nice(2)).
const NICE: i32 = 19;
/// A directory that was changed less than so many seconds ago may change again without a new time of change.
const SETTLED: i64 = 2;

/// Other images.
#[derive(Debug)]
pub struct Siblings {
    pub(super) places: Vec<Place>,
    pub(super) rules: Rules,
    /// Most blocks that have an index, in all images together.
    indexed_max: u32,
    known: Mutex<Known>,
}

/// A directory.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) directory: OwnedFd,
    pub(super) what: What,
}

/// What of a directory is looked at.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct What {
    /// The name of the one file in it that is meant.
    only: Option<Vec<u8>>,
    /// Whether somebody named it.
    is_named: bool,
}

/// Whose images count.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Rules {
    /// The image that is healed, which has nothing that it does not have: device and inode.
    own: (u64, u64),
    /// Whose files are looked into where nobody said so by name: a file may be such that reading it never ends.
    owners: [u32; 3],
}

#[derive(Debug, Default)]
struct Known {
    siblings: Arc<Vec<Arc<Sibling>>>,
    /// When the directories were changed, before they were looked at; nothing where not all could be looked into.
    changes: Option<Vec<Change>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Change {
    seconds: i64,
    nanoseconds: i64,
    is_settled: bool,
}

/// Another image, as it was when its table was read.
#[derive(Debug)]
struct Sibling {
    file: Named,
    /// Nothing of one with too many blocks, which may be of use all the same: a copy of the image has each block at its place.
    index: Option<Index>,
}

/// A file in one of the directories.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Named {
    place: usize,
    name: OsString,
    id: Id,
}

/// What is another one when a file is another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Id {
    device: u64,
    inode: u64,
    len: u64,
    changed: (i64, i64),
}

impl Siblings {
    /// None yet.
    pub fn new(image: &Path) -> io::Result<Self> {
        let metadata = image.metadata()?;
        let rules = Rules {
            own: (metadata.dev(), metadata.ino()),
            owners: [0, rustix::process::geteuid().as_raw(), metadata.uid()],
        };
        Ok(Siblings::in_places(Vec::new(), rules))
    }

    /// Those in some places.
    pub(super) fn in_places(places: Vec<Place>, rules: Rules) -> Self {
        Siblings { places, rules, indexed_max: BLOCKS_MAX, known: Mutex::default() }
    }

    /// Those in the image's directory, and on a data partition in both that have images.
    pub fn beside(image: &Path) -> io::Result<Self> {
        let mut siblings = Siblings::new(image)?;
        // Beside a block device there are devices.
        let image = image.canonicalize()?;
        let Some(directory) = image.parent().filter(|_| image.is_file()) else {
            return Ok(siblings);
        };
        let directory = open_directory(directory)?;
        let mut others = vec![IMAGES];
        if image.parent().and_then(Path::file_name).is_some_and(|name| name == IMAGES) {
            others.push("..");
        }
        let others = others.into_iter().filter_map(|other| {
            // Whoever may write there could have put a link there, or a file system that never answers.
            let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
            rustix::fs::openat2(&directory, other, DIRECTORY, Mode::empty(), resolve).ok()
        });
        let others: Vec<OwnedFd> = others.collect();
        for directory in std::iter::once(directory).chain(others) {
            let what = What { only: None, is_named: false };
            siblings.places.push(Place { directory, what });
        }
        Ok(siblings)
    }

    /// An image, or all in a directory.
    pub fn add(&mut self, path: &Path) -> io::Result<()> {
        let path = path.canonicalize()?;
        let (directory, only) = if path.is_dir() {
            (path, None)
        } else {
            let name = path.file_name().map(ToOwned::to_owned);
            (path.parent().map_or_else(PathBuf::new, Path::to_owned), name)
        };
        let directory = open_directory(&directory)?;
        if self.places.len() >= PLACES_MAX {
            return Err(io::Error::other(format!("there are {PLACES_MAX} such places already")));
        }
        let only = only.map(OsString::into_vec);
        self.places.push(Place { directory, what: What { only, is_named: true } });
        Ok(())
    }

    /// Reads their tables in idle time, so that the first heal need not wait for that. It begins after `delay`, when a machine
    /// that boots has other things to do no more; its thread does something `first`.
    pub fn prepare(self: &Arc<Self>, delay: Duration, first: fn()) -> io::Result<()> {
        let siblings = Arc::downgrade(self);
        let run = move || {
            first();
            thread::sleep(delay);
            let Some(siblings) = siblings.upgrade() else { return };
            // Not as one that runs in idle time only: it could be stopped for long with a lock of the kernel in its hand.
            rustix::process::setpriority_process(None, NICE).unwrap_or_default();
            let found = siblings.scan(&[]);
            let mut known = lock(&siblings.known);
            if known.changes.is_none() {
                *known = found;
            }
        };
        thread::Builder::new().name("heal-idle".to_owned()).spawn(run).map(drop)
    }

    /// Those that are there now, and whether these are all.
    fn look(&self) -> (Arc<Vec<Arc<Sibling>>>, bool) {
        let mut known = lock(&self.known);
        let changes = self.changes();
        let is_there = |sibling: &Arc<Sibling>| self.is_there(&sibling.file);
        let is_fresh = known.changes.as_ref().is_some_and(|before| *before == changes)
            && changes.iter().all(|change| change.is_settled)
            && known.siblings.iter().all(is_there);
        if !is_fresh {
            *known = self.scan(&known.siblings);
        }
        (Arc::clone(&known.siblings), known.changes.is_some())
    }

    fn changes(&self) -> Vec<Change> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        let change = |place: &Place| {
            let file = place.directory.try_clone().map(File::from);
            let metadata = file.and_then(|file| file.metadata()).ok();
            metadata.map(|it| Change {
                seconds: it.mtime(),
                nanoseconds: it.mtime_nsec(),
                is_settled: now.saturating_sub(it.mtime()) > SETTLED,
            })
        };
        self.places.iter().filter_map(change).collect()
    }

    /// Looks into the directories. What is known of a file that is still the same is kept.
    fn scan(&self, before: &[Arc<Sibling>]) -> Known {
        let changes = self.changes();
        let mut files = Vec::new();
        let mut is_all = true;
        for found in (0..self.places.len()).map(|place| self.files_at(place)) {
            is_all &= found.is_ok();
            files.extend(found.unwrap_or_default());
        }
        files.sort_by_key(|file| Reverse(file.id.changed));
        let mut inodes = HashSet::new();
        files.retain(|file| inodes.insert((file.id.device, file.id.inode)));
        files.truncate(IMAGES_MAX);
        let mut blocks_left = self.indexed_max;
        let mut siblings = Vec::new();
        for file in files {
            let known = before.iter().find(|sibling| sibling.file == file).cloned();
            let sibling = match known {
                Some(known) => known,
                None => match self.read_table(&file) {
                    Ok(index) => Arc::new(Sibling { file, index }),
                    Err(err) => {
                        tracing::debug!("nothing is healed from {}: {err}", file.name.display());
                        is_all &= !is_passing_here(&err);
                        continue;
                    }
                },
            };
            let count = sibling.index.as_ref().map_or(0, Index::len);
            let Some(left) = blocks_left.checked_sub(count) else {
                let name = sibling.file.name.display();
                tracing::info!("nothing is healed from {name}: all have too many blocks together");
                continue;
            };
            blocks_left = left;
            siblings.push(sibling);
        }
        Known { siblings: Arc::new(siblings), changes: Some(changes).filter(|_| is_all) }
    }

    fn read_table(&self, file: &Named) -> crate::Result<Option<Index>> {
        let image = self.open_image(file)?;
        let is_short = image.superblock().block_count <= self.indexed_max;
        is_short.then(|| Index::of(&image, |_| false)).transpose()
    }

    /// Opens an image, if it is still the same file.
    fn open_image(&self, named: &Named) -> crate::Result<Store> {
        let wrap = |err| crate::Error::io(format!("cannot open {}", named.name.display()), err);
        let (file, id) = self.open(named.place, &named.name).map_err(wrap)?;
        if id != named.id {
            return Err(wrap(io::Error::other("it is another file now")));
        }
        open_unknown(image::from_file(file, Method::Pread).map_err(wrap)?)
    }

    fn is_there(&self, named: &Named) -> bool {
        self.open(named.place, &named.name).is_ok_and(|(_, id)| id == named.id)
    }

    /// The images in a directory. What cannot be opened is none, but an error where it may be one the next time.
    fn files_at(&self, nth: usize) -> io::Result<Vec<Named>> {
        let Some(place) = self.places.get(nth) else { return Ok(Vec::new()) };
        let names = match &place.what.only {
            Some(name) => Ok(vec![OsString::from_vec(name.clone())]),
            None => names(&place.directory),
        };
        let mut files = Vec::new();
        for name in unless_passing(names)?.unwrap_or_default() {
            // What is none must not take the place of one that is.
            let file = unless_passing(self.open(nth, &name))?.filter(|(file, _)| is_image(file));
            files.extend(file.map(|(_, id)| Named { place: nth, name, id }));
        }
        Ok(files)
    }

    fn open(&self, place: usize, name: &OsString) -> io::Result<(File, Id)> {
        let place = self.places.get(place).ok_or(io::ErrorKind::NotFound)?;
        // A pipe would make us wait.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let flags = flags | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = rustix::fs::openat(&place.directory, name.as_os_str(), flags, Mode::empty())?;
        let file = File::from(file);
        let metadata = file.metadata()?;
        let kind = metadata.file_type();
        let is_image = kind.is_file() || (place.what.only.is_some() && kind.is_block_device());
        let is_own = (metadata.dev(), metadata.ino()) == self.rules.own;
        let is_ours = place.what.is_named || self.rules.owners.contains(&metadata.uid());
        if !is_image || is_own || !is_ours {
            return Err(io::Error::other("nothing is taken from it"));
        }
        let id = Id {
            device: metadata.dev(),
            inode: metadata.ino(),
            len: metadata.len(),
            changed: (metadata.mtime(), metadata.mtime_nsec()),
        };
        Ok((file, id))
    }

    /// What one of them has.
    fn copies_of(&self, sibling: &Sibling, wanted: &Wanted) -> Vec<Offer> {
        let (block, index) = (wanted.part.block(), sibling.index.as_ref());
        if block.is_some() && index.is_some_and(|index| !index.may_have(wanted.digest)) {
            return Vec::new();
        }
        let offer = |copy: crate::Result<Vec<u8>>| match copy {
            Ok(copy) => Some(Ok(copy)),
            Err(err) => {
                let name = sibling.file.name.display();
                tracing::debug!("{} is not healed from {name}: {err}", wanted.part);
                is_passing_here(&err).then_some(Err(Unknown))
            }
        };
        let image = match self.open_image(&sibling.file) {
            Ok(image) => image,
            Err(err) => return offer(Err(err)).into_iter().collect(),
        };
        let index = index.filter(|_| block.is_some());
        let found = index.into_iter().flat_map(|index| index.copies(&image, wanted.digest));
        let block = block.filter(|_| index.is_none());
        let at_place = block.and_then(|block| copy_at_place(&image, block, wanted.digest));
        found.chain(at_place).chain(copy_of_table(&image, wanted)).filter_map(offer).collect()
    }
}

impl Healer for Siblings {
    fn cure(&self) -> Cure {
        Cure::Image
    }

    fn copies<'a>(&'a self, wanted: &'a Wanted) -> Box<dyn Iterator<Item = Offer> + 'a> {
        let (siblings, are_all) = self.look();
        let copies = (0..siblings.len()).flat_map(move |nth| {
            siblings.get(nth).map(|sibling| self.copies_of(sibling, wanted)).unwrap_or_default()
        });
        Box::new(copies.chain((!are_all).then_some(Err(Unknown))))
    }
}

fn is_passing_here(err: &crate::Error) -> bool {
    matches!(err, crate::Error::Io { source, .. } if is_passing(source))
}

/// What there is, if it can be had; an error where that says nothing of what there is.
fn unless_passing<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Err(err) if is_passing(&err) => Err(err),
        found => Ok(found.ok()),
    }
}

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(path, DIRECTORY, Mode::empty())?)
}

/// Whether a file begins as images do.
fn is_image(file: &File) -> bool {
    let mut found = [0; superblock::MAGIC.len()];
    file.read_exact_at(&mut found, 0).is_ok() && found == superblock::MAGIC
}

/// Whether a name is that of an image, or of the one before.
pub(crate) fn is_image_or_previous(path: &Path) -> bool {
    let is_previous = path.extension().is_some_and(|suffix| suffix == PREVIOUS_SUFFIX);
    let stem = path.file_stem().filter(|_| is_previous);
    is_image_name(path) || stem.is_some_and(|stem| is_image_name(Path::new(stem)))
}

/// Names of images in a directory.
fn names(directory: &OwnedFd) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)?.take(NAMES_MAX) {
        let name = OsString::from_vec(entry?.file_name().to_bytes().to_vec());
        if is_image_or_previous(Path::new(&name)) {
            names.push(name);
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::CacheLimits;
    use crate::format::index::BlockIndex;

    /// Where nobody can be asked which block has a digest, it is the one at the same place of the same image.
    #[test]
    fn a_copy_that_is_too_large_for_an_index_heals_all_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let [tree, image, copy] =
            ["tree", "a.img", "b.img"].map(|name| directory.path().join(name));
        fs::create_dir(&tree).unwrap();
        fs::write(tree.join("file"), vec![7; 10_000]).unwrap();
        let args = ["mkimage", "-q", "-b", "4K", "-z", "none", tree.to_str().unwrap()];
        let args = args.into_iter().chain([image.to_str().unwrap()]);
        let digest = ashlarfs_mkimage::run(args).unwrap().root_digest.parse().unwrap();
        fs::copy(&image, &copy).unwrap();
        let file = File::options().write(true).open(&image).unwrap();
        let store = |siblings| {
            let source = image::open(&image, Method::Pread).unwrap();
            let healers: Vec<Arc<dyn Healer>> = vec![Arc::new(siblings)];
            Store::open_healing(source, digest, CacheLimits::NONE, healers).unwrap()
        };
        let siblings = || Siblings { indexed_max: 0, ..Siblings::beside(&image).unwrap() };
        let block = BlockIndex(0);
        let (whole, entry) =
            (store(siblings()).stored(block).unwrap(), store(siblings()).entry(block));
        file.write_all_at(&[1; 100], entry.unwrap().offset).unwrap();
        assert_eq!(store(siblings()).stored(block).unwrap(), whole);
        fs::remove_file(&copy).unwrap();
        assert!(store(siblings()).stored(block).is_err());
    }
}
