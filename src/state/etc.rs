//! How does the machine's own /etc meet a new image? Three ways are compared: what the image had that the machine booted
//! before, what became of it since, and what the new image has. What somebody changed stays; all else follows the image.
//!
//! On the data partition, below `state/`:
//!
//! * `etc.<root digest>/`: the /etc of that image on this machine. It is whole whenever it has this name.
//! * `etc.<root digest>.pristine`: what that image had there, a fingerprint a path. With it the image itself may be gone
//!   when the next one comes; without it (or damaged) the old image is asked; without both, everything that differs from the
//!   new image counts as somebody's change, and the report says so.
//! * `etc.last`: the digest that was booted last.
//! * `etc.<root digest>.tmp/`: a new one that is being made; what a boot finds of these it removes.
//!
//! The rules are ostree's: a path that somebody changed or added stays, as a whole and whatever the image has now; one that
//! somebody removed stays away; every other follows the image; nothing is merged inside a file. Different from ostree:
//!
//! * Extended attributes (but for security labels) and attributes of directories count as changes, too.
//! * Where somebody's file has no place any more (the image now has a directory there, or the other way round), the image's
//!   version counts, and theirs is beside it as `<name>.ashlar-old`. ostree gives the update up.
//! * A hard link stays one, within what comes from the same side.
//! * Everything happens at the first boot of the new image, and a power cut makes it happen again from the start.
//!
//! Devices, pipes and sockets that somebody made are left behind, and so is what cannot be read; both are reported. Going
//! back to an older image finds the /etc that it had, without what was changed since.

mod changes;
mod left;
mod merge;
mod record;
mod rule;

use std::fmt;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fd::OwnedFd;
use rustix::fs::OFlags;

pub use changes::{Change, What, changes};
pub use left::{left, remove};
use merge::Sides;
use record::Damage;
pub use record::Record;

use super::disk::{self, is_missing, wrap};
use crate::error::{Error, Result};
use crate::format::digest::Digest;
use crate::format::inode::Kind;
use crate::fs::Tree;

/// The directory's name in an image.
const ETC: &[u8] = b"etc";
/// Where they are on the data partition.
const PLACE: &str = "state";
/// What their names begin with; the digest comes behind.
const PREFIX: &str = "etc.";
/// What is behind that in the name of a record, and of what is not whole.
const RECORD: &[u8] = b".pristine";
const HALF: &[u8] = b".tmp";
/// Where the digest stands that was booted last.
const LAST: &[u8] = b"etc.last";
const LAST_TMP: &[u8] = b"etc.last.tmp";
/// Longest record that is read: a hundred thousand long paths.
const RECORD_MAX: u64 = 32 << 20;

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// There was none from another image: it is as the image has it.
    #[default]
    Fresh,
    /// It was there.
    Kept,
    /// It was made from the last one and the image's.
    Merged,
}

/// What the last /etc was held against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Against {
    /// The record beside it.
    Record,
    /// The old image itself.
    Image,
    /// Nothing: neither was there, and everything that differs from the new image was kept.
    Nothing,
}

/// A path that was not carried over as it is.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Left {
    /// Its path below /etc.
    pub path: String,
    /// Why.
    pub why: String,
}

/// A path where somebody's version had no place.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Conflict {
    /// Its path below /etc, where now the image's version is.
    pub path: String,
    /// What was there.
    pub why: &'static str,
    /// Where that is now, below /etc.
    pub saved_as: String,
}

/// What happened, for the log and for `boot.json`. Paths are below /etc, those of directories with a slash at the end; what
/// is below a directory that was kept whole is not told.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
pub struct Report {
    /// What was done.
    pub outcome: Outcome,
    /// The image whose /etc was carried over.
    pub from: Option<Digest>,
    /// What that was held against.
    pub against: Option<Against>,
    /// What somebody changed or added, and is kept.
    pub kept_local: Vec<String>,
    /// What somebody removed, and stays away.
    pub removed_local: Vec<String>,
    /// Those of `kept_local` that the image changed or added as well: its version is not used.
    pub both_changed: Vec<String>,
    /// What had no place.
    pub conflicts: Vec<Conflict>,
    /// Devices, pipes and sockets that were left behind.
    pub skipped: Vec<Left>,
    /// What could not be read, and is as the image has it, or gone.
    pub lost: Vec<Left>,
    /// Attributes that could not be set.
    pub not_restored: Vec<Left>,
}

