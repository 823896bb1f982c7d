//! Is there a whole image to boot, the old one or the new one, whenever the power fails? Each write of an update is noted, the
//! disk made as it may be after any of them, and looked at; from some of these disks a machine boots.

use std::collections::{BTreeSet, HashSet};
use std::fs::{self, File};
use std::path::PathBuf;

use ashlarfs::Digest;
use ashlarfs::boot::choose::Keys;
use ashlarfs::update::state::State;

use super::judge::{Found, Judge, copy_sparse};
use super::machine::Machine;
use crate::bench::{Bench, rounds};
use crate::disk::FileSystem;
use crate::mounted::{self, Mounted};
use crate::outcome::{Doing, Result, Stop, failed};
use crate::qemu::Writes;
use crate::writes::{Fate, Log, Reached};

/// So many states are made of each event by each kind of chance, besides those after each write.
const CHANCES: u32 = 36;
/// So many states of each event are booted, and of each event where there is one image only.
const BOOTS: usize = 4;
const BOOTS_SINGLE: usize = 2;
/// What all of it must come to.
const STATES_MIN: usize = 1000;
const BOOTS_MIN: usize = 30;

/// Nothing is written but by the update itself, and what counts it.
const WORDS: &str = "ashlar ashlar.overlay=tmpfs ashlar.var=transient ashlar.etc=transient";

/// Something that changes what is booted next.
struct Event {
    name: &'static str,
    /// What the machine does.
    script: String,
    /// What may be booted while it happens.
    names: &'static [&'static str],
}

/// What was done.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    prefixes: usize,
    subsets: usize,
    reordered: usize,
    torn: usize,
    /// With a boot record of which only a part is there.
    records: usize,
    /// Where mounting was not enough.
    repaired: usize,
    boots: usize,
}

impl Tally {
    fn states(&self) -> usize {
        self.prefixes + self.subsets + self.reordered + self.torn
    }

    fn add(&mut self, other: &Tally) {
        self.prefixes += other.prefixes;
        self.subsets += other.subsets;
        self.reordered += other.reordered;
        self.torn += other.torn;
        self.records += other.records;
        self.repaired += other.repaired;
        self.boots += other.boots;
    }

    fn say(&self, what: &str) {
        println!(
            "    {what}: {} states ({} prefixes, {} subsets, {} reordered, {} torn), {} booted; \
             {} with a torn record, {} repaired first",
            self.states(),
            self.prefixes,
            self.subsets,
            self.reordered,
            self.torn,
            self.boots,
            self.records,
            self.repaired
        );
    }
}

pub(super) fn writes(bench: &Bench<'_>) -> Result<()> {
    for file_system in [FileSystem::Ext4, FileSystem::Btrfs] {
        mounted::check(file_system)?;
    }
    let mut tally = Tally::default();
    tally.add(&slots(&bench.inner("ext4")?, FileSystem::Ext4)?);
    tally.add(&slots(&bench.inner("btrfs")?, FileSystem::Btrfs)?);
    tally.add(&single(&bench.inner("single")?)?);
    tally.say("all");
    if tally.states() < STATES_MIN || tally.boots < BOOTS_MIN {
        return failed(format!("{tally:?} is less than {STATES_MIN} states and {BOOTS_MIN} boots"));
    }
    Ok(())
}

/// A machine with images, and a record of what is on trial.
fn slots(bench: &Bench<'_>, file_system: FileSystem) -> Result<Tally> {
    let mut cut = Cut::new(bench, file_system, false)?;
    let digest = cut.new_digest()?;
    let events = [
        Event {
            name: "install",
            script: format!(
                "ashlar update install --root-digest {digest} $data/incoming/two.img\nsound"
            ),
            names: &["one", "two"],
        },
        Event { name: "trial", script: "sound".to_owned(), names: &["two"] },
        Event { name: "bless", script: "ashlar update bless\nsound".to_owned(), names: &["two"] },
        Event {
            name: "rollback",
            script: "ashlar update rollback\nsound".to_owned(),
            names: &["one", "two"],
        },
    ];
    let mut tally = Tally::default();
    for event in events {
        let chances = CHANCES * rounds("ASHLAR_VM_ROUNDS", 1)?;
        let at = format!("{} {}", file_system.name(), event.name);
        let added = cut.event(&event, chances, BOOTS).map_err(|stop| stop.at(&at))?;
        added.say(&at);
        tally.add(&added);
    }
    Ok(tally)
}

/// A machine with `root.img`.
fn single(bench: &Bench<'_>) -> Result<Tally> {
    let mut cut = Cut::new(bench, FileSystem::Ext4, true)?;
    let digest = cut.new_digest()?;
    let events = [
        Event {
            name: "install",
            script: format!(
                "ashlar update install --root-digest {digest} $data/incoming/two.img\nsound"
            ),
            names: &["one", "two"],
        },
        Event {
            name: "rollback",
            script: "ashlar update rollback\nsound".to_owned(),
            names: &["one", "two"],
        },
    ];
    let mut tally = Tally::default();
    for event in events {
        let chances = CHANCES / 4 * rounds("ASHLAR_VM_ROUNDS", 1)?;
        let at = format!("root.img {}", event.name);
        let added = cut.event(&event, chances, BOOTS_SINGLE).map_err(|stop| stop.at(&at))?;
        added.say(&at);
        tally.add(&added);
    }
    Ok(tally)
}

