//! When was an image last read whole, and was it? Notes for people and monitoring, in `state/checked.json`: nothing that is booted
//! depends on them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::disk;
use super::failed::Failed;
use super::place::Place;
use crate::format::digest::Digest;

/// The file, from the data partition.
const FILE: &str = "state/checked.json";
/// Most bytes of it that are read.
const LEN_MAX: u64 = 256 << 10;

/// What was found when an image was read whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checked {
    /// When, in seconds since 1970-01-01 UTC.
    pub time: u64,
    /// Whether all of it was as it was sealed.
    pub good: bool,
    /// Blocks that could not be had.
    pub damaged: u64,
    /// When it was put in its place, likewise; nothing where that is not known.
    #[serde(default)]
    pub installed_at: Option<u64>,
}

/// All notes, by root digest.
pub type Notes = BTreeMap<String, Checked>;

/// What is noted. Where that cannot be read, nothing is.
pub fn read(data: &Path) -> Notes {
    use std::io::Read;
    let read = || -> Option<Notes> {
        let file = crate::image::open_regular(&data.join(FILE)).ok()?;
        let mut text = Vec::new();
        file.take(LEN_MAX).read_to_end(&mut text).ok()?;
        serde_json::from_slice(&text).ok()
    };
    read().unwrap_or_default()
}

/// Notes what was found. Images that are gone are forgotten.
pub fn note(place: &Place, image: Digest, checked: Checked) -> Result<(), Failed> {
    let data = place.data();
    let mut notes = read(data);
    let there: Vec<String> =
        place.stored()?.iter().map(|stored| stored.root_digest.to_string()).collect();
    notes.retain(|digest, _| there.contains(digest));
    let before = notes.remove(&image.to_string()).and_then(|before| before.installed_at);
    let installed_at = checked.installed_at.or(before);
    notes.insert(image.to_string(), Checked { installed_at, ..checked });
    let path = data.join(FILE);
    let draft = data.join(format!("{FILE}.tmp"));
    let write = || -> std::io::Result<()> {
        disk::make_directory(path.parent().unwrap_or(data))?;
        disk::step("write notes")?;
        let text = serde_json::to_vec(&notes)?;
        fs::write(&draft, text)?;
        fs::File::open(&draft)?.sync_all()?;
        disk::rename_over(&draft, &path)
    };
    write().map_err(|err| Failed::io(format_args!("cannot write {}", path.display()), err))
}

/// Now, in seconds since 1970-01-01 UTC.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
