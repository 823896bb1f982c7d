//! Who watches the holder? The server, which also is its own voice towards it.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::back_off::BackOff;
use super::channel::{self, Heard, Word};
use super::holder::PERIOD;
use super::letter::{Duty, Kit, Letter, Role};
use super::peer::Peer;
use super::program::Program;
use super::upgrade;
use crate::fuse::journal::{Death, Journal};
use crate::fuse::mountinfo::Device;
use crate::fuse::session::{self, Before, Connection};

/// How long a holder may be silent: it asks each [`PERIOD`] whether we live.
const SILENCE_MAX: Duration = Duration::from_secs(6 * PERIOD.as_secs());
/// How long questions that are at work may take when this server makes room for another.
const LEAVE_PATIENCE: Duration = Duration::from_secs(5);

/// A server that is watched, and watches.
#[derive(Debug)]
pub struct Guard {
    connection: Arc<Connection>,
    letter: Letter,
    kit: Kit,
    holder: Mutex<Option<Peer>>,
    is_over: AtomicBool,
}

impl Guard {
    /// Has a server watched by a holder of its own from now on. `image` is the image file, `name` what both processes are
    /// called; `log` is the kernel's log, where the two shall write to it.
    pub fn begin(
        connection: &Arc<Connection>,
        duty: Duty,
        image: OwnedFd,
        beside: Option<OwnedFd>,
        log: Option<OwnedFd>,
        program: Program,
        name: &OsStr,
    ) -> io::Result<Arc<Guard>> {
        let kit = Kit {
            device: connection.device.try_clone()?,
            image,
            program: program.0,
            journal: connection.journal.memory().try_clone_to_owned()?,
            beside,
            log,
        };
        note_panics(&connection.journal);
        let letter = Letter::new(connection.facts.clone(), duty, name, &kit);
        let guard = Guard::new(connection, letter, kit);
        guard.start_holder()?;
        guard.watch()?;
        Ok(guard)
    }

    fn new(connection: &Arc<Connection>, letter: Letter, kit: Kit) -> Arc<Guard> {
        let connection = Arc::clone(connection);
        let is_over = AtomicBool::new(false);
        Arc::new(Guard { connection, letter, kit, holder: Mutex::new(None), is_over })
    }

    /// The same for a successor, which was started by `socket`'s other end.
    pub(super) fn join(
        connection: &Arc<Connection>,
        letter: Letter,
        kit: Kit,
        socket: OwnedFd,
    ) -> io::Result<Arc<Guard>> {
        let starter = Peer::of_sender(socket, letter.sender);
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
        if let Some(holder) = &*self.holder() {
            holder.say(&Word::Over);
        }
    }

    /// Has a newer program serve, and ends this process when it does. Returns only when it does not: then all is as it was.
    pub(super) fn make_room(
        &self,
        program: OwnedFd,
        tell: impl FnOnce(u32),
    ) -> io::Result<std::convert::Infallible> {
        if self.letter.duty.is_root && !Program(program.try_clone()?).is_static()? {
            return Err(io::Error::other(
                "the program needs libraries, which the server of / cannot have",
            ));
        }
        let kit = self.kit.with_program(program)?;
        let letter = self.letter.to(Role::Server, Before::Leaving);
        let next = Peer::start(&letter, &kit).inspect_err(|_| {
            // It may have read a question before it died.
            session::ask_again(&self.connection, &[]).unwrap_or_default();
        })?;
        self.is_over.store(true, Ordering::SeqCst);
        if let Some(holder) = &mut *self.holder() {
            holder.say(&Word::Over);
            let asked = Instant::now();
            while !matches!(holder.hear(PERIOD), Ok(Heard::Gone) | Err(_)) {
                if asked.elapsed() > PERIOD {
                    holder.end();
                    break;
                }
            }
        }
        next.say(&Word::Yours);
        tell(next.pid());
        tracing::info!("process {} serves from now on", next.pid());
        self.connection.journal.leave(LEAVE_PATIENCE);
        std::process::exit(0)
    }

    /// The mount's device number.
    pub(super) fn device_number(&self) -> Device {
        self.connection.device_number()
    }

    fn holder(&self) -> MutexGuard<'_, Option<Peer>> {
        self.holder.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_holder(&self, holder: Peer) {
        self.connection.holder.store(holder.pid(), Ordering::Relaxed);
        *self.holder() = Some(holder);
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
        let mut heard = Instant::now();
        loop {
            // Not under the lock: others say words meanwhile.
            let socket = self.holder().as_ref().map(|it| it.socket().try_clone_to_owned());
            let Some(Ok(socket)) = socket else { return };
            match channel::hear(socket.as_fd(), PERIOD) {
                Ok(Heard::Word(word)) => {
                    heard = Instant::now();
                    if word == Word::Ping
                        && let Some(holder) = &*self.holder()
                    {
                        holder.say(&Word::Pong);
                    }
                }
                Ok(Heard::Nothing) if heard.elapsed() < SILENCE_MAX => {}
                Ok(_) | Err(_) => {
                    if self.is_over.load(Ordering::SeqCst) {
                        return;
                    }
                    self.replace_holder(&mut back_off);
                    heard = Instant::now();
                }
            }
        }
    }

    fn replace_holder(&self, back_off: &mut BackOff) {
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
            death = Death::Crashed;
        }
        let pid = self.connection.holder.load(Ordering::Relaxed);
        tracing::warn!("the holder had died; process {pid} holds the mount from now on");
    }

    /// Waits for the server before to leave, and then has the kernel ask again what it may have left.
    fn wait_for_predecessor(self: &Arc<Self>, before: Peer) -> io::Result<()> {
        let guard = Arc::clone(self);
        let wait = move || {
            let mut is_ours = false;
            loop {
                match before.hear(PERIOD) {
                    Ok(Heard::Word(Word::Yours)) => is_ours = guard.take_charge(),
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
        let begun = self.start_holder().and_then(|()| self.watch());
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
