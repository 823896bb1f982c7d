//! Who starts the next server? A process that has everything a server needs, and does nothing that could end it.

use std::collections::BTreeSet;
use std::io;
use std::thread;
use std::time::Duration;

use super::back_off::BackOff;
use super::channel::{Heard, Word};
use super::letter::Role;
use super::peer::{NotStarted, Peer};
use super::successor::Called;
use crate::fuse::connection::Before;
use crate::fuse::journal::{Death, Journal};

/// How often the server is asked whether it lives.
pub(super) const PERIOD: Duration = Duration::from_secs(10);
/// How often in a row a question must be found too old. Once says little: the whole machine may have stood still.
const LOOKS: u32 = 3;
/// How often it is looked whether one that waits for the disk is gone, while there is no server: whoever asks waits, too.
const BURIAL_PERIOD: Duration = Duration::from_millis(100);
/// Most questions that are remembered as the disk's fault. Each time a server is replaced for them there are 64 more at most.
const STUCK_MAX: usize = 4096;

/// What the holder does with a server.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// It died.
    Dead,
    /// It was ended for not answering.
    Replaced,
    /// It needs nobody any more.
    Over,
}

/// Watches the server that sent the letter, and each of its successors, until one says that it is over.
pub fn hold(called: Called) -> io::Result<()> {
    let Called { letter, kit, starter: mut server } = called;
    let journal = Journal::open(kit.journal.try_clone()?)?;
    let mut watch = Watch::new(journal, Duration::from_secs(letter.duty.watchdog_secs));
    server.say(&Word::Ready);
    let mut back_off = BackOff::new();
    loop {
        let death = match watch.until_something_is_to_be_done(&mut server) {
            Verdict::Over => return Ok(()),
            Verdict::Dead => server.bury(),
            Verdict::Replaced => {
                server.bury();
                Death::Replaced
            }
        };
        let is_over = || kit.is_over();
        let start = |death| Peer::start(&letter.to(Role::Server, Before::Dead(death)), &kit);
        let Some(next) = successor(death, &mut back_off, is_over, start) else { return Ok(()) };
        watch.lay_aside(std::mem::replace(&mut server, next));
    }
}

/// Starts one after the other until one serves; `None` when it is over.
fn successor(
    mut death: Death,
    back_off: &mut BackOff,
    is_over: impl Fn() -> bool,
    mut start: impl FnMut(Death) -> Result<Peer, NotStarted>,
) -> Option<Peer> {
    let mut failed = false;
    loop {
        if is_over() {
            return None;
        }
        thread::sleep(back_off.pause(!failed && death == Death::Killed));
        back_off.note_start();
        let not = match start(death) {
            Ok(server) => return Some(server),
            Err(not) => not,
        };
        tracing::error!("the server's successor does not start: {}", not.why);
        // One that did not end by itself did not come so far as to inherit.
        death = not.death.unwrap_or(death);
        failed = true;
        if let Some(hung) = not.unburied {
            wait_until_gone(hung, &is_over);
        }
    }
}

/// Waits for one that was ended and does not go. The disk holds it, and would hold the next one as well: there would be one
/// more every half a minute, for good.
fn wait_until_gone(mut hung: Peer, is_over: impl Fn() -> bool) {
    let pid = hung.pid();
    tracing::error!("process {pid} waits for the disk: there is no server until it is gone");
    while !hung.is_buried() && !is_over() {
        thread::sleep(BURIAL_PERIOD);
    }
}

/// What is watched.
#[derive(Debug)]
struct Watch {
    journal: Journal,
    /// How long a server may not answer; zero for ever.
    patience: Duration,
    /// The questions for which servers were replaced. If the next one hangs there, too, it is the disk, and there is no help.
    stuck: BTreeSet<u64>,
    /// Servers that are not gone yet: those that wait for a dying disk even when they are ended.
    unburied: Vec<Peer>,
}

impl Watch {
    fn new(journal: Journal, patience: Duration) -> Watch {
        Watch { journal, patience, stuck: BTreeSet::new(), unburied: Vec::new() }
    }

