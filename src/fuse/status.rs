//! What did a mount do so far? The server tells whoever connects to its socket.
//!
//! The socket's name is abstract and made of the mount's device number: it needs no directory, it is there before `/run`
//! is and after `/` was changed, and it vanishes with the server. Whoever asks makes sure that the answer comes from the
//! user whose mount it is. Nothing is told that the mount table does not show already, except counts.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Sender, TryRecvError};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::connection::Connection;
use super::counters::Counters;
use super::mountinfo::{self, Device, FILE_SYSTEM_TYPE};
use super::socket;
use crate::format::field::u64_from_usize;
use crate::fs::Tree;

/// How long either side waits for the other.
const PATIENCE: Duration = Duration::from_secs(5);

/// Most bytes of a report that are read.
const REPORT_LEN_MAX: u64 = 64 * 1024;

/// What a mount did so far. As JSON this is what `ashlar status --json` prints; fields are added, never changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Where it was mounted.
    pub mountpoint: PathBuf,
    /// The image file.
    pub image: PathBuf,
    /// The root digest that everything served was held against, in hex.
    pub root_digest: String,
    /// What vouched for the root digest: `root-digest`, `key`, or `nothing`.
    pub anchor: String,
    /// The image's own version number.
    pub image_version: u64,
    /// The image's label.
    pub label: String,
    /// Whether the first superblock was damaged and its backup serves.
    #[serde(default)]
    pub used_backup: bool,
    /// The server's process, as `server_pid`.
    pub pid: u32,
    /// The server's process.
    #[serde(default)]
    pub server_pid: u32,
    /// The process that replaces the server when it dies; `null` where there is none.
    #[serde(default)]
    pub holder_pid: Option<u32>,
    /// How often a server that had died was replaced.
    #[serde(default)]
    pub takeovers: u64,
    /// When it was mounted, in seconds since 1970-01-01 UTC.
    pub since: u64,
    /// Blocks whose digest was computed and found right.
    pub blocks_verified: u64,
    /// Stored bytes of those blocks.
    pub bytes_verified: u64,
    /// Blocks answered from the server's cache.
    pub cache_hits: u64,
    /// Bytes of expanded blocks in the server's memory now.
    pub cached_bytes: u64,
    /// Blocks that could not be had: unreadable, untrusted or corrupt.
    pub blocks_failed: u64,
    /// How often bytes that were wrong or unreadable were healed, by where they came from: `reread` (past the page cache),
    /// `image` (another one on this machine), `fec` (the image's parity), `server`.
    #[serde(default)]
    pub blocks_healed: BTreeMap<String, u64>,
    /// How many blocks, and pages of the digest table, were wanted and nobody has them.
    #[serde(default)]
    pub blocks_lost: u64,
    /// Questions that were answered with an error for that, or for a fault of the server.
    pub failures: u64,
    /// Questions of the kernel, by kind.
    pub upcalls: BTreeMap<String, u64>,
}

/// Why there is no report.
#[derive(Debug)]
pub enum StatusError {
    /// The path cannot be looked at.
    Path(io::Error),
    /// It is on a file system of another kind.
    NotOurs,
    /// The server does not answer.
    Server(io::Error),
}

/// What a server needs to report.
#[derive(Debug)]
pub(super) struct Reporter {
    pub(super) tree: Arc<Tree>,
    pub(super) counters: Arc<Counters>,
    pub(super) connection: Arc<Connection>,
}

/// A socket that is answered, or will be when its name is free; not any more when this is dropped.
#[derive(Debug)]
pub(super) struct Listening {
    listener: Arc<OnceLock<UnixListener>>,
    /// Whoever waits for the name hears that it is dropped.
    goes_on: Option<Sender<()>>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        // Before the rest: who has the name only just now sees it.
        drop(self.goes_on.take());
        let Some(listener) = self.listener.get() else { return };
        if let Err(err) = rustix::net::shutdown(listener, rustix::net::Shutdown::Both) {
            tracing::debug!("cannot shut the socket of the reports down: {err}");
        }
    }
}

impl Reporter {
    /// Answers in a thread of its own, which does something `first`, until what this returns is dropped; as soon as nobody else
    /// has the name.
    pub(super) fn serve(self, first: fn()) -> io::Result<Listening> {
        let address = socket::address(self.connection.device_number(), "")?;
        let (goes_on, over) = mpsc::channel();
        let listening = Listening { listener: Arc::default(), goes_on: Some(goes_on) };
        let place = Arc::clone(&listening.listener);
        // Not in the thread, where it can be done at once: whoever mounts may ask as soon as it is mounted.
        match UnixListener::bind_addr(&address) {
            Ok(listener) => drop(place.set(listener)),
            Err(err) if err.kind() == io::ErrorKind::AddrInUse => {}
            Err(err) => return Err(err),
        }
        let serve = move || {
            first();
            if place.get().is_none()
                && let Some(listener) =
                    socket::bind_when_free(&address, &over, "no reports of this mount")
            {
                drop(place.set(listener));
            }
            if let Some(listener) = place.get()
                && over.try_recv() == Err(TryRecvError::Empty)
            {
                self.answer_all(listener);
            }
        };
        thread::Builder::new().name("status".to_owned()).spawn(serve)?;
        Ok(listening)
    }

