//! `ashlar ls`: which files are in it?

use std::path::PathBuf;

use clap::Args;

use super::{Failure, Outcome, TrustArgs};

/// Arguments of `ashlar ls`.
#[derive(Debug, Args)]
pub struct LsArgs {
    #[command(flatten)]
    trust: TrustArgs,
    /// The image
    image: PathBuf,
}

/// Runs it.
pub fn run(args: &LsArgs) -> Outcome {
    Err(Failure::new(format!("not built yet: {args:?}")))
}
