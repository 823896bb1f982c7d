//! Would it boot? What a root tree lacks, or has and should not, is named before a machine has to live with it.
//!
//! Nothing here fails: what cannot be looked at is a finding like any other (`unreadable`, `damaged`).

#[cfg(feature = "boot")]
mod config;
mod directory;
mod identity;
mod init;
mod kernel;
mod leftovers;
mod look;
mod names;
mod places;
mod root;
mod systemd;
#[cfg(test)]
mod tests;
mod tree;

use std::fmt;

pub use directory::Directory;
pub use look::{Found, Look};
use root::Root;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Worth knowing, and often meant to be so.
    Info,
    /// It boots, and somebody will be surprised.
    Warning,
    /// It does not boot, or must not be shipped.
    Fatal,
}

impl Severity {
    /// `info`, `warning` or `fatal`.
    pub fn name(self) -> &'static str {
        match self {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Fatal => "fatal",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// One thing that is looked for. Names stay what they are from release to release: scripts give them to `--disable`.
#[derive(Debug)]
pub struct Lint {
    /// The name: lower-case words with hyphens between.
    pub name: &'static str,
    /// How bad a finding is.
    pub severity: Severity,
    /// What it finds, for the list of lints.
    pub about: &'static str,
    /// What to do about a finding.
    pub remedy: &'static str,
    check: fn(&Root<'_>) -> Vec<Fault>,
}

/// What a lint's check found wrong.
#[derive(Debug)]
struct Fault {
    path: Vec<u8>,
    why: String,
}

impl Fault {
    fn new(path: impl Into<Vec<u8>>, why: impl Into<String>) -> Self {
        Fault { path: path.into(), why: why.into() }
    }
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The lint's name.
    pub lint: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// Where: a path from the root, without a leading slash.
    pub path: Vec<u8>,
    /// What is the matter with it, in words that follow the path.
    pub why: String,
    /// What to do about it.
    pub remedy: &'static str,
}

/// All lints, in the order in which their findings are told.
pub fn all() -> impl Iterator<Item = &'static Lint> {
    FAMILIES.iter().copied().flatten()
}

/// The lint of this name.
pub fn find(name: &str) -> Option<&'static Lint> {
    all().find(|lint| lint.name == name)
}

/// Looks a root tree over. Lints whose name `is_disabled` says so of are left out. The worst findings come first.
pub fn lint(look: &dyn Look, is_disabled: impl Fn(&str) -> bool) -> Vec<Finding> {
    let root = Root::new(look);
    let mut findings = Vec::new();
    for lint in all().filter(|lint| !is_disabled(lint.name)) {
        findings.extend((lint.check)(&root).into_iter().map(|fault| Finding {
            lint: lint.name,
            severity: lint.severity,
            path: fault.path,
            why: fault.why,
            remedy: lint.remedy,
        }));
    }
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    findings
}

/// [`root::LINTS`] is last: it tells what the others could not look at.
const FAMILIES: &[&[Lint]] = &[
    places::LINTS,
    init::LINTS,
    identity::LINTS,
    leftovers::LINTS,
    kernel::LINTS,
    systemd::LINTS,
    #[cfg(feature = "boot")]
    config::LINTS,
    names::LINTS,
    root::LINTS,
];

/// A path in a sentence, as it is from the root.
fn shown(path: &[u8]) -> String {
    format!("/{}", path.strip_prefix(b"/").unwrap_or(path).escape_ascii())
}

/// `1 file`, `2 files`.
fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}
