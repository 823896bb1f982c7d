//! Who watches the holder? The server, which also is its own voice towards it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::back_off::BackOff;
use super::channel::{self, Heard, Word};
use super::holder::PERIOD;
use super::inheritance::Inheritance;
use super::letter::{Kit, Letter, Role};
use super::namespace::Namespace;
use super::peer::Peer;
use super::program::Program;
use super::upgrade;
use crate::fuse::connection::{Before, Connection};
use crate::fuse::journal::{Death, Journal};
use crate::fuse::session;

/// For how many of its periods a holder may be silent: it asks in each whether we live.
const SILENT_MAX: u32 = 6;
/// How long nothing is tried again for which there was no descriptor.
const SHORTAGE: Duration = Duration::from_secs(1);
/// How long a new server may take to have a holder.
const HELD_PATIENCE: Duration = Duration::from_secs(40);
/// How long questions that are at work may take when this server makes room for another.
const LEAVE_PATIENCE: Duration = Duration::from_secs(5);

/// A server that is watched, and watches.
#[derive(Debug)]
pub struct Guard {
    connection: Arc<Connection>,
    letter: Letter,
    kit: Kit,
    holder: Mutex<Option<Peer>>,
    /// Held while there is no holder and another one is started.
    replacing: Mutex<()>,
    is_over: AtomicBool,
    /// Dropped when it is over, for whoever waits for that.
    goes_on: Mutex<Option<Sender<()>>>,
}

impl Guard {
    /// Has a server watched by a holder of its own from now on.
    pub fn begin(connection: &Arc<Connection>, inheritance: Inheritance) -> io::Result<Arc<Guard>> {
        let Inheritance { duty, image, beside, proc, log, unmounter, program, healing, name } =
            inheritance;
        let kit = Kit {
            device: connection.device.try_clone()?,
            image,
            program: program.0,
            journal: connection.journal.memory().try_clone_to_owned()?,
            beside,
            proc,
            log,
            unmounter,
            healing,
        };
        note_panics(&connection.journal);
        let letter = Letter::new(connection.facts.clone(), duty, &name, &kit);
        let guard = Guard::new(connection, letter, kit);
        guard.start_holder()?;
        guard.watch().inspect_err(|_| guard.over())?;
        Ok(guard)
    }

    fn new(connection: &Arc<Connection>, letter: Letter, kit: Kit) -> Arc<Guard> {
        let connection = Arc::clone(connection);
        let is_over = AtomicBool::new(false);
        let (holder, goes_on) = (Mutex::new(None), Mutex::new(None));
        let replacing = Mutex::default();
        Arc::new(Guard { connection, letter, kit, holder, replacing, is_over, goes_on })
    }

    /// The same for a successor.
    pub(super) fn join(
        connection: &Arc<Connection>,
        letter: Letter,
        kit: Kit,
        starter: Peer,
    ) -> io::Result<Arc<Guard>> {
        let before = letter.before;
        // Its own page, where it has one.
        let journal = connection.journal.memory().try_clone_to_owned()?;
        let guard = Guard::new(connection, letter, Kit { journal, ..kit });
        starter.say(&Word::Ready);
        if before == Before::Leaving {
            guard.wait_for_predecessor(starter)?;
        } else {
            guard.set_holder(starter);
            guard.watch()?;
        }
        Ok(guard)
    }

    /// It is unmounted: nobody has to be watched any more.
    pub fn over(&self) {
        self.is_over.store(true, Ordering::SeqCst);
        drop(self.goes_on().take());
        if let Some(holder) = &*self.holder() {
            holder.say(&Word::Over);
        }
    }

    /// Has a newer program serve, and ends this process when it does. Returns only when it does not: then all is as it was.
    ///
    /// At each step somebody holds the mount who lives: the new server has a holder of its own before ours is dismissed. Should
    /// this process be ended in between, its holder starts another server beside the new one: two that answer are no harm.
    pub(super) fn make_room(
        &self,
        program: OwnedFd,
        tell: impl FnOnce(u32),
    ) -> io::Result<std::convert::Infallible> {
        if !self.letter.facts.can_ask_again() {
            return Err(io::Error::other(
                "this kernel cannot ask again what a server leaves behind (Linux 6.9 can)",
            ));
        }
        let program = Program::sealed(program)?;
        if self.letter.duty.is_root && !program.is_static()? {
            return Err(io::Error::other(
                "the program needs libraries, which the server of / cannot have",
            ));
        }
        let kit = self.kit.with_program(program.0)?;
        let letter = self.letter.to(Role::Server, Before::Leaving);
        // What one that fails has read is asked again.
        let ask_again = || session::ask_again(&self.connection, &[]).unwrap_or_default();
        let mut next = Peer::start(&letter, &kit).inspect_err(|_| ask_again())?;
        next.say(&Word::Yours);
        let held = next.hear(HELD_PATIENCE);
        if !matches!(held, Ok(Heard::Word(Word::Held))) {
            next.end();
            let death = next.bury();
            ask_again();
            return Err(io::Error::other(format!("it found no holder ({death:?})")));
        }
        self.over();
        // One that is being started is told before we leave: it would start another server of ours.
        drop(self.replacing());
        tell(next.pid());
        tracing::info!("process {} serves from now on", next.pid());
        self.connection.journal.leave(LEAVE_PATIENCE);
        std::process::exit(0)
    }

    /// The name space whose processes may send a newer program.
    pub(super) fn namespace(&self) -> Namespace {
        self.letter.duty.namespace
    }

