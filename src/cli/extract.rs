//! `ashlar extract`: files out of an image, as they were.

use std::path::PathBuf;

use clap::Args;

use super::{Failure, Outcome, TrustArgs};

/// Arguments of `ashlar extract`.
#[derive(Debug, Args)]
pub struct ExtractArgs {
    #[command(flatten)]
    trust: TrustArgs,
    /// The image
    image: PathBuf,
}

/// Runs it.
pub fn run(args: &ExtractArgs) -> Outcome {
    Err(Failure::new(format!("not built yet: {args:?}")))
}
