//! The `ashlar` command: parse, dispatch, exit.

use std::process::ExitCode;

#[cfg(target_env = "gnu")]
mod allocator;
#[cfg(all(panic = "abort", target_feature = "crt-static", target_env = "gnu"))]
mod unwinding;

#[cfg(target_env = "gnu")]
#[global_allocator]
static ALLOCATOR: allocator::Ready = allocator::Ready;

fn main() -> ExitCode {
    #[cfg(target_env = "gnu")]
    allocator::keep_little();
    ashlarfs::cli::main(std::env::args_os())
}
