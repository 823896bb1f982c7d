//! What may a server still do, once it serves? What answers the kernel, and nothing else.
//!
//! A server reads what an adversary may have written. Every byte is verified before it is used, so this room is for the day on
//! which that had a fault: whoever took the server over then shall have won the server, and not the machine.
//!
//! * No capability, in no thread ([`quit_privileges`]), and none to be had again: the bounding set is empty, and no program
//!   that is started gains anything (`no_new_privs`).
//! * No system call but those of a table (`allowed`): nothing can be opened for writing, no network reached ([`Network`]), no name
//!   space made, nothing mounted, traced or loaded, and no program gains anything by being started.
//!
//! Capabilities belong to threads, and no thread can take those of another. So each thread that answers gives up its own
//! before it does anything else, and what it starts has none from the beginning; the one that mounts is the last to give
//! them up. System calls are forbidden to all threads at once. In the end it is looked at, not believed (`witness`).
//!
//! All of it outlives `execve(2)`, so a program that a confined server starts is as confined. That is why there is one table for
//! the server and for its holder (`takeover`): each starts the other, so what one may do the other can have done. Nor does
//! either need more: what takes a privilege is done by the one that mounts, before, or by a process that does nothing but
//! unmount. It also means that a newer program which is sent to a server (`ashlar upgrade-daemon`) lives with the table of
//! the one that mounted: where it wants a call that is not there, it is told that the kernel does not have it.
//!
//! Landlock is left out: for a mount of somebody's it would forbid the loader of a successor its libraries, and the server of `/`
//! holds directories by which it finds what it may have to heal from. What is left possible by that is told in SECURITY.md.

mod allowed;
mod filter;
mod privileges;
mod witness;

use rustix::thread::CapabilitySet;

use self::witness::Witness;

/// Whether a server may reach other machines. It is handed down with the rest, so successors may as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// It may not.
    Closed,
    /// It may, for what it serves may be fetched from one.
    Open,
}

/// A server that will be confined.
#[derive(Debug)]
pub struct Confinement {
    network: Network,
    witness: Option<Witness>,
    /// Whether there is a bounding set to be emptied: nobody but a superuser may.
    has_bounding_set: bool,
}

impl Confinement {
    /// To be called while `/proc` can be found and the thread still has its privileges.
    pub fn prepare(network: Network) -> Self {
        Confinement {
            network,
            witness: Witness::new().ok(),
            has_bounding_set: privileges::may_drop_bounding_set(),
        }
    }

    /// Takes from this thread what the others have given up at their start, and forbids all of them what no server needs.
    /// Returns what is not as it should be. None of it is a reason not to serve: a kernel that lacks something confines
    /// less.
    pub fn close(self) -> Vec<String> {
        let mut faults = Vec::new();
        quit_privileges();
        if let Err(why) = filter::install(self.network) {
            faults.push(format!("it may call the kernel as it likes: {why}"));
        }
        match self.witness {
            Some(witness) => faults.extend(witness.faults(self.has_bounding_set)),
            None => faults.push("it cannot be seen what its threads may do".to_owned()),
        }
        faults
    }
}

/// Gives up all capabilities of this thread, and of those that it will start.
pub fn quit_privileges() {
    quit_privileges_but(CapabilitySet::empty());
}

/// The same, except for some.
pub fn quit_privileges_but(kept: CapabilitySet) {
    if let Err(err) = privileges::quit(kept) {
        tracing::warn!("a thread could not give up its privileges: {err}");
    }
}
