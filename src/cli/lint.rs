//! `ashlar lint`: what would not boot, or would surprise?

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::{Failure, Outcome, TrustArgs, escape, say};
use crate::lint::{self, Directory, Finding, Severity};

/// Arguments of `ashlar lint`.
#[derive(Debug, Args)]
#[command(after_help = "\
`mkimage --root-image` asks the same before it builds.

--json writes one object: source, fatal, warnings, infos (numbers of findings, shown or not), and findings, each with \
lint, severity (fatal, warning or info), path, why and remedy. With --list, it writes an array of lints: name, severity, \
about and remedy.

Exit status: 0, or 1 when there is a fatal finding (with --fatal-warnings, or a warning), or the source could not be read.")]
pub struct LintArgs {
    #[command(flatten)]
    trust: TrustArgs,
    /// Show findings that are at least this bad
    #[arg(long, value_name = "SEVERITY", default_value = "info")]
    severity: Least,
    /// Leave out a lint; may be given several times
    #[arg(long, value_name = "NAME", value_parser = lint_name)]
    disable: Vec<&'static str>,
    /// Let a warning be as bad as a fatal finding to the exit status
    #[arg(long)]
    fatal_warnings: bool,
    /// Show the lints, and look at nothing
    #[arg(long, conflicts_with = "source")]
    list: bool,
    /// Write JSON
    #[arg(long)]
    json: bool,
    /// A directory, or an image
    #[arg(value_name = "TREE|IMAGE", required_unless_present = "list")]
    source: Option<PathBuf>,
}

/// The least bad findings that are shown.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Least {
    /// What does not boot
    Fatal,
    /// And what will surprise
    Warning,
    /// And what is worth knowing
    Info,
}

impl From<Least> for Severity {
    fn from(least: Least) -> Self {
        match least {
            Least::Fatal => Severity::Fatal,
            Least::Warning => Severity::Warning,
            Least::Info => Severity::Info,
        }
    }
}

fn lint_name(text: &str) -> Result<&'static str, String> {
    let lint = lint::find(text).map(|lint| lint.name);
    lint.ok_or_else(|| "there is no such lint; `ashlar lint --list` names them".into())
}

/// Runs it.
pub fn run(args: &LintArgs) -> Outcome {
    let Some(source) = &args.source else {
        say(&list(args.json))?;
        return Ok(ExitCode::SUCCESS);
    };
    let is_disabled = |name: &str| args.disable.contains(&name);
    let findings = if source.is_dir() {
        if args.trust.root_digest.is_some() || !args.trust.key.is_empty() {
            return Err(Failure::new(format!("{} is a directory", source.display()))
                .hint("--root-digest and --key are for images"));
        }
        let tree = Directory::open(source).map_err(|err| Failure::about(source.display(), &err))?;
        lint::lint(&tree, is_disabled)
    } else {
        let tree = args.trust.open(source).map_err(|err| Failure::about(source.display(), &err))?;
        lint::lint(&tree, is_disabled)
    };
    let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    let (fatal, warnings) = (count(Severity::Fatal), count(Severity::Warning));
    let infos = count(Severity::Info);
    let least = args.severity.into();
    // What makes the command fail is shown.
    let is_shown = |finding: &&Finding| {
        finding.severity >= least || (args.fatal_warnings && finding.severity == Severity::Warning)
    };
    let shown: Vec<&Finding> = findings.iter().filter(is_shown).collect();
    if args.json {
        let object = json!({
            "source": source.to_string_lossy(),
            "fatal": fatal,
            "warnings": warnings,
            "infos": infos,
            "findings": shown.into_iter().map(finding_json).collect::<Vec<_>>(),
        });
        say(&format!("{object}\n"))?;
    } else {
        let lines: String = shown.into_iter().map(finding_text).collect();
        say(&format!("{lines}{fatal} fatal, {warnings} warnings, {infos} infos\n"))?;
    }
    let fails = fatal > 0 || (args.fatal_warnings && warnings > 0);
    Ok(if fails { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn finding_text(finding: &Finding) -> String {
    let Finding { lint, severity, path, why, remedy } = finding;
    format!("{severity}: /{} {why} [{lint}]\n    {remedy}\n", escape(path))
}

fn finding_json(finding: &Finding) -> serde_json::Value {
    let Finding { lint, severity, path, why, remedy } = finding;
    json!({
        "lint": lint,
        "severity": severity.name(),
        "path": format!("/{}", escape(path)),
        "why": why,
        "remedy": remedy,
    })
}

fn list(as_json: bool) -> String {
    if !as_json {
        let line =
            |lint: &lint::Lint| format!("{:<18} {:<8} {}\n", lint.name, lint.severity, lint.about);
        return lint::all().map(line).collect();
    }
    let lints: Vec<_> = lint::all()
        .map(|lint| {
            json!({
                "name": lint.name,
                "severity": lint.severity.name(),
                "about": lint.about,
                "remedy": lint.remedy,
            })
        })
        .collect();
    format!("{}\n", serde_json::Value::from(lints))
}
