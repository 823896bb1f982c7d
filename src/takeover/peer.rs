//! Is the other one alive? It is started, heard, ended and buried here.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal};

use super::channel::{self, Heard, Word};
use super::letter::{Kit, Letter};
use super::spawn;
use crate::fuse::journal::Death;

/// How long a process may take to say that it is ready.
const START_PATIENCE: Duration = Duration::from_secs(30);
/// How much longer a server may look elsewhere for what the image has lost, when nobody else serves: ended sooner, it would have looked
/// in vain, and so would the next one. Parity reads all of the image for it.
pub(super) const HEAL_PATIENCE: Duration = Duration::from_mins(5);
/// How long a process that is gone may take to be a corpse, or one that was ended to be gone: it may wait for a dying disk.
const BURIAL_PATIENCE: Duration = Duration::from_secs(1);
/// The exit status of a program that panicked where it does not abort.
const PANIC: i32 = 101;
/// A step of waiting for that.
const STEP: Duration = Duration::from_millis(1);

/// Why a process does not do what it was started for.
#[derive(Debug)]
pub(super) struct NotStarted {
    /// What it said, or what there is to say about it.
    pub(super) why: String,
    /// How it ended, if it did so by itself: it may have been at work already.
    pub(super) death: Option<Death>,
    /// The process itself, where it was ended and does not go: it waits for a dying disk.
    pub(super) unburied: Option<Peer>,
}

impl From<io::Error> for NotStarted {
    fn from(err: io::Error) -> Self {
        NotStarted { why: err.to_string(), death: None, unburied: None }
    }
}

impl From<NotStarted> for io::Error {
    fn from(not: NotStarted) -> Self {
        io::Error::other(not.why)
    }
}

/// The other process.
#[derive(Debug)]
pub(super) struct Peer {
    socket: OwnedFd,
    pid: u32,
    /// What it is called by whoever wants to end it: numbers are used again.
    handle: Option<OwnedFd>,
    /// Only who has started it learns how it ended.
    child: Option<Child>,
}

impl Peer {
    /// The one that started us.
    pub(super) fn of_sender(socket: OwnedFd, pid: u32) -> Peer {
        // Whose number it is by now when the sender is gone nobody knows.
        let handle = handle(pid).filter(|_| !channel::is_hung_up(socket.as_fd()));
        Peer { socket, pid, handle, child: None }
    }

    /// One that we have started.
    pub(super) fn of_child(socket: OwnedFd, child: Child) -> Peer {
        let pid = child.id();
        Peer { socket, pid, handle: handle(pid), child: Some(child) }
    }

    /// Starts one, and waits until it does what it is for.
    pub(super) fn start(letter: &Letter, kit: &Kit) -> Result<Peer, NotStarted> {
        let (ours, theirs) = channel::pair()?;
        let child = spawn::spawn(kit.program.as_fd(), &letter.process_name(), theirs)?;
        let mut peer = Peer::of_child(ours, child);
        let asked = channel::send(peer.socket.as_fd(), &letter.encode()?, &kit.descriptors());
        let more = if letter.is_to_serve_alone() { HEAL_PATIENCE } else { Duration::ZERO };
        match asked.and_then(|()| peer.hear(START_PATIENCE.saturating_add(more))) {
            Ok(Heard::Word(Word::Ready)) => Ok(peer),
            Ok(Heard::Gone) => {
                let death = peer.bury();
                let why = format!("it ended at once ({death:?})");
                let unburied = (!peer.is_buried()).then_some(peer);
                Err(NotStarted { why, death: Some(death), unburied })
            }
            other => {
                peer.end();
                peer.bury();
                let why = match other {
                    Ok(Heard::Word(Word::Failed(why))) => why,
                    Ok(Heard::Nothing) => "it did not answer".to_owned(),
                    Ok(_) => "it said something else".to_owned(),
                    Err(err) => err.to_string(),
                };
                let unburied = (!peer.is_buried()).then_some(peer);
                Err(NotStarted { why, death: None, unburied })
            }
        }
    }

    /// Its process.
    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Says a word to it. That it hears nothing any more is seen elsewhere.
    pub(super) fn say(&self, word: &Word) {
        channel::say(self.socket.as_fd(), word).unwrap_or_default();
    }

    /// Waits for a word. What cannot be understood is as good as nobody.
    pub(super) fn hear(&self, patience: Duration) -> io::Result<Heard> {
        channel::hear(self.socket(), patience)
    }

    /// A second descriptor of the way to it.
    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Ends it. It is buried later.
    pub(super) fn end(&mut self) {
        if let Some(handle) = &self.handle {
            // It may be gone already.
            rustix::process::pidfd_send_signal(handle, Signal::KILL).unwrap_or_default();
        } else if let Some(child) = &mut self.child {
            child.kill().unwrap_or_default();
        }
    }

    /// Whether it is gone, and nothing left of it that we would have to see to.
    pub(super) fn is_buried(&mut self) -> bool {
        match (&mut self.child, &self.handle) {
            (Some(child), _) => !matches!(child.try_wait(), Ok(None)),
            // Such a handle can be read when the last thread is gone.
            (None, Some(handle)) => {
                let now = Timespec { tv_sec: 0, tv_nsec: 0 };
                let mut polled = [PollFd::new(handle, PollFlags::IN)];
                !matches!(rustix::event::poll(&mut polled, Some(&now)), Ok(0))
            }
            (None, None) => true,
        }
    }

    /// Learns how it ended, when it is gone.
    pub(super) fn bury(&mut self) -> Death {
        let Some(child) = &mut self.child else { return Death::Unknown };
        let begun = Instant::now();
        loop {
            match child.try_wait() {
                Ok(Some(status)) if status.signal() == Some(9) => return Death::Killed,
                // It gave up in good order, which may be for want of a thread or of memory.
                Ok(Some(status)) if status.code().is_some_and(|code| code != PANIC) => {
                    return Death::Unknown;
                }
                Ok(Some(_)) => return Death::Crashed,
                Ok(None) if begun.elapsed() < BURIAL_PATIENCE => thread::sleep(STEP),
                _ => return Death::Unknown,
            }
        }
    }
}

fn handle(pid: u32) -> Option<OwnedFd> {
    let pid = Pid::from_raw(i32::try_from(pid).ok()?)?;
    rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok()
}
