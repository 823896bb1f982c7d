//! `ashlar cat`: what is in a file?

use std::path::PathBuf;

use clap::Args;

use super::{Failure, Outcome, TrustArgs};

/// Arguments of `ashlar cat`.
#[derive(Debug, Args)]
pub struct CatArgs {
    #[command(flatten)]
    trust: TrustArgs,
    /// The image
    image: PathBuf,
}

/// Runs it.
pub fn run(args: &CatArgs) -> Outcome {
    Err(Failure::new(format!("not built yet: {args:?}")))
}
