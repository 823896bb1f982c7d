//! `ashlar status`: what did a mount do so far?

use std::path::PathBuf;

use clap::Args;

use super::{Failure, Outcome, TrustArgs};

/// Arguments of `ashlar status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    trust: TrustArgs,
    /// The image
    image: PathBuf,
}

/// Runs it.
pub fn run(args: &StatusArgs) -> Outcome {
    Err(Failure::new(format!("not built yet: {args:?}")))
}