/// A machine whose power is cut.
struct Cut<'a> {
    judge: Judge,
    machine: Machine<'a>,
    before: PathBuf,
    after: PathBuf,
    maybe: PathBuf,
    is_single: bool,
    // Unmounted when nothing else needs it.
    _memory: Mounted,
}

impl<'a> Cut<'a> {
    fn new(bench: &'a Bench<'a>, file_system: FileSystem, is_single: bool) -> Result<Self> {
        let mut machine = Machine::new(bench)?;
        machine.scene.file_system = file_system;
        machine.scene.modules = file_system.modules();
        machine.scene.size = match file_system {
            FileSystem::Ext4 => "64M",
            FileSystem::Btrfs => "160M",
        };
        let data = machine.scene.data.clone();
        let incoming = data.join("incoming");
        fs::create_dir(&incoming).doing("cannot make a directory")?;
        let mut images = Vec::new();
        for (name, version) in [("one", 1), ("two", 2)] {
            let digest = machine.image(name, version, |_| Ok(()))?;
            let copy = bench.place.join(format!("{name}.img"));
            fs::copy(machine.scene.image_path(name), &copy).doing("cannot copy an image")?;
            images.push((name, digest, copy));
        }
        let two = machine.scene.image_path("two");
        fs::rename(&two, incoming.join("two.img")).doing("cannot rename")?;
        if is_single {
            fs::rename(machine.scene.image_path("one"), data.join("root.img"))
                .doing("cannot rename")?;
            fs::remove_dir(data.join("images")).doing("cannot remove a directory")?;
        }
        let memory = Mounted::memory(&bench.place.join("memory"))?;
        let place = memory.at().to_owned();
        let judge = Judge {
            file_system,
            images,
            words: WORDS.to_owned(),
            // The machine's keys lie there.
            keys: Keys::collect(&bench.place, &[]),
            memory: place.clone(),
        };
        Ok(Cut {
            judge,
            machine,
            before: place.join("before.img"),
            after: place.join("after.img"),
            maybe: place.join("maybe.img"),
            is_single,
            _memory: memory,
        })
    }

    /// The image that is installed.
    fn old_digest(&self) -> Option<Digest> {
        self.judge.images.first().map(|(_, digest, _)| *digest)
    }

    fn new_digest(&self) -> Result<Digest> {
        match self.judge.images.last() {
            Some((_, digest, _)) => Ok(*digest),
            None => failed("there are no images"),
        }
    }

    /// Lets it happen, and looks at what the power may have left of it.
    fn event(&mut self, event: &Event, chances: u32, boots: usize) -> Result<Tally> {
        let disk = self.machine.scene.disk()?.to_owned();
        let path = self.machine.bench.place.join("writes.log");
        copy_sparse(&disk, &self.before)?;
        File::create(&path).doing("cannot make a file")?;
        self.machine.scene.writes = Writes::Logged(path.clone());
        self.machine.boot(WORDS, &event.script)?;
        self.machine.scene.writes = Writes::Kept;
        copy_sparse(&disk, &self.after)?;
        let log = Log::read(&path)?;

        let (first, last) =
            (self.judge.remembered(&self.before)?, self.judge.remembered(&self.after)?);
        if first == last && !self.is_single {
            return failed("it changed nothing");
        }
        // In between: a boot was counted; or, on a machine that never remembered anything, what it runs is the default.
        let between = first.clone().map_or_else(
            || State { default: self.old_digest(), ..State::default() },
            |mut state| {
                state.begin_boot();
                state
            },
        );
        let legal = [first, Some(between), last];
        let (moments, mut tally) = all_moments(&log, chances);
        let mut seen = Vec::new();
        for moment in moments {
            let found = self
                .look(&log, &moment.reached)
                .and_then(|found| judged(event, &legal, found))
                .map_err(|stop| stop.at(format!("{} of {}", moment.shown(), log.len())))?;
            tally.repaired += usize::from(found.was_repaired);
            tally.records += usize::from(found.is_torn);
            seen.push((moment, found));
        }
        self.all_seen(event, &legal, &seen)?;
        self.would_notice()?;
        for (moment, found) in to_boot(&seen, boots) {
            self.boot(&log, &moment.reached, found)
                .map_err(|stop| stop.at(format!("{}, booted", moment.shown())))?;
            tally.boots += 1;
        }
        copy_sparse(&self.after, &disk)?;
        Ok(tally)
    }

