//! Are the directories there that nothing can make on a read-only root?

use super::root::{Led, Root};
use super::{Fault, Lint, Severity};
use crate::format::inode::Kind;

pub(super) const LINTS: &[Lint] = &[
    Lint {
        name: "mount-point",
        severity: Severity::Fatal,
        about: "/proc, /sys, /dev, /run, /etc, /var or /tmp is no directory",
        remedy: "make it an empty directory (/etc: with what belongs there)",
        check: mount_points,
    },
    Lint {
        name: "base-directory",
        severity: Severity::Warning,
        about: "/boot, /home, /mnt, /opt, /root or /srv is missing",
        remedy: "make it a directory, or a symlink into /var",
        check: base_directories,
    },
    Lint {
        name: "sysroot",
        severity: Severity::Info,
        about: "/sysroot is missing, where other systems show the data partition",
        remedy: "make it an empty directory if anything on this system looks for it",
        check: |root| missing(root, &["sysroot"]),
    },
];

fn mount_points(root: &Root<'_>) -> Vec<Fault> {
    let wrong = |name: &&str| match root.at(name.as_bytes()) {
        Led::To(place) => match place.found.kind {
            Kind::Dir => None,
            // Nothing but programs asks for it: it may lie anywhere.
            Kind::Link if *name == "tmp" => None,
            Kind::Link => Some("is a symlink: what is mounted there would lie elsewhere"),
            _ => Some("is no directory"),
        },
        Led::Nowhere => Some("is missing, and cannot be made on a read-only root"),
        Led::Unknown => None,
    };
    let names = ["dev", "etc", "proc", "run", "sys", "tmp", "var"];
    names.iter().filter_map(|name| wrong(name).map(|why| Fault::new(*name, why))).collect()
}

fn base_directories(root: &Root<'_>) -> Vec<Fault> {
    missing(root, &["boot", "home", "mnt", "opt", "root", "srv"])
}

/// A symlink is enough, wherever it leads: mostly into /var, which is filled later.
fn missing(root: &Root<'_>, names: &[&str]) -> Vec<Fault> {
    let wrong = |name: &&str| match root.at(name.as_bytes()) {
        Led::To(place) => match place.found.kind {
            Kind::Dir | Kind::Link => None,
            _ => Some("is no directory"),
        },
        Led::Nowhere => Some("is missing, and cannot be made on a read-only root"),
        Led::Unknown => None,
    };
    names.iter().filter_map(|name| wrong(name).map(|why| Fault::new(*name, why))).collect()
}