impl Report {
    /// What a person should look at, one line each.
    pub fn warnings(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if self.against == Some(Against::Nothing) {
            lines.push(
                "neither the old image nor a record of its /etc is there: everything that differs from the new image \
                 was kept"
                    .to_owned(),
            );
        }
        for Conflict { path, why, saved_as } in &self.conflicts {
            lines.push(format!("{path}: {why}; it is kept as {saved_as}"));
        }
        for path in &self.both_changed {
            lines.push(format!("{path}: changed here and in the image; what is here was kept"));
        }
        for Left { path, why } in &self.skipped {
            lines.push(format!("{path}: left behind: {why}"));
        }
        for Left { path, why } in &self.lost {
            lines.push(format!("{path}: could not be carried over: {why}"));
        }
        for Left { path, why } in &self.not_restored {
            lines.push(format!("{path}: cannot set {why}"));
        }
        lines
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.outcome, self.from) {
            (Outcome::Kept, _) => write!(f, "/etc is as it was left"),
            (Outcome::Merged, Some(from)) => write!(
                f,
                "/etc of the new image, with what was changed under {from}: {} kept, {} removed, {} in conflict",
                self.kept_local.len(),
                self.removed_local.len(),
                self.conflicts.len()
            ),
            _ => write!(f, "/etc is new"),
        }
    }
}

/// The /etc of an image, ready to be mounted.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// Where it is.
    pub directory: PathBuf,
    /// How it came to be.
    pub report: Report,
}

/// Makes sure that `etc.<digest of booted>` is in `state`, whole. `open_old` gives the image with a root digest, verified, if
/// it is still there; it is only asked where there is no record.
///
/// An error means that this image cannot have an /etc here now: it is damaged, or the disk is full or broken. What was there
/// is then as it was.
pub fn prepare(
    state: &Path,
    booted: &Tree,
    open_old: &mut dyn FnMut(Digest) -> Result<Option<Tree>>,
) -> Result<Prepared> {
    let place = disk::open_own(state)?;
    let digest = booted.root_digest();
    let name = directory_name(digest);
    let directory = state.join(&name);
    let name = name.as_bytes();
    // Neither this nor the note of what was booted last is worth an /etc that is there.
    if let Err(err) = sweep(&place) {
        tracing::warn!("what an earlier boot left: {err}");
    }
    let noted = noted(&place);
    let mut report = Report { outcome: Outcome::Kept, ..Report::default() };
    if disk::kind(&place, name)? != Some(Kind::Dir) {
        // Nobody but us makes such names: whatever else it is, it is not ours.
        disk::remove_tree(&place, name)?;
        let last = last(&place, noted)?;
        report = make(&place, name, booted, last, open_old)?;
    }
    if noted != Some(digest)
        && let Err(err) = write_last(&place, digest)
    {
        tracing::warn!("the next image will start from another /etc: {err}");
    }
    Ok(Prepared { directory, report })
}

/// Writes what [`prepare`] would make into an empty directory elsewhere, where `state` cannot be written to. Nothing is
/// changed in it, and a file that cannot be read, whoever's, is left out and told.
pub fn prepare_elsewhere(
    state: &Path,
    booted: &Tree,
    open_old: &mut dyn FnMut(Digest) -> Result<Option<Tree>>,
    out: &Path,
) -> Result<Report> {
    let place = disk::open_own(state)?;
    let digest = booted.root_digest();
    let own = disk::kind(&place, directory_name(digest).as_bytes())? == Some(Kind::Dir);
    let last = if own { Some(digest) } else { last(&place, noted(&place))? };
    let out = disk::open_own(out)?;
    merge_into(&place, out, booted, last, open_old, Damage::Suffered).map(|(report, _)| report)
}

