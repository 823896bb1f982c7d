//! What became of it? Told to the running system in `/run/ashlar/boot.json`.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::choose::Voucher;
use super::config::Modes;
use super::slots::{Reason, Slot};
use crate::state::etc;

/// Where the report is.
pub const REPORT: &str = "/run/ashlar/boot.json";
/// There while the image is on trial.
pub const TRIAL: &str = "/run/ashlar/trial";
/// What people are shown who log in (`pam_motd(8)`).
pub const MESSAGE: &str = "/run/motd.d/ashlar";
/// The link by which systemd finds the block device below a root that has none (`systemd-volatile-root.service(8)`).
const VOLATILE_ROOT: &str = "/run/systemd/volatile-root";

/// An image that was not booted.
#[derive(Debug, Clone, Serialize)]
pub struct Refused {
    /// Its path on the data partition.
    pub image: String,
    /// Why.
    pub why: String,
    /// What to do about it.
    pub hint: Option<String>,
}

/// What was booted.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The image.
    pub image: PathBuf,
    /// The first program.
    pub init: String,
    /// Its root digest.
    pub root_digest: String,
    /// Its version.
    pub image_version: u64,
    /// Who vouches for it.
    pub authenticated_by: Voucher,
    /// Where the data partition is.
    pub data: PathBuf,
    /// Its device.
    pub device: PathBuf,
    /// The same, as major and minor number.
    pub device_number: String,
    /// Where the image's own tree is, if something lies over the root.
    pub lower: Option<PathBuf>,
    /// Where everything that changes goes.
    #[serde(flatten)]
    pub modes: Modes,
    /// What became of local changes of /etc, where they are carried over (`etc = "merge"`).
    pub etc_merge: Option<etc::Report>,
    /// What did not work and was done without.
    pub degraded: Vec<String>,
    /// Images that were tried before this one.
    pub refused: Vec<Refused>,
    /// Why it was this one.
    #[serde(flatten)]
    pub slot: Slot,
}

impl Report {
    /// Writes it down, and the link for systemd. A machine that cannot is not stopped by it.
    pub(super) fn write(&self) {
        let text = serde_json::to_string_pretty(self).unwrap_or_default();
        let write = || -> std::io::Result<()> {
            fs::create_dir_all(Path::new(REPORT).parent().unwrap_or(Path::new("/run")))?;
            fs::write(REPORT, text + "\n")?;
            if self.slot.reason == Reason::Trial {
                fs::write(TRIAL, "")?;
            }
            fs::create_dir_all(Path::new(VOLATILE_ROOT).parent().unwrap_or(Path::new("/run")))?;
            match fs::remove_file(VOLATILE_ROOT) {
                Err(err) if err.kind() != std::io::ErrorKind::NotFound => return Err(err),
                _ => {}
            }
            // A file system without a device of its own (btrfs, NFS) has major number 0, which systemd would not find.
            if !self.device_number.starts_with("0:") {
                std::os::unix::fs::symlink(
                    format!("/dev/block/{}", self.device_number),
                    VOLATILE_ROOT,
                )?;
            }
            Ok(())
        };
        let told = write().and_then(|()| self.write_message());
        if let Err(err) = told {
            tracing::warn!("cannot tell the system what was booted: {err}");
        }
    }

    /// Leaves a message for those who log in, where there is something to say.
    fn write_message(&self) -> std::io::Result<()> {
        let lines = self.message();
        if lines.is_empty() {
            return Ok(());
        }
        fs::create_dir_all(Path::new(MESSAGE).parent().unwrap_or(Path::new("/run")))?;
        fs::write(MESSAGE, format!("ashlar: {}\n", lines.join("\nashlar: ")))
    }

    fn message(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if let Some(image) = &self.slot.given_up {
            lines.push(format!(
                "image {image} was tried in vain and is given up; {} runs",
                self.root_digest
            ));
        }
        lines.extend(
            self.refused.iter().map(|it| format!("{} could not be booted: {}", it.image, it.why)),
        );
        if let Some(left) = self.slot.tries_left {
            lines.push(format!(
                "version {} of the system is on trial: it is booted {left} more times until `ashlar update bless` finds it good",
                self.image_version
            ));
        }
        lines.extend(self.degraded.iter().cloned());
        lines
    }
}
