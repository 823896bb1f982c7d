//! Where is it remembered? In two files of one record each on the data partition, written by turns: while one is being
//! written, the other one holds.
//!
//! No byte is allocated for it after the first time, so it can be written when the disk is full, and it takes one write and
//! one flush, which is what a boot can afford.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, OFlags};

use super::disk;
use super::record::{self, LEN, Record};
use super::state::State;
use crate::error::{Error, Result};

/// The two files, from the data partition.
pub const FILES: [&str; 2] = ["state/boot.a", "state/boot.b"];

/// What is in the two files.
#[derive(Debug)]
pub struct Book {
    files: [PathBuf; 2],
    last: Record,
    /// Which of the two holds `last`.
    at: Option<usize>,
    /// Whether there is a file that holds no record.
    damaged: bool,
}

impl Book {
    /// Reads what is there. A file that is missing, unreadable, torn or of another version holds nothing.
    pub fn read(data: &Path) -> Book {
        let files = FILES.map(|name| data.join(name));
        let mut damaged = false;
        let records = [0, 1].map(|at: usize| {
            let path = files.get(at)?;
            let record = match read(path) {
                Ok(raw) => Record::decode(&raw),
                Err(err) if err.kind() == io::ErrorKind::NotFound => return None,
                Err(err) => {
                    tracing::warn!("cannot read {}: {err}", path.display());
                    None
                }
            };
            damaged |= record.is_none();
            record
        });
        let at = record::newer(&records);
        let last = at.and_then(|at| records.into_iter().nth(at).flatten()).unwrap_or_default();
        Book { files, last, at, damaged }
    }

    /// What is remembered; nothing but defaults where nothing is.
    pub fn state(&self) -> &State {
        &self.last.state
    }

    /// Whether anything is remembered.
    pub fn is_known(&self) -> bool {
        self.at.is_some()
    }

    /// Whether something was remembered once, and is lost: there are files, and none of them holds a record.
    pub fn is_lost(&self) -> bool {
        self.damaged && self.at.is_none()
    }

    /// Whether one of the two files holds no record, though there should be one.
    pub fn is_damaged(&self) -> bool {
        self.damaged
    }

    /// Remembers a state. When this returns it is on the disk; when it fails, what was remembered before still is.
    pub fn write(&mut self, state: &State) -> Result<()> {
        let record =
            Record { sequence: self.last.sequence.saturating_add(1), state: state.clone() };
        let at = usize::from(self.at == Some(0));
        let path = self.files.get(at).ok_or(Error::Invalid)?;
        let wrap =
            |err: io::Error| Error::io(format!("cannot write boot record {}", path.display()), err);
        write(path, &record.encode()).map_err(wrap)?;
        // A disk may say that it wrote, and not have: who counts on a count must see it.
        if read(path).map_err(wrap)? != record.encode() {
            return Err(wrap(io::Error::other("it was not read back as it was written")));
        }
        self.last = record;
        self.at = Some(at);
        Ok(())
    }
}

fn open(path: &Path, write: bool) -> io::Result<File> {
    // A pipe or a device of this name would make us wait, a symlink lead elsewhere.
    let flags = OFlags::NONBLOCK | OFlags::NOFOLLOW;
    let file = OpenOptions::new()
        .read(true)
        .write(write)
        .custom_flags(flags.bits().cast_signed())
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    Ok(file)
}

fn read(path: &Path) -> io::Result<[u8; LEN]> {
    let mut raw = [0; LEN];
    let file = open(path, false)?;
    match file.read_exact_at(&mut raw, 0) {
        // A file that was being made when the power failed.
        Err(err) if err.kind() == io::ErrorKind::UnexpectedEof => Ok([0; LEN]),
        Err(err) => Err(err),
        Ok(()) => Ok(raw),
    }
}

fn write(path: &Path, raw: &[u8; LEN]) -> io::Result<()> {
    disk::step("write a boot record")?;
    let file = match open(path, true) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => {
            let parent = path.parent().unwrap_or(Path::new("."));
            disk::make_directory(parent)?;
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .mode(0o644)
                .open(path)?;
            file.write_all_at(raw, 0)?;
            file.sync_all()?;
            rustix::fs::fadvise(&file, 0, None, Advice::DontNeed)?;
            return disk::sync_directory(parent);
        }
        opened => opened?,
    };
    file.write_all_at(raw, 0)?;
    file.sync_data()?;
    // What is read back now comes from the disk.
    Ok(rustix::fs::fadvise(&file, 0, None, Advice::DontNeed)?)
}
