//! Are names what the programs that read them expect?

use std::collections::BTreeSet;

use super::root::{Led, Root, join};
use super::{Fault, Lint, Severity, counted, shown};
use crate::format::inode::Kind;

pub(super) const LINTS: &[Lint] = &[
    Lint {
        name: "usr-merge",
        severity: Severity::Info,
        about: "/bin, /sbin or /lib and its counterpart in /usr hold different files of one name",
        remedy: "finish the merge (Debian: the package usrmerge), or remove one of the two",
        check: usr_merge,
    },
    Lint {
        name: "not-utf8",
        severity: Severity::Info,
        about: "names that are not UTF-8: images hold them well, other tools may not",
        remedy: "rename them if tools that you use stumble over them",
        check: not_utf8,
    },
];

fn usr_merge(root: &Root<'_>) -> Vec<Fault> {
    let is_directory =
        |path: &[u8]| matches!(root.at(path), Led::To(place) if place.found.kind == Kind::Dir);
    let names = |path: &[u8]| -> BTreeSet<Vec<u8>> {
        // Both may well hold a directory of one name.
        let names = root.list(path).into_iter().filter(|(_, kind)| *kind == Kind::File);
        names.map(|(name, _)| name).collect()
    };
    let mut faults = Vec::new();
    for path in ["bin", "sbin", "lib"] {
        let merged = join(b"usr", path.as_bytes());
        if !is_directory(path.as_bytes()) || !is_directory(&merged) {
            continue;
        }
        let (here, there) = (names(path.as_bytes()), names(&merged));
        let mut both = here.intersection(&there);
        if let Some(first) = both.next() {
            let count = 1_usize.saturating_add(both.count());
            let count = counted(crate::format::field::u64_from_usize(count), "file", "files");
            let first = first.escape_ascii();
            let why = format!("and {} both have {count} of one name (`{first}`)", shown(&merged));
            faults.push(Fault::new(path, why));
        }
    }
    faults
}

fn not_utf8(root: &Root<'_>) -> Vec<Fault> {
    let (mut count, mut first) = (0_u64, None);
    root.walk(b"", &mut |path, _| {
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        if std::str::from_utf8(name).is_err() {
            count = count.saturating_add(1);
            first.get_or_insert_with(|| path.to_vec());
        }
        // What is mounted there is not the tree's, and has no end that could be relied on.
        !matches!(path, b"proc" | b"sys" | b"dev" | b"run")
    });
    let Some(first) = first else { return Vec::new() };
    let why = match count {
        1 => "has a name that is not UTF-8".to_owned(),
        _ => format!("and {} more have names that are not UTF-8", count.saturating_sub(1)),
    };
    vec![Fault::new(first, why)]
}
