//! `ashlar diff`: what differs between two images?

use std::path::PathBuf;

use clap::Args;

use super::{Failure, Outcome, TrustArgs};

/// Arguments of `ashlar diff`.
#[derive(Debug, Args)]
pub struct DiffArgs {
    #[command(flatten)]
    trust: TrustArgs,
    /// The image
    image: PathBuf,
}

/// Runs it.
pub fn run(args: &DiffArgs) -> Outcome {
    Err(Failure::new(format!("not built yet: {args:?}")))
}
