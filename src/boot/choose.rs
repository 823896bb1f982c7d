//! Which image becomes the root? The one that is asked for, or, when it fails, another one that somebody vouches for.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use serde::Serialize;

use super::Failed;
use super::cmdline::{BootArgs, Slot, Wanted};
use super::config::{Config, FILE_LEN_MAX};
use super::data::{CONFIG_IN_ROOT, read_text};
use super::needs::INIT;
use super::patience::{self, Patience};
use super::slots::Slots;
use crate::format::digest::Digest;
use crate::heal::Ladder;
use crate::image;
use crate::store;
use crate::trust::{self, Anchor};
use crate::update::place::{IMAGES, SINGLE, SINGLE_PREVIOUS, is_image_name, look};
use crate::{Error, Healer, Method, Options, Tree};

/// Where extensions say what they are made for (extension-release(5)); what is no extension has none of it.
pub(super) const RELEASES: &str = "usr/lib/extension-release.d";
/// Most images that are looked at.
const IMAGES_MAX: usize = 256;

/// An image that may be booted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its path.
    pub path: PathBuf,
    /// The digest that it must have.
    pub pinned: Option<Digest>,
}

/// An image that was found to be what somebody vouches for.
#[derive(Debug)]
pub struct Chosen {
    /// Its path.
    pub path: PathBuf,
    /// Its tree, verified as it is read.
    pub tree: Tree,
    /// Who vouches for it.
    pub voucher: Voucher,
}

/// Who vouches for an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Voucher {
    /// The kernel command line, by its digest.
    RootDigest,
    /// A signature.
    Key,
    /// Nobody.
    #[serde(rename = "nothing")]
    Nobody,
}

impl Voucher {
    /// One word for it.
    pub fn word(self) -> &'static str {
        match self {
            Voucher::RootDigest => "root-digest",
            Voucher::Key => "key",
            Voucher::Nobody => "nothing",
        }
    }
}

impl Chosen {
    /// What the image itself says about the state.
    pub fn config(&self) -> Config {
        let read = || -> Result<Option<Vec<u8>>, Error> {
            let at = match self.tree.resolve_following(CONFIG_IN_ROOT.as_bytes()) {
                Ok(resolved) => resolved.index,
                Err(Error::NotFound | Error::NotADirectory) => return Ok(None),
                Err(err) => return Err(err),
            };
            let mut text = vec![0; FILE_LEN_MAX];
            let len = self.tree.read_at(at, 0, &mut text)?;
            text.truncate(len);
            Ok(Some(text))
        };
        let parsed = match read() {
            Ok(None) => return Config::default(),
            Ok(Some(text)) => Config::from_toml(&String::from_utf8_lossy(&text)),
            Err(err) => Err(err.to_string()),
        };
        parsed.unwrap_or_else(|why| {
            tracing::error!("{CONFIG_IN_ROOT} of the image is ignored: {why}");
            Config::default()
        })
    }
}

/// The images that may be booted.
#[derive(Debug, Default)]
pub struct Candidates {
    /// The best first.
    pub images: Vec<Candidate>,
    /// What is asked for and not there.
    pub missing: Option<Failed>,
}

