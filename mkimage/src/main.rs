//! The `mkimage` command.

mod build;
mod tree;

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
}

fn main() {}
