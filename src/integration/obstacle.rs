//! Why were files not written or not removed, and what can be done about it?

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// What is in the way.
#[derive(Debug)]
pub enum Obstacle {
    /// Files that somebody else wrote.
    Foreign {
        /// All of them.
        paths: Vec<PathBuf>,
    },
    /// A symlink that leads nowhere inside of the root, or something else that is no directory.
    Astray {
        /// Where it is.
        path: PathBuf,
    },
    /// A program that needs a loader and libraries, which no initramfs would have.
    Dynamic {
        /// The program.
        path: PathBuf,
        /// Its loader.
        interpreter: String,
    },
    /// Not a program at all.
    NoProgram {
        /// The file.
        path: PathBuf,
    },
    /// A directory of kernel modules that is none.
    NoModules {
        /// The directory.
        path: PathBuf,
    },
    /// The system refused.
    Io {
        /// What was attempted.
        doing: String,
        /// What the system said.
        source: io::Error,
    },
}

impl Obstacle {
    /// The system refused to `doing` (read, write…) `path`.
    pub(super) fn io(doing: &str, path: &Path, errno: Errno) -> Self {
        Obstacle::from_io(doing, path, errno.into())
    }

    /// The same for an error of the standard library.
    pub(super) fn from_io(doing: &str, path: &Path, source: io::Error) -> Self {
        Obstacle::Io { doing: format!("cannot {doing} {}", path.display()), source }
    }

    /// What a person can do about it.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Obstacle::Foreign { .. } => {
                "look at it, then move it away or use --force; nothing was written"
            }
            Obstacle::Astray { .. } => {
                "symlinks are followed inside of --root only: make a directory there"
            }
            Obstacle::Dynamic { .. } => {
                "name a static one by --binary (made by `cargo boot-binary`); with --allow-dynamic see to its libraries yourself"
            }
            Obstacle::NoProgram { .. } => {
                "name the static program by --binary: `cargo boot-binary` makes it"
            }
            Obstacle::NoModules { .. } => {
                "name the directory of one kernel version, for example /usr/lib/modules/$(uname -r), in which depmod was run"
            }
            Obstacle::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                "this is the superuser's to do"
            }
            Obstacle::Io { source, .. } if source.kind() == io::ErrorKind::Unsupported => {
                "this needs openat2(2): Linux 5.6 or newer, and no container that forbids it"
            }
            Obstacle::Io { .. } => return None,
        })
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Obstacle::Foreign { paths } => {
                let paths: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
                write!(f, "not written by this program: {}", paths.join(", "))
            }
            Obstacle::Astray { path } => {
                write!(f, "{} is no directory inside of the root", path.display())
            }
            Obstacle::Dynamic { path, interpreter } => {
                write!(f, "{} is no static program: it needs {interpreter}", path.display())
            }
            Obstacle::NoProgram { path } => write!(f, "{} is no program", path.display()),
            Obstacle::NoModules { path } => {
                write!(f, "{} has no modules.dep", path.display())
            }
            Obstacle::Io { doing, source } => write!(f, "{doing}: {source}"),
        }
    }
}

impl std::error::Error for Obstacle {}
