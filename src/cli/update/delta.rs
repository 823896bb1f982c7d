//! `ashlar update delta`: what a new image has and an old one lacks, in a file.

use std::fs::File;
use std::io::BufWriter;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use indicatif::HumanBytes;

use crate::cli::{Failure, Outcome, say};
use crate::update::delta;

/// Arguments of `ashlar update delta`.
#[derive(Debug, Args)]
#[command(after_help = "\
The delta is installed as an image is, `ashlar update install FILE`, on any machine that has image A. --json writes one object: bytes
(of the delta), blocks, base_digest, new_digest, new_bytes.")]
pub(super) struct DeltaArgs {
    /// The image that machines have
    a: PathBuf,
    /// The image that they shall have
    b: PathBuf,
    /// Where the delta goes
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Write what was done as JSON
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub(super) fn run(args: &DeltaArgs) -> Outcome {
    let wrap = |err| Failure::new(format!("cannot write {}: {err}", args.output.display()));
    let file = File::create_new(&args.output).map_err(|err| {
        let failure = wrap(err);
        if args.output.exists() { failure.hint("remove it first") } else { failure }
    })?;
    let mut out = BufWriter::new(file);
    let written = delta::write(&args.a, &args.b, &mut out)
        .map_err(Failure::from)
        .and_then(|written| {
            let file = out.into_inner().map_err(|err| wrap(err.into_error()))?;
            file.sync_all().map_err(wrap).map(|()| written)
        })
        .inspect_err(|_| std::fs::remove_file(&args.output).unwrap_or_default())?;
    if args.json {
        let text = serde_json::to_string(&written).map_err(Failure::new)?;
        say(&format!("{text}\n"))?;
    } else {
        say(&format!(
            "{} for an image of {}: {} blocks\n",
            HumanBytes(written.bytes),
            HumanBytes(written.new_bytes),
            written.blocks
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}
