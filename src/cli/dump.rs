//! `ashlar dump`: the whole tree as text.

use std::path::PathBuf;

use clap::Args;

use super::{Failure, Outcome, TrustArgs};

/// Arguments of `ashlar dump`.
#[derive(Debug, Args)]
pub struct DumpArgs {
    #[command(flatten)]
    trust: TrustArgs,
    /// The image
    image: PathBuf,
}

/// Runs it.
pub fn run(args: &DumpArgs) -> Outcome {
    Err(Failure::new(format!("not built yet: {args:?}")))
}
