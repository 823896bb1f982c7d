//! The `mkimage` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    ashlarfs_mkimage::main(std::env::args_os())
}
