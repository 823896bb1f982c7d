//! `ashlar verify`: is all of it true?

use std::path::PathBuf;

use clap::Args;

use super::{Failure, Outcome, TrustArgs};

/// Arguments of `ashlar verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    #[command(flatten)]
    trust: TrustArgs,
    /// The image
    image: PathBuf,
}

/// Runs it.
pub fn run(args: &VerifyArgs) -> Outcome {
    Err(Failure::new(format!("not built yet: {args:?}")))
}
