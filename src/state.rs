//! What is kept beside the image, and how does it meet a new one? `/etc`, `/var`, overlays and single paths.
//!
//! Everything here is on the data partition, which nobody vouches for: no symlink in it is followed, no mount is entered,
//! and no depth of directories is too great. Nothing is mounted here; who boots does that.
//!
//! Each change is made so that the power may fail at any time: something new is built under a name that no boot looks at,
//! written down to the disk, and renamed; what is to go is renamed away first. The next boot does the rest.

mod copy;
mod disk;
pub mod etc;
mod node;
pub mod overlay;
pub mod prune;
pub mod reset;
pub mod seed;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;
use std::path::Path;

use rustix::fd::OwnedFd;

use crate::error::Result;

/// Opens the directory `below`, a path without `..`, under `base`, and makes what is missing of it (mode 0755). The path to
/// `base` is the caller's own; below it no symlink is followed and no mount entered.
pub fn make_directories(base: &Path, below: &Path) -> Result<OwnedFd> {
    disk::make_directories(disk::open_own(base)?, below)
}

/// A name or path for a person: what is not visible, and the backslash, as `\xHH`.
fn shown(path: &[u8]) -> String {
    let mut text = String::with_capacity(path.len());
    for chunk in path.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() || c == '\\' {
                let mut buf = [0; 4];
                c.encode_utf8(&mut buf).bytes().for_each(|byte| push_hex(&mut text, byte));
            } else {
                text.push(c);
            }
        }
        chunk.invalid().iter().for_each(|byte| push_hex(&mut text, *byte));
    }
    text
}

fn push_hex(text: &mut String, byte: u8) {
    // cannot fail: a String takes everything
    write!(text, "\\x{byte:02x}").unwrap_or_default();
}
