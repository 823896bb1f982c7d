//! `ashlar update list`: the images that are there.

use std::process::ExitCode;

use clap::Args;
use indicatif::HumanBytes;
use serde_json::{Value, json};

use super::Target;
use crate::cli::{Failure, Outcome, say};
use crate::update::book::Book;
use crate::update::place::Stored;
use crate::update::{checked, keep};

/// Arguments of `ashlar update list`.
#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// Write one JSON array
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub(super) fn run(args: &ListArgs, target: &Target) -> Outcome {
    let images = images(target)?;
    if args.json {
        say(&format!("{}\n", Value::Array(images)))?;
    } else {
        for image in &images {
            let text = |key| image.get(key).and_then(Value::as_str).unwrap_or_default();
            let number = |key| image.get(key).and_then(Value::as_u64).unwrap_or_default();
            let roles = image.get("roles").and_then(Value::as_array).into_iter().flatten();
            let roles: Vec<&str> = roles.filter_map(Value::as_str).collect();
            say(&format!(
                "{}  version {:<8} {:>10}  {:<24} {}\n",
                text("digest"),
                number("version"),
                HumanBytes(number("bytes")).to_string(),
                roles.join(", "),
                text("path"),
            ))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// All images, with what they are to this machine.
pub(super) fn images(target: &Target) -> Result<Vec<Value>, Failure> {
    let stored = target.place.stored()?;
    let book = Book::read(target.place.data());
    let notes = checked::read(target.place.data());
    let pins = keep::pins(&target.place);
    let describe = |image: &Stored| {
        let state = book.state();
        let is = |role: &'static str, other: Option<_>| {
            (other == Some(image.root_digest)).then_some(role)
        };
        let bad = state.bad.iter().find(|bad| bad.image == image.root_digest);
        let roles: Vec<&str> = [
            is("booted", target.booted),
            is("default", state.default),
            is("trial", state.trial.map(|trial| trial.image)),
            is("last good", state.last_good),
            is("previous", state.previous),
            pins.contains(&image.root_digest).then_some("pinned"),
            bad.map(|_| "bad"),
        ]
        .into_iter()
        .flatten()
        .collect();
        let digest = image.root_digest.to_string();
        let checked = notes.get(&digest);
        json!({
            "digest": digest,
            "version": image.version,
            "bytes": image.bytes,
            "verified": checked.map(|checked| checked.good),
            "verified_at": checked.map(|checked| checked.time),
            "installed_at": checked.and_then(|checked| checked.installed_at),
            "path": image.path,
            "roles": roles,
        })
    };
    Ok(stored.iter().map(describe).collect())
}
