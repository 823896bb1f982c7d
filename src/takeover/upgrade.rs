//! How does a newer program come to serve? It is sent to the server, which starts it, and leaves when it answers.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use super::channel;
use super::guard::Guard;
use super::namespace::NAMESPACE;
use super::program::Program;
use crate::fuse::mountinfo::{self, Device, FILE_SYSTEM_TYPE};
use crate::fuse::socket;

/// How long either side waits for the other's words.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long an upgrade may take.
const UPGRADE_PATIENCE: Duration = Duration::from_mins(1);
/// What is asked for, and the answers.
const UPGRADE: &[u8] = b"upgrade";
const DONE: &str = "serves ";
const REFUSED: &str = "error ";
/// What follows the mount's own name in that of the socket.
const PURPOSE: &str = "/upgrade";

/// Why there was no upgrade. The server that was there goes on serving.
#[derive(Debug)]
pub enum UpgradeError {
    /// The path cannot be looked at.
    Path(io::Error),
    /// It is on a file system of another kind.
    NotOurs,
    /// The program cannot be read.
    Program(io::Error),
    /// The server does not answer.
    Server(io::Error),
    /// The server does not want it.
    Refused(String),
}

impl fmt::Display for UpgradeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UpgradeError::Path(err) => write!(f, "{err}"),
            UpgradeError::NotOurs => f.write_str("it is not on a mounted image"),
            UpgradeError::Program(err) => write!(f, "the program cannot be used: {err}"),
            UpgradeError::Server(err) => {
                write!(f, "the server of this mount does not take upgrades: {err}")
            }
            UpgradeError::Refused(why) => write!(f, "the server goes on as it was: {why}"),
        }
    }
}

impl std::error::Error for UpgradeError {}

/// Has the server of the mount that `path` is on replaced by another program. Returns the new server's process.
pub fn upgrade(path: &Path, program: &Path) -> Result<u32, UpgradeError> {
    let place = mountinfo::place(path).map_err(UpgradeError::Path)?;
    let mount = mountinfo::find(place.device).map_err(UpgradeError::Path)?;
    let mount = mount.filter(|mount| mount.file_system_type == FILE_SYSTEM_TYPE);
    let mount = mount.ok_or(UpgradeError::NotOurs)?;
    let program = Program::copy(program).map_err(UpgradeError::Program)?;
    let ask = || -> io::Result<String> {
        let address = socket::address(place.device, PURPOSE)?;
        let mut stream = socket::connect(&address, mount.user_id)?;
        stream.set_read_timeout(Some(UPGRADE_PATIENCE))?;
        let namespace = File::open(NAMESPACE)?;
        channel::send(stream.as_fd(), UPGRADE, &[program.0.as_fd(), namespace.as_fd()])?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = ask().map_err(UpgradeError::Server)?;
    if let Some(pid) = answer.strip_prefix(DONE).and_then(|pid| pid.trim().parse().ok()) {
        return Ok(pid);
    }
    let why = answer.strip_prefix(REFUSED).unwrap_or("it ended without an answer");
    Err(UpgradeError::Refused(why.trim().to_owned()))
}

/// Listens for programs, in a thread of its own.
pub(super) fn listen(guard: &Arc<Guard>, device: Device) -> io::Result<()> {
    let address = socket::address(device, PURPOSE)?;
    let (guard, over) = (Arc::downgrade(guard), guard.until_over());
    // Not in the thread, where it can be done at once: a newer program may be sent as soon as it is mounted.
    let listener = UnixListener::bind_addr(&address).ok();
    let serve = move || {
        let without = "this server takes no upgrades";
        let listener = listener.or_else(|| socket::bind_when_free(&address, &over, without));
        if let Some(listener) = listener {
            answer_all(&listener, &guard);
        }
    };
    let thread = thread::Builder::new().name("upgrade".to_owned()).stack_size(128 * 1024);
    thread.spawn(serve).map(drop)
}

fn answer_all(listener: &UnixListener, guard: &Weak<Guard>) {
    for stream in socket::visitors(listener) {
        let Some(guard) = guard.upgrade() else { return };
        if let Err(err) = stream.and_then(|stream| answer(stream, &guard)) {
            tracing::warn!("an upgrade failed: {err}");
        }
    }
}

fn answer(mut stream: UnixStream, guard: &Guard) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let peer = rustix::net::sockopt::socket_peercred(&stream)?.uid;
    if !peer.is_root() && peer != rustix::process::geteuid() {
        return stream.write_all(format!("{REFUSED}this is another user's mount").as_bytes());
    }
    let (message, mut descriptors) = channel::receive(stream.as_fd())?;
    let (namespace, program) = (descriptors.pop(), descriptors.pop());
    let (true, Some(namespace), Some(program)) = (message == UPGRADE, namespace, program) else {
        return stream.write_all(format!("{REFUSED}this is no upgrade").as_bytes());
    };
    // The socket's name is known to whoever shares our network, a container's superuser among them.
    if !guard.namespace().is(&namespace)? {
        let why = "whoever asks is in another name space of mounts";
        return stream.write_all(format!("{REFUSED}{why}").as_bytes());
    }
    drop(namespace);
    let mut heard = stream.try_clone()?;
    let tell = move |pid| {
        // Whoever asked may have lost patience. The new one serves all the same.
        heard.write_all(format!("{DONE}{pid}").as_bytes()).unwrap_or_default();
    };
    let Err(err) = guard.make_room(program, tell);
    stream.write_all(format!("{REFUSED}{err}").as_bytes())?;
    Err(err)
}
