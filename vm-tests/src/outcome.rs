//! How does a case end that did not pass?

use std::fmt::Display;
use std::io;
use std::process::{Command, Output};

/// Exit status of a script, and of all this, that cannot do here what it is for.
pub(crate) const SKIPPED: u8 = 77;

/// The result of everything here.
pub(crate) type Result<T, E = Stop> = std::result::Result<T, E>;

/// Why a case did not pass.
#[derive(Debug)]
pub(crate) enum Stop {
    /// It ran, and something is wrong.
    Failed(String),
    /// It cannot run here; that is no pass.
    Skipped(String),
    /// It was to give somebody a shell, and has.
    ShellEnded,
}

impl Stop {
    /// The same with what was looked at before it.
    pub(crate) fn at(self, what: impl Display) -> Stop {
        match self {
            Stop::Failed(why) => Stop::Failed(format!("{what}: {why}")),
            other => other,
        }
    }
}

/// A failure.
pub(crate) fn failed<T>(why: impl Display) -> Result<T> {
    Err(Stop::Failed(why.to_string()))
}

/// A reason not to run.
pub(crate) fn skipped<T>(why: impl Display) -> Result<T> {
    Err(Stop::Skipped(why.to_string()))
}

/// Says what was attempted when the system refuses.
pub(crate) trait Doing<T> {
    /// `doing` is lower case and without a period: ``cannot write the disk``.
    fn doing(self, doing: impl Display) -> Result<T>;
}

impl<T, E: Display> Doing<T> for std::result::Result<T, E> {
    fn doing(self, doing: impl Display) -> Result<T> {
        self.map_err(|err| Stop::Failed(format!("{doing}: {err}")))
    }
}

/// Runs a program to its end and returns what it wrote; that it fails is a failure, that it is missing a reason to skip.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let output = end(command)?;
    said(command, &output)
}

/// The same for a script that ends with [`SKIPPED`], and says why, where it cannot work.
pub(crate) fn run_or_skip(command: &mut Command) -> Result<String> {
    let output = end(command)?;
    if output.status.code() == Some(i32::from(SKIPPED)) {
        return skipped(String::from_utf8_lossy(&output.stderr).trim());
    }
    said(command, &output)
}

fn end(command: &mut Command) -> Result<Output> {
    let program = command.get_program().display().to_string();
    match command.output() {
        Err(err) if err.kind() == io::ErrorKind::NotFound => skipped(format!("no {program}")),
        output => output.doing(format!("cannot run {program}")),
    }
}

fn said(command: &Command, output: &Output) -> Result<String> {
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(said);
    }
    let program = command.get_program().display();
    let complaint = String::from_utf8_lossy(&output.stderr);
    failed(format!("{program}: {}\n{said}{complaint}", output.status))
}
