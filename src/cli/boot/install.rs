//! `ashlar boot install`: the files of an initramfs and of the system are written, and taken away again.

use clap::Args;

use crate::cli::{Failure, Outcome};

/// Arguments of `ashlar boot install`.
#[derive(Debug, Args)]
pub struct InstallArgs {}

/// Arguments of `ashlar boot uninstall`.
#[derive(Debug, Args)]
pub struct UninstallArgs {}

/// Runs `install`.
pub fn install(_: &InstallArgs) -> Outcome {
    Err(Failure::new("not there yet"))
}

/// Runs `uninstall`.
pub fn uninstall(_: &UninstallArgs) -> Outcome {
    Err(Failure::new("not there yet"))
}
