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

/// Whether bytes are lost: they are not what was sealed, or the disk says that it cannot read them. That something took too long,
/// or that there is no memory or no thread, says nothing of them; and a malformed image was sealed like this.
pub fn is_loss(err: &Error) -> bool {
    const UNREADABLE: [rustix::io::Errno; 5] = [
        rustix::io::Errno::IO,
        rustix::io::Errno::NODATA,
        rustix::io::Errno::ILSEQ,
        rustix::io::Errno::BADMSG,
        rustix::io::Errno::REMOTEIO,
    ];
    match err {
        Error::Untrusted(_) => true,
        Error::Io { source, .. } => {
            let errno = rustix::io::Errno::from_io_error(source);
            source.kind() == std::io::ErrorKind::UnexpectedEof
                || errno.is_some_and(|errno| UNREADABLE.contains(&errno))
        }
        _ => false,
    }
}

/// Whether an error is worth a line in the log: something is broken, rather than asked for in vain.
pub fn is_failure(err: &Error) -> bool {
    match err {
        Error::Io { .. } | Error::Untrusted(_) | Error::Corrupt(_) | Error::Unsupported(_) => true,
        Error::NotFound | Error::NotADirectory | Error::IsADirectory | Error::Invalid => false,
    }
}
