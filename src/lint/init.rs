//! Can the kernel start what it is to start first?

use super::root::{Led, Root};
use super::{Fault, Lint, Severity, shown};
use crate::elf::{self, Elf};
use crate::format::inode::Kind;

pub(super) const LINTS: &[Lint] = &[
    Lint {
        name: "init",
        severity: Severity::Fatal,
        about: "/sbin/init is missing, or nothing that can be executed",
        remedy: "install an init (Debian: systemd-sysv), executable for root",
        check: |root| init(root).into_iter().filter_map(Wrong::of_init).collect(),
    },
    Lint {
        name: "init-interpreter",
        severity: Severity::Fatal,
        about: "what /sbin/init needs to be started is missing: its dynamic loader, or its shell",
        remedy: "install it (Debian: libc6 for a loader), or take a static init",
        check: |root| init(root).into_iter().filter_map(Wrong::of_interpreter).collect(),
    },
    Lint {
        name: "os-release",
        severity: Severity::Fatal,
        about: "there is no os-release, without which systemd does not switch to a root",
        remedy: "install it as /usr/lib/os-release, with /etc/os-release a symlink to it",
        check: os_release,
    },
];

/// Interpreters that the kernel starts for one another (`BINPRM_MAX_RECURSION` is near).
const NESTED_MAX: usize = 5;
/// Length of a script's first line that the kernel looks at.
const FIRST_LINE_LEN: usize = 256;

/// What keeps /sbin/init from being started.
enum Wrong {
    Init(Fault),
    Interpreter(Fault),
}

impl Wrong {
    fn of_init(self) -> Option<Fault> {
        if let Wrong::Init(fault) = self { Some(fault) } else { None }
    }

    fn of_interpreter(self) -> Option<Fault> {
        if let Wrong::Interpreter(fault) = self { Some(fault) } else { None }
    }
}

/// Follows /sbin/init, and then whatever starts it, to a program that the kernel starts by itself.
fn init(root: &Root<'_>) -> Option<Wrong> {
    let (mut path, mut asked_by) = (b"sbin/init".to_vec(), None::<Vec<u8>>);
    for _ in 0..NESTED_MAX {
        let why = match step(root, &path)? {
            Step::Ends => return None,
            Step::Asks { by, path: asked } => {
                (path, asked_by) = (asked, Some(by));
                continue;
            }
            Step::Wrong(why) => why,
        };
        return Some(match asked_by {
            None => Wrong::Init(Fault::new(path, why)),
            Some(by) => {
                let why = format!("is started by {}, which {why}", shown(&path));
                Wrong::Interpreter(Fault::new(by, why))
            }
        });
    }
    let why = "is started by too many interpreters, one for another";
    Some(Wrong::Interpreter(Fault::new("sbin/init", why)))
}

/// What a program needs.
enum Step {
    /// Nothing else.
    Ends,
    /// To be started by another one.
    Asks { by: Vec<u8>, path: Vec<u8> },
    /// It cannot be started.
    Wrong(&'static str),
}

/// Looks at one program; `None` when it cannot be looked at.
fn step(root: &Root<'_>, path: &[u8]) -> Option<Step> {
    let place = match root.follow(path) {
        Led::To(place) => place,
        Led::Nowhere => return Some(Step::Wrong("is missing, or a symlink that leads to nothing")),
        Led::Unknown => return None,
    };
    if place.found.kind != Kind::File {
        return Some(Step::Wrong("is no regular file"));
    }
    if place.found.permissions & 0o111 == 0 {
        return Some(Step::Wrong("is not executable"));
    }
    let start = root.read(&place.path, 0, FIRST_LINE_LEN)?;
    if let Some(line) = start.strip_prefix(b"#!") {
        let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let mut words = line.split(|byte| matches!(byte, b' ' | b'\t'));
        return Some(match words.find(|word| !word.is_empty()) {
            Some(path) if path.starts_with(b"/") => {
                Step::Asks { by: place.path, path: path.to_vec() }
            }
            _ => Step::Wrong("is a script that names no interpreter by an absolute path"),
        });
    }
    if !elf::is_elf(&start) {
        return Some(Step::Wrong("is neither an ELF program nor a script that starts with `#!`"));
    }
    let header = start.get(..elf::HEADER_LEN).unwrap_or(&start);
    Some(match elf::interpreter(header, &|at, len| root.read(&place.path, at, len))? {
        Elf::Static => Step::Ends,
        Elf::Dynamic(path) => Step::Asks { by: place.path, path },
        Elf::Wrong(why) => Step::Wrong(why),
    })
}

fn os_release(root: &Root<'_>) -> Vec<Fault> {
    let mut why = "is missing";
    for path in ["etc/os-release", "usr/lib/os-release"] {
        match root.follow(path.as_bytes()) {
            Led::To(place) if place.found.kind == Kind::File => return Vec::new(),
            Led::To(_) => why = "is no regular file",
            Led::Nowhere => {}
            Led::Unknown => return Vec::new(),
        }
    }
    vec![Fault::new("etc/os-release", why)]
}
