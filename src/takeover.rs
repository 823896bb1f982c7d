//! What if the server dies? Then another one goes on where it stopped, and nobody notices but for a moment's wait.
//!
//! Two processes have the device through which the kernel asks: the server, which answers, and the holder, which does nothing but
//! watch the server and start another one. The server watches the holder likewise. As long as one of them lives, the mount does;
//! what a dead server left unanswered the kernel asks its successor again. Both start from a copy of the program that nothing
//! can take away, and those of `/` never open a path.
//!
//! Each is started by the other in the same way: with one message that has all there is to know and all descriptors, through
//! a socket that it finds as its standard input. The socket stays, and tells each when the other one is gone.
//!
//! Neither has a privilege, where servers are confined (`confine`), nor needs one: what a process may do is handed down to those
//! that it starts, and each may start the other. So both live with the same filter of system calls, from their first
//! instruction on, and a newer program that is sent to a server lives with the filter of the one that mounted.

mod back_off;
mod channel;
mod guard;
mod holder;
mod inheritance;
mod letter;
mod namespace;
mod peer;
mod program;
mod spawn;
mod successor;
mod upgrade;

pub use guard::Guard;
pub use holder::hold;
pub use inheritance::{Inheritance, Manner};
pub use letter::{Duty, Kit, Letter, Role};
pub use namespace::Namespace;
pub use program::Program;
pub use successor::{Called, called, succeed};
pub use upgrade::{UpgradeError, upgrade};

/// The hidden command by which either process is started.
pub const COMMAND: &str = "succeed";
