//! Who should run on which processor?
//!
//! Who asks sleeps until the answer is there, and who answers sleeps until somebody asks. On one processor each simply goes on
//! when the other stops. On two, each has to wake up a processor that has gone to sleep, which in a virtual machine takes ten
//! times as long (4 and 44 microseconds, `benches/support/wakeup.c`); and the kernel prefers two as long as the second one idles.
//!
//! So while one process asks many questions, those who answer are put where it runs, and the thread that expands ahead keeps
//! the other processor: it works there, and where it has nothing to do it gives way to anybody, without end, so that nobody
//! is moved there. A fraction of a millisecond after the last question all is as it was. With this, a walk through a Debian
//! root takes half the time, and reading all of it seven tenths.
//!
//! It is for machines of two processors. With more, all but one would have to be kept.

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::thread::{CpuSet, Pid};

use crate::store::prefetch::Ahead;

/// So many questions ...
const BURST: u32 = 16;
/// ... within this time are many: what is won with each of them is a part of this.
const BURST_TIME: Duration = Duration::from_micros(1600);
/// With no question for so long, the processor is given back. A program that looks at what it has got asks again sooner.
const QUIET: Duration = Duration::from_micros(300);
/// A question from another process than the last one counts so much, one from the same takes one away ...
const STRANGER: u32 = 8;
/// ... and from here on there are several who ask at once, who need both processors.
const STRANGERS_MAX: u32 = 64;
/// Whoever gives way and is back only after this long has let somebody work.
const CROWDED: Duration = Duration::from_micros(50);
/// After so many of those, more than of others, the processor is needed ...
const CROWDS_MAX: u32 = 32;
/// ... and is left alone for a while.
const REST: Duration = Duration::from_millis(20);
/// Where it cannot be known where the client runs (in another PID name space, say), it is not tried again for this long.
const BLIND: Duration = Duration::from_secs(1);
/// More than `/proc/PID/stat` has.
const STAT_LEN_MAX: usize = 1024;

thread_local! {
    /// Whether this thread is known as one that answers.
    static IS_KNOWN: Cell<bool> = const { Cell::new(false) };
}

/// `/proc`, opened before the server is shut into a directory that has none.
pub fn proc() -> Option<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, "/proc", flags, Mode::empty()).ok()
}

/// Notices who asks how often, and puts threads where they should be.
#[derive(Debug)]
pub(super) struct Placement {
    /// The machine, if it is one of two processors.
    machine: Option<Machine>,
    begin: Instant,
    /// How many questions there were; wraps around.
    questions: AtomicU32,
    /// The process that asked last.
    client: AtomicU32,
    strangers: AtomicU32,
    /// When it was last looked at how many they are, in microseconds since the beginning.
    looked: AtomicU64,
    /// Until when a processor is left alone, likewise.
    rest: AtomicU64,
    /// There were many questions.
    is_burst: AtomicBool,
    /// A processor is being kept.
    is_kept: AtomicBool,
    workers: Mutex<Vec<Pid>>,
}

#[derive(Debug)]
struct Machine {
    processors: [usize; 2],
    /// Where threads may run when nobody asks: also on processors that are switched on later.
    home: CpuSet,
    /// `/proc`.
    proc: OwnedFd,
}

impl Placement {
    /// For this machine and this process; `proc` is `/proc`, without which nobody is placed.
    pub(super) fn new(proc: Option<OwnedFd>) -> Self {
        Placement {
            machine: proc.and_then(Machine::of_two),
            begin: Instant::now(),
            questions: AtomicU32::new(0),
            client: AtomicU32::new(0),
            strangers: AtomicU32::new(0),
            looked: AtomicU64::new(0),
            rest: AtomicU64::new(0),
            is_burst: AtomicBool::new(false),
            is_kept: AtomicBool::new(false),
            workers: Mutex::default(),
        }
    }

    /// Told of each question by the thread that answers it; `client` is the process that asks. `true` when the thread that
    /// expands ahead should be woken up, because there are many of them.
    pub(super) fn asked(&self, client: u32) -> bool {
        if self.machine.is_none() {
            return false;
        }
        self.know_worker();
        // Two threads may meet in here; then one question is counted wrongly.
        let before = self.strangers.load(Ordering::Relaxed);
        let strangers = if self.client.swap(client, Ordering::Relaxed) == client {
            before.saturating_sub(1)
        } else {
            before.saturating_add(STRANGER).min(STRANGERS_MAX.saturating_mul(2))
        };
        if strangers != before {
            self.strangers.store(strangers, Ordering::Relaxed);
        }
        let nth = self.questions.fetch_add(1, Ordering::Relaxed);
        if !nth.is_multiple_of(BURST) || self.is_kept.load(Ordering::Relaxed) {
            return false;
        }
        let now = micros(self.begin.elapsed());
        let since = now.saturating_sub(self.looked.swap(now, Ordering::Relaxed));
        let is_burst = since < micros(BURST_TIME)
            && strangers < STRANGERS_MAX
            && now >= self.rest.load(Ordering::Relaxed);
        if is_burst {
            self.is_burst.store(true, Ordering::Relaxed);
        }
        is_burst
    }

