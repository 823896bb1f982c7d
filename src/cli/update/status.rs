//! `ashlar update status`: what runs, what is next, and what was given up.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use super::{Target, list, replace};
use crate::cli::{Failure, Outcome, say};
use crate::format::digest::Digest;
use crate::update::book::Book;
use crate::update::checked;

/// Arguments of `ashlar update status`.
#[derive(Debug, Args)]
#[command(after_help = "\
--json writes one object: booted, default, previous, last_good, trial, next (root digests or null), tries_left, tries_done (of the
trial, or null), version_floor, bad (root_digest and why: tries, refused, marked or damaged), records (good, damaged: one of
two, lost, none), single (there is one image only, root.img), and images, each with digest, version, bytes, verified (when it
was last read whole: true, false, or null), verified_at, installed_at, path and roles.")]
pub(super) struct StatusArgs {
    /// Write one JSON object
    #[arg(long)]
    json: bool,
    /// Write metrics for Prometheus's node exporter into a file: it reads *.prom
    #[arg(long, value_name = "FILE", conflicts_with = "json")]
    textfile: Option<PathBuf>,
}

/// Runs it.
pub(super) fn run(args: &StatusArgs, target: &Target) -> Outcome {
    let status = status(target)?;
    if let Some(path) = &args.textfile {
        replace(path, (metrics(&status) + &served(target)).as_bytes())?;
    } else if args.json {
        say(&format!("{status}\n"))?;
    } else {
        say(&lines(&status))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn status(target: &Target) -> Result<Value, Failure> {
    let book = Book::read(target.place.data());
    let state = book.state();
    let text = |digest: Option<Digest>| digest.map(|digest| digest.to_string());
    let records = match (book.is_known(), book.is_damaged()) {
        (true, false) => "good",
        (true, true) => "damaged",
        (false, true) => "lost",
        (false, false) => "none",
    };
    let bad: Vec<Value> = state
        .bad
        .iter()
        .map(|bad| json!({"root_digest": bad.image.to_string(), "why": bad.why.word()}))
        .collect();
    Ok(json!({
        "booted": text(target.booted),
        "default": text(state.default),
        "previous": text(state.previous),
        "last_good": text(state.last_good),
        "trial": text(state.trial.map(|trial| trial.image)),
        "tries_left": state.trial.map(|trial| trial.tries_left),
        "tries_done": state.trial.map(|trial| trial.tries_done),
        "next": text(state.order().first().copied()),
        "version_floor": state.version_floor,
        "bad": bad,
        "records": records,
        "single": target.place.is_single(),
        "images": list::images(target)?,
    }))
}

/// What a person reads first.
const LINES: [(&str, &str); 6] = [
    ("booted", "booted"),
    ("default", "default"),
    ("on trial", "trial"),
    ("last good", "last_good"),
    ("previous", "previous"),
    ("next boot", "next"),
];

fn lines(status: &Value) -> String {
    let mut out = String::new();
    let mut line = |name: &str, value: &str| {
        // cannot fail: a String takes everything
        writeln!(out, "{name:<12}{value}").unwrap_or_default();
    };
    let images = status.get("images").and_then(Value::as_array);
    let version = |digest: &str| {
        let mut images = images.into_iter().flatten();
        let is_it = |image: &&Value| image.get("digest").and_then(Value::as_str) == Some(digest);
        match images.find(is_it).and_then(|image| image.get("version")?.as_u64()) {
            Some(version) => format!(", version {version}"),
            None => ", which is not there".to_owned(),
        }
    };
    for (name, key) in LINES {
        let Some(digest) = status.get(key).and_then(Value::as_str) else { continue };
        let tries = match (key, status.get("tries_left").and_then(Value::as_u64)) {
            ("trial", Some(left)) => format!(", {left} tries left"),
            _ => String::new(),
        };
        line(name, &format!("{digest}{}{tries}", version(digest)));
    }
    for bad in status.get("bad").and_then(Value::as_array).into_iter().flatten() {
        let text = |key| bad.get(key).and_then(Value::as_str).unwrap_or_default();
        line("given up", &format!("{} ({})", text("root_digest"), text("why")));
    }
    match status.get("records").and_then(Value::as_str) {
        Some("lost") => line(
            "records",
            "both are damaged: the newest image is booted, `ashlar update bless` writes new ones",
        ),
        Some("damaged") => line("records", "one of two is damaged, the other one counts"),
        Some("none") if status.get("single") == Some(&Value::Bool(true)) => {
            line("records", "none: root.img is booted, root.img.prev where that fails");
        }
        Some("none") => line("records", "none: the newest image is booted"),
        _ => {}
    }
    out
}

/// What monitoring reads (the text format of Prometheus, version 0.0.4).
fn metrics(status: &Value) -> String {
    let mut out = String::new();
    let mut metric = |name: &str, help: &str, samples: &[(String, String)]| {
        if samples.is_empty() {
            return;
        }
        // cannot fail: a String takes everything
        writeln!(out, "# HELP ashlar_{name} {help}\n# TYPE ashlar_{name} gauge")
            .unwrap_or_default();
        for (labels, value) in samples {
            writeln!(out, "ashlar_{name}{labels} {value}").unwrap_or_default();
        }
    };
    let images = status.get("images").and_then(Value::as_array).cloned().unwrap_or_default();
    let digest_of = |key: &str| status.get(key).and_then(Value::as_str).map(str::to_owned);
    let label = |digest: &str| format!("{{root_digest=\"{digest}\"}}");
    let roles: Vec<_> = ["booted", "default", "trial", "last_good", "previous", "next"]
        .into_iter()
        .filter_map(|role| {
            let digest = digest_of(role)?;
            Some((format!("{{role=\"{role}\",root_digest=\"{digest}\"}}"), "1".to_owned()))
        })
        .collect();
    metric("image_info", "Which image has which role.", &roles);
    let number =
        |key: &str| status.get(key).and_then(Value::as_u64).map(|n| (String::new(), n.to_string()));
    let one = |sample: Option<(String, String)>| sample.into_iter().collect::<Vec<_>>();
    metric(
        "trial_tries_left",
        "How often the image on trial may still be booted.",
        &one(number("tries_left")),
    );
    metric(
        "version_floor",
        "The version of the newest image that was blessed.",
        &one(number("version_floor")),
    );
    let count = status.get("bad").and_then(Value::as_array).map_or(0, Vec::len);
    metric("images_given_up", "Images that were given up.", &[(String::new(), count.to_string())]);
    let records = u8::from(matches!(digest_of("records").as_deref(), Some("good" | "none")));
    metric(
        "boot_records_good",
        "Whether both boot records can be read.",
        &[(String::new(), records.to_string())],
    );
    let of_images = |value: &dyn Fn(&Value) -> Option<String>| -> Vec<(String, String)> {
        let sample = |image: &Value| Some((label(image.get("digest")?.as_str()?), value(image)?));
        images.iter().filter_map(sample).collect()
    };
    let version = of_images(&|image| Some(image.get("version")?.as_u64()?.to_string()));
    metric("image_version", "The version of an image.", &version);
    let good = of_images(&|image| Some(u8::from(image.get("verified")?.as_bool()?).to_string()));
    metric("scrub_good", "Whether an image was whole when all of it was read.", &good);
    let at = of_images(&|image| Some(image.get("installed_at")?.as_u64()?.to_string()));
    metric("image_installed_timestamp_seconds", "When an image was put in its place.", &at);
    let at = of_images(&|image| Some(image.get("verified_at")?.as_u64()?.to_string()));
    metric("scrub_timestamp_seconds", "When all of an image was read.", &at);
    metric(
        "status_timestamp_seconds",
        "When this was written.",
        &[(String::new(), checked::now().to_string())],
    );
    out
}

/// What the server of `/` did since it was started.
fn served(target: &Target) -> String {
    let lower = Path::new("/run/initramfs/ashlar/lower");
    let ask = |path| crate::fuse::status::ask(path).ok();
    let Some(status) = target.booted.and_then(|_| ask(Path::new("/")).or_else(|| ask(lower)))
    else {
        return String::new();
    };
    let counters = [
        (
            "blocks_verified_total",
            "Blocks that were found right since the server began.",
            status.blocks_verified,
        ),
        (
            "blocks_failed_total",
            "Blocks that could not be had since the server began.",
            status.blocks_failed,
        ),
    ];
    counters
        .map(|(name, help, value)| {
            format!(
                "# HELP ashlar_{name} {help}\n# TYPE ashlar_{name} counter\nashlar_{name} {value}\n"
            )
        })
        .concat()
}