    fn answer_all(&self, listener: &UnixListener) {
        for stream in socket::visitors(listener) {
            // What accept(2) says of a socket that was shut down.
            if stream.as_ref().is_err_and(|err| err.kind() == io::ErrorKind::InvalidInput) {
                return;
            }
            if let Err(err) = stream.and_then(|stream| self.answer(stream)) {
                tracing::debug!("a report was not delivered: {err}");
            }
        }
    }

    fn answer(&self, mut stream: UnixStream) -> io::Result<()> {
        stream.set_write_timeout(Some(PATIENCE))?;
        let report = serde_json::to_vec(&self.status())?;
        stream.write_all(&report)
    }

    fn status(&self) -> Status {
        let store = self.tree.store();
        let blocks = store.counters();
        let superblock = self.tree.superblock();
        let connection = &self.connection;
        let holder = connection.holder.load(Ordering::Relaxed);
        Status {
            mountpoint: connection.mountpoint().to_owned(),
            image: PathBuf::from(OsStr::from_bytes(&connection.facts.source)),
            root_digest: self.tree.root_digest().to_string(),
            anchor: connection.facts.anchor.clone(),
            image_version: superblock.image_version,
            label: superblock.label.clone(),
            used_backup: store.used_backup(),
            pid: std::process::id(),
            server_pid: std::process::id(),
            holder_pid: Some(holder).filter(|pid| *pid != 0),
            takeovers: connection.journal.takeovers(),
            since: connection.journal.since(),
            blocks_verified: blocks.blocks_verified.load(Ordering::Relaxed),
            bytes_verified: blocks.bytes_verified.load(Ordering::Relaxed),
            cache_hits: blocks.cache_hits.load(Ordering::Relaxed),
            cached_bytes: u64_from_usize(store.cached_bytes()),
            blocks_failed: blocks.failures.load(Ordering::Relaxed),
            blocks_healed: store
                .healed()
                .into_iter()
                .map(|(cure, count)| (cure.name().to_owned(), count))
                .collect(),
            blocks_lost: store.lost(),
            failures: self.counters.failures(),
            upcalls: self.counters.upcalls(),
        }
    }
}

/// Asks the server of the mount that `path` is on.
pub fn ask(path: &Path) -> Result<Status, StatusError> {
    let place = mountinfo::place(path).map_err(StatusError::Path)?;
    let mount = mountinfo::find(place.device).map_err(StatusError::Path)?;
    let mount = mount.filter(|mount| mount.file_system_type == FILE_SYSTEM_TYPE);
    let mount = mount.ok_or(StatusError::NotOurs)?;
    let report = fetch(place.device, mount.user_id).map_err(StatusError::Server)?;
    serde_json::from_slice(&report).map_err(|err| StatusError::Server(err.into()))
}

fn fetch(device: Device, user_id: Option<u32>) -> io::Result<Vec<u8>> {
    let stream = socket::connect(&socket::address(device, "")?, user_id)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut report = Vec::new();
    stream.take(REPORT_LEN_MAX).read_to_end(&mut report)?;
    Ok(report)
}

#[cfg(test)]
mod tests {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::SocketAddr;

    use super::*;

    #[test]
    fn a_socket_that_was_shut_down_ends_its_thread() {
        let address = SocketAddr::from_abstract_name(format!("ashlar/test/{}", std::process::id()));
        let address = address.unwrap();
        let listener = Arc::new(OnceLock::from(UnixListener::bind_addr(&address).unwrap()));
        let (goes_on, over) = mpsc::channel();
        let listening = Listening { listener: Arc::clone(&listener), goes_on: Some(goes_on) };
        assert_eq!(over.try_recv(), Err(TryRecvError::Empty));
        let accepting = thread::spawn(move || listener.get().unwrap().accept().map(drop));
        drop(listening);
        let err = accepting.join().unwrap().unwrap_err();
        assert_eq!(err.kind(), io::ErrorKind::InvalidInput);
        assert!(UnixStream::connect_addr(&address).is_err());
        assert_eq!(over.try_recv(), Err(TryRecvError::Disconnected));
    }
}