    fn know_worker(&self) {
        if !IS_KNOWN.replace(true) {
            self.workers().push(rustix::thread::gettid());
        }
    }

    fn workers(&self) -> MutexGuard<'_, Vec<Pid>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The life of the thread that expands ahead. It ends with the store.
    pub(super) fn run(&self, mut ahead: Ahead) {
        while ahead.wait() {
            if let Some(machine) = &self.machine
                && self.is_burst.swap(false, Ordering::Relaxed)
            {
                if machine.is_still_of_two() {
                    ahead.be_eager(true);
                    self.keep(machine, &mut ahead);
                    ahead.be_eager(false);
                } else {
                    self.leave_alone(BLIND);
                }
            }
        }
    }

    fn leave_alone(&self, time: Duration) {
        let until = micros(self.begin.elapsed().saturating_add(time));
        self.rest.store(until, Ordering::Relaxed);
    }

    /// Keeps the processor on which the client does not run, for as long as it asks and nobody else needs it.
    fn keep(&self, machine: &Machine, ahead: &mut Ahead) {
        let kept = Kept::begin(self, machine);
        let (mut client, mut place) = (None, None);
        let mut questions = self.questions.load(Ordering::Relaxed);
        let mut asked = Instant::now();
        let mut crowds = 0_u32;
        while ahead.work() {
            let asking = self.client.load(Ordering::Relaxed);
            if client != Some(asking) {
                client = Some(asking);
                let Some(found) = machine.place_of(asking) else { return self.leave_alone(BLIND) };
                if place != Some(found) {
                    place = Some(found);
                    let [one, other] = machine.processors;
                    let rest = if found == one { other } else { one };
                    kept.put(found, rest);
                }
            }
            let before = Instant::now();
            thread::yield_now();
            let now = Instant::now();
            if now.duration_since(before) < CROWDED {
                crowds = crowds.saturating_sub(1);
            } else {
                crowds = crowds.saturating_add(2);
            }
            let questions_now = self.questions.load(Ordering::Relaxed);
            if questions != questions_now {
                (questions, asked) = (questions_now, now);
            } else if now.duration_since(asked) > QUIET {
                return;
            }
            if crowds > CROWDS_MAX {
                return self.leave_alone(REST);
            }
            if self.strangers.load(Ordering::Relaxed) >= STRANGERS_MAX {
                return;
            }
        }
    }

    /// Says where the threads that answer may run, and where this one may.
    fn put(&self, workers: &CpuSet, this: &CpuSet) {
        // What cannot be done, in a container that may use one processor only, leaves them where they are.
        rustix::thread::sched_setaffinity(None, this).unwrap_or_default();
        for worker in &*self.workers() {
            rustix::thread::sched_setaffinity(Some(*worker), workers).unwrap_or_default();
        }
    }
}

/// A processor that is kept: let go when this is dropped, whatever happened.
struct Kept<'a> {
    placement: &'a Placement,
    machine: &'a Machine,
    is_moved: Cell<bool>,
}

impl<'a> Kept<'a> {
    fn begin(placement: &'a Placement, machine: &'a Machine) -> Self {
        placement.is_kept.store(true, Ordering::Relaxed);
        Kept { placement, machine, is_moved: Cell::new(false) }
    }

    /// The threads that answer go to one processor, this thread to the other.
    fn put(&self, workers: usize, this: usize) {
        self.is_moved.set(true);
        self.placement.put(&set_of(&[workers]), &set_of(&[this]));
    }
}

impl Drop for Kept<'_> {
    fn drop(&mut self) {
        self.placement.is_kept.store(false, Ordering::Relaxed);
        if self.is_moved.get() {
            self.placement.put(&self.machine.home, &self.machine.home);
        }
    }
}

impl Machine {
    /// `None` where there is nothing to be won, or where it cannot be known who runs where.
    fn of_two(proc: OwnedFd) -> Option<Self> {
        // Who has a quota of processor time must not spend it on waiting.
        if thread::available_parallelism().map_or(0, usize::from) != 2 {
            return None;
        }
        let processors = allowed_two()?;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let status = rustix::fs::openat(&proc, "self/status", flags, Mode::empty()).ok()?;
        let status = io::read_to_string(File::from(status)).ok()?;
        let home = home(&status).unwrap_or_else(|| set_of(&processors));
        Some(Machine { processors, home, proc })
    }

    /// Whether this thread may still run on these two, and on no other. It must not be kept to one of them now.
    fn is_still_of_two(&self) -> bool {
        allowed_two() == Some(self.processors)
    }

