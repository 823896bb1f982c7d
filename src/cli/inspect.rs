//! `ashlar inspect`: what does an image say of itself?

use std::path::PathBuf;

use clap::Args;

use super::{Failure, Outcome, TrustArgs};

/// Arguments of `ashlar inspect`.
#[derive(Debug, Args)]
pub struct InspectArgs {
    #[command(flatten)]
    trust: TrustArgs,
    /// The image
    image: PathBuf,
}

/// Runs it.
pub fn run(args: &InspectArgs) -> Outcome {
    Err(Failure::new(format!("not built yet: {args:?}")))
}
