//! `ashlar scrub`: is the image still whole on its disk?

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::update::{self, Bar};
use super::{Failure, Outcome, say};
use crate::format::digest::Digest;
use crate::update::book::Book;
use crate::update::scrub;

/// Exit status, as of `ashlar verify`: there is damage.
const DAMAGE: u8 = 4;

/// Arguments of `ashlar scrub`.
#[derive(Debug, Args)]
#[command(after_help = "\
All of the image is read from the disk, past the memory that may have it, when nothing else wants the processor or the disk. What was
found is in `ashlar update status` afterwards. ashlar-scrub.timer does this once a month.

Exit status: 0 whole, 4 damaged, 1 could not tell. --json writes one object for each image: root_digest, blocks, bytes (of good
blocks), damaged, findings.")]
pub struct ScrubArgs {
    /// Where the data partition is mounted [default: that of the running system]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// All images that may be booted, not only the one that runs
    #[arg(long, conflicts_with = "image")]
    all: bool,
    /// Take the processor and the disk as others do
    #[arg(long)]
    fast: bool,
    /// Write what was found as JSON
    #[arg(long)]
    json: bool,
    /// The images, by their root digests [default: the one that runs]
    image: Vec<Digest>,
}

/// Runs it.
pub fn run(args: &ScrubArgs) -> Outcome {
    let target = update::reading(args.data.clone())?;
    let mut images = args.image.clone();
    if args.all {
        images = Book::read(target.place.data()).state().kept();
        images.extend(target.booted.filter(|booted| !images.contains(booted)));
        images.retain(|image| target.place.find(*image).is_some());
    } else if images.is_empty() {
        images.extend(target.booted);
    }
    if images.is_empty() {
        return Err(Failure::new("which image?").hint("name it by its root digest, or say --all"));
    }
    if !args.fast {
        scrub::become_idle();
    }
    let mut is_good = true;
    for image in images {
        let bar = Bar::new(args.json);
        let found =
            scrub::scrub(&target.place, image, &|step, done, total| bar.tell(step, done, total))?;
        drop(bar);
        // A disk that is full or read-only can still be scrubbed.
        if let Err(failed) = scrub::note(&target.place, image, &found) {
            tracing::warn!("{failed}");
        }
        is_good &= found.is_good();
        if args.json {
            let text = serde_json::to_string(&found).map_err(Failure::new)?;
            say(&format!("{text}\n"))?;
        } else {
            for finding in &found.findings {
                say(&format!("{finding}\n"))?;
            }
            let verdict = if found.is_good() { "whole" } else { "DAMAGED" };
            say(&format!(
                "{image}: {verdict}, {} blocks, {} damaged\n",
                found.blocks, found.damaged
            ))?;
        }
    }
    Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::from(DAMAGE) })
}
