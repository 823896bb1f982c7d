//! Which error number does the kernel get for that?

use fuser::Errno;

use crate::error::Error;

/// The kernel's word for an error.
pub fn from_error(err: &Error) -> Errno {
    match err {
        // The number that the device gave says less than EIO does: a program that reads `/bin/sh` cannot do anything
        // about the image file's EACCES or ENXIO.
        Error::Io { .. } | Error::Untrusted(_) | Error::Corrupt(_) => Errno::EIO,
        Error::Unsupported(_) => Errno::EOPNOTSUPP,
        Error::NotFound => Errno::ENOENT,
        Error::NotADirectory => Errno::ENOTDIR,
        Error::IsADirectory => Errno::EISDIR,
        Error::Invalid => Errno::EINVAL,
    }
}

/// Whether an error is worth a line in the log: something is broken, rather than asked for in vain.
pub fn is_failure(err: &Error) -> bool {
    match err {
        Error::Io { .. } | Error::Untrusted(_) | Error::Corrupt(_) | Error::Unsupported(_) => true,
        Error::NotFound | Error::NotADirectory | Error::IsADirectory | Error::Invalid => false,
    }
}
