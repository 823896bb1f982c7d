//! The `ashlar` command: parse, dispatch, exit.

use std::process::ExitCode;

fn main() -> ExitCode {
    ashlarfs::cli::main(std::env::args_os())
}
