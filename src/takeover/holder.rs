//! Who starts the next server? A process that has everything a server needs, and does nothing that could end it.

use std::io;
use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

use super::back_off::BackOff;
use super::channel::{Heard, Word};
use super::letter::{Kit, Letter, Role};
use super::peer::Peer;
use crate::fuse::journal::{Death, Journal};
use crate::fuse::session::Before;

/// How often the server is asked whether it lives.
pub(super) const PERIOD: Duration = Duration::from_secs(10);

/// What the holder does with a server.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// It is dead, or was ended for not answering.
    Replace,
    /// It needs nobody any more.
    Over,
}

/// Watches the server that sent the letter, and each of its successors, until one says that it is over.
pub fn hold(letter: &Letter, kit: &Kit, socket: OwnedFd) -> io::Result<()> {
    let journal = Journal::open(kit.journal.try_clone()?)?;
    let mut server = Peer::of_sender(socket, letter.sender);
    server.say(&Word::Ready);
    let mut back_off = BackOff::new();
    let patience = Duration::from_secs(letter.duty.watchdog_secs);
    while watch(&mut server, &journal, patience) == Verdict::Replace {
        let mut death = server.bury();
        server = loop {
            thread::sleep(back_off.pause(death == Death::Killed));
            back_off.note_start();
            let letter = letter.to(Role::Server, Before::Dead(death));
            match Peer::start(&letter, kit) {
                Ok(server) => break server,
                // There is no mount any more.
                Err(err) if err.kind() == io::ErrorKind::NotConnected => return Ok(()),
                Err(err) => tracing::error!("the server's successor does not start: {err}"),
            }
            death = Death::Crashed;
        };
    }
    Ok(())
}

/// Waits until something has to be done.
fn watch(server: &mut Peer, journal: &Journal, patience: Duration) -> Verdict {
    let mut heard = Instant::now();
    let period = if patience.is_zero() { PERIOD } else { PERIOD.min(patience.div_f32(4.0)) };
    loop {
        match server.hear(period) {
            Ok(Heard::Word(Word::Over)) => return Verdict::Over,
            Ok(Heard::Word(_)) => heard = Instant::now(),
            Ok(Heard::Nothing) => {}
            Ok(Heard::Gone) | Err(_) => return Verdict::Replace,
        }
        server.say(&Word::Ping);
        let silent = heard.elapsed();
        let oldest = journal.oldest().unwrap_or_default();
        if !patience.is_zero() && (silent > patience || oldest > patience) {
            tracing::error!(
                "the server has not answered for {} s and is replaced",
                silent.max(oldest).as_secs()
            );
            server.end();
            return Verdict::Replace;
        }
    }
}
