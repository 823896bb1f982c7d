//! What is written down? A table to look at, and everything for whoever wants to count again.

use std::fs;

use super::figures::Measured;
use super::images::Images;
use super::{BASE, Contestant};

/// What a row tells of.
#[derive(Debug, Clone, Copy)]
enum Unit {
    /// Milliseconds, shown as seconds.
    Ms,
    /// KiB, shown as MiB.
    Kib,
}

/// Rows: what they are called, the figure, its unit.
const ROWS: &[(&str, &str, Unit)] = &[
    ("**systemd's start to multi-user**", "multi-user-ms", Unit::Ms),
    ("systemd's start until nothing is left to start", "finish-ms", Unit::Ms),
    ("kernel's start to initramfs", "initramfs-at-ms", Unit::Ms),
    ("initramfs", "initramfs-ms", Unit::Ms),
    ("… of it: modules, verity, mounting the root", "root-ms", Unit::Ms),
    ("read of small files, never read before", "first-ms", Unit::Ms),
    ("the same from others, caches dropped", "second-ms", Unit::Ms),
    ("the first again, caches dropped", "first-dropped-ms", Unit::Ms),
    ("read of the biggest files", "biggest-ms", Unit::Ms),
    ("find over all files, attributes of each", "walk-ms", Unit::Ms),
    ("the same again at once", "walk-again-ms", Unit::Ms),
    ("the same, caches dropped", "walk-dropped-ms", Unit::Ms),
    ("python3 with ten modules", "python-ms", Unit::Ms),
    ("gcc of a small program", "gcc-ms", Unit::Ms),
    ("memory available after boot", "rest-MemAvailable-kib", Unit::Kib),
    ("slab after boot", "rest-Slab-kib", Unit::Kib),
    ("page cache after boot", "rest-Cached-kib", Unit::Kib),
    ("memory available after all that was read", "used-MemAvailable-kib", Unit::Kib),
    ("the server's own memory after boot", "boot-server-rss-kib", Unit::Kib),
    ("… at the end", "end-server-rss-kib", Unit::Kib),
    ("poweroff", "poweroff-ms", Unit::Ms),
];

/// The medians, and what part of [`BASE`]'s they are.
pub(super) fn markdown(measured: &[(&Contestant, Measured)], images: &Images) -> String {
    let rounds = measured.first().map_or(0, |(_, measured)| measured.rounds.len());
    let mut text = format!(
        "Median of {rounds} boots each, in turn; in brackets the part of EROFS + dm-verity. Linux {}, QEMU without KVM, 2 \
         processors, 1 GiB. Ashlar with blocks of {}, as EROFS with clusters.\n{}\n\n|  |",
        images.kernel.release,
        super::images::BLOCK_SIZE,
        images.versions()
    );
    for (contestant, _) in measured {
        text.push_str(&format!(" {} |", contestant.shown));
    }
    text.push_str(&format!("\n|---|{}\n", "---:|".repeat(measured.len())));
    let base = measured.iter().find(|(contestant, _)| contestant.name == BASE);
    for (shown, name, unit) in ROWS {
        let base = base.and_then(|(_, measured)| measured.median(name));
        text.push_str(&format!("| {shown} |"));
        for (_, measured) in measured {
            text.push_str(&format!(" {} |", cell(measured.median(name), base, *unit)));
        }
        text.push('\n');
    }
    text.push_str("| size of the image |");
    for (contestant, _) in measured {
        let len = fs::metadata(images.image(contestant.name)).map_or(0, |metadata| metadata.len());
        text.push_str(&format!(" {} MiB |", len >> 20));
    }
    text.push('\n');
    for (name, value) in &images.expected {
        if let Some(list) = name.strip_prefix("bytes-") {
            text.push_str(&format!("\n`{list}` is {value} bytes."));
        }
    }
    for (contestant, measured) in measured {
        let words = measured.rounds.first().map(|figures| figures.words.as_slice());
        let words: Vec<&str> = words
            .unwrap_or_default()
            .iter()
            .map(String::as_str)
            .filter(|word| !word.starts_with("digest") && !word.starts_with("figures"))
            .collect();
        text.push_str(&format!("\n{}: {}", contestant.shown, words.join("; ")));
    }
    text.push('\n');
    text
}

fn cell(value: Option<u32>, base: Option<u32>, unit: Unit) -> String {
    let Some(value) = value else { return "–".to_owned() };
    let shown = match unit {
        Unit::Ms => format!("{:.2} s", f64::from(value) / 1000.0),
        Unit::Kib => format!("{:.1} MiB", f64::from(value) / 1024.0),
    };
    match base {
        Some(base @ 1..) => format!("{shown} ({:.2})", f64::from(value) / f64::from(base)),
        _ => shown,
    }
}

/// All figures of all rounds.
pub(super) fn json(measured: &[(&Contestant, Measured)], images: &Images) -> String {
    let contestants: Vec<String> = measured
        .iter()
        .map(|(contestant, measured)| {
            let figures: Vec<String> = measured
                .names()
                .iter()
                .map(|name| format!("      \"{name}\": {:?}", measured.values(name)))
                .collect();
            let status: Vec<String> = measured
                .rounds
                .iter()
                .map(|round| {
                    let all: Vec<String> = round
                        .status
                        .iter()
                        .map(|(when, status)| format!("\"{when}\": {status}"))
                        .collect();
                    format!("      {{{}}}", all.join(", "))
                })
                .collect();
            format!(
                "    \"{}\": {{\n{},\n      \"status\": [\n{}\n      ]\n    }}",
                contestant.name,
                figures.join(",\n"),
                status.join(",\n")
            )
        })
        .collect();
    format!(
        "{{\n  \"kernel\": \"{}\",\n  \"contestants\": {{\n{}\n  }}\n}}\n",
        images.kernel.release,
        contestants.join(",\n")
    )
}