/// The images that may be booted. What is asked for comes first, on the kernel command line or else in the boot record; the others
/// need a signature, which [`open`] insists on.
pub fn candidates(
    data: &Path,
    args: &BootArgs,
    keys: &Keys,
    slots: &Slots,
) -> Result<Candidates, Failed> {
    let patience = Patience::begin();
    let mut all = slots.sort(all(data, patience));
    let list: Vec<String> = all.iter().map(|path| shown(data, path)).collect();
    let there =
        format!("images there: {}", if list.is_empty() { "none".into() } else { list.join(", ") });
    let (mut first, missing) = match &args.wanted {
        Wanted::Any => (None, None),
        Wanted::Name(name) => {
            let found = named(data, name).map(|path| Candidate { path, pinned: args.root_digest });
            let why = format!("there is no image `{name}` on the data partition");
            (found, Some(Failed::new(why).hint(there)))
        }
        Wanted::Digest(digest) => {
            let pin = |path| Candidate { path, pinned: Some(*digest) };
            let why = format!("there is no image with root digest {digest} on the data partition");
            (with_digest(&all, *digest, patience).map(pin), Some(Failed::new(why).hint(there)))
        }
    };
    let missing = missing.filter(|_| first.is_none());
    all.retain(|path| first.as_ref().is_none_or(|first| first.path != *path));
    let mut rest: Vec<Candidate> =
        all.into_iter().map(|path| Candidate { path, pinned: None }).collect();
    if args.wanted == Wanted::Any && (args.slot == Slot::Previous || !args.may_fall_back()) {
        // Which one comes first matters now, and what is no root never does.
        let is_root = |candidate: &Candidate| {
            patience.left().is_err()
                || open(candidate, args, keys).map_or(true, |chosen| !is_extension(&chosen.tree))
        };
        rest.drain(..rest.iter().position(is_root).unwrap_or(rest.len()));
    }
    match args.slot {
        Slot::Current => {}
        Slot::Previous if args.pinned().is_some() => {
            tracing::warn!("ashlar.slot=previous is ignored: a root digest names one image");
        }
        Slot::Previous => {
            // What would be booted otherwise comes last.
            let skipped = first.take().or_else(|| (!rest.is_empty()).then(|| rest.remove(0)));
            rest.extend(skipped);
        }
        Slot::Next => {
            let next = data.join(format!("{SINGLE}.new"));
            if next.is_file() {
                rest.splice(0..0, first.take());
                first = Some(Candidate { path: next, pinned: args.pinned() });
            } else {
                tracing::warn!("ashlar.slot=next is ignored: there is no {SINGLE}.new");
            }
        }
    }
    let mut images: Vec<Candidate> = first.into_iter().chain(rest).collect();
    if !args.may_fall_back() {
        images.truncate(usize::from(missing.is_none()));
    }
    if images.is_empty() && missing.is_none() {
        return Err(Failed::new("there is no image on the data partition").hint(format!(
            "put one at {IMAGES}/NAME.img or {SINGLE}, or correct `root=` on the kernel command line"
        )));
    }
    Ok(Candidates { images, missing })
}

/// A path as it is seen from the data partition.
pub fn shown(data: &Path, path: &Path) -> String {
    path.strip_prefix(data).unwrap_or(path).display().to_string()
}

/// All images, the best first where no record says otherwise: the single one and its predecessor, then the others with the newest first. Each is looked
/// into, as long as there is patience; behind that, none would be tried.
fn all(data: &Path, patience: Patience) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = [SINGLE, SINGLE_PREVIOUS]
        .into_iter()
        .map(|name| data.join(name))
        .filter(|path| path.is_file())
        .collect();
    let directory = data.join(IMAGES);
    let mut dated: Vec<(u64, SystemTime, PathBuf)> = Vec::new();
    let entries = match fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => return found,
        Err(err) => {
            // What lies elsewhere may be whole.
            tracing::error!("cannot list {}: {err}", directory.display());
            return found;
        }
    };
    // Signatures and downloads are no images, however many there are.
    let paths = entries.flatten().map(|entry| entry.path()).filter(|path| is_image_name(path));
    for path in paths.take(IMAGES_MAX).take_while(|_| patience.left().is_ok()) {
        let Ok(metadata) = path.metadata() else { continue };
        if metadata.is_file() {
            let changed = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            // Nobody vouches for the version yet: it only says which is tried first.
            dated.push((look(&path).map_or(0, |image| image.version), changed, path));
        }
    }
    dated.sort_by(|a, b| b.cmp(a));
    found.extend(dated.into_iter().map(|(_, _, path)| path));
    found
}

/// The image with a root digest, whoever else vouches for it.
pub fn find(data: &Path, digest: Digest, patience: Patience) -> Option<PathBuf> {
    with_digest(&all(data, patience), digest, patience)
}

/// The image that a name means.
pub fn named(data: &Path, name: &str) -> Option<PathBuf> {
    let is_inside = name.split('/').all(|part| part != "..");
    let images = data.join(IMAGES);
    let relative = name.trim_start_matches('/');
    let paths = [
        images.join(relative),
        images.join(format!("{relative}.img")),
        images.join(format!("{relative}.ashlar")),
        data.join(relative),
    ];
    paths.into_iter().find(|path| is_inside && path.is_file())
}

