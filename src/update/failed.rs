//! Why was nothing updated, and what should be done about it?

use std::fmt;
use std::io;

use crate::error::Error;

/// Why something could not be done. Where nothing else is said, nothing changed.
#[derive(Debug)]
pub struct Failed {
    /// What went wrong: lower case, no period, with the numbers that find the fault.
    pub message: String,
    /// What a person can do about it.
    pub hint: Option<String>,
}

impl Failed {
    /// A failure without a hint.
    pub fn new(message: impl fmt::Display) -> Self {
        Failed { message: message.to_string(), hint: None }
    }

    /// What the system said to an attempt.
    #[expect(clippy::needless_pass_by_value, reason = "it takes what `map_err` gives")]
    pub fn io(doing: impl fmt::Display, err: io::Error) -> Self {
        let hint = help(&err).map(str::to_owned);
        Failed { message: format!("{doing}: {err}"), hint }
    }

    /// What is wrong with `subject`: a path or an address, mostly.
    pub fn about(subject: impl fmt::Display, err: Error) -> Self {
        Failed { message: format!("{subject}: {err}"), ..Failed::from(err) }
    }

    /// The same with a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl fmt::Display) -> Self {
        self.hint = Some(hint.to_string());
        self
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failed {}

impl From<Error> for Failed {
    fn from(err: Error) -> Self {
        let hint = match &err {
            Error::Io { source, .. } => help(source),
            err => err.hint(),
        };
        Failed { message: err.to_string(), hint: hint.map(str::to_owned) }
    }
}

/// What helps against what the system said.
fn help(err: &io::Error) -> Option<&'static str> {
    match err.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Some(
            "make room on the disk: `ashlar update gc` removes images that nothing needs any more",
        ),
        io::ErrorKind::ReadOnlyFilesystem => {
            Some("`mount -o remount,rw` makes the file system writable")
        }
        io::ErrorKind::PermissionDenied => Some(
            "run it as root; if it is root, `lsattr` shows whether the file is immutable and `chattr -i` ends that",
        ),
        _ if err.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => {
            Some("the disk may be failing: see the kernel log")
        }
        _ => None,
    }
}