    /// One byte of what would be booted is another one: that must be seen, or nothing was.
    fn would_notice(&self) -> Result<()> {
        copy_sparse(&self.after, &self.maybe)?;
        let name = self.judge.found(&self.maybe)?.path;
        let mounted =
            Mounted::disk(self.judge.file_system, &self.maybe, &self.judge.memory.join("mnt"))?;
        let path = mounted.at().join(name);
        let mut bytes = fs::read(&path).doing("cannot read an image")?;
        let middle = bytes.len() / 2;
        if let Some(byte) = bytes.get_mut(middle) {
            *byte ^= 1;
        }
        fs::write(&path, bytes).doing("cannot write an image")?;
        mounted.end()?;
        match self.judge.found(&self.maybe) {
            Err(Stop::Failed(_)) => Ok(()),
            other => failed(format!("an image that is damaged is as good as whole: {other:?}")),
        }
    }

    fn look(&self, log: &Log, reached: &Reached) -> Result<Found> {
        copy_sparse(&self.before, &self.maybe)?;
        log.apply(&self.maybe, reached)?;
        self.judge.found(&self.maybe)
    }

    /// The machine itself comes to the same root.
    fn boot(&mut self, log: &Log, reached: &Reached, found: &Found) -> Result<()> {
        let disk = self.machine.scene.disk()?.to_owned();
        copy_sparse(&self.before, &disk)?;
        log.apply(&disk, reached)?;
        let script = "say \"runs $(cat /usr/version)\"\nsound";
        let console = self.machine.boot(WORDS, script)?;
        console.spoke(&format!("runs {}", found.name)).map(drop)
    }

    /// The moments tell of before and after: otherwise nothing of interest was looked at.
    fn all_seen(
        &self,
        event: &Event,
        legal: &[Option<State>; 3],
        seen: &[(Moment, Found)],
    ) -> Result<()> {
        for name in event.names {
            if !seen.iter().any(|(_, found)| found.name == *name) {
                return failed(format!("no state boots {name}"));
            }
        }
        let [first, _, last] = legal;
        for state in [first, last] {
            if !self.is_single && !seen.iter().any(|(_, found)| found.state == *state) {
                return failed(format!("no state remembers {state:?}"));
            }
        }
        Ok(())
    }
}

/// Holds that what was found is what was or what comes.
fn judged(event: &Event, legal: &[Option<State>; 3], found: Found) -> Result<Found> {
    if !event.names.contains(&found.name) {
        return failed(format!("{} would be booted", found.name));
    }
    if !legal.contains(&found.state) {
        return failed(format!("the record says {:?}", found.state));
    }
    Ok(found)
}

/// When the power fails, and what of the writes is on the disk then.
struct Moment {
    until: usize,
    fate: Fate,
    reached: Reached,
}

impl Moment {
    fn shown(&self) -> String {
        format!("after {} writes, {:?},", self.until, self.fate)
    }
}

/// After each write, and by chance. None twice.
fn all_moments(log: &Log, chances: u32) -> (Vec<Moment>, Tally) {
    let mut known = HashSet::new();
    let mut moments = Vec::new();
    let mut add = |until, fate| {
        let reached = log.after(until, fate);
        let is_new = known.insert(reached.clone());
        if is_new {
            moments.push(Moment { until, fate, reached });
        }
        usize::from(is_new)
    };
    let mut tally = Tally {
        prefixes: (0..=log.len()).map(|until| add(until, Fate::All)).sum(),
        ..Tally::default()
    };
    let kinds: [fn(u64) -> Fate; 3] = [Fate::Some, Fate::Reordered, Fate::Torn];
    let counts = [&mut tally.subsets, &mut tally.reordered, &mut tally.torn];
    for (fate, count) in kinds.into_iter().zip(counts) {
        // Many moments have few states: it is tried more often than it can succeed.
        for seed in 0..u64::from(chances) * 20 {
            let place =
                usize::try_from(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20).unwrap_or(0);
            if *count < usize::try_from(chances).unwrap_or(0) {
                *count += add(place % (log.len() + 1), fate(seed));
            }
        }
    }
    moments.sort_by_key(|moment| moment.until);
    (moments, tally)
}

/// Which of the states are booted: those around the first change of what is remembered, one with a torn record, and others
/// far apart.
fn to_boot(seen: &[(Moment, Found)], count: usize) -> Vec<&(Moment, Found)> {
    let is_same = |one: &Found, other: &Found| one.state == other.state && one.name == other.name;
    let change = seen.array_windows().position(|[(_, one), (_, other)]| !is_same(one, other));
    let around = change.into_iter().flat_map(|at| [at, at + 1]);
    let torn = seen.iter().position(|(_, found)| found.is_torn);
    let apart = (0..count).map(|nth| (2 * nth + 1) * seen.len() / (2 * count));
    let mut chosen = BTreeSet::new();
    for at in around.chain(torn).chain(apart).chain(0..seen.len()) {
        let can = seen.get(at).is_some_and(|(_, found)| !found.was_repaired);
        if can && chosen.len() < count {
            chosen.insert(at);
        }
    }
    chosen.into_iter().filter_map(|at| seen.get(at)).collect()
}
