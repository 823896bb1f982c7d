//! Where do paths lead in a root tree? Symlinks are followed as the machine will follow them: inside, and not for ever.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;

use super::look::{Found, Look};
use super::{Fault, Lint, Severity};
use crate::error::Error;
use crate::format::DEPTH_MAX;
use crate::format::field::u64_from_usize;
use crate::format::inode::Kind;
use crate::fs::path::SYMLINKS_MAX;

pub(super) const LINTS: &[Lint] = &[
    Lint {
        name: "unreadable",
        severity: Severity::Warning,
        about: "what this user may not look at",
        remedy: "lint as root; what hangs on this was not looked at",
        check: |root| root.troubles(true),
    },
    Lint {
        name: "damaged",
        severity: Severity::Fatal,
        about: "what could not be read",
        remedy: "check the medium; `ashlar verify` names what is damaged in an image",
        check: |root| root.troubles(false),
    },
];

/// Longest text that is read: what is configured by hand is shorter.
const TEXT_MAX: usize = 1 << 20;
/// Troubles that are kept. One cause makes many of them.
const TROUBLES_MAX: usize = 32;

/// A tree with its symlinks followed, and what could not be looked at kept for later.
#[derive(Debug)]
pub(super) struct Root<'a> {
    look: &'a dyn Look,
    troubles: RefCell<BTreeMap<Vec<u8>, Trouble>>,
}

#[derive(Debug)]
struct Trouble {
    is_denied: bool,
    why: String,
}

/// Where a path led.
#[derive(Debug)]
pub(super) enum Led {
    /// There.
    To(Place),
    /// To no file: a name is missing, or symlinks go round in circles.
    Nowhere,
    /// Something on the way could not be looked at.
    Unknown,
}

/// What is there, and its path without symlinks.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) path: Vec<u8>,
    pub(super) found: Found,
}

/// Files, of any type but directories, below a directory.
#[derive(Debug, Default)]
pub(super) struct Below {
    pub(super) count: u64,
    pub(super) first: Vec<u8>,
}

impl<'a> Root<'a> {
    pub(super) fn new(look: &'a dyn Look) -> Self {
        Root { look, troubles: RefCell::default() }
    }

    /// What lies at a path, symlinks followed.
    pub(super) fn follow(&self, path: &[u8]) -> Led {
        self.go(path, true)
    }

    /// The same, but a symlink at the end is what is asked for.
    pub(super) fn at(&self, path: &[u8]) -> Led {
        self.go(path, false)
    }

    /// Whether a path, symlinks followed, leads to a file of this type.
    pub(super) fn is(&self, path: &[u8], kind: Kind) -> bool {
        matches!(self.follow(path), Led::To(place) if place.found.kind == kind)
    }

    /// The first bytes of a regular file, symlinks followed; nothing when there is none, or it cannot be read.
    pub(super) fn text(&self, path: &[u8]) -> Option<Vec<u8>> {
        match self.follow(path) {
            Led::To(place) if place.found.kind == Kind::File => self.read(&place.path, 0, TEXT_MAX),
            _ => None,
        }
    }

    /// Bytes of a regular file at a path without symlinks.
    pub(super) fn read(&self, path: &[u8], offset: u64, len: usize) -> Option<Vec<u8>> {
        self.look.read(path, offset, len).map_err(|err| self.note(path, &err)).ok()
    }

    /// A symlink's target.
    pub(super) fn target(&self, path: &[u8]) -> Option<Vec<u8>> {
        self.look.read_link(path).map_err(|err| self.note(path, &err)).ok()
    }

    /// Names and types in a directory, symlinks on the way followed, in the order of names. Empty when there is none.
    pub(super) fn list(&self, path: &[u8]) -> Vec<(Vec<u8>, Kind)> {
        match self.follow(path) {
            Led::To(place) if place.found.kind == Kind::Dir => self.list_here(&place.path),
            _ => Vec::new(),
        }
    }

    fn list_here(&self, path: &[u8]) -> Vec<(Vec<u8>, Kind)> {
        let listed = self.look.list(path).map_err(|err| self.note(path, &err));
        let mut names = listed.unwrap_or_default();
        names.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        names
    }

