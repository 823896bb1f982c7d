//! What was left behind by whatever made the tree, and would be hidden, shipped to all, or taken for something else?

use super::root::{Led, Root};
use super::{Fault, Lint, Severity, counted, shown};
use crate::format::inode::Kind;

pub(super) const LINTS: &[Lint] = &[
    Lint {
        name: "var-run",
        severity: Severity::Fatal,
        about: "/var/run is not a symlink to /run: sockets and locks would outlive a boot, or be two",
        remedy: "ln -sfn /run TREE/var/run, and move what was in it to tmpfiles.d",
        check: |root| is_link_to(root, "var/run", b"/run"),
    },
    Lint {
        name: "var-lock",
        severity: Severity::Warning,
        about: "/var/lock is not a symlink to /run/lock: locks would outlive a boot",
        remedy: "ln -sfn /run/lock TREE/var/lock",
        check: |root| is_link_to(root, "var/lock", b"/run/lock"),
    },
    Lint {
        name: "hidden-content",
        severity: Severity::Warning,
        about: "files in /run, /proc, /sys or /dev, which nobody will see: something is mounted there",
        remedy: "take them out; what /run needs is made by tmpfiles.d",
        check: hidden_content,
    },
    Lint {
        name: "container-marker",
        severity: Severity::Warning,
        about: "/.dockerenv or /run/.containerenv: systemd takes the machine for a container",
        remedy: "take it out",
        check: container_markers,
    },
    Lint {
        name: "temporary-files",
        severity: Severity::Warning,
        about: "files in /tmp or /var/tmp",
        remedy: "take them out",
        check: temporary_files,
    },
    Lint {
        name: "build-leftover",
        severity: Severity::Warning,
        about: "/etc/resolv.conf, /etc/hosts or /etc/hostname is an empty file, as container builders leave it",
        remedy: "take it out, or link resolv.conf to ../run/systemd/resolve/stub-resolv.conf",
        check: build_leftovers,
    },
    Lint {
        name: "boot-content",
        severity: Severity::Warning,
        about: "files in /boot, from where no machine takes them",
        remedy: "put kernel and initramfs on the boot partition, and leave /boot empty",
        check: |root| {
            holds(root, "boot", "which machines do not boot from", &|path, _| {
                !path.starts_with(b"boot/lost+found")
            })
        },
    },
    Lint {
        name: "var-log",
        severity: Severity::Warning,
        about: "logs in /var/log of the machine that built the tree",
        remedy: "empty the files in /var/log",
        check: var_log,
    },
    Lint {
        name: "usr-etc",
        severity: Severity::Warning,
        about: "/usr/etc is there, as ostree wants it; here it is a directory like any other",
        remedy: "move it to /etc: changes are merged with the /etc of both images",
        check: |root| match root.at(b"usr/etc") {
            Led::To(place) => {
                vec![Fault::new(place.path, "is ostree's, and nothing reads it here")]
            }
            _ => Vec::new(),
        },
    },
    Lint {
        name: "var-content",
        severity: Severity::Info,
        about: "files in /var, which a machine gets once and no update changes",
        remedy: "move what updates should change to /usr, or have tmpfiles.d copy it",
        check: var_content,
    },
];

/// What `/dev` may hold before anything is mounted there, for a kernel or an init that cannot wait.
const STATIC_DEVICES: [&[u8]; 14] = [
    b"console", b"core", b"fd", b"full", b"fuse", b"kmsg", b"null", b"ptmx", b"random", b"stderr",
    b"stdin", b"stdout", b"tty", b"urandom",
];

fn is_link_to(root: &Root<'_>, path: &'static str, wanted: &[u8]) -> Vec<Fault> {
    let why = match root.at(path.as_bytes()) {
        Led::To(place) if place.found.kind == Kind::Link => {
            let Some(target) = root.target(&place.path) else { return Vec::new() };
            // From /var, where /var is no symlink: `../run` is `/run`.
            let target = target.strip_prefix(b"..").unwrap_or(&target);
            if target.strip_suffix(b"/").unwrap_or(target) == wanted {
                return Vec::new();
            }
            format!("is a symlink to {}, not to {}", target.escape_ascii(), shown(wanted))
        }
        Led::To(_) => format!("is no symlink to {}", shown(wanted)),
        Led::Nowhere | Led::Unknown => return Vec::new(),
    };
    vec![Fault::new(path, why)]
}

/// One finding when a directory holds files. Directories alone do no harm.
fn holds(
    root: &Root<'_>,
    path: &'static str,
    end: &str,
    counts: &dyn Fn(&[u8], Kind) -> bool,
) -> Vec<Fault> {
    let below = root.files_below(path.as_bytes(), counts);
    if below.count == 0 {
        return Vec::new();
    }
    let (count, first) = (counted(below.count, "file", "files"), shown(&below.first));
    let why = match below.count {
        1 => format!("holds {count} ({first}), {end}"),
        _ => format!("holds {count} ({first} is the first), {end}"),
    };
    vec![Fault::new(path, why)]
}

fn hidden_content(root: &Root<'_>) -> Vec<Fault> {
    let end = "hidden by what is mounted there";
    let is_static = |path: &[u8], kind: Kind| {
        let name = path.strip_prefix(b"dev/").unwrap_or(path);
        let is_device = matches!(kind, Kind::Char | Kind::Block | Kind::Link);
        is_device && (STATIC_DEVICES.contains(&name) || name == b"zero")
    };
    let mut faults = holds(root, "dev", end, &|path, kind| !is_static(path, kind));
    for path in ["proc", "run", "sys"] {
        faults.extend(holds(root, path, end, &|path, _| path != b"run/.containerenv"));
    }
    faults
}

fn container_markers(root: &Root<'_>) -> Vec<Fault> {
    let why = "makes systemd take the machine for a container, and leave out udev among others";
    let names = [".dockerenv", "run/.containerenv"];
    let found = names.into_iter().filter(|name| matches!(root.at(name.as_bytes()), Led::To(_)));
    found.map(|name| Fault::new(name, why)).collect()
}

fn temporary_files(root: &Root<'_>) -> Vec<Fault> {
    let mut faults = holds(root, "tmp", "hidden by what is mounted there", &|_, _| true);
    faults.extend(holds(root, "var/tmp", "which every machine would get", &|_, _| true));
    faults
}

fn build_leftovers(root: &Root<'_>) -> Vec<Fault> {
    let is_empty = |name: &&str| matches!(root.at(name.as_bytes()), Led::To(place) if place.found.kind == Kind::File && place.found.size == 0);
    let names = ["etc/hostname", "etc/hosts", "etc/resolv.conf"].into_iter().filter(is_empty);
    names.map(|name| Fault::new(name, "is an empty file, as container builders leave it")).collect()
}

/// Empty files are there so that programs with few rights can write to them.
fn var_log(root: &Root<'_>) -> Vec<Fault> {
    let is_log = |path: &[u8], kind: Kind| {
        kind == Kind::File && matches!(root.at(path), Led::To(place) if place.found.size > 0)
    };
    holds(root, "var/log", "which every machine would get", &is_log)
}

fn var_content(root: &Root<'_>) -> Vec<Fault> {
    let other = [b"var/log/".as_slice(), b"var/tmp/"];
    let counts = |path: &[u8], kind: Kind| {
        kind == Kind::File && !other.iter().any(|start| path.starts_with(start))
    };
    holds(root, "var", "which a machine gets at its first boot, and no update changes", &counts)
}
