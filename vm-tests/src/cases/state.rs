//! What is kept over a boot and over a new image, and what is not? Each way of keeping state, on one data partition.

mod cuts;
mod degraded;
mod etc;
mod extension;
mod judge;
mod machine;
mod places;
mod root;
mod update;
mod update_cuts;

use super::Case;
use crate::bench::Bench;
use crate::outcome::Result;

/// See the head of this file.
pub(crate) const CASES: &[Case] = &[
    Case {
        name: "state-modes",
        asks: "is all kept that shall be, and nothing else? (all cases of this kind but update-cut-writes)",
        quick: false,
        run: all,
    },
    case(
        "state-read-only",
        "is `/` read-only, and what there writable that must be?",
        root::read_only,
    ),
    case("state-overlay-tmpfs", "is what lies over `/` gone at the next boot?", root::tmpfs),
    case(
        "state-overlay-persistent",
        "is it kept, put aside, emptied, switched off?",
        root::persistent,
    ),
    case("state-etc-merge", "do local changes of /etc meet a new image?", etc::merge),
    case("state-etc-modes", "can /etc be transient, overlaid, read-only?", etc::modes),
    case("state-var", "is /var filled once, and only once?", places::var),
    case("state-bind", "are single paths kept?", places::bind),
    case(
        "state-overlay-dir",
        "does the image win in a directory with an overlay when it is new?",
        places::overlay,
    ),
    case("state-reset", "does the machine forget when it is told to?", places::reset),
    case("state-config", "does a file on the data partition say what is kept?", places::config),
    case("state-hook", "may a program in the initramfs say what is kept?", places::hook),
    case(
        "state-extension",
        "do further images belong to the root, if they may?",
        extension::extensions,
    ),
    case("state-full-disk", "does it boot when the data partition is full?", degraded::full),
    case("state-read-only-disk", "does it boot when nothing can be written?", degraded::read_only),
    case(
        "state-no-overlayfs",
        "does it boot, and lose nothing, when the kernel has no overlayfs?",
        degraded::no_overlayfs,
    ),
    Case {
        name: "update-trial",
        asks: "is an image tried, blessed, given up, left and repaired?",
        quick: true,
        run: update::trial,
    },
    case("update-records", "what if nothing can be counted, or what was is lost?", update::records),
    case("state-cut-seed", "is /var whole after a power cut while it was filled?", cuts::seed),
    case("state-cut-merge", "is /etc whole after a power cut while it was merged?", cuts::merge),
    case(
        "state-cut-writes",
        "is the disk right after each write that a power cut may be the next of?",
        cuts::writes,
    ),
    case(
        "update-cut-writes",
        "is there a whole image to boot, the old or the new, after each write of an update? ($ASHLAR_VM_ROUNDS)",
        update_cuts::writes,
    ),
];

const fn case(name: &'static str, asks: &'static str, run: fn(&Bench<'_>) -> Result<()>) -> Case {
    Case { name, asks, quick: false, run }
}

/// Runs all others of this kind, each in a directory of its own; but not the one that takes as long as all of them, and needs root.
fn all(bench: &Bench<'_>) -> Result<()> {
    for case in CASES.iter().skip(1).filter(|case| case.name != "update-cut-writes") {
        let inner = bench.inner(case.name)?;
        (case.run)(&inner).map_err(|stop| stop.at(case.name))?;
    }
    Ok(())
}
