//! `ashlar mount`: an image becomes a directory.

use std::path::PathBuf;

use clap::Args;

use super::{Failure, Outcome, TrustArgs};

/// Arguments of `ashlar mount`.
#[derive(Debug, Args)]
pub struct MountArgs {
    #[command(flatten)]
    trust: TrustArgs,
    /// The image
    image: PathBuf,
}

/// Runs it.
pub fn run(args: MountArgs) -> Outcome {
    Err(Failure::new(format!("not built yet: {args:?}")))
}
