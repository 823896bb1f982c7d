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
/// What ends the name of a signature beside an image.
pub const SIGNATURE_SUFFIX: &str = ".minisig";

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
        let mut paths = self.entries(|name| !name.starts_with('.'))?;
        paths.retain(|path| has_image_suffix(path));
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

    /// What is left of images that never became whole.
    pub fn parts(&self) -> Result<Vec<PathBuf>, Failed> {
        let is_part = |name: &str| {
            let digest = name.strip_prefix('.').and_then(|name| name.strip_suffix(PART_SUFFIX));
            digest.is_some_and(|digest| digest.parse::<Digest>().is_ok())
        };
        let mut parts = self.entries(is_part)?;
        parts.extend(entries(&self.data, is_part)?);
        Ok(parts)
    }

    fn entries(&self, wanted: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>, Failed> {
        entries(&self.images(), wanted)
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

fn has_image_suffix(path: &Path) -> bool {
    path.extension().is_some_and(|suffix| suffix == "img" || suffix == "ashlar")
}

/// The signature file beside an image.
pub fn signature_beside(image: &Path) -> PathBuf {
    let mut name = image.as_os_str().to_owned();
    name.push(SIGNATURE_SUFFIX);
    PathBuf::from(name)
}

/// What the superblock of a file says, if it has one.
pub(super) fn look(path: &Path) -> Option<Stored> {
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
