//! `ashlar sign`: who vouches for an image?

use std::path::PathBuf;

use clap::Args;

use super::{Failure, Outcome, TrustArgs};

/// Arguments of `ashlar sign`.
#[derive(Debug, Args)]
pub struct SignArgs {
    #[command(flatten)]
    trust: TrustArgs,
    /// The image
    image: PathBuf,
}

/// Runs it.
pub fn run(args: &SignArgs) -> Outcome {
    Err(Failure::new(format!("not built yet: {args:?}")))
}
