//! Which cases are there?

mod boot;
mod compare;
mod damage;
mod debian;
mod shell;
mod state;
mod traps;
mod trust;

use crate::bench::Bench;
use crate::outcome::Result;

/// A question to a machine.
#[derive(Debug)]
pub(crate) struct Case {
    /// What it is called by.
    pub name: &'static str,
    /// What it asks.
    pub asks: &'static str,
    /// Whether `run --quick` includes it.
    pub quick: bool,
    /// Answers it.
    pub run: fn(&Bench<'_>) -> Result<()>,
}

/// All cases, in the order in which they are run.
pub(crate) fn all() -> impl Iterator<Item = &'static Case> {
    let small =
        [boot::CASES, traps::CASES, damage::CASES, trust::CASES, shell::CASES, state::CASES];
    small.into_iter().chain([debian::CASES, compare::CASES]).flatten()
}

/// Cases that measure, and take long: `run --all` leaves them to whoever names them.
const BY_NAME: &[&str] = &["compare"];

impl Case {
    /// Whether `run --all` includes it.
    pub(crate) fn in_all(&self) -> bool {
        !BY_NAME.contains(&self.name)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_case_has_a_name_of_its_own() {
        let names: BTreeSet<_> = all().map(|case| case.name).collect();
        assert_eq!(names.len(), all().count());
        assert!(BY_NAME.iter().all(|name| names.contains(name)));
    }
}
