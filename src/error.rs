//! What went wrong, and what should be done about it?

use std::fmt;
use std::io;

pub use crate::format::defect::{Corrupt, Defect, Unsupported, Untrusted};

/// The result of everything that reads an image.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an image, or a part of it, could not be read. Named by what to do about it.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The bytes could not be read: check the device, the file, the permissions.
    Io {
        /// What was attempted, for example ``cannot read 4096 bytes at offset 0``.
        doing: String,
        /// What the system said.
        source: io::Error,
    },
    /// The bytes are not the ones that were sealed: do not use this image; restore it from a good copy.
    Untrusted(Untrusted),
    /// Sealed like this, yet malformed: report it to who built the image.
    Corrupt(Corrupt),
    /// Newer than this program: get a newer one.
    Unsupported(Unsupported),
    /// The image has no such name.
    NotFound,
    /// A path goes on behind something that is no directory.
    NotADirectory,
    /// A directory was read as if it were a file.
    IsADirectory,
    /// The inode is of another type than the question needs, or there is no such inode.
    Invalid,
}

impl Error {
    /// An input or output error with its context.
    pub fn io(doing: impl Into<String>, source: io::Error) -> Self {
        Error::Io { doing: doing.into(), source }
    }

    /// Whether the image itself is at fault (damaged or malformed), rather than the question or the device.
    pub fn is_damage(&self) -> bool {
        matches!(self, Error::Untrusted(_) | Error::Corrupt(_))
    }

    /// Whether something took too long, so that nothing is known to be wrong.
    pub fn is_timeout(&self) -> bool {
        matches!(self, Error::Io { source, .. } if source.kind() == std::io::ErrorKind::TimedOut)
    }

    /// What a person can do about it, where there is something.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Error::Untrusted(Untrusted::Superblock { .. }) => {
                "check the digest; if it is right, this is another image, or it was changed after it was sealed"
            }
            Error::Untrusted(Untrusted::Signature { found: 0 }) => {
                "sign it with `ashlar sign`, or give its root digest with --root-digest"
            }
            Error::Untrusted(Untrusted::Signature { .. }) => {
                "check the key; the image may have been signed by another one, or changed since"
            }
            Error::Untrusted(_) => {
                "the image changed after it was sealed; `ashlar verify` names everything that is damaged, and with --repair mends it"
            }
            Error::Corrupt(Corrupt::NotAnImage { .. }) => {
                "make an image with `mkimage SOURCE IMAGE`"
            }
            Error::Corrupt(_) => {
                "the image was sealed like this: build it again, and report the builder's bug"
            }
            Error::Unsupported(_) => "a newer version of this program can read it",
            _ => return None,
        })
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Io { doing, source } => write!(f, "{doing}: {source}"),
            Error::Untrusted(untrusted) => untrusted.fmt(f),
            Error::Corrupt(corrupt) => corrupt.fmt(f),
            Error::Unsupported(unsupported) => unsupported.fmt(f),
            Error::NotFound => write!(f, "no such file or directory in the image"),
            Error::NotADirectory => write!(f, "not a directory"),
            Error::IsADirectory => write!(f, "is a directory"),
            Error::Invalid => write!(f, "not that type of file"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}

impl From<Untrusted> for Error {
    fn from(untrusted: Untrusted) -> Self {
        Error::Untrusted(untrusted)
    }
}

impl From<Corrupt> for Error {
    fn from(corrupt: Corrupt) -> Self {
        Error::Corrupt(corrupt)
    }
}

impl From<Unsupported> for Error {
    fn from(unsupported: Unsupported) -> Self {
        Error::Unsupported(unsupported)
    }
}

impl From<Defect> for Error {
    fn from(defect: Defect) -> Self {
        match defect {
            Defect::Corrupt(corrupt) => Error::Corrupt(corrupt),
            Defect::Unsupported(unsupported) => Error::Unsupported(unsupported),
        }
    }
}
