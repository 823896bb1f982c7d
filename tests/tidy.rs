//! Does the house keep its own rules? Who may use whom, where `unsafe` is, how long a file may be.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Which rooms a room may name (`crate::…`). `lib.rs` is the assembly line and names all.
const MAY_USE: &[(&str, &[&str])] = &[
    ("format", &[]),
    ("error", &["format"]),
    ("elf", &[]),
    ("power", &[]),
    ("image", &["format", "error"]),
    ("store", &["image", "format", "error"]),
    ("trust", &["store", "image", "format", "error"]),
    ("fec", &["trust", "store", "image", "format", "error"]),
    ("heal", &["fec", "store", "trust", "image", "format", "error"]),
    ("fs", &["store", "format", "error"]),
    ("verify", &["fs", "store", "trust", "image", "format", "error"]),
    ("extract", &["fs", "format", "error"]),
    ("diff", &["fs", "store", "format", "error"]),
    ("manifest", &["fs", "store", "format", "error"]),
    ("update", &["state", "heal", "fec", "store", "trust", "image", "power", "format", "error"]),
    ("fuse", &["heal", "fs", "store", "format", "error"]),
    ("takeover", &["fuse", "heal", "fs", "image", "store", "trust", "elf", "format", "error"]),
    ("confine", &[]),
    ("state", &["extract", "fs", "power", "format", "error"]),
    ("lint", &["fs", "elf", "format", "error"]),
    ("integration", &["error"]),
    (
        "boot",
        &[
            "confine",
            "takeover",
            "integration",
            "update",
            "state",
            "fuse",
            "heal",
            "verify",
            "fs",
            "trust",
            "store",
            "image",
            "format",
            "error",
        ],
    ),
    (
        "cli",
        &[
            "boot",
            "update",
            "state",
            "lint",
            "integration",
            "manifest",
            "extract",
            "diff",
            "confine",
            "takeover",
            "fuse",
            "fec",
            "heal",
            "verify",
            "fs",
            "trust",
            "store",
            "image",
            "format",
            "error",
        ],
    ),
    ("allocator", &[]),
    ("unwinding", &[]),
    ("main", &["cli"]),
];

/// Where unsafe code may be: memory that others change, system calls without a safe wrapper, names that are the linker's.
const UNSAFE: [&str; 7] = [
    "src/allocator.rs",
    "src/image/map.rs",
    "src/store/prefetch/idle.rs",
    "src/fuse/journal.rs",
    "src/fuse/adopt.rs",
    "src/takeover/spawn.rs",
    "src/unwinding.rs",
];

/// Outside crates that only one file or room may name.
const ONLY_IN: &[(&str, &[&str])] = &[
    (
        "blake3",
        &[
            "src/store/proof.rs",
            "src/manifest.rs",
            "src/state/etc/record.rs",
            "src/integration/record.rs",
            "src/update/record.rs",
        ],
    ),
    ("zstd", &["src/store/expand.rs"]),
    ("reed_solomon_simd", &["src/fec"]),
    (
        "lru",
        &[
            "src/store/cache.rs",
            "src/store/table.rs",
            "src/store/readahead.rs",
            "src/store/prefetch/streams.rs",
        ],
    ),
    ("memmap2", &["src/image/map.rs", "src/fuse/journal.rs"]),
    (
        "libc",
        &[
            "src/allocator.rs",
            "src/image/map.rs",
            "src/store/prefetch/idle.rs",
            "src/fuse/journal.rs",
            "src/fuse/adopt.rs",
            "src/takeover/spawn.rs",
            "src/confine/allowed.rs",
        ],
    ),
    ("seccompiler", &["src/confine/filter.rs"]),
    ("minisign_verify", &["src/trust.rs"]),
    ("fuser", &["src/fuse"]),
    ("clap", &["src/cli"]),
    ("indicatif", &["src/cli"]),
    ("ureq", &["src/update/http"]),
];