    /// Says so, by its other end being dropped, when it is over.
    pub(super) fn until_over(&self) -> Receiver<()> {
        let (goes_on, over) = mpsc::channel();
        let mut place = self.goes_on();
        *place = Some(goes_on).filter(|_| !self.is_over.load(Ordering::SeqCst));
        over
    }

    fn goes_on(&self) -> MutexGuard<'_, Option<Sender<()>>> {
        self.goes_on.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn replacing(&self) -> MutexGuard<'_, ()> {
        self.replacing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn holder(&self) -> MutexGuard<'_, Option<Peer>> {
        self.holder.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_holder(&self, holder: Peer) {
        let mut place = self.holder();
        // It may have become over while there was nobody to be told.
        if self.is_over.load(Ordering::SeqCst) {
            holder.say(&Word::Over);
        }
        self.connection.holder.store(holder.pid(), Ordering::Relaxed);
        *place = Some(holder);
    }

    /// A holder that nobody watches, or that nobody is told of, would start another server.
    fn dismiss_holder(&self) {
        if let Some(holder) = self.holder().take() {
            holder.say(&Word::Over);
        }
        self.connection.holder.store(0, Ordering::Relaxed);
    }

    fn start_holder(&self) -> io::Result<()> {
        let letter = self.letter.to(Role::Holder, Before::Leaving);
        self.set_holder(Peer::start(&letter, &self.kit)?);
        Ok(())
    }

    /// Watches the holder, and listens for upgrades, in threads of their own.
    fn watch(self: &Arc<Self>) -> io::Result<()> {
        let guard = Arc::clone(self);
        let thread = thread::Builder::new().name("holder".to_owned()).stack_size(128 * 1024);
        thread.spawn(move || guard.keep_holder())?;
        upgrade::listen(self, self.connection.device_number())
    }

    fn keep_holder(&self) {
        let mut back_off = BackOff::new();
        // Not by the clock: after all of us have stood still, nobody has been silent for long.
        let mut silent = 0_u32;
        loop {
            // Not under the lock: others say words meanwhile.
            let socket = self.holder().as_ref().map(|it| it.socket().try_clone_to_owned());
            let socket = match socket {
                Some(Ok(socket)) => socket,
                Some(Err(err)) => {
                    // It asks whether we live, and would have us replaced.
                    tracing::error!("the holder is not heard: {err}");
                    thread::sleep(SHORTAGE);
                    continue;
                }
                None => return,
            };
            match channel::hear(socket.as_fd(), PERIOD) {
                Ok(Heard::Word(word)) => {
                    silent = 0;
                    if word == Word::Ping
                        && let Some(holder) = &*self.holder()
                    {
                        holder.say(&Word::Pong);
                    }
                }
                Ok(Heard::Nothing) if silent < SILENT_MAX => silent = silent.saturating_add(1),
                Ok(_) | Err(_) => {
                    if !self.replace_holder(&mut back_off) {
                        return;
                    }
                    silent = 0;
                }
            }
        }
    }

    /// Has another holder, unless it is over.
    fn replace_holder(&self, back_off: &mut BackOff) -> bool {
        let _replacing = self.replacing();
        let is_over = || self.is_over.load(Ordering::SeqCst);
        if is_over() {
            return false;
        }
        let gone = self.holder().take();
        let mut death = gone.map_or(Death::Unknown, |mut holder| {
            holder.end();
            holder.bury()
        });
        self.connection.holder.store(0, Ordering::Relaxed);
        loop {
            thread::sleep(back_off.pause(death == Death::Killed));
            back_off.note_start();
            match self.start_holder() {
                Ok(()) => break,
                Err(err) => tracing::error!("the holder's successor does not start: {err}"),
            }
            if is_over() {
                return false;
            }
            death = Death::Crashed;
        }
        let pid = self.connection.holder.load(Ordering::Relaxed);
        tracing::warn!("the holder had died; process {pid} holds the mount from now on");
        true
    }

    /// Waits for the server before to leave, and then has the kernel ask again what it may have left.
    fn wait_for_predecessor(self: &Arc<Self>, before: Peer) -> io::Result<()> {
        let guard = Arc::clone(self);
        let wait = move || {
            let mut is_ours = false;
            loop {
                match before.hear(PERIOD) {
                    Ok(Heard::Word(Word::Yours)) if !is_ours => {
                        is_ours = guard.take_charge();
                        if is_ours {
                            before.say(&Word::Held);
                        }
                    }
                    Ok(Heard::Gone) | Err(_) => break,
                    Ok(_) => {}
                }
            }
            if let Err(err) = session::ask_again(&guard.connection, &[]) {
                tracing::error!("what the server before left is not answered: {err}");
            }
            if !is_ours {
                guard.take_charge();
            }
        };
        let thread = thread::Builder::new().name("before".to_owned()).stack_size(128 * 1024);
        thread.spawn(wait).map(drop)
    }

    /// Has a holder of our own.
    fn take_charge(self: &Arc<Self>) -> bool {
        let watch = || self.watch().inspect_err(|_| self.dismiss_holder());
        let begun = self.start_holder().and_then(|()| watch());
        if let Err(err) = &begun {
            tracing::error!("nobody holds this mount: {err}");
        }
        begun.is_ok()
    }
}

/// Tells on which page of a journal a server writes when it panics.
pub(super) fn note_panics(journal: &Arc<Journal>) {
    let journal = Arc::clone(journal);
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if cfg!(panic = "abort") {
            journal.note_panic();
        }
        before(panic);
    }));
}
