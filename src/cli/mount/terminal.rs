//! Who hears the server? Whoever started it, until the mount answers; then nobody.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use crate::cli::Failure;

/// What the server says when the mount answers.
pub(super) const READY: &[u8] = b"ready\n";

/// The terminal, or whoever else heard us so far.
#[derive(Debug)]
pub(super) struct Listener {
    stdout: OwnedFd,
    stderr: OwnedFd,
}

impl Listener {
    /// Lets go of the standard streams: whatever is started from now on must not have them, or who reads them to their end
    /// would wait for it.
    pub(super) fn leave() -> io::Result<Listener> {
        let listener = Listener {
            stdout: io::stdout().as_fd().try_clone_to_owned()?,
            stderr: io::stderr().as_fd().try_clone_to_owned()?,
        };
        let null = File::options().read(true).write(true).open("/dev/null")?;
        rustix::stdio::dup2_stdin(&null)?;
        rustix::stdio::dup2_stdout(&null)?;
        rustix::stdio::dup2_stderr(&null)?;
        Ok(listener)
    }

    /// Tells the one who started the server that the mount answers; from then on nobody listens here.
    pub(super) fn say_ready(self) -> io::Result<()> {
        let said = rustix::io::retry_on_intr(|| rustix::io::write(&self.stdout, READY));
        said.map(drop).inspect_err(|_| self.come_back()).map_err(Into::into)
    }

    /// Comes back, to say what went wrong.
    pub(super) fn come_back(&self) {
        // Where it cannot, the status still tells.
        rustix::stdio::dup2_stderr(&self.stderr).unwrap_or_default();
    }
}

/// Leaves the terminal and the directory that the command was given in.
pub(super) fn leave() -> Result<(), Failure> {
    let wrap = |err| Failure::new(format!("cannot leave the terminal: {}", io::Error::from(err)));
    // It fails only for the leader of a process group, which has no terminal to leave.
    rustix::process::setsid().map(drop).or_else(|err| match err {
        rustix::io::Errno::PERM => Ok(()),
        _ => Err(wrap(err)),
    })?;
    rustix::process::chdir("/").map_err(wrap)
}
