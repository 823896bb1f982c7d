//! `ashlar upgrade-daemon`: a newer program serves what is mounted.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::{Failure, Outcome};
use crate::takeover::{UpgradeError, upgrade};

/// Arguments of `ashlar upgrade-daemon`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct UpgradeDaemonArgs {
    /// The program that shall serve [default: this one]
    #[arg(long, value_name = "FILE", default_value = "/proc/self/exe", hide_default_value = true)]
    program: PathBuf,
    /// The mount point, or anything below it
    mountpoint: PathBuf,
}

const AFTER_HELP: &str = "\
The new server is started beside the old one. When it answers, the old one finishes what it has begun and ends; nobody who \
uses the mount notices. When it does not, nothing changes. It works for mounts that have a holder (`ashlar status` shows it). \
The server of / needs a static program (`cargo boot-binary`), for it cannot load libraries from the root that it serves. What a server may ask of the kernel stays what it was when the image \
was mounted.";

/// Runs it.
pub fn run(args: &UpgradeDaemonArgs) -> Outcome {
    let path = args.mountpoint.display();
    let pid = upgrade(&args.mountpoint, &args.program).map_err(|err| {
        let failure = Failure::new(format!("{path}: {err}"));
        match err {
            UpgradeError::NotOurs => failure.hint("`findmnt -t fuse.ashlar` lists what is mounted"),
            UpgradeError::Server(_) => failure.hint(
                "`ashlar status` shows whether this mount has a holder; mount with -o takeover",
            ),
            UpgradeError::Program(_) => failure.hint("--program names an `ashlar` program"),
            UpgradeError::Refused(_) => failure.hint("the log of the server says more"),
            UpgradeError::Path(_) => failure,
        }
    })?;
    super::say(&format!("process {pid} serves {path}\n"))?;
    Ok(ExitCode::SUCCESS)
}
