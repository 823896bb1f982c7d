//! Who starts the next server? A process that has everything a server needs, and does nothing that could end it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::thread;
use std::time::Duration;

use super::back_off::BackOff;
use super::channel::{Heard, Word};
use super::letter::{Kit, Letter, Role};
use super::peer::Peer;
use crate::fuse::connection::Before;
use crate::fuse::journal::{Death, Journal};
use crate::fuse::mount::is_connected;

/// How often the server is asked whether it lives.
pub(super) const PERIOD: Duration = Duration::from_secs(10);
/// How often in a row a question must be found too old. Once says little: the whole machine may have stood still.
const LOOKS: u32 = 3;

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
pub fn hold(letter: &Letter, kit: &Kit, socket: OwnedFd) -> io::Result<()> {
    let mut watch = Watch {
        journal: Journal::open(kit.journal.try_clone()?)?,
        patience: Duration::from_secs(letter.duty.watchdog_secs),
        stuck: None,
    };
    let mut server = Peer::of_sender(socket, letter.sender);
    server.say(&Word::Ready);
    let mut back_off = BackOff::new();
    // Those that wait for a dying disk even when they are ended.
    let mut unburied: Vec<Peer> = Vec::new();
    loop {
        let mut death = match watch.until_something_is_to_be_done(&mut server) {
            Verdict::Over => return Ok(()),
            Verdict::Dead => server.bury(),
            Verdict::Replaced => {
                server.bury();
                Death::Replaced
            }
        };
        unburied.retain_mut(|old| !old.is_buried());
        let mut failed = false;
        let next = loop {
            // There is no mount any more.
            if matches!(is_connected(kit.device.as_fd()), Ok(false)) {
                return Ok(());
            }
            thread::sleep(back_off.pause(!failed && death == Death::Killed));
            back_off.note_start();
            match Peer::start(&letter.to(Role::Server, Before::Dead(death)), kit) {
                Ok(server) => break server,
                Err(not) => {
                    tracing::error!("the server's successor does not start: {}", not.why);
                    // One that did not end by itself did not come so far as to inherit.
                    death = not.death.unwrap_or(death);
                    failed = true;
                }
            }
        };
        unburied.push(std::mem::replace(&mut server, next));
    }
}

/// What is watched.
#[derive(Debug)]
struct Watch {
    journal: Journal,
    /// How long a server may not answer; zero for ever.
    patience: Duration,
    /// The question for which a server was replaced. If the next one hangs there, too, it is the disk, and there is no help.
    stuck: Option<u64>,
}

impl Watch {
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
                Ok(Heard::Gone) | Err(_) => return Verdict::Dead,
            }
            silent = silent.saturating_add(period);
            server.say(&Word::Ping);
            let oldest = self.journal.oldest().filter(|(_, age)| *age > self.patience);
            let oldest = oldest.filter(|(unique, _)| self.stuck != Some(*unique));
            looks = if oldest.is_some() { looks.saturating_add(1) } else { 0 };
            if is_patient || (silent <= self.patience && looks < LOOKS) {
                continue;
            }
            if looks >= LOOKS {
                self.stuck = oldest.map(|(unique, _)| unique);
            }
            let secs = oldest.map_or(silent, |(_, age)| age).as_secs();
            tracing::error!("the server has not answered for {secs} s and is replaced");
            server.end();
            return Verdict::Replaced;
        }
    }
}
