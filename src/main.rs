//! The `ashlar` command: parse, dispatch, exit.

use std::process::ExitCode;

#[cfg(all(panic = "abort", target_feature = "crt-static", target_env = "gnu"))]
mod unwinding;

fn main() -> ExitCode {
    ashlarfs::cli::main(std::env::args_os())
}