    /// Shows `visit` everything below a directory that is no symlink, each directory before what is in it. What it answers
    /// says whether a directory is entered.
    pub(super) fn walk(&self, start: &[u8], visit: &mut dyn FnMut(&[u8], Kind) -> bool) {
        let Led::To(Place { found: Found { kind: Kind::Dir, .. }, path }) = self.at(start) else {
            return;
        };
        let mut left = self.look.entries_max();
        // A directory is listed when it is popped, so that the stack holds no more than the way and its neighbours.
        let mut stack = vec![(path, Kind::Dir)];
        let mut is_start = true;
        while let Some((path, kind)) = stack.pop() {
            let is_entered = is_start || visit(&path, kind);
            is_start = false;
            let depth = path.split(|byte| *byte == b'/').count();
            if kind != Kind::Dir || !is_entered || depth > DEPTH_MAX {
                continue;
            }
            let names = self.list_here(&path);
            let Some(rest) = left.checked_sub(u64_from_usize(names.len())) else {
                let circle = io::Error::other("directories share their entries");
                return self.note(&path, &Error::io("gave up", circle));
            };
            left = rest;
            let below = names.into_iter().rev().map(|(name, kind)| (join(&path, &name), kind));
            stack.extend(below);
        }
    }

    /// Counts what is below a directory and no directory itself, as far as `counts` says so.
    pub(super) fn files_below(&self, start: &[u8], counts: &dyn Fn(&[u8], Kind) -> bool) -> Below {
        let mut below = Below::default();
        self.walk(start, &mut |path, kind| {
            if kind != Kind::Dir && counts(path, kind) {
                if below.count == 0 {
                    below.first = path.to_vec();
                }
                below.count = below.count.saturating_add(1);
            }
            true
        });
        below
    }

    fn go(&self, path: &[u8], through_last: bool) -> Led {
        // Names still to go, the next one last; and the way from the root to here.
        let mut ahead = names(path);
        let mut way: Vec<Vec<u8>> = Vec::new();
        let mut symlinks = 0_u32;
        while let Some(name) = ahead.pop() {
            if name == b".." {
                way.pop();
                continue;
            }
            way.push(name);
            let here = way.join(&b'/');
            let found = match self.lstat(&here) {
                Led::To(place) => place.found,
                other => return other,
            };
            if found.kind != Kind::Link || (ahead.is_empty() && !through_last) {
                continue;
            }
            symlinks = symlinks.saturating_add(1);
            if symlinks > SYMLINKS_MAX {
                return Led::Nowhere;
            }
            let Some(target) = self.target(&here) else { return Led::Unknown };
            way.pop();
            if target.starts_with(b"/") {
                way.clear();
            }
            ahead.append(&mut names(&target));
        }
        self.lstat(&way.join(&b'/'))
    }

    fn lstat(&self, path: &[u8]) -> Led {
        match self.look.lstat(path) {
            Ok(Some(found)) => Led::To(Place { path: path.to_vec(), found }),
            Ok(None) => Led::Nowhere,
            Err(err) => {
                self.note(path, &err);
                Led::Unknown
            }
        }
    }

    fn note(&self, path: &[u8], err: &Error) {
        let is_denied = matches!(
            err, Error::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied
        );
        let why = match err {
            Error::Io { source, .. } => source.to_string(),
            other => other.to_string(),
        };
        let mut troubles = self.troubles.borrow_mut();
        if troubles.len() < TROUBLES_MAX {
            troubles.insert(path.to_vec(), Trouble { is_denied, why });
        }
    }

    fn troubles(&self, is_denied: bool) -> Vec<Fault> {
        let troubles = self.troubles.borrow();
        let wanted = troubles.iter().filter(|(_, trouble)| trouble.is_denied == is_denied);
        wanted
            .map(|(path, trouble)| {
                Fault::new(path.clone(), format!("could not be looked at: {}", trouble.why))
            })
            .collect()
    }
}

/// The names in a path, the last one first.
fn names(path: &[u8]) -> Vec<Vec<u8>> {
    let names = path.split(|byte| *byte == b'/').rev();
    names.filter(|name| !matches!(*name, b"" | b".")).map(<[u8]>::to_vec).collect()
}

/// A name below a directory.
pub(super) fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() { name.to_vec() } else { [directory, name].join(&b'/') }
}
