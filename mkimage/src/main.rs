//! The `mkimage` command.
#![expect(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "the builder's numbers are its own: bounded by memory and by `plan`, with overflow checks on; it serves nobody"
)]

mod base;
mod build;
mod cli;
mod emit;
mod filter;
mod overrides;
mod pack;
mod pipeline;
mod plan;
mod report;
mod scan;
mod seal;
mod sign;
mod tar;
mod text;
mod tree;
mod xattrs;

/// Why a build failed: one line, and a second one that says what to do where there is something to do.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
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

fn main() -> std::process::ExitCode {
    cli::main(std::env::args_os())
}