/// The image whose superblock has a digest: the one that bears it as its name, or any other.
fn with_digest(all: &[PathBuf], digest: Digest, patience: Patience) -> Option<PathBuf> {
    let name = digest.to_string();
    let is_named = |path: &&PathBuf| path.file_stem().is_some_and(|stem| stem == name.as_str());
    let by_name = all.iter().filter(is_named);
    let others = all.iter().filter(|path| !is_named(path));
    by_name
        .chain(others)
        .take_while(|_| patience.left().is_ok())
        .find(|path| is_image(path, digest))
        .cloned()
}

/// Whether a file is the image with a digest. That it is whole is not asked.
fn is_image(path: &Path, digest: Digest) -> bool {
    let source = image::open(path, Method::Pread);
    source.is_ok_and(|source| store::open_superblock(&*source, digest).is_ok())
}

/// Whether this is an image that is added to others, and no root of its own.
pub(super) fn is_extension(tree: &Tree) -> bool {
    let has = |path: &str| tree.resolve_following(path.as_bytes()).is_ok();
    has(RELEASES) && !has(INIT)
}

/// Opens an image if somebody vouches for it. What it does not have any more is looked for in the images beside it.
pub fn open(candidate: &Candidate, args: &BootArgs, keys: &Keys) -> Result<Chosen, Failed> {
    let path = candidate.path.clone();
    // What a file says of it is not known yet, and what the server does is decided by all who say something.
    let on_corruption = args.config.on_corruption.unwrap_or_default();
    let healers = Ladder::as_wanted(on_corruption, &path).into_healers();
    let open_as = |anchor| open_healing(&path, anchor, healers.clone());
    let mut refused = match (candidate.pinned, keys.0.is_empty()) {
        (Some(digest), _) => match open_as(Anchor::RootDigest(digest)) {
            Ok(tree) => return Ok(Chosen { path, tree, voucher: Voucher::RootDigest }),
            Err(err) => Failed::from(err),
        },
        (None, false) => match open_as(Anchor::Keys(keys.0.clone())) {
            Ok(tree) => return Ok(Chosen { path, tree, voucher: Voucher::Key }),
            Err(err) => Failed::from(err),
        },
        (None, true) => Failed::new("nothing vouches for it").hint(
            "give ashlar.key= or ashlar=DIGEST on the kernel command line, or put keys into the initramfs",
        ),
    };
    if !args.unauthenticated {
        return Err(refused);
    }
    match open_as(Anchor::Unauthenticated) {
        Ok(tree) => {
            tracing::warn!(
                "*** {} IS NOT AUTHENTICATED: {refused}; `ashlar=?` lets it boot",
                path.display()
            );
            Ok(Chosen { path, tree, voucher: Voucher::Nobody })
        }
        Err(err) => {
            refused = Failed::from(err);
            Err(refused)
        }
    }
}

/// Opens an image, with the signatures beside it.
pub fn open_as(path: &Path, anchor: Anchor) -> Result<Tree, Error> {
    open_healing(path, anchor, Vec::new())
}

/// The same with somebody to ask for what it does not have any more.
fn open_healing(path: &Path, anchor: Anchor, healers: Vec<Arc<dyn Healer>>) -> Result<Tree, Error> {
    let mut options = Options::new(anchor);
    options.method = Method::Pread;
    options.healers = healers;
    options.heal_until = patience::to_heal();
    if matches!(options.anchor, Anchor::Keys(_)) {
        let text = read_text(&trust::signature_beside(path)).ok();
        options.detached_signatures.extend(text.map(String::into_bytes));
    }
    crate::open(path, &options)
}

/// The public keys by which images must be signed.
#[derive(Debug, Clone, Default)]
pub struct Keys(Vec<trust::Key>);

impl Keys {
    /// Those of a directory (`*.pub`) and those of the kernel command line.
    ///
    /// A key file that cannot be read is told: it may be the one that matters.
    pub fn collect(directory: &Path, lines: &[String]) -> Keys {
        let mut keys: Vec<_> = lines.iter().filter_map(|line| trust::parse_key(line)).collect();
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
        paths.sort();
        for path in paths.iter().filter(|path| path.extension().is_some_and(|it| it == "pub")) {
            match read_text(path).map(|text| trust::parse_key(&text)) {
                Ok(Some(key)) => keys.push(key),
                Ok(None) => tracing::warn!("{} is no minisign public key", path.display()),
                Err(err) => tracing::warn!("cannot read key {}: {err}", path.display()),
            }
        }
        Keys(keys)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }
}