/// Makes one that is not there.
fn make(
    place: &OwnedFd,
    name: &[u8],
    booted: &Tree,
    last: Option<Digest>,
    open_old: &mut dyn FnMut(Digest) -> Result<Option<Tree>>,
) -> Result<Report> {
    let tmp = [name, HALF].concat();
    let made = make_tmp(place, &tmp, name, booted, last, open_old);
    if made.is_err() {
        // So that a full disk is no fuller than before. The next boot tries again if this does not work.
        disk::remove_tree(place, &tmp).ok();
    }
    let report = made?;
    disk::sync_all(place)?;
    disk::rename(place, &tmp, place, name)?;
    disk::sync(place, name)?;
    Ok(report)
}

fn make_tmp(
    place: &OwnedFd,
    tmp: &[u8],
    name: &[u8],
    booted: &Tree,
    last: Option<Digest>,
    open_old: &mut dyn FnMut(Digest) -> Result<Option<Tree>>,
) -> Result<Report> {
    let out = disk::make_directory(place, tmp)?;
    let (report, record) = merge_into(place, out, booted, last, open_old, Damage::Refused)?;
    let record_name = record_name(name);
    disk::remove_tree(place, &record_name)?;
    write_file(place, &record_name, record.encode().as_bytes())?;
    Ok(report)
}

/// Merges into an empty directory. Returns what the new image has, too.
fn merge_into(
    place: &OwnedFd,
    out: OwnedFd,
    booted: &Tree,
    last: Option<Digest>,
    open_old: &mut dyn FnMut(Digest) -> Result<Option<Tree>>,
    damage: Damage,
) -> Result<(Report, Record)> {
    let new_record = Record::of(booted, damage)?;
    let mut report = Report::default();
    let mut old = None;
    let mut current = None;
    if let Some(digest) = last {
        let directory = directory_name(digest);
        match disk::open_directory(place, directory.as_bytes()) {
            Ok(fd) => {
                let (record, against) = old_record(place, digest, open_old);
                old = record;
                current = Some(fd);
                (report.outcome, report.from) = (Outcome::Merged, Some(digest));
                report.against = Some(against);
            }
            Err(err) if is_missing(&err) => {}
            // It may be there at the next boot; what is made without it would stay.
            Err(err) => return Err(err),
        }
    }
    let sides = Sides { old: old.as_ref(), current, new: booted, new_record: &new_record, damage };
    merge::merge(sides, out, &mut report)?;
    Ok((report, new_record))
}

/// The same three-way merge anywhere: into `out`, which is made. For a look before it happens.
pub fn merge(old: &Tree, current: &Path, new: &Tree, out: &Path) -> Result<Report> {
    let old_record = Record::of(old, Damage::Suffered)?;
    let new_record = Record::of(new, Damage::Refused)?;
    let current = Some(disk::open_own(current)?);
    let (Some(parent), Some(name)) = (out.parent(), out.file_name()) else {
        return Err(Error::Invalid);
    };
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    let out = disk::make_directory(disk::open_own(parent)?, name.as_bytes())?;
    let (from, against) = (Some(old.root_digest()), Some(Against::Image));
    let mut report = Report { outcome: Outcome::Merged, from, against, ..Report::default() };
    let damage = Damage::Refused;
    let sides = Sides { old: Some(&old_record), current, new, new_record: &new_record, damage };
    merge::merge(sides, out, &mut report)?;
    Ok(report)
}

/// The name of the directory in `state/` that is the /etc of an image.
pub fn directory_name(digest: Digest) -> String {
    format!("{PREFIX}{digest}")
}

