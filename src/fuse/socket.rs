//! How is the server of a mount found? By an abstract name, made of the mount's device number.
//!
//! Names of sockets are free for all: whoever connects makes sure that the user whose mount it is answers, and a successor waits
//! until the server before lets go of the name.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::thread;
use std::time::Duration;

use super::mountinfo::Device;

/// How often a successor tries to have a name, and how long it waits in between: longer than a server takes to leave.
const BIND_ATTEMPTS: u32 = 2400;
const BIND_PAUSE: Duration = Duration::from_millis(50);

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

/// Waits until nobody has the name any more, and takes it. `without` is what there is not, when that fails.
pub fn bind_when_free(address: &SocketAddr, without: &str) -> Option<UnixListener> {
    for _ in 0..BIND_ATTEMPTS {
        match UnixListener::bind_addr(address) {
            Ok(listener) => return Some(listener),
            Err(err) if err.kind() == io::ErrorKind::AddrInUse => thread::sleep(BIND_PAUSE),
            Err(err) => {
                tracing::warn!("{without}: {err}");
                return None;
            }
        }
    }
    tracing::warn!("{without}: somebody else has the name of its socket");
    None
}
