//! Would systemd do something that a read-only root does not stand?

use std::time::{SystemTime, UNIX_EPOCH};

use super::root::{Led, Root, join};
use super::{Fault, Lint, Severity, shown};
use crate::format::inode::Kind;

pub(super) const LINTS: &[Lint] = &[
    Lint {
        name: "fstab",
        severity: Severity::Warning,
        about: "/etc/fstab has a line for / or /usr",
        remedy: "take the line out: the image is mounted before fstab is read",
        check: fstab_lines,
    },
    Lint {
        name: "fstab-mount-point",
        severity: Severity::Fatal,
        about: "/etc/fstab has a line whose mount point the tree lacks",
        remedy: "make an empty directory there, or give the line the option `nofail`",
        check: fstab_mount_points,
    },
    Lint {
        name: "soft-reboot",
        severity: Severity::Warning,
        about: "systemd can soft-reboot, which stops the server of its own root",
        remedy: "mask it: `ashlar boot install --systemd --root TREE`, or link /etc/systemd/system/soft-reboot.target to /dev/null",
        check: soft_reboot,
    },
    Lint {
        name: "usr-time",
        severity: Severity::Warning,
        about: "the time of /usr does not tell one image from the next",
        remedy: "give /usr the time of the build (`touch TREE/usr`), and build without --all-time",
        check: usr_time,
    },
];

/// Seconds by which a clock may be wrong.
const DAY: i64 = 86_400;

/// Where units are, the first first.
const UNIT_DIRECTORIES: [&str; 3] =
    ["etc/systemd/system", "usr/lib/systemd/system", "lib/systemd/system"];

/// Directories of the root below which more can be made at boot.
const WRITABLE: [&[u8]; 6] = [b"dev", b"proc", b"run", b"sys", b"tmp", b"var"];

/// A line of /etc/fstab.
struct FstabLine {
    number: usize,
    mount_point: Vec<u8>,
    options: Vec<u8>,
}

impl FstabLine {
    /// Whether this line has one of these options.
    fn has_one_of(&self, names: &[&[u8]]) -> bool {
        self.options.split(|byte| *byte == b',').any(|option| names.contains(&option))
    }
}

/// The lines of /etc/fstab that say something.
fn fstab(root: &Root<'_>) -> Vec<FstabLine> {
    let text = root.text(b"etc/fstab").unwrap_or_default();
    let lines = text.split(|byte| *byte == b'\n').enumerate();
    lines
        .filter_map(|(number, line)| {
            let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
            let source = words.next()?;
            let mount_point = words.next().filter(|_| !source.starts_with(b"#"))?;
            let mount_point = cleaned(unescaped(mount_point));
            let options = words.nth(1).unwrap_or_default().to_vec();
            Some(FstabLine { number: number.saturating_add(1), mount_point, options })
        })
        .collect()
}

/// A word of fstab(5), in which a space is `\040`.
fn unescaped(word: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    let mut left = word;
    while let Some((first, rest)) = left.split_first() {
        let digits = rest.split_at_checked(3).filter(|_| *first == b'\\');
        let escaped = digits.and_then(|(digits, rest)| {
            let byte = u8::from_str_radix(str::from_utf8(digits).ok()?, 8).ok()?;
            Some((byte, rest))
        });
        let (byte, rest) = escaped.unwrap_or((*first, rest));
        plain.push(byte);
        left = rest;
    }
    plain
}

/// An absolute path without a slash too many; what is none (`none`, `swap`) stays what it is.
fn cleaned(path: Vec<u8>) -> Vec<u8> {
    if !path.starts_with(b"/") {
        return path;
    }
    let names = path.split(|byte| *byte == b'/').filter(|name| !matches!(*name, b"" | b"."));
    let names: Vec<&[u8]> = names.collect();
    [b"/".as_slice(), &names.join(&b'/')].concat()
}

fn fstab_lines(root: &Root<'_>) -> Vec<Fault> {
    let wrong = |line: FstabLine| {
        let number = line.number;
        let why = match line.mount_point.as_slice() {
            b"/" => format!(
                "names / in line {number}: systemd-remount-fs would mount it anew with these options"
            ),
            b"/usr" => format!("names /usr in line {number}: initramfs-tools would mount it too"),
            _ => return None,
        };
        Some(Fault::new("etc/fstab", why))
    };
    fstab(root).into_iter().filter_map(wrong).collect()
}

