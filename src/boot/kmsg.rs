//! Who hears us before there is a system? The kernel's log, which the journal takes over later.

use std::fs::File;
use std::io::{self, Write};

use tracing::level_filters::LevelFilter;
use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

/// The kernel's log, for writing; each write is one line.
const DEVICE: &str = "/dev/kmsg";
/// Longest line that the kernel takes (`LOG_LINE_MAX` of printk), in bytes.
const LINE_LEN_MAX: usize = 976;

/// Starts logging to the kernel's log, and what is worth a warning to standard error as well when `aloud`. Without
/// that device, everything goes to standard error.
///
/// The device is opened here and never again, for the way to it may later lead through our own mount.
pub fn start(level: LevelFilter, aloud: bool) {
    start_on(open(), level, aloud);
}

/// The device, where there is one.
pub fn open() -> Option<File> {
    File::options().write(true).open(DEVICE).ok()
}

/// The same to a device that is open.
pub fn start_on(device: Option<File>, level: LevelFilter, aloud: bool) {
    let aloud = aloud || device.is_none();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_target(false)
        .with_level(false)
        .with_ansi(false)
        .without_time()
        .with_writer(Log { device, aloud });
    // Whoever set the logging up first has it.
    drop(subscriber.try_init());
}

/// The log.
#[derive(Debug)]
struct Log {
    device: Option<File>,
    aloud: bool,
}

/// A line on its way.
#[derive(Debug)]
struct Line<'a> {
    log: &'a Log,
    level: Level,
    text: Vec<u8>,
}

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        let text = self.text.trim_ascii_end();
        if let Some(mut device) = self.log.device.as_ref() {
            // Where nobody listens there is nobody to tell so.
            device.write_all(&record(self.level, text)).unwrap_or_default();
        }
        if self.log.aloud && (self.level <= Level::WARN || self.log.device.is_none()) {
            let line = [b"ashlar: ", text, b"\n"].concat();
            io::stderr().write_all(&line).unwrap_or_default();
        }
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line { log: self, level: Level::INFO, text: Vec::new() }
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> Line<'a> {
        Line { log: self, level: *metadata.level(), text: Vec::new() }
    }
}

/// A line as the kernel takes it: its priority, and at most so many bytes.
fn record(level: Level, text: &[u8]) -> Vec<u8> {
    let priority = match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    };
    let mut line = format!("<{priority}>ashlar: ").into_bytes();
    line.extend_from_slice(text);
    line.truncate(LINE_LEN_MAX);
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_has_a_priority_and_an_end() {
        assert_eq!(record(Level::WARN, b"x"), b"<4>ashlar: x");
        assert_eq!(record(Level::ERROR, &[b'x'; 5000]).len(), LINE_LEN_MAX);
    }
}
