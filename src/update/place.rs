//! What is where on the data partition? Images, what is becoming one, and the lock that keeps updates apart.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags};

use super::disk;
use super::failed::Failed;
use crate::format::digest::Digest;
use crate::format::superblock::Superblock;
pub use crate::image::is_image_name;
use crate::image::{self, Method};
use crate::store::read_superblock;

/// Where images are.
pub const IMAGES: &str = "images";
/// The one image of a machine that keeps no more than the one before it.
pub const SINGLE: &str = "root.img";
/// The image before it.
pub const SINGLE_PREVIOUS: &str = "root.img.prev";
/// Held by who changes anything.
const LOCK: &str = "state/update.lock";
/// What images that we put there end with.
const SUFFIX: &str = ".img";
/// What ends the name of an image that is not whole yet.
const PART_SUFFIX: &str = ".part";
/// The file that names the image whose `/etc` is carried over to the next one (BOOT.md, "Where changes go").
const ETC_LAST: &str = "state/etc.last";
/// More than is in it.
const ETC_LAST_LEN_MAX: u64 = 256;

/// A data partition.
#[derive(Debug, Clone)]
pub struct Place {
    data: PathBuf,
}

/// An image on it, which nobody vouches for yet.
#[derive(Debug, Clone)]
pub struct Stored {
    /// Where.
    pub path: PathBuf,
    /// The digest of its superblock.
    pub root_digest: Digest,
    /// The version that it says it has.
    pub version: u64,
    /// Its length.
    pub bytes: u64,
    /// Whether it bears its root digest as its name, as what an update put there does.
    pub is_named_by_digest: bool,
}

impl Place {
    /// The data partition that is mounted at `data`.
    pub fn new(data: &Path) -> Result<Place, Failed> {
        if !data.is_dir() {
            return Err(Failed::new(format_args!("{} is no directory", data.display()))
                .hint("--data names the directory that holds images/ or root.img"));
        }
        Ok(Place { data: data.to_owned() })
    }

    /// Where it is mounted.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Where images are.
    pub fn images(&self) -> PathBuf {
        self.data.join(IMAGES)
    }

    /// Whether there is one image only, `root.img`, and no place for more.
    pub fn is_single(&self) -> bool {
        self.data.join(SINGLE).is_file() && !self.images().is_dir()
    }

    /// The path of an image.
    pub fn image(&self, root_digest: Digest) -> PathBuf {
        self.images().join(format!("{root_digest}{SUFFIX}"))
    }

    /// The path of an image as long as it is not whole.
    pub fn part(&self, root_digest: Digest) -> PathBuf {
        let directory = if self.is_single() { self.data.clone() } else { self.images() };
        directory.join(format!(".{root_digest}{PART_SUFFIX}"))
    }

    /// Keeps everybody else from changing anything until the lock is dropped. Who is at work already is an error.
    pub fn lock(&self) -> Result<Lock, Failed> {
        self.lock_by(FlockOperation::NonBlockingLockExclusive)
    }

    /// The same, when whoever is at work has ended.
    pub(super) fn wait_for_lock(&self) -> Result<Lock, Failed> {
        self.lock_by(FlockOperation::LockExclusive)
    }

    fn lock_by(&self, how: FlockOperation) -> Result<Lock, Failed> {
        let path = self.data.join(LOCK);
        let wrap = |err| {
            let failed = Failed::io(format_args!("cannot lock {}", path.display()), err);
            match rustix::fs::statvfs(&self.data) {
                Ok(stat) if stat.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY) => failed
                    .hint(format_args!("mount -o remount,rw {}, then again", self.data.display())),
                _ => failed,
            }
        };
        disk::make_directory(path.parent().unwrap_or(&self.data)).map_err(wrap)?;
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .custom_flags(flags.bits().cast_signed())
            .open(&path)
            .map_err(wrap)?;
        match rustix::fs::flock(&file, how) {
            Ok(()) => Ok(Lock { _file: file }),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                Err(Failed::new("another update is at work").hint(format_args!(
                    "`fuser -v {}` names its process; wait for it, or end it: it goes on where it stopped",
                    path.display()
                )))
            }
            Err(errno) => Err(wrap(errno.into())),
        }
    }

    /// The images that are there: whole files with a superblock. What is none is left out.
    pub fn stored(&self) -> Result<Vec<Stored>, Failed> {
        let mut found = Vec::new();
        for name in [SINGLE, SINGLE_PREVIOUS] {
            found.extend(look(&self.data.join(name)));
        }
        let mut paths = entries(&self.images(), |_| true)?;
        paths.retain(|path| is_image_name(path));
        found.extend(paths.iter().filter_map(|path| look(path)));
        Ok(found)
    }

    /// The path of the image with a root digest, if there is one: the one that bears it as its name, or any other. Its
    /// superblock was looked at, and nothing else.
    pub fn find(&self, root_digest: Digest) -> Option<PathBuf> {
        let named = look(&self.image(root_digest)).filter(|it| it.root_digest == root_digest);
        let any = || self.stored().ok()?.into_iter().find(|it| it.root_digest == root_digest);
        named.or_else(any).map(|stored| stored.path)
    }

    /// The same where it must be there.
    pub(super) fn expect(&self, root_digest: Digest) -> Result<PathBuf, Failed> {
        self.find(root_digest).ok_or_else(|| {
            Failed::new(format_args!("there is no image {root_digest} on the data partition"))
                .hint("`ashlar update list` names those that are there")
        })
    }

    /// What is left of images that never became whole.
    pub fn parts(&self) -> Result<Vec<PathBuf>, Failed> {
        let is_part = |name: &str| {
            let digest = name.strip_prefix('.').and_then(|name| name.strip_suffix(PART_SUFFIX));
            digest.is_some_and(|digest| digest.parse::<Digest>().is_ok())
        };
        let mut parts = entries(&self.images(), is_part)?;
        parts.extend(entries(&self.data, is_part)?);
        Ok(parts)
    }
}

/// Paths in a directory whose names are wanted, sorted; none where there is no such directory.
fn entries(directory: &Path, wanted: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>, Failed> {
    let wrap = |err| Failed::io(format_args!("cannot list {}", directory.display()), err);
    let read = match fs::read_dir(directory) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        read => read.map_err(wrap)?,
    };
    let mut found = Vec::new();
    for entry in read {
        let path = entry.map_err(wrap)?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        if name.is_some_and(&wanted) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// The image whose `/etc` was used last: it has run here, and the merge for the next one compares with it.
pub fn etc_last(data: &Path) -> Option<Digest> {
    use std::io::Read;
    let mut text = String::new();
    let file = image::open_regular(&data.join(ETC_LAST)).ok()?;
    file.take(ETC_LAST_LEN_MAX).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// What the superblock of a file says, if it has one. Nobody vouches for it, and nothing else is looked at.
pub fn look(path: &Path) -> Option<Stored> {
    if !path.is_file() {
        return None;
    }
    let source = image::open(path, Method::Pread).ok()?;
    let (raw, root_digest) = read_superblock(&*source, 0).ok()?;
    let superblock = Superblock::decode(&raw).ok()?;
    let name = root_digest.to_string();
    Some(Stored {
        path: path.to_owned(),
        root_digest,
        version: superblock.image_version,
        bytes: source.len(),
        is_named_by_digest: path.file_stem().is_some_and(|stem| stem == name.as_str()),
    })
}

/// Nobody else changes anything while it is there. The kernel gives it back when the process ends, however it ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}
