//! What is left of a mount when its server is gone? The connection with the kernel, which another server can take up.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use serde::{Deserialize, Serialize};

use super::adopt;
use super::journal::{Death, Journal};
use super::mountinfo::Device;

/// What there is to know of a mount, besides its descriptors, to serve it. Paths as bytes, for they may be no text.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Facts {
    /// What the kernel said first. It says it once in the life of a mount.
    pub greeting: Vec<u8>,
    /// Where it was mounted.
    pub mountpoint: Vec<u8>,
    /// The image file.
    pub source: Vec<u8>,
    /// The mount's device number.
    pub device: (u32, u32),
    /// What vouched for the image.
    pub anchor: String,
}

impl Facts {
    /// Whether this kernel can ask again what a dead server left (`FUSE_HAS_RESEND`, Linux 6.9).
    pub fn can_ask_again(&self) -> bool {
        adopt::can_ask_again(&self.greeting)
    }
}

/// A connection with the kernel, which another server can take up.
#[derive(Debug)]
pub struct Connection {
    /// The device through which the kernel asks. As long as somebody has it, the mount lives.
    pub device: OwnedFd,
    /// What there is to know.
    pub facts: Facts,
    /// What is being answered.
    pub journal: Arc<Journal>,
    /// The process that keeps this one alive, for the report; 0 when there is none.
    pub holder: AtomicU32,
}

impl Connection {
    /// Where it was mounted.
    pub fn mountpoint(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.facts.mountpoint))
    }

    /// The mount's device number.
    pub fn device_number(&self) -> Device {
        Device(self.facts.device.0, self.facts.device.1)
    }
}

/// What became of the server before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Before {
    /// It is dead, and may have left questions unanswered.
    Dead(Death),
    /// It lives, and leaves when we answer.
    Leaving,
}
