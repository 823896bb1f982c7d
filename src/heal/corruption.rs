//! What is done about bytes that nobody has any more? An error for whoever asks; or, where that is worse than no machine at all, the
//! machine ends.

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};

/// What is done about bytes that are not what was sealed, in the words of veritysetup(8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum OnCorruption {
    /// Whoever asks gets an error (EIO); no other copy is looked for.
    Eio,
    /// Other copies are looked for. Where there is none, whoever asks gets an error.
    #[default]
    Heal,
    /// The same, but instead of an error the machine restarts.
    Restart,
    /// The same, but the kernel panics.
    Panic,
}

impl OnCorruption {
    const WORDS: [(OnCorruption, &'static str); 4] = [
        (OnCorruption::Eio, "eio"),
        (OnCorruption::Heal, "heal"),
        (OnCorruption::Restart, "restart"),
        (OnCorruption::Panic, "panic"),
    ];

    /// Whether other copies are looked for.
    pub fn heals(self) -> bool {
        self != OnCorruption::Eio
    }

    /// Whether the machine may end.
    pub fn ends_machine(self) -> bool {
        matches!(self, OnCorruption::Restart | OnCorruption::Panic)
    }
}

impl FromStr for OnCorruption {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = OnCorruption::WORDS.iter().find(|(_, word)| *word == text);
        found.map(|(how, _)| *how).ok_or_else(|| "not one of eio, heal, restart, panic".to_owned())
    }
}

impl fmt::Display for OnCorruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = OnCorruption::WORDS.iter().find(|(how, _)| how == self);
        f.write_str(found.map_or("?", |(_, word)| word))
    }
}

/// What is done when bytes that somebody asked for are lost.
#[derive(Clone)]
pub struct LastResort {
    act: Arc<dyn Fn(&str) + Send + Sync>,
    way_out: Option<Arc<WayOut>>,
}

impl LastResort {
    /// It is called with what is wrong, and need not return.
    pub fn new(act: impl Fn(&str) + Send + Sync + 'static) -> Self {
        LastResort { act: Arc::new(act), way_out: None }
    }

    /// The end of the machine.
    pub(super) fn ending(how: OnCorruption, way_out: WayOut) -> Self {
        let way_out = Arc::new(way_out);
        let theirs = Arc::clone(&way_out);
        LastResort { act: Arc::new(move |why| theirs.take(how, why)), way_out: Some(way_out) }
    }

    /// What it needs, if it is the end of the machine.
    pub(super) fn way_out(&self) -> Option<&WayOut> {
        self.way_out.as_deref()
    }

    /// Does it.
    pub fn take(&self, why: &str) {
        (self.act)(why);
    }
}

impl fmt::Debug for LastResort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LastResort")
    }
}

/// The kernel's log.
const KMSG: &str = "/dev/kmsg";
/// What is written here, the kernel does at once (`sysrq.rst`): `c` is a panic, `b` a restart. Whoever has it open may, so that a
/// confined server can; reboot(2) takes a capability.
const SYSRQ: &str = "/proc/sysrq-trigger";
const CRASH: &[u8] = b"c";
const RESTART: &[u8] = b"b";

/// What ends a machine, opened as long as there are paths.
#[derive(Debug)]
pub(super) struct WayOut {
    /// The kernel's log.
    pub(super) kmsg: Option<File>,
    /// Where a panic or a restart is asked for.
    pub(super) sysrq: Option<File>,
    /// Whether it was tried: where it cannot be done, it is said once.
    is_taken: AtomicBool,
}

impl WayOut {
    pub(super) fn new(kmsg: Option<File>, sysrq: Option<File>) -> Self {
        WayOut { kmsg, sysrq, is_taken: AtomicBool::new(false) }
    }

    fn take(&self, how: OnCorruption, why: &str) {
        if self.is_taken.swap(true, Ordering::Relaxed) {
            return;
        }
        // Of the highest priority, and not through anybody who may be waiting for us.
        let line = format!("<0>ashlar: {why}: {} (on-corruption={how})\n", doing(how));
        if let Some(mut kmsg) = self.kmsg.as_ref() {
            kmsg.write_all(line.as_bytes()).unwrap_or_default();
        }
        // Nothing is written back first: what waits for this image would be waited for.
        let word = if how == OnCorruption::Panic { CRASH } else { RESTART };
        let ended = self.sysrq.as_ref().map(|mut sysrq| sysrq.write_all(word));
        tracing::error!("the machine does not end: {ended:?}");
    }
}

/// The way to end the machine, if that is wanted.
pub fn last_resort(how: OnCorruption) -> io::Result<Option<LastResort>> {
    if !how.ends_machine() {
        return Ok(None);
    }
    let open = |path| File::options().write(true).open(path);
    let sysrq = open(SYSRQ)?;
    Ok(Some(LastResort::ending(how, WayOut::new(open(KMSG).ok(), Some(sysrq)))))
}

fn doing(how: OnCorruption) -> &'static str {
    match how {
        OnCorruption::Panic => "the kernel panics",
        _ => "the machine restarts",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_come_back_as_they_went_in() {
        for (how, word) in OnCorruption::WORDS {
            assert_eq!((word.parse(), how.to_string()), (Ok(how), word.to_owned()));
            assert_eq!(how.ends_machine(), word == "restart" || word == "panic");
            assert_eq!(how.heals(), word != "eio");
            // Asking for nothing opens nothing.
            assert!(how.ends_machine() || last_resort(how).unwrap().is_none());
        }
        assert!("ignore".parse::<OnCorruption>().is_err());
    }
}
