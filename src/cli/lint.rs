//! `ashlar lint`: a tree or an image is looked over before a machine has to boot from it.

use std::path::PathBuf;

use clap::Args;

use super::{Failure, Outcome};

/// Arguments of `ashlar lint`.
#[derive(Debug, Args)]
pub struct LintArgs {
    /// A directory, or an image
    source: PathBuf,
}

/// Runs it.
pub fn run(args: &LintArgs) -> Outcome {
    Err(Failure::new(format!("{}: not there yet", args.source.display())))
}