    fn until_something_is_to_be_done(&mut self, server: &mut Peer) -> Verdict {
        let is_patient = self.patience.is_zero();
        let period = if is_patient { PERIOD } else { PERIOD.min(self.patience.div_f32(4.0)) };
        // Not by the clock: after the machine, or both of us, have stood still, nobody has been silent for long.
        let (mut silent, mut looks) = (Duration::ZERO, 0_u32);
        loop {
            match server.hear(period) {
                Ok(Heard::Word(Word::Over)) => return Verdict::Over,
                Ok(Heard::Word(_)) => {
                    silent = Duration::ZERO;
                    continue;
                }
                Ok(Heard::Nothing) => {}
                Ok(Heard::Gone) => return Verdict::Dead,
                Err(err) => {
                    // Who cannot be heard is not left beside the one that comes.
                    tracing::error!("the server is not understood and is replaced: {err}");
                    server.end();
                    return Verdict::Dead;
                }
            }
            silent = silent.saturating_add(period);
            server.say(&Word::Ping);
            self.unburied.retain_mut(|old| !old.is_buried());
            let age = self.age_of_a_hang();
            looks = if age.is_some() { looks.saturating_add(1) } else { 0 };
            if is_patient || (silent <= self.patience && looks < LOOKS) {
                continue;
            }
            self.note_stuck();
            let secs = age.unwrap_or(silent).as_secs();
            tracing::error!("the server has not answered for {secs} s and is replaced");
            server.end();
            return Verdict::Replaced;
        }
    }

    /// Keeps a server until it is gone. What is gone is let go of at once: each has descriptors, and servers may die faster than
    /// they are asked whether they live.
    fn lay_aside(&mut self, server: Peer) {
        self.unburied.push(server);
        self.unburied.retain_mut(|old| !old.is_buried());
    }

    /// How long a question has been at work, if so long that another server should try. None should while one that was ended
    /// still waits for the disk: the next one would wait there, too, and be one more that nobody can end.
    fn age_of_a_hang(&self) -> Option<Duration> {
        let old = self.journal.older_than(self.patience);
        let old = old.filter(|(unique, _)| !self.stuck.contains(unique));
        old.map(|(_, age)| age).max().filter(|_| self.unburied.is_empty())
    }