/// The image whose directory has a name.
fn image_of(name: &[u8]) -> Option<Digest> {
    name.strip_prefix(PREFIX.as_bytes()).and_then(digest_of)
}

fn record_name(name: &[u8]) -> Vec<u8> {
    [name, RECORD].concat()
}

/// What an image had in /etc: from the record, else from the image itself.
fn old_record(
    place: &OwnedFd,
    digest: Digest,
    open_old: &mut dyn FnMut(Digest) -> Result<Option<Tree>>,
) -> (Option<Record>, Against) {
    let name = record_name(directory_name(digest).as_bytes());
    let record = read_file(place, &name, RECORD_MAX).ok().flatten();
    if let Some(record) = record.and_then(|text| Record::decode(&text)) {
        return (Some(record), Against::Record);
    }
    // An old image that cannot be read is none.
    let image = open_old(digest).ok().flatten();
    match image.and_then(|image| Record::of(&image, Damage::Suffered).ok()) {
        Some(record) => (Some(record), Against::Image),
        None => (None, Against::Nothing),
    }
}

/// Removes what an earlier boot left half made.
fn sweep(place: &OwnedFd) -> Result<()> {
    for name in disk::names(place).map_err(wrap("list", b"state"))? {
        if name.starts_with(PREFIX.as_bytes()) && name.ends_with(HALF) {
            disk::remove_tree(place, &name)?;
        }
    }
    Ok(())
}

/// What the note says was booted last.
fn noted(place: &OwnedFd) -> Option<Digest> {
    digest_of(&read_file(place, LAST, 65).ok()??)
}

fn digest_of(text: &[u8]) -> Option<Digest> {
    std::str::from_utf8(text).ok()?.trim_end().parse().ok()
}

/// The image that was booted last and has an /etc here. Should the note of it be damaged, it is the one whose directory
/// changed last.
fn last(place: &OwnedFd, noted: Option<Digest>) -> Result<Option<Digest>> {
    let mut newest = None;
    for name in disk::names(place).map_err(wrap("list", b"state"))? {
        let Some(digest) = image_of(&name) else { continue };
        let Ok(directory) = disk::open_directory(place, &name) else { continue };
        let stat = disk::stat(&directory).map_err(wrap("look at", &name))?;
        let changed = (stat.stx_ctime.tv_sec, stat.stx_ctime.tv_nsec);
        newest = newest.max(Some((Some(digest) == noted, changed, digest)));
    }
    Ok(newest.map(|(_, _, digest)| digest))
}

fn write_last(place: &OwnedFd, digest: Digest) -> Result<()> {
    disk::remove_tree(place, LAST_TMP)?;
    write_file(place, LAST_TMP, format!("{digest}\n").as_bytes())?;
    if disk::kind(place, LAST)? == Some(Kind::Dir) {
        // Nobody but us makes such names.
        disk::remove_tree(place, LAST)?;
    }
    disk::rename(place, LAST_TMP, place, LAST)?;
    disk::sync(place, LAST)
}

/// Writes a small file down to the disk.
fn write_file(place: &OwnedFd, name: &[u8], bytes: &[u8]) -> Result<()> {
    let mut file = disk::make_file(place, name)?;
    disk::step("write")?;
    file.write_all(bytes)
        .map_err(|err| Error::io(format!("cannot write {}", super::shown(name)), err))?;
    disk::sync(&file, name)
}

/// Reads a small file, if it is there and is one.
fn read_file(place: &OwnedFd, name: &[u8], len_max: u64) -> Result<Option<Vec<u8>>> {
    if disk::kind(place, name)? != Some(Kind::File) {
        return Ok(None);
    }
    let fd = disk::open(place, name, OFlags::RDONLY | OFlags::NONBLOCK)?;
    let mut bytes = Vec::new();
    std::fs::File::from(fd)
        .take(len_max)
        .read_to_end(&mut bytes)
        .map_err(|err| Error::io(format!("cannot read {}", super::shown(name)), err))?;
    Ok(Some(bytes))
}
