//! `ashlar boot`: an image becomes the root of this machine.

mod install;

use clap::{Args, Subcommand};

use super::Outcome;

/// Arguments of `ashlar boot`.
#[derive(Debug, Args)]
pub struct BootArgs {
    #[command(subcommand)]
    command: BootCommand,
}

#[derive(Debug, Subcommand)]
enum BootCommand {
    /// Write the files by which an initramfs and the system boot from an image
    Install(install::InstallArgs),
    /// Remove what `install` wrote
    Uninstall(install::UninstallArgs),
}

/// Runs it.
pub fn run(args: BootArgs) -> Outcome {
    match args.command {
        BootCommand::Install(args) => install::install(&args),
        BootCommand::Uninstall(args) => install::uninstall(&args),
    }
}
