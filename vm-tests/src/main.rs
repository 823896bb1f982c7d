//! Does a machine boot from it? Cases, each a question, each answered by a machine that speaks or by silence, which is no.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::arithmetic_side_effects,
    clippy::format_push_string,
    reason = "a test harness: it speaks to a person, and its numbers are small and its own"
)]

mod apt;
mod bench;
mod cases;
mod disk;
mod initramfs;
mod kernel;
mod keys;
mod mounted;
mod noise;
mod outcome;
mod programs;
mod qemu;
mod scene;
mod tree;
mod typist;
mod web;
mod writes;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, Subcommand};

use crate::bench::{Bench, Wishes};
use crate::cases::Case;
use crate::outcome::{Result, SKIPPED, Stop};
use crate::programs::Programs;

/// Boots Ashlar images in QEMU.
#[derive(Debug, Parser)]
#[command(after_help = "\
A case passes only when the machine says so and stops by itself in time. One that cannot run here is skipped, with the
reason; when all were, the exit status is 77. Where cases were named, it is 1 when any of them was. Kernels are Debian's,
fetched once from this machine's own mirror and kept in $ASHLAR_TEST_CACHE (or target/test-cache).")]
struct Cli {
    #[command(subcommand)]
    command: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Name the cases, and what each asks
    List,
    /// Run cases; fails unless each passes
    Run {
        /// Run all of them, but those that only measure
        #[arg(long, conflicts_with_all = ["quick", "names"])]
        all: bool,
        /// Run those that `tests/run` includes
        #[arg(long, conflicts_with = "names")]
        quick: bool,
        /// Keep disks and consoles of cases that passed, too
        #[arg(long)]
        keep: bool,
        /// Show the consoles as they are written
        #[arg(short, long)]
        verbose: bool,
        /// Names of cases, as `list` shows them
        #[arg(required_unless_present_any = ["all", "quick"])]
        names: Vec<String>,
    },
    /// Boot the first machine of a case, with its console on this terminal and a shell in place of the checks
    Shell {
        /// Name of the case
        name: String,
    },
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Action::List => {
            for case in cases::all() {
                println!("{:<20} {}", case.name, case.asks);
            }
            return ExitCode::SUCCESS;
        }
        Action::Run { all, quick, keep, verbose, names } => {
            let wishes = Wishes { keep, live: verbose, shell: false };
            let chosen = |case: &&Case| {
                (all && case.in_all())
                    || (quick && case.quick)
                    || names.iter().any(|name| name == case.name)
            };
            unknown(&names).and_then(|()| {
                let chosen: Vec<_> = cases::all().filter(chosen).collect();
                run(&chosen, wishes, !names.is_empty())
            })
        }
        Action::Shell { name } => {
            let wishes = Wishes { shell: true, ..Wishes::default() };
            let chosen = |case: &&Case| case.name == name;
            unknown(std::slice::from_ref(&name))
                .and_then(|()| run(&cases::all().filter(chosen).collect::<Vec<_>>(), wishes, true))
        }
    };
    outcome.unwrap_or_else(|why| {
        eprintln!("vm-tests: error: {why}");
        ExitCode::from(2)
    })
}

fn unknown(names: &[String]) -> Result<(), String> {
    match names.iter().find(|name| !cases::all().any(|case| case.name == **name)) {
        Some(name) => Err(format!("no case is called {name}; `list` names them")),
        None => Ok(()),
    }
}

/// Runs cases one after another: each has as much of this machine as there is. Where they were named, each has to pass.
fn run(chosen: &[&'static Case], wishes: Wishes, named: bool) -> Result<ExitCode, String> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let top = manifest.parent().ok_or("the project is nowhere")?;
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| top.join("target"), PathBuf::from);
    let target = std::path::absolute(target).map_err(|err| err.to_string())?;
    let cache = std::env::var_os("ASHLAR_TEST_CACHE")
        .map_or_else(|| target.join("test-cache"), PathBuf::from);
    let cache = std::path::absolute(cache).map_err(|err| err.to_string())?.join("vm");
    let place = target.join("vm-tests");
    let programs = Programs::new(top, &target, place.join("programs"));
    let qemu = qemu::check();

    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for case in chosen {
        println!("=== {}: {}", case.name, case.asks);
        let start = Instant::now();
        let outcome = match &qemu {
            Ok(()) => answer(case, &place.join("cases"), &cache, &programs, wishes),
            Err(Stop::Skipped(why) | Stop::Failed(why)) => Err(Stop::Skipped(why.clone())),
            Err(Stop::ShellEnded) => Err(Stop::ShellEnded),
        };
        let verdict = match outcome {
            Ok(()) => {
                passed += 1;
                "passed".to_owned()
            }
            Err(Stop::Failed(why)) => {
                failed += 1;
                format!("FAILED: {why}")
            }
            Err(Stop::Skipped(why)) => {
                skipped += 1;
                format!("skipped: {why}")
            }
            Err(Stop::ShellEnded) => return Ok(ExitCode::SUCCESS),
        };
        println!("=== {}: {verdict} ({} s)", case.name, start.elapsed().as_secs());
    }
    println!("\n{passed} passed, {failed} failed, {skipped} skipped");
    Ok(match (passed, failed, skipped) {
        (_, 1.., _) => ExitCode::FAILURE,
        (0, 0, _) => ExitCode::from(SKIPPED),
        (_, 0, 1..) if named => ExitCode::FAILURE,
        _ => ExitCode::SUCCESS,
    })
}

fn answer(
    case: &'static Case,
    place: &Path,
    cache: &Path,
    programs: &Programs,
    wishes: Wishes,
) -> Result<()> {
    let bench = Bench::new(case.name, place, cache, programs, wishes)?;
    let outcome = (case.run)(&bench);
    bench.clear(outcome.is_ok())?;
    outcome
}