    /// On which of the two a process runs, or ran last.
    fn place_of(&self, process: u32) -> Option<usize> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let path = format!("{process}/stat");
        let file = rustix::fs::openat(&self.proc, path, flags, Mode::empty()).ok()?;
        let mut stat = [0; STAT_LEN_MAX];
        let len = rustix::io::read(&file, &mut stat).ok()?;
        let place = processor(stat.get(..len)?)?;
        self.processors.contains(&place).then_some(place)
    }
}

/// The two processors that this thread may run on now, if they are two.
fn allowed_two() -> Option<[usize; 2]> {
    let allowed = rustix::thread::sched_getaffinity(None).ok()?;
    let mut found = (0..CpuSet::MAX_CPU).filter(|processor| allowed.is_set(*processor));
    match (found.next(), found.next(), found.next()) {
        (Some(one), Some(other), None) => Some([one, other]),
        _ => None,
    }
}

/// Where a thread may run, in its `/proc/PID/status` (proc(5)): unlike what the kernel answers to a thread, that has processors
/// which are switched off now, too.
fn home(status: &str) -> Option<CpuSet> {
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    let mut set = CpuSet::new();
    for range in list.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        (first..=last.min(CpuSet::MAX_CPU.saturating_sub(1))).for_each(|cpu| set.set(cpu));
    }
    (set.count() > 0).then_some(set)
}

/// The processor in a `/proc/PID/stat` (proc(5)): field 39. The second field is a name in brackets, which may hold anything.
fn processor(stat: &[u8]) -> Option<usize> {
    let name_end = stat.iter().rposition(|byte| *byte == b')')?;
    let mut fields = stat.get(name_end..)?.split(|byte| *byte == b' ');
    std::str::from_utf8(fields.nth(37)?).ok()?.parse().ok()
}

fn set_of(processors: &[usize]) -> CpuSet {
    let mut set = CpuSet::new();
    for processor in processors {
        set.set(*processor);
    }
    set
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said to questions from these clients, one after another.
    fn asked(placement: &Placement, clients: impl IntoIterator<Item = u32>) -> Vec<bool> {
        clients.into_iter().map(|client| placement.asked(client)).collect()
    }

    /// A machine of two processors, some time after its start.
    fn of_two() -> Placement {
        let proc = proc().unwrap();
        let machine = Some(Machine { processors: [0, 1], home: set_of(&[0, 1]), proc });
        let placement = Placement { machine, ..Placement::new(None) };
        thread::sleep(BURST_TIME);
        assert_eq!(asked(&placement, [1]), [false]);
        placement
    }

    #[test]
    fn many_questions_of_one_client_are_a_burst() {
        let said = asked(&of_two(), [1; 64]);
        let nth = said.iter().position(|burst| *burst);
        assert!(nth.is_some_and(|nth| (nth + 1).is_multiple_of(16)), "{said:?}");
    }

    #[test]
    fn few_questions_are_none() {
        let placement = of_two();
        for _ in 0..64 {
            thread::sleep(BURST_TIME / 8);
            assert!(!placement.asked(1));
        }
    }

    #[test]
    fn several_who_ask_at_once_need_both_processors() {
        assert!(!asked(&of_two(), [2, 3].repeat(100)).contains(&true));
        // Short programs one after another are one client at a time.
        assert!(asked(&of_two(), (10..40).flat_map(|client| [client; 12])).contains(&true));
    }

    #[test]
    fn elsewhere_nothing_is_done() {
        let placement = Placement { machine: None, ..Placement::new(None) };
        assert!(!asked(&placement, [1; 100]).contains(&true));
    }

    #[test]
    fn home_is_all_that_the_kernel_allows() {
        let found = home("Name:\tx\nCpus_allowed:\tff\nCpus_allowed_list:\t0-2,7\n").unwrap();
        assert_eq!(found, set_of(&[0, 1, 2, 7]));
        assert!(home("Cpus_allowed_list:\t0-99999999\n").is_some());
        for wrong in ["", "Cpus_allowed_list:\t", "Cpus_allowed_list:\t1-x\n"] {
            assert!(home(wrong).is_none(), "{wrong}");
        }
        assert!(home(&std::fs::read_to_string("/proc/self/status").unwrap()).is_some());
    }

    #[test]
    fn the_processor_stands_behind_any_name() {
        let rest = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 17 1 55 0 0";
        assert_eq!(processor(format!("42 (name) {rest}\n").as_bytes()), Some(1));
        assert_eq!(processor(format!("42 (a) 9 9 (b c) {rest}\n").as_bytes()), Some(1));
        for wrong in ["", "42 (name", "42 (name) S 1 2 3", ")"] {
            assert_eq!(processor(wrong.as_bytes()), None);
        }
        let own = proc()
            .and_then(Machine::of_two)
            .map(|machine| machine.place_of(std::process::id()).is_some());
        assert!(own.unwrap_or(true));
    }
}
