//! Where do the server's own words go? To standard error while someone is looking, to the system's log otherwise.

use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::sync::{Mutex, PoisonError};

use tracing::level_filters::LevelFilter;
use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

/// Where syslogd and journald listen.
const SOCKET: &str = "/dev/log";
/// The facility "system daemons" (RFC 3164), shifted to where it stands in a priority.
const FACILITY: u8 = 3 << 3;

/// Starts logging to standard error.
pub(super) fn to_stderr(level: LevelFilter) {
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_target(false)
        .without_time()
        .with_writer(io::stderr);
    ignore_second(subscriber.try_init());
}

/// Starts logging to the system's log.
pub(super) fn to_syslog(level: LevelFilter) {
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_target(false)
        .with_level(false)
        .with_ansi(false)
        .without_time()
        .with_writer(Syslog::default());
    ignore_second(subscriber.try_init());
}

/// Whoever set the logging up first has it: a program that runs this command as a library.
fn ignore_second<E>(result: Result<(), E>) {
    drop(result);
}

/// The system's log. Nothing ever waits for it: the one who reads it may be waiting for us.
#[derive(Debug, Default)]
struct Syslog(Mutex<Option<UnixDatagram>>);

impl Syslog {
    /// Sends a line. It is lost when the log is full or not there.
    fn send(&self, line: &[u8]) {
        let mut socket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if socket.as_ref().is_some_and(|socket| match socket.send(line) {
            Ok(_) => true,
            Err(err) => err.kind() == io::ErrorKind::WouldBlock,
        }) {
            return;
        }
        // Not connected yet, or the log was restarted.
        *socket = connect().ok();
        if let Some(connected) = socket.as_ref()
            && connected.send(line).is_err()
        {
            *socket = None;
        }
    }
}

fn connect() -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.connect(SOCKET)?;
    Ok(socket)
}

/// One line under way.
struct Line<'a> {
    log: &'a Syslog,
    bytes: Vec<u8>,
}

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        self.log.send(self.bytes.trim_ascii_end());
    }
}

impl<'a> MakeWriter<'a> for Syslog {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line { log: self, bytes: head(Level::INFO) }
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> Line<'a> {
        Line { log: self, bytes: head(*metadata.level()) }
    }
}

/// Priority and name, as RFC 3164 has them. The time is the receiver's to add.
fn head(level: Level) -> Vec<u8> {
    let severity = match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    };
    format!("<{}>ashlar[{}]: ", FACILITY | severity, std::process::id()).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_priority_is_facility_and_severity() {
        let head = String::from_utf8(head(Level::WARN)).unwrap();
        assert_eq!(head, format!("<28>ashlar[{}]: ", std::process::id()));
    }
}