    /// Remembers all that hangs, also what hung before: the kernel asks the next server in another order.
    fn note_stuck(&mut self) {
        if self.stuck.len() >= STUCK_MAX {
            self.stuck.clear();
        }
        self.stuck.extend(self.journal.older_than(self.patience).map(|(unique, _)| unique));
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::os::fd::AsFd;
    use std::process::{Child, Command};
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Instant;

    use super::*;
    use crate::takeover::channel;

    /// A process that does not go by itself.
    fn sleeper() -> Child {
        Command::new("sleep").arg("1000").spawn().unwrap()
    }

    /// One that says that it lives whenever it is asked, until it is told to say that it is over, or is gone.
    fn server(is_over: &'static AtomicBool) -> Peer {
        let (ours, theirs) = channel::pair().unwrap();
        thread::spawn(move || {
            let answer = || match channel::hear(theirs.as_fd(), Duration::from_millis(5)) {
                Ok(Heard::Word(_)) => channel::say(theirs.as_fd(), &Word::Pong).is_ok(),
                Ok(Heard::Nothing) => true,
                _ => false,
            };
            while answer() && !is_over.load(Ordering::Relaxed) {}
            channel::say(theirs.as_fd(), &Word::Over).unwrap_or_default();
        });
        Peer::of_child(ours, sleeper())
    }

    fn watch() -> (Watch, Journal) {
        let page = Journal::create(0).unwrap();
        let seen = Journal::open(page.memory().try_clone_to_owned().unwrap()).unwrap();
        (Watch::new(seen, Duration::from_millis(200)), page)
    }

    /// Has a question at work for the rest of the test.
    fn hang(page: &Journal, unique: u64) {
        thread::scope(|scope| {
            scope.spawn(|| std::mem::forget(page.enter(unique).unwrap()));
        });
    }

    #[test]
    fn a_server_is_replaced_once_for_all_questions_that_hang() {
        static OVER: AtomicBool = AtomicBool::new(false);
        let (mut watch, page) = watch();
        for unique in [4, 6, 8] {
            hang(&page, unique);
        }
        let mut first = server(&OVER);
        assert_eq!(watch.until_something_is_to_be_done(&mut first), Verdict::Replaced);
        assert_eq!(first.bury(), Death::Killed);
        assert_eq!(watch.stuck, BTreeSet::from([4, 6, 8]));
        let mut second = server(&OVER);
        thread::spawn(|| {
            thread::sleep(Duration::from_secs(2));
            OVER.store(true, Ordering::Relaxed);
        });
        assert_eq!(watch.until_something_is_to_be_done(&mut second), Verdict::Over);
        second.end();
        second.bury();
    }

    #[test]
    fn no_server_is_replaced_while_one_waits_for_the_disk_that_was_ended() {
        static OVER: AtomicBool = AtomicBool::new(false);
        let (mut watch, page) = watch();
        hang(&page, 4);
        let (socket, _theirs) = channel::pair().unwrap();
        let mut hung = sleeper();
        // It may be no child of ours: the first server is none.
        watch.unburied.push(Peer::of_sender(socket, hung.id()));
        let begun = Instant::now();
        thread::spawn(move || {
            thread::sleep(Duration::from_secs(2));
            hung.kill().unwrap();
            hung.wait().unwrap();
        });
        let mut next = server(&OVER);
        assert_eq!(watch.until_something_is_to_be_done(&mut next), Verdict::Replaced);
        assert!(begun.elapsed() >= Duration::from_secs(2), "{:?}", begun.elapsed());
        assert!(watch.unburied.is_empty());
        assert_eq!(next.bury(), Death::Killed);
    }

    #[test]
    fn servers_that_are_gone_are_let_go_of_however_fast_they_die() {
        let (mut watch, _page) = watch();
        let mut hung = sleeper();
        watch.lay_aside(Peer::of_sender(channel::pair().unwrap().0, hung.id()));
        for _ in 0..20 {
            let mut server = Peer::of_child(channel::pair().unwrap().0, sleeper());
            server.end();
            assert_eq!(server.bury(), Death::Killed);
            watch.lay_aside(server);
            assert_eq!(watch.unburied.len(), 1);
        }
        hung.kill().unwrap();
        hung.wait().unwrap();
    }

    fn not_started(unburied: Option<Peer>) -> NotStarted {
        NotStarted { why: "it did not answer".to_owned(), death: None, unburied }
    }

    #[test]
    fn no_other_successor_starts_while_one_that_hangs_is_there() {
        let (socket, _theirs) = channel::pair().unwrap();
        let mut hung = Some(Peer::of_child(socket, sleeper()));
        let pid = rustix::process::Pid::from_raw(hung.as_ref().unwrap().pid().try_into().unwrap());
        thread::spawn(move || {
            thread::sleep(Duration::from_secs(1));
            rustix::process::kill_process(pid.unwrap(), rustix::process::Signal::KILL).unwrap();
        });
        let (begun, starts) = (Instant::now(), Cell::new(0));
        let start = |death| {
            assert_eq!(death, Death::Killed);
            starts.set(starts.get() + 1);
            match hung.take() {
                Some(hung) => Err(not_started(Some(hung))),
                // Who fails and is gone is no reason to wait.
                None if starts.get() < 5 => Err(not_started(None)),
                None => Ok(Peer::of_sender(channel::pair().unwrap().0, std::process::id())),
            }
        };
        assert!(successor(Death::Killed, &mut BackOff::new(), || false, start).is_some());
        assert_eq!(starts.get(), 5);
        assert!((1..10).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    }

    #[test]
    fn a_mount_that_is_gone_is_not_waited_for() {
        let (socket, _theirs) = channel::pair().unwrap();
        let child = sleeper();
        let pid = rustix::process::Pid::from_child(&child);
        let mut hung = Some(Peer::of_child(socket, child));
        let is_over = Cell::new(false);
        let start = |_| {
            is_over.set(true);
            Err(not_started(hung.take()))
        };
        let next = successor(Death::Killed, &mut BackOff::new(), || is_over.get(), start);
        assert!(next.is_none());
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }
}
