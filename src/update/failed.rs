//! Why was nothing updated, and what should be done about it?

use std::fmt;
use std::io;

use crate::error::Error;

/// Why something could not be done. Where nothing else is said, nothing changed.
#[derive(Debug)]
pub struct Failed {
    /// What went wrong: lower case, no period, with the numbers that find the fault.
    pub message: String,
    /// What a person can do about it.
    pub hint: Option<String>,
}

impl Failed {
    /// A failure without a hint.
    pub fn new(message: impl fmt::Display) -> Self {
        Failed { message: message.to_string(), hint: None }
    }

    /// What the system said to an attempt.
    #[expect(clippy::needless_pass_by_value, reason = "it takes what `map_err` gives")]
    pub fn io(doing: impl fmt::Display, err: io::Error) -> Self {
        Failed::new(format_args!("{doing}: {err}"))
    }

    /// What is wrong with `subject`: a path or an address, mostly.
    #[expect(clippy::needless_pass_by_value, reason = "it takes what `map_err` gives")]
    pub fn about(subject: impl fmt::Display, err: Error) -> Self {
        let hint = err.hint().map(str::to_owned);
        Failed { message: format!("{subject}: {err}"), hint }
    }

    /// The same with a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl fmt::Display) -> Self {
        self.hint = Some(hint.to_string());
        self
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failed {}

impl From<Error> for Failed {
    fn from(err: Error) -> Self {
        let hint = err.hint().map(str::to_owned);
        Failed { message: err.to_string(), hint }
    }
}
