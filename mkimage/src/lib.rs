//! Builds Ashlar images: the `mkimage` command, and the same as a call.
//!
//! scan or tar (someone else's files) -> lint (if asked for) -> plan (numbers and places) -> read (contents, ahead)
//! -> pack (into blocks) -> seal (digests) -> emit (write, sync, verify, rename).
#![expect(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "the builder's numbers are its own: bounded by memory and by `plan`, with overflow checks on; it serves nobody"
)]

use std::ffi::OsString;
use std::process::ExitCode;

mod base;
mod build;
mod cli;
mod content;
mod elf;
mod emit;
mod filter;
mod lint;
mod options;
mod ordered;
mod overrides;
mod pack;
mod permits;
mod pipeline;
mod plan;
mod read;
mod report;
mod scan;
mod seal;
mod sign;
mod tar;
#[cfg(test)]
mod testing;
mod text;
mod tree;
mod xattrs;

/// Why a build failed: one line, and a second one that says what to do where there is something to do.
#[derive(Debug)]
pub struct Failure {
    /// What went wrong: lower case, no period, with the numbers that find the fault.
    pub message: String,
    /// What a person can do about it.
    pub hint: Option<String>,
}

impl Failure {
    pub(crate) fn new(message: impl std::fmt::Display) -> Self {
        Failure { message: message.to_string(), hint: None }
    }

    /// The same with a hint.
    pub(crate) fn hint(mut self, hint: impl std::fmt::Display) -> Self {
        self.hint = Some(hint.to_string());
        self
    }

    /// An input or output error with its context.
    pub(crate) fn io(doing: impl std::fmt::Display, err: &std::io::Error) -> Self {
        Failure::new(format!("{doing}: {err}"))
    }

    /// An image that could not be read.
    pub(crate) fn reading(what: impl std::fmt::Display, err: &ashlarfs::Error) -> Self {
        let failure = Failure::new(format!("{what}: {err}"));
        match err.hint() {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}

pub use build::Summary;

/// Runs the command: parses `args`, builds, prints the root digest. Called `mkfs.ashlar` it does the same.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    cli::main(args)
}

/// Builds as the command line `args` (its first word is the program's name) says, and prints nothing but the report that
/// it asks for on standard error. A command line that cannot be parsed is a failure like any other.
pub fn run(
    args: impl IntoIterator<Item = impl Into<OsString> + Clone>,
) -> Result<Summary, Failure> {
    cli::run_args(args)
}
