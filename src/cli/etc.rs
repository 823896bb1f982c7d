//! `ashlar etc`: what was changed in /etc since the image.

use clap::{Args, Subcommand};

use super::{Failure, Outcome};

/// Arguments of `ashlar etc`.
#[derive(Debug, Args)]
pub struct EtcArgs {
    #[command(subcommand)]
    command: EtcCommand,
}

#[derive(Debug, Subcommand)]
enum EtcCommand {
    /// List what differs from the image
    Diff,
}

/// Runs it.
pub fn run(args: &EtcArgs) -> Outcome {
    match args.command {
        EtcCommand::Diff => Err(Failure::new("not there yet")),
    }
}
