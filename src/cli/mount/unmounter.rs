//! Who unmounts, once the server has given up the right to? A process beside it that does nothing else.
//!
//! It waits for words on its standard input, a socket, and ends with the last one who could say them: the server that started
//! it, or a successor. A word names the file system, for by then something else could be mounted there.

use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::OnceLock;

use nix::sys::signal::SigSet;
use rustix::thread::CapabilitySet;

use crate::cli::{Failure, Outcome};
use crate::confine::{Confinement, Network, quit_privileges_but};
use crate::fuse::session::Stopper;
use crate::fuse::{mount, mountinfo};

/// What it says when it has unmounted.
const DONE: &str = "done";
/// What there is to say when it cannot.
const ENDED: &str = "the process that unmounts has ended; umount does it";

/// How a mount is ended: by that process, or by this one where it kept the right to.
#[derive(Debug)]
pub(super) struct Stop {
    stopper: Stopper,
    /// The way to it.
    unmounter: OnceLock<UnixStream>,
}

impl Stop {
    /// With the way to that process, where somebody before has started one.
    pub(super) fn new(stopper: Stopper, unmounter: Option<OwnedFd>) -> Self {
        let unmounter = unmounter.map_or_else(OnceLock::new, |it| UnixStream::from(it).into());
        Stop { stopper, unmounter }
    }

    /// Gives up everything that serving does not need, but the right to unmount only where somebody else has it.
    pub(super) fn confine(&self, image: &Path, network: Network) {
        match start(image, self.stopper.mountpoint()) {
            Ok(unmounter) => self.unmounter.get_or_init(|| unmounter),
            Err(err) => {
                tracing::warn!("the server is not confined: no process that unmounts: {err}");
                return;
            }
        };
        for fault in Confinement::prepare(network).close() {
            tracing::warn!("the server is not as confined as it should be: {fault}");
        }
    }

    /// The way to that process, for a successor: it has no right to start one of its own.
    pub(super) fn unmounter(&self) -> io::Result<Option<OwnedFd>> {
        self.unmounter.get().map(|it| it.as_fd().try_clone_to_owned()).transpose()
    }

    /// Unmounts.
    pub(super) fn stop(&self) -> io::Result<()> {
        let Some(mut unmounter) = self.unmounter.get() else { return self.stopper.stop() };
        let ended = |err: io::Error| match err.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => io::Error::other(ENDED),
            _ => err,
        };
        let asker = std::process::id();
        unmounter
            .write_all(format!("{asker} {}\n", self.stopper.device()).as_bytes())
            .map_err(ended)?;
        for answer in BufReader::new(unmounter).lines() {
            let answer = answer.map_err(ended)?;
            // A server before may have died before it read the answer to its own word.
            match answer.split_once(' ').filter(|(whose, _)| *whose == asker.to_string()) {
                None => {}
                Some((_, DONE)) => return Ok(()),
                Some((_, why)) => return Err(io::Error::other(why.to_owned())),
            }
        }
        Err(io::Error::other(ENDED))
    }
}

/// Starts the process for a mount. Returns the way to it.
fn start(image: &Path, mountpoint: &Path) -> io::Result<UnixStream> {
    let (ours, theirs) = UnixStream::pair()?;
    Command::new("/proc/self/exe")
        .arg0("ashlar")
        .args(["mount", "--unmounter", "--"].map(OsStr::new))
        .args([image, mountpoint])
        .current_dir("/")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // ^C is for the server.
        .process_group(0)
        .spawn()?;
    Ok(ours)
}

/// The life of that process.
pub(super) fn run(mountpoint: &Path) -> Outcome {
    let wrap = |err: io::Error| Failure::new(format!("cannot hear the server: {err}"));
    // Started through /proc/self/exe, it would be called `exe`.
    rustix::thread::set_name(c"ashlar-umount").unwrap_or_default();
    // Whoever ends everything around the server ends the server, too.
    SigSet::all()
        .thread_block()
        .map_err(|err| Failure::new(format!("cannot block signals: {err}")))?;
    // To unmount, below directories that are closed to others. Of an ordinary user there is nothing to be taken.
    quit_privileges_but(CapabilitySet::SYS_ADMIN | CapabilitySet::DAC_READ_SEARCH);
    let mut server = UnixStream::from(io::stdin().as_fd().try_clone_to_owned().map_err(wrap)?);
    let words = BufReader::new(server.try_clone().map_err(wrap)?);
    for word in words.lines() {
        let word = word.map_err(wrap)?;
        let (asker, device) = word.split_once(' ').unwrap_or_default();
        let answer = match unmount(mountpoint, device) {
            Ok(()) => DONE.to_owned(),
            Err(err) => err.to_string().replace('\n', " "),
        };
        // Who asked may be gone, and somebody else ask later.
        server.write_all(format!("{asker} {answer}\n").as_bytes()).map_err(wrap)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn unmount(mountpoint: &Path, device: &str) -> io::Result<()> {
    // It may be gone meanwhile, and another be there.
    if mountinfo::place(mountpoint)?.device.to_string() != device {
        return Ok(());
    }
    mount::unmount(mountpoint)
}
