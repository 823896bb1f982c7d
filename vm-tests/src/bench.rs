//! Where does a case work? A directory of its own, with programs and kernels at hand.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};

use crate::kernel::Kernel;
use crate::outcome::{Doing, Result, Stop, failed};
use crate::programs::Programs;
use crate::qemu::{Console, Machine};

/// What a person asked for.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Wishes {
    /// Keep disks and consoles of cases that passed, too.
    pub keep: bool,
    /// Show the console as it is written.
    pub live: bool,
    /// The first machine of the case gets this terminal; then the case is over.
    pub shell: bool,
}

/// How many times something is done: what an environment variable says, or else `default`. Not at all would be no answer.
pub(crate) fn rounds(variable: &str, default: u32) -> Result<u32> {
    let rounds = match std::env::var(variable) {
        Ok(text) => text.parse().doing(format!("{variable} is no number"))?,
        Err(_) => default,
    };
    if rounds == 0 { failed(format!("{variable} must be at least 1")) } else { Ok(rounds) }
}

/// One case's place of work.
#[derive(Debug)]
pub(crate) struct Bench<'a> {
    /// The case's name.
    pub name: &'static str,
    /// Its directory.
    pub place: PathBuf,
    /// What was asked for.
    pub wishes: Wishes,
    /// Programs to run inside.
    pub programs: &'a Programs,
    /// Where things are kept that are made once.
    pub cache: &'a Path,
    boots: Cell<u32>,
}

impl<'a> Bench<'a> {
    /// Makes the directory, empty.
    pub(crate) fn new(
        name: &'static str,
        top: &Path,
        cache: &'a Path,
        programs: &'a Programs,
        wishes: Wishes,
    ) -> Result<Self> {
        let place = top.join(name);
        if place.exists() {
            fs::remove_dir_all(&place).doing(format!("cannot empty {}", place.display()))?;
        }
        fs::create_dir_all(&place).doing(format!("cannot make {}", place.display()))?;
        Ok(Bench { name, place, wishes, programs, cache, boots: Cell::new(0) })
    }

    /// A case within this one.
    pub(crate) fn inner(&self, name: &'static str) -> Result<Self> {
        Bench::new(name, &self.place, self.cache, self.programs, self.wishes)
    }

    /// A kernel by its name in [`crate::kernel`].
    pub(crate) fn kernel(&self, name: &str) -> Result<Kernel> {
        Kernel::get(name, self.cache)
    }

    /// Runs a machine to its end.
    pub(crate) fn boot(&self, machine: &Machine<'_>) -> Result<Console> {
        if self.wishes.shell {
            machine.shell()?;
            return Err(Stop::ShellEnded);
        }
        self.boots.set(self.boots.get() + 1);
        let log = self.place.join(format!("console-{}.log", self.boots.get()));
        machine.run(&log, self.wishes.live)
    }

    /// Removes the directory, unless someone wants to look at it.
    pub(crate) fn clear(self, passed: bool) -> Result<()> {
        if self.wishes.keep || !passed {
            return Ok(());
        }
        fs::remove_dir_all(&self.place).doing(format!("cannot remove {}", self.place.display()))
    }
}
