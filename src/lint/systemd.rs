//! Would systemd do something that a read-only root does not stand?

use std::time::{SystemTime, UNIX_EPOCH};

use super::root::{Led, Root, join};
use super::{Fault, Lint, Severity};
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

/// A line of /etc/fstab.
pub(super) struct FstabLine {
    number: usize,
    pub(super) mount_point: Vec<u8>,
}

/// The lines of /etc/fstab that say something.
pub(super) fn fstab(root: &Root<'_>) -> Vec<FstabLine> {
    let text = root.text(b"etc/fstab").unwrap_or_default();
    let lines = text.split(|byte| *byte == b'\n').enumerate();
    lines
        .filter_map(|(number, line)| {
            let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
            let source = words.next()?;
            let mount_point = words.next().filter(|_| !source.starts_with(b"#"))?;
            let names = mount_point.split(|byte| *byte == b'/').filter(|name| !name.is_empty());
            let clean: Vec<u8> = names.flat_map(|name| [b"/", name].concat()).collect();
            let is_root = clean.is_empty() && mount_point.starts_with(b"/");
            let mount_point = if is_root { b"/".to_vec() } else { clean };
            Some(FstabLine { number: number.saturating_add(1), mount_point })
        })
        .collect()
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

fn soft_reboot(root: &Root<'_>) -> Vec<Fault> {
    let names = ["soft-reboot.target", "systemd-soft-reboot.service"];
    if !names.iter().all(|name| unit(root, name)) {
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
