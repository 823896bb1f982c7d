//! `ashlar boot status`: what this system was booted from.

use std::fmt::Write;
use std::process::ExitCode;

use clap::Args;
use serde_json::Value;

use crate::boot::control;
use crate::boot::report::REPORT;
use crate::cli::{Failure, Outcome, say};

/// Arguments of `ashlar boot status`.
#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    /// Print one JSON object instead of lines for people
    #[arg(long)]
    json: bool,
}

/// What a person reads first, and how it is called in the report.
const LINES: [(&str, &str); 10] = [
    ("image", "image"),
    ("root digest", "root_digest"),
    ("image version", "image_version"),
    ("authenticated by", "authenticated_by"),
    ("data partition", "device"),
    ("mounted at", "data"),
    ("pristine tree", "lower"),
    ("overlay", "overlay"),
    ("/etc", "etc"),
    ("/var", "var"),
];
/// Lists, shown where there is something in them.
const LISTS: [(&str, &str); 5] = [
    ("state overlays", "state-overlay"),
    ("bound paths", "bind"),
    ("extensions", "extension"),
    ("overriding", "extension-override"),
    ("degraded", "degraded"),
];

/// Runs it.
pub(super) fn run(args: &StatusArgs) -> Outcome {
    let text = std::fs::read_to_string(REPORT).map_err(|err| {
        Failure::new(format!("cannot read {REPORT}: {err}"))
            .hint("it is there when the system was booted from an image, see `ashlar boot --help`")
    })?;
    let wrong = |err| Failure::new(format!("{REPORT}: {err}"));
    let mut report: Value = serde_json::from_str(&text).map_err(wrong)?;
    let disabled = control::is_overlay_disabled();
    if args.json {
        if let Some(object) = report.as_object_mut() {
            object.insert("overlay_disabled".to_owned(), disabled.into());
        }
        say(&format!("{report}\n"))?;
    } else {
        say(&lines(&report, disabled))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn lines(report: &Value, disabled: bool) -> String {
    let mut out = String::new();
    let mut line = |name: &str, value: &str| {
        // cannot fail: a String takes everything
        writeln!(out, "{name:<18}{value}").unwrap_or_default();
    };
    for (name, key) in LINES {
        match report.get(key) {
            Some(Value::String(text)) => line(name, text),
            Some(Value::Null) | None => {}
            Some(other) => line(name, &other.to_string()),
        }
    }
    if disabled {
        line("next boot", "without the overlay");
    }
    for (name, key) in LISTS {
        for item in report.get(key).and_then(Value::as_array).into_iter().flatten() {
            line(name, item.as_str().unwrap_or_default());
        }
    }
    for refused in report.get("refused").and_then(Value::as_array).into_iter().flatten() {
        let text = |key| refused.get(key).and_then(Value::as_str).unwrap_or_default();
        line("refused", &format!("{}: {}", text("image"), text("why")));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_shown() {
        let report = serde_json::json!({
            "image": "/x", "lower": null, "image_version": 3, "etc": "ro", "bind": ["/a", "/b"],
            "refused": [{"image": "images/b.img", "why": "damaged"}],
        });
        let text = lines(&report, true);
        let expected = [
            "image             /x",
            "image version     3",
            "/etc              ro",
            "next boot         without the overlay",
            "bound paths       /a",
            "bound paths       /b",
            "refused           images/b.img: damaged",
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), expected);
    }
}
