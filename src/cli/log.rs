//! Where do the server's own words go? To standard error while someone is looking, to the system's log otherwise.

use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::sync::OnceLock;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{SigSet, SigmaskHow};
use tracing::level_filters::LevelFilter;
use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

/// Where syslogd and journald listen.
const SOCKET: &str = "/dev/log";
/// The facility "system daemons" (RFC 3164), shifted to where it stands in a priority.
const FACILITY: u8 = 3 << 3;
/// Most lines that wait to be sent.
const WAITING_MAX: usize = 256;
/// How long the end waits for the last lines to be sent.
const PATIENCE: Duration = Duration::from_secs(1);

/// The way to the thread that sends, once there is one.
static SENDER: OnceLock<SyncSender<Message>> = OnceLock::new();

/// Starts logging to standard error.
pub(super) fn to_stderr(level: LevelFilter) {
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_target(false)
        .without_time()
        .with_writer(io::stderr);
    ignore_second(subscriber.try_init());
}

/// Starts logging to the system's log, in a thread that does something `first`. It is to be called before anything is
/// mounted, see [`Syslog`].
pub(super) fn to_syslog(level: LevelFilter, first: fn()) -> io::Result<()> {
    // Here, and not by the thread: it is done when this returns.
    log_to(level, Syslog::start(connect().ok(), first)?);
    Ok(())
}

/// The same where something is mounted already, and nobody may serve it yet.
pub(super) fn to_syslog_again(level: LevelFilter) -> io::Result<()> {
    log_to(level, Syslog::start(None, || {})?);
    Ok(())
}

fn log_to(level: LevelFilter, syslog: Syslog) {
    let sender = syslog.0.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_target(false)
        .with_level(false)
        .with_ansi(false)
        .without_time()
        .with_writer(syslog);
    if subscriber.try_init().is_ok() {
        ignore_second(SENDER.set(sender));
    }
}

/// Waits a little for what was logged to be sent; to be called before the process ends.
pub(super) fn flush() {
    let Some(sender) = SENDER.get() else { return };
    let (done, wait) = mpsc::sync_channel(1);
    if sender.try_send(Message::Flush(done)).is_ok() {
        // What is not sent by then is lost, as it is when the log is full.
        wait.recv_timeout(PATIENCE).unwrap_or_default();
    }
}

/// Whoever set the logging up first has it: a program that runs this command as a library.
fn ignore_second<E>(result: Result<(), E>) {
    drop(result);
}

/// What the thread that sends is given.
#[derive(Debug)]
enum Message {
    /// A line.
    Line(Vec<u8>),
    /// Say when everything before this was sent.
    Flush(SyncSender<()>),
}

/// The system's log.
///
/// Nothing ever waits for it: the one who reads it may be waiting for us, and even the way to its socket may lead through
/// our own mount. So a thread that answers no one connects and sends; what it cannot keep up with is lost.
#[derive(Debug)]
struct Syslog(SyncSender<Message>);

impl Syslog {
    fn start(socket: Option<UnixDatagram>, first: fn()) -> io::Result<Syslog> {
        let (sender, receiver) = mpsc::sync_channel(WAITING_MAX);
        // Signals are for another thread; this one starts with none, and so never has one.
        let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
        let started = thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || {
                first();
                send_all(&receiver, socket);
            })
            .map(drop);
        before.thread_set_mask()?;
        started.map(|()| Syslog(sender))
    }
}

fn send_all(messages: &Receiver<Message>, mut socket: Option<UnixDatagram>) {
    for message in messages {
        match message {
            Message::Line(line) => send(&mut socket, &line),
            // Whoever asked may have lost patience.
            Message::Flush(done) => done.try_send(()).unwrap_or_default(),
        }
    }
}

/// Sends a line. It is lost when the log is full or not there.
fn send(socket: &mut Option<UnixDatagram>, line: &[u8]) {
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
        let line = self.bytes.trim_ascii_end().to_vec();
        // Lost when too many wait.
        self.log.0.try_send(Message::Line(line)).unwrap_or_default();
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
    fn nothing_waits_for_a_log_that_is_not_read() {
        let (sender, receiver) = mpsc::sync_channel(1);
        let log = Syslog(sender);
        for line in ["first\n", "second\n"] {
            log.make_writer().write_all(line.as_bytes()).unwrap();
        }
        drop(log);
        let sent: Vec<Message> = receiver.iter().collect();
        assert!(
            matches!(&sent[..], [Message::Line(line)] if line.ends_with(b": first")),
            "{sent:?}"
        );
    }

    #[test]
    fn the_priority_is_facility_and_severity() {
        let head = String::from_utf8(head(Level::WARN)).unwrap();
        assert_eq!(head, format!("<28>ashlar[{}]: ", std::process::id()));
    }
}
