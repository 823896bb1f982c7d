//! `ashlar key`: keys to sign with.

use std::path::PathBuf;

use clap::Args;

use super::{Failure, Outcome, TrustArgs};

/// Arguments of `ashlar key`.
#[derive(Debug, Args)]
pub struct KeyArgs {
    #[command(flatten)]
    trust: TrustArgs,
    /// The image
    image: PathBuf,
}

/// Runs it.
pub fn run(args: KeyArgs) -> Outcome {
    Err(Failure::new(format!("not built yet: {args:?}")))
}
