//! How is the server of a mount found? By an abstract name, made of the mount's device number.
//!
//! Names of sockets are free for all: whoever connects makes sure that the user whose mount it is answers, and a server waits
//! until whoever has the name lets go of it, mostly the server before.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use super::mountinfo::Device;

/// How often it is tried to have a name, and how long it is waited in between: longer in all than a server takes to leave.
const BIND_ATTEMPTS: u32 = 2400;
const BIND_PAUSE: Duration = Duration::from_millis(50);
/// How long it is waited in between from then on: whoever has the name must not have it for good by being there first.
const BIND_PAUSE_LATER: Duration = Duration::from_secs(30);

/// How long nobody is listened to when somebody came for whom there was no descriptor.
const SHORTAGE: Duration = Duration::from_millis(100);

/// The address of the server of a mount; `purpose` is empty, or what is asked there.
pub fn address(device: Device, purpose: &str) -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(format!("ashlar/{device}{purpose}"))
}

/// Connects to a server, which must be the superuser's or that of the user who mounted.
pub fn connect(address: &SocketAddr, user_id: Option<u32>) -> io::Result<UnixStream> {
    let stream = UnixStream::connect_addr(address)?;
    let peer = rustix::net::sockopt::socket_peercred(&stream)?.uid.as_raw();
    if peer != 0 && Some(peer) != user_id {
        return Err(io::Error::other(format!("user {peer} answers for a mount of another user")));
    }
    Ok(stream)
}

/// Who connects, one after the other. An error is followed by a pause: the next one would come at once.
pub fn visitors(listener: &UnixListener) -> impl Iterator<Item = io::Result<UnixStream>> + '_ {
    listener.incoming().inspect(|stream| {
        if stream.is_err() {
            thread::sleep(SHORTAGE);
        }
    })
}

/// Waits until nobody has the name any more, and takes it; `None` when `over` is said before, or the other end of it is dropped.
/// `without` is what there is not until then.
pub fn bind_when_free(
    address: &SocketAddr,
    over: &Receiver<()>,
    without: &str,
) -> Option<UnixListener> {
    let mut attempts = 0_u32;
    loop {
        match UnixListener::bind_addr(address) {
            Ok(listener) => return Some(listener),
            Err(err) if err.kind() == io::ErrorKind::AddrInUse => {}
            Err(err) => {
                tracing::warn!("{without}: {err}");
                return None;
            }
        }
        attempts = attempts.saturating_add(1);
        if attempts == BIND_ATTEMPTS {
            tracing::warn!("{without} while somebody else has the name of its socket");
        }
        let pause = if attempts < BIND_ATTEMPTS { BIND_PAUSE } else { BIND_PAUSE_LATER };
        if over.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    fn taken(purpose: &str) -> (SocketAddr, UnixListener) {
        let name = format!("ashlar/test/{}/{purpose}", std::process::id());
        let address = SocketAddr::from_abstract_name(name).unwrap();
        let listener = UnixListener::bind_addr(&address).unwrap();
        (address, listener)
    }

    #[test]
    fn a_name_is_had_when_it_is_free() {
        let (address, other) = taken("free");
        let (_goes_on, over) = mpsc::channel();
        thread::scope(|scope| {
            let address = &address;
            let ours = scope.spawn(move || bind_when_free(address, &over, "nothing"));
            thread::sleep(Duration::from_millis(300));
            assert!(!ours.is_finished());
            drop(other);
            assert!(ours.join().unwrap().is_some());
        });
    }

    #[test]
    fn nobody_waits_for_a_name_when_it_is_over() {
        let (address, _other) = taken("over");
        let (goes_on, over) = mpsc::channel();
        let waiting = thread::spawn(move || bind_when_free(&address, &over, "nothing").is_some());
        thread::sleep(Duration::from_millis(100));
        assert!(!waiting.is_finished());
        drop(goes_on);
        assert!(!waiting.join().unwrap());
    }
}