fn fstab_mount_points(root: &Root<'_>) -> Vec<Fault> {
    let lines = fstab(root);
    let wrong = |line: &FstabLine| {
        let path = line.mount_point.as_slice();
        let is_left_out = !path.starts_with(b"/") || line.has_one_of(&[b"noauto", b"nofail"]);
        // What is mounted on the way to it may have it.
        if is_left_out
            || lines.iter().any(|other| is_below(path, &other.mount_point))
            || !is_missing(root, path)
        {
            return None;
        }
        let why = format!(
            "names {} in line {}, which the tree lacks and nobody can make on a read-only root: systemd ends in emergency mode",
            shown(path),
            line.number
        );
        Some(Fault::new("etc/fstab", why))
    };
    lines.iter().filter_map(wrong).collect()
}

/// Whether a path lies below another one that is not the root.
fn is_below(path: &[u8], other: &[u8]) -> bool {
    other != b"/" && path.strip_prefix(other).is_some_and(|rest| rest.starts_with(b"/"))
}

/// Whether there is nothing at an absolute path, and nothing can be made there at boot.
fn is_missing(root: &Root<'_>, path: &[u8]) -> bool {
    let mut way: Vec<u8> = Vec::new();
    let mut parent: Vec<u8> = Vec::new();
    for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
        if is_writable(&parent) {
            return false;
        }
        way = join(&way, name);
        match root.follow(&way) {
            Led::To(place) => parent = place.path,
            // A symlink leads into /var, mostly, which is filled later; systemd makes what is missing there.
            Led::Nowhere => return !matches!(root.at(&way), Led::To(_)),
            Led::Unknown => return false,
        }
    }
    false
}

/// Whether more can be made at boot in a directory, whose path has no symlinks.
pub(super) fn is_writable(path: &[u8]) -> bool {
    let first = path.split(|byte| *byte == b'/').next();
    first.is_some_and(|first| WRITABLE.contains(&first))
}

/// Whether there is such a unit, and it is not masked.
pub(super) fn unit(root: &Root<'_>, name: &str) -> bool {
    for directory in UNIT_DIRECTORIES {
        let path = join(directory.as_bytes(), name.as_bytes());
        if is_masked(root, &path) {
            return false;
        }
        if root.is(&path, Kind::File) {
            return true;
        }
    }
    false
}

/// Whether this file masks the unit that it stands for: it is empty, or a symlink to /dev/null, which need not exist.
fn is_masked(root: &Root<'_>, path: &[u8]) -> bool {
    match root.at(path) {
        Led::To(place) if place.found.kind == Kind::Link => {
            root.target(&place.path).is_some_and(|target| target.ends_with(b"/dev/null"))
        }
        Led::To(place) => place.found.kind == Kind::File && place.found.size == 0,
        _ => false,
    }
}

/// What masks the soft reboot of a machine that runs from an image (`ashlar boot install --systemd`).
const GENERATOR: &[u8] = b"usr/lib/systemd/system-generators/ashlar-generator";

fn soft_reboot(root: &Root<'_>) -> Vec<Fault> {
    let names = ["soft-reboot.target", "systemd-soft-reboot.service"];
    if root.is(GENERATOR, Kind::File) || !names.iter().all(|name| unit(root, name)) {
        return Vec::new();
    }
    let path = "usr/lib/systemd/system/systemd-soft-reboot.service";
    let why = "would hang the machine: it stops the server of the root, and then reads from it";
    vec![Fault::new(path, why)]
}

fn usr_time(root: &Root<'_>) -> Vec<Fault> {
    let Led::To(usr) = root.follow(b"usr") else { return Vec::new() };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let latest = i64::try_from(now).unwrap_or(i64::MAX).saturating_add(DAY);
    let time = usr.found.mtime_sec;
    let why = if time < DAY {
        "is as old as the epoch: ConditionNeedsUpdate= of systemd never sees an update"
    } else if time > latest {
        "was changed in the future: ConditionNeedsUpdate= of systemd sees an update at every boot, or none any more"
    } else {
        return Vec::new();
    };
    vec![Fault::new("usr", why)]
}
