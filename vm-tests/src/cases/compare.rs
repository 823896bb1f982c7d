//! How does it compare with others? One Debian, one kernel, one machine; a root of each kind in turn, several times.
//!
//! It takes long and has no answer of yes or no, but figures: a table, and everything that was measured as JSON, beside the
//! case's own directory. It fails when a root is not as the tree has it, when systemd is worse on ours than on
//! another, and when the goal is missed.
//!
//! To try something: `ASHLAR_COMPARE_ROUNDS`, `ASHLAR_COMPARE_ONLY` (names, with commas), `ASHLAR_COMPARE_WHAT=settle` (boots
//! alone), `ASHLAR_COMPARE_WORDS` (for the kernel's command line, ours only), `ASHLAR_COMPARE_LEVEL`
//! (see `compare_images.sh`), `ASHLAR_COMPARE_IMAGES` (a directory that it made, as it is).

mod figures;
mod images;
mod machine;
mod table;

use std::fs;
use std::path::PathBuf;

use super::Case;
use crate::bench::Bench;
use crate::outcome::{Doing, Result, failed};
use figures::Measured;
use images::Images;
use machine::Contest;

/// See the head of this file.
pub(crate) const CASES: &[Case] = &[Case {
    name: "compare",
    asks: "how does it compare with EROFS and squashfs, with dm-verity and without?",
    quick: false,
    run: compare,
}];

/// How many times each is measured, unless `ASHLAR_COMPARE_ROUNDS` says otherwise.
const ROUNDS: u32 = 5;
/// The goal: how long systemd may take until it is done, measured by what [`BASE`] takes.
const GOAL: f64 = 0.95;
/// Whose figures are 1.
const BASE: &str = "erofs-verity";
/// Ours, laid out by the trace of a boot, as a maker of images would.
const OURS: &str = "ashlar";
/// The same without a trace; it also is what the trace is recorded on.
const UNTRACED: &str = "ashlar-untraced";
/// The type of our file system.
const OUR_TYPE: &str = "ashlar";
/// A file system of the kernel, on which systemd is as well as on this machine it can be.
const PEER: &str = "erofs";

/// What a root is mounted from.
#[derive(Debug)]
struct Contestant {
    /// Its name, also that of its image.
    name: &'static str,
    /// What it is called in the table.
    shown: &'static str,
    /// The type of its file system.
    file_system: &'static str,
}

impl Contestant {
    /// Whether it is ours: its image lies on the data partition, and the command line speaks to us.
    fn is_ours(&self) -> bool {
        self.file_system == OUR_TYPE
    }
}

const CONTESTANTS: &[Contestant] = &[
    Contestant { name: OURS, shown: "Ashlar", file_system: OUR_TYPE },
    Contestant { name: UNTRACED, shown: "Ashlar, no boot trace", file_system: OUR_TYPE },
    Contestant { name: BASE, shown: "EROFS + dm-verity", file_system: "erofs" },
    Contestant { name: "squashfs-verity", shown: "squashfs + dm-verity", file_system: "squashfs" },
    Contestant { name: "erofs", shown: "EROFS", file_system: "erofs" },
    Contestant { name: "squashfs", shown: "squashfs", file_system: "squashfs" },
    Contestant { name: "ext4", shown: "ext4", file_system: "ext4" },
];

fn compare(bench: &Bench<'_>) -> Result<()> {
    let rounds = crate::bench::rounds("ASHLAR_COMPARE_ROUNDS", ROUNDS)?;
    let only = std::env::var("ASHLAR_COMPARE_ONLY").ok();
    let chosen = |contestant: &&Contestant| {
        only.as_ref().is_none_or(|only| only.split(',').any(|name| name == contestant.name))
    };
    let chosen: Vec<&Contestant> = CONTESTANTS.iter().filter(chosen).collect();

    let images = Images::make(bench)?;
    if chosen.iter().any(|contestant| contestant.name == OURS) {
        let trace = trace(bench, &images)?;
        images.order(&trace)?;
    }
    let mut contests = Vec::new();
    for contestant in chosen {
        println!("{}: a first boot, not measured", contestant.shown);
        let contest = Contest::new(bench, &images, contestant)?;
        contest.settle()?;
        contests.push((contest, Measured::default()));
    }
    for round in 1..=rounds {
        for (contest, measured) in &mut contests {
            let figures = contest.measure()?;
            let of = |name| figures.value(name).unwrap_or_default();
            println!(
                "round {round}, {}: {} ms to multi-user, {} ms of this machine's processors",
                contest.contestant.shown,
                of("multi-user-ms"),
                of("host-cpu-ms")
            );
            measured.add(figures);
        }
    }
    let measured: Vec<(&Contestant, Measured)> =
        contests.into_iter().map(|(contest, measured)| (contest.contestant, measured)).collect();
    let table = table::markdown(&measured, &images);
    let path = bench.place.with_extension("md");
    fs::write(&path, &table).doing(format!("cannot write {}", path.display()))?;
    let json = bench.place.with_extension("json");
    fs::write(&json, table::json(&measured, &images))
        .doing(format!("cannot write {}", json.display()))?;
    println!("\n{table}\n{} and {}", path.display(), json.display());
    health(&measured)?;
    goal(&measured)
}

/// What a boot reads and in which order; recorded once for a tree.
fn trace(bench: &Bench<'_>, images: &Images) -> Result<PathBuf> {
    let trace = images.place.join("trace");
    if !trace.exists() {
        println!("recording the trace of a boot");
        let untraced = CONTESTANTS.iter().find(|contestant| contestant.name == UNTRACED);
        let Some(untraced) = untraced else { return failed("nobody to record a trace of") };
        let contest = Contest::new(bench, images, untraced)?;
        contest.settle()?;
        contest.record(&trace)?;
    }
    Ok(trace)
}

/// Holds that systemd is as well on ours as on [`PEER`], where both are measured: the same state, the same units that failed.
fn health(measured: &[(&Contestant, Measured)]) -> Result<()> {
    let of = |name: &str| {
        let found = measured.iter().find(|(contestant, _)| contestant.name == name);
        found.map(|(_, measured)| measured.health())
    };
    match (of(OURS), of(PEER)) {
        (Some(ours), Some(peer)) if ours != peer => {
            failed(format!("systemd says {ours:?} on ours, and {peer:?} on {PEER}"))
        }
        _ => Ok(()),
    }
}

/// Holds that the goal is met, where both are measured.
fn goal(measured: &[(&Contestant, Measured)]) -> Result<()> {
    let finish = |name: &str| {
        let found = measured.iter().find(|(contestant, _)| contestant.name == name);
        found.and_then(|(_, measured)| measured.median("multi-user-ms"))
    };
    let (Some(ours), Some(base)) = (finish(OURS), finish(BASE)) else { return Ok(()) };
    let ratio = f64::from(ours) / f64::from(base.max(1));
    if ratio <= GOAL {
        return Ok(());
    }
    failed(format!("systemd takes {ratio:.3} of what it takes on {BASE}; the goal is {GOAL}"))
}