/// Longest file in lines, tests not counted; a habit of 300 is better.
const LINES_MAX: usize = 500;

fn sources(directory: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut stack = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(directory)];
    while let Some(directory) = stack.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                stack.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// The path from the project's root, and the lines that are code: no comments, nothing from the unit tests on.
fn code(path: &Path) -> (String, Vec<(usize, String)>) {
    let shown = path.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap().display().to_string();
    let text = fs::read_to_string(path).unwrap();
    let lines = text
        .lines()
        .enumerate()
        .take_while(|(_, line)| !line.starts_with("mod tests {"))
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
        .map(|(number, line)| (number + 1, line.to_owned()))
        .collect();
    (shown, lines)
}

fn room(shown: &str) -> &str {
    let name = shown.trim_start_matches("src/");
    name.split(['/', '.']).next().unwrap()
}

/// Words that follow `prefix` in a line, for example the rooms after `crate::`.
fn words_after<'a>(line: &'a str, prefix: &str) -> Vec<&'a str> {
    line.match_indices(prefix)
        .filter(|(at, _)| !line[..*at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
        .map(|(at, _)| &line[at + prefix.len()..])
        .map(|rest| rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap())
        .collect()
}

#[test]
fn rooms_use_only_rooms_below_them() {
    let rooms: BTreeMap<_, _> = MAY_USE.iter().copied().collect();
    let mut wrong = Vec::new();
    for path in sources("src") {
        let (shown, lines) = code(&path);
        let room = room(&shown);
        if room == "lib" {
            continue;
        }
        let allowed = rooms
            .get(room)
            .unwrap_or_else(|| panic!("{shown} is in no room of the table in tests/tidy.rs"));
        for (number, line) in lines {
            for used in words_after(&line, "crate::") {
                if rooms.contains_key(used) && used != room && !allowed.contains(&used) {
                    wrong.push(format!(
                        "{shown}:{number} uses crate::{used}; {room} may use {}",
                        allowed.join(", ")
                    ));
                }
            }
            if line.contains("use super::*") || line.contains("use crate::*") {
                wrong.push(format!("{shown}:{number} imports everything"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn outside_crates_have_their_place() {
    let mut wrong = Vec::new();
    for path in sources("src") {
        let (shown, lines) = code(&path);
        for (number, line) in lines {
            for (name, places) in ONLY_IN {
                let named = line.contains(&format!("use {name}::"))
                    || !words_after(&line, &format!("{name}::")).is_empty();
                if named && !places.iter().any(|place| shown.starts_with(place)) {
                    wrong.push(format!(
                        "{shown}:{number} names {name}, which belongs in {}",
                        places.join(", ")
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn unsafe_is_where_it_is_argued() {
    for path in sources("src").into_iter().chain(sources("mkimage/src")) {
        let (shown, lines) = code(&path);
        let found = lines
            .iter()
            .find(|(_, line)| line.contains("unsafe ") || line.contains("allow(unsafe_code"));
        assert!(
            found.is_none() || UNSAFE.contains(&shown.as_str()),
            "{shown}:{} is unsafe",
            found.unwrap().0
        );
    }
}

#[test]
fn files_stay_short_and_say_what_they_answer() {
    let mut wrong = Vec::new();
    for path in sources("src").into_iter().chain(sources("mkimage/src")) {
        let text = fs::read_to_string(&path).unwrap();
        let (shown, _) = code(&path);
        if path.file_name().is_some_and(|name| name == "tests.rs") {
            continue;
        }
        let len = text.lines().take_while(|line| !line.starts_with("mod tests {")).count();
        if len > LINES_MAX {
            wrong.push(format!("{shown} has {len} lines, {LINES_MAX} are enough"));
        }
        if !text.starts_with("//! ") {
            wrong.push(format!("{shown} does not start by saying what it is for"));
        }
        if !text.is_ascii() && !text.contains('…') && !text.contains('é') && !text.contains('§')
        {
            wrong.push(format!("{shown} has characters that hide"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
