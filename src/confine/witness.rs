//! What may each thread of this process do? The kernel says so in `/proc/PID/task/*/status` (proc(5)).

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fd::OwnedFd;
use rustix::fs::{CWD, Dir, Mode, OFlags};

/// What stands there when a thread may do nothing beyond what any user may.
const BARE: [(&str, &str); 6] = [
    ("CapInh", NONE),
    ("CapPrm", NONE),
    ("CapEff", NONE),
    ("CapAmb", NONE),
    ("NoNewPrivs", "1"),
    // SECCOMP_MODE_FILTER
    ("Seccomp", "2"),
];
const NONE: &str = "0000000000000000";
/// How long a thread may take to give up its privileges, on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(2);

/// Looks at the threads of this process, from wherever its root may be by then.
#[derive(Debug)]
pub(super) struct Witness {
    tasks: OwnedFd,
}

impl Witness {
    pub(super) fn new() -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let tasks = rustix::fs::openat(CWD, "/proc/self/task", flags, Mode::empty())?;
        Ok(Witness { tasks })
    }

    /// What each thread has that it should not have. One that was started just now may still have to come to it.
    pub(super) fn faults(&self, has_bounding_set: bool) -> Vec<String> {
        let begin = Instant::now();
        loop {
            let faults = self.faults_now(has_bounding_set);
            let is_on_its_way = faults.iter().any(|fault| fault.starts_with("Cap"));
            if !is_on_its_way || begin.elapsed() > PATIENCE {
                return faults;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn faults_now(&self, has_bounding_set: bool) -> Vec<String> {
        let statuses = match self.statuses() {
            Ok(statuses) => statuses,
            Err(err) => return vec![format!("it cannot be seen what its threads may do: {err}")],
        };
        let mut faults = Vec::new();
        for status in &statuses {
            faults.extend(odd(status, has_bounding_set));
        }
        faults
    }

    fn statuses(&self) -> io::Result<Vec<String>> {
        let mut statuses = Vec::new();
        for entry in Dir::read_from(&self.tasks)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy();
            if name.parse::<u32>().is_err() {
                continue;
            }
            let path = Path::new(&*name).join("status");
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            // One that ended since was listed may do nothing at all.
            let Ok(file) = rustix::fs::openat(&self.tasks, path, flags, Mode::empty()) else {
                continue;
            };
            let mut text = String::new();
            if File::from(file).read_to_string(&mut text).is_ok() {
                statuses.push(text);
            }
        }
        if statuses.is_empty() { Err(io::Error::other("no thread is there")) } else { Ok(statuses) }
    }
}

/// What is odd about a thread with this status.
fn odd(status: &str, has_bounding_set: bool) -> Vec<String> {
    let field = |name: &str| {
        status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
    };
    let name = field("Name").unwrap_or_default();
    let bounding = Some(("CapBnd", NONE)).filter(|_| has_bounding_set);
    let expected = BARE.into_iter().chain(bounding);
    expected
        .filter_map(|(what, wanted)| {
            let found = field(what).unwrap_or("not there");
            (found != wanted).then(|| format!("{what} of its thread {name} is {found}"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFINED: &str = "Name:\tx\nCapInh:\t0000000000000000\nCapPrm:\t0000000000000000\n\
        CapEff:\t0000000000000000\nCapBnd:\t0000000000000000\nCapAmb:\t0000000000000000\n\
        NoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t1\n";

    #[test]
    fn each_odd_field_is_told() {
        assert_eq!(odd(CONFINED, true), [""; 0]);
        for (right, wrong) in [
            ("CapEff:\t0000", "CapEff:\t0020"),
            ("CapPrm:\t0000", "CapPrm:\t0020"),
            ("CapBnd:\t0000", "CapBnd:\t0020"),
            ("NoNewPrivs:\t1", "NoNewPrivs:\t0"),
            ("Seccomp:\t2", "Seccomp:\t0"),
            ("Seccomp:\t2\n", ""),
        ] {
            let faults = odd(&CONFINED.replacen(right, wrong, 1), true);
            assert_eq!(faults.len(), 1, "{wrong}: {faults:?}");
            assert!(faults[0].contains("thread x"), "{faults:?}");
        }
        assert_eq!(odd(&CONFINED.replace("CapBnd:\t0000", "CapBnd:\t0020"), false), [""; 0]);
    }

    #[test]
    fn every_thread_is_looked_at() {
        let witness = Witness::new().unwrap();
        let (end, wait) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::Builder::new().name("seen".to_owned());
        // It has its name when it runs.
        let (begin, begun) = std::sync::mpsc::channel();
        let thread = thread.spawn(move || {
            begin.send(()).unwrap();
            wait.recv()
        });
        begun.recv().unwrap();
        let faults = witness.faults_now(false);
        drop(end);
        assert!(thread.unwrap().join().unwrap().is_err());
        assert!(
            faults.iter().any(|fault| fault == "Seccomp of its thread seen is 0"),
            "{faults:?}"
        );
    }
}
