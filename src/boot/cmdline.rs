//! What does the kernel command line ask for?
//!
//! It is cut as the kernel cuts it: at white space, which double quotes protect; there are no escapes, the last one of a
//! word wins, and what is behind `--` is for the first program.

use std::fmt;

use super::config::{Config, list};
use crate::format::digest::Digest;

/// Which image is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Wanted {
    /// Whatever the data partition holds: `ashlar`.
    #[default]
    Any,
    /// The one with this name: `ashlar=NAME`.
    Name(String),
    /// The one with this root digest: `ashlar=DIGEST`.
    Digest(Digest),
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Wanted::Any => Ok(()),
            Wanted::Name(name) => f.write_str(name),
            Wanted::Digest(digest) => digest.fmt(f),
        }
    }
}

/// Which of several images is asked for, counted from the one that would be booted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Slot {
    /// The usual one.
    #[default]
    Current,
    /// The one before it.
    Previous,
    /// One that was put in place and not booted yet.
    Next,
}

/// Where a shell is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Break {
    /// Before anything is done.
    Setup,
    /// When the root is ready.
    Switch,
}

/// What the kernel command line says to us.
#[derive(Debug, Clone, Default, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a word of its own")]
pub struct BootArgs {
    /// The image.
    pub wanted: Wanted,
    /// Whether an image that nothing vouches for may be booted: `ashlar=?…`.
    pub unauthenticated: bool,
    /// The root digest that the image with the wanted name must have.
    pub root_digest: Option<Digest>,
    /// Public keys, each a line of base64.
    pub keys: Vec<String>,
    /// Which one.
    pub slot: Slot,
    /// Whether another image may be taken when the wanted one fails, where that is said.
    pub fallback: Option<bool>,
    /// What is said about the state.
    pub config: Config,
    /// Whether `ashlar.toml` of the data partition counts.
    pub use_file: bool,
    /// Whether the machine shall forget everything first.
    pub reset: bool,
    /// Whether to write down what is read.
    pub trace: bool,
    /// After so many seconds without an answer of the disk a read fails; 0 for never.
    pub io_timeout_secs: u64,
    /// Whether a second process keeps the server alive.
    pub takeover: bool,
    /// Whether servers keep their privileges: `ashlar.confine=no`.
    pub unconfined: bool,
    /// Where a shell is wanted.
    pub break_at: Option<Break>,
    /// Whether to tell every step.
    pub debug: bool,
    /// The first program, where `init=` names one.
    pub init: Option<String>,
    /// Whether a shell is forbidden when nothing can be booted, because `panic=` says what to do then.
    pub panic: bool,
    /// Traps that are left open, for the tests of their cures (feature `without-cures`).
    pub without: Vec<String>,
    /// What could not be understood; it is told and otherwise ignored.
    pub odd: Vec<String>,
}

/// Why nothing can be booted with this command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadCmdline(String);

impl fmt::Display for BadCmdline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kernel command line: {}", self.0)
    }
}

impl std::error::Error for BadCmdline {}

/// What the kernel was told. What is no text in it is for somebody else.
pub fn read() -> std::io::Result<String> {
    Ok(String::from_utf8_lossy(&std::fs::read("/proc/cmdline")?).into_owned())
}

impl BootArgs {
    /// Reads a command line. Nothing when it does not speak to us: without `ashlar` or `ashlar=…` this is no business of ours.
    ///
    /// What decides over trust must be understood, or there is no boot. Everything else that is not understood is ignored
    /// with a word, for a machine that boots can be repaired.
    pub fn parse(text: &str) -> Result<Option<BootArgs>, BadCmdline> {
        let mut args = BootArgs { use_file: true, takeover: true, ..BootArgs::default() };
        let mut is_ours = false;
        for word in words(text).into_iter().take_while(|word| word != "--") {
            let (name, value) = match word.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (word.as_str(), None),
            };
            match name {
                "ashlar" => {
                    is_ours = true;
                    args.want(value.unwrap_or_default());
                }
                // For 0 too, as initramfs-tools has it: the machine halts then.
                "panic" => args.panic = true,
                "init" => args.init = value.filter(|path| path.starts_with('/')).map(Into::into),
                _ => {
                    if let Some(name) = name.strip_prefix("ashlar.") {
                        args.take(name, value)?;
                    }
                }
            }
        }
        match (&args.wanted, args.root_digest) {
            // Whatever it is called.
            (Wanted::Any, Some(digest)) => args.wanted = Wanted::Digest(digest),
            (Wanted::Digest(one), Some(other)) if *one != other => {
                return Err(BadCmdline(format!("ashlar={one} and ashlar.roothash={other} differ")));
            }
            _ => {}
        }
        Ok(is_ours.then_some(args))
    }

    /// The root digest that nothing but the image itself can have.
    pub fn pinned(&self) -> Option<Digest> {
        match self.wanted {
            Wanted::Digest(digest) => Some(digest),
            Wanted::Any | Wanted::Name(_) => self.root_digest,
        }
    }

    /// Whether another image may be taken when the wanted one fails. One that was named by its digest is meant and no
    /// other, unless somebody says otherwise.
    pub fn may_fall_back(&self) -> bool {
        self.fallback.unwrap_or(self.pinned().is_none())
    }

    fn want(&mut self, value: &str) {
        let (unauthenticated, value) = match value.strip_prefix('?') {
            Some(rest) => (true, rest),
            None => (false, value),
        };
        self.unauthenticated = unauthenticated;
        self.wanted = match value.parse::<Digest>() {
            Ok(digest) => Wanted::Digest(digest),
            Err(_) if value.is_empty() => Wanted::Any,
            Err(_) => Wanted::Name(value.to_owned()),
        };
    }

    fn take(&mut self, name: &str, value: Option<&str>) -> Result<(), BadCmdline> {
        let text = value.unwrap_or_default();
        match name {
            "roothash" => {
                let digest = text
                    .parse()
                    .map_err(|_| BadCmdline(format!("ashlar.roothash={text} is no digest")))?;
                self.root_digest = Some(digest);
            }
            "key" => {
                crate::trust::parse_key(text)
                    .ok_or_else(|| BadCmdline(format!("ashlar.key={text} is no minisign key")))?;
                self.keys.push(text.to_owned());
            }
            "slot" => match text {
                "current" => self.slot = Slot::Current,
                "previous" => self.slot = Slot::Previous,
                "next" => self.slot = Slot::Next,
                _ => self.odd(name, value, "not one of current, previous, next"),
            },
            "fallback" => self.fallback = Some(switch_of_trust(name, value)?),
            "config" => self.use_file = switch_of_trust(name, value)?,
            "reset" => match switch(value) {
                Some(on) => self.reset = on,
                None => self.odd(name, value, SWITCH),
            },
            "trace" => match switch(value) {
                Some(on) => self.trace = on,
                None => self.odd(name, value, SWITCH),
            },
            "io-timeout" => match value.and_then(|value| value.parse().ok()) {
                Some(secs) => self.io_timeout_secs = secs,
                None => self.odd(name, value, "not a number of seconds"),
            },
            "takeover" => match switch(value) {
                Some(on) => self.takeover = on,
                None => self.odd(name, value, SWITCH),
            },
            "confine" => match switch(value) {
                Some(on) => self.unconfined = !on,
                None => self.odd(name, value, SWITCH),
            },
            "debug" => match switch(value) {
                Some(on) => self.debug = on,
                None => self.odd(name, value, SWITCH),
            },
            "break" => match text {
                "" | "setup" => self.break_at = Some(Break::Setup),
                "switch" => self.break_at = Some(Break::Switch),
                _ => self.odd(name, value, "not one of setup, switch"),
            },
            "without" => self.without = list(text),
            _ => {
                if let Err(why) = self.config.set(name, text) {
                    self.odd(name, value, &why);
                }
            }
        }
        Ok(())
    }

    fn odd(&mut self, name: &str, value: Option<&str>, why: &str) {
        let shown = value.map(|value| format!("={value}")).unwrap_or_default();
        self.odd.push(format!("ashlar.{name}{shown} is ignored: {why}"));
    }
}

/// What a switch takes, as systemd has it (`parse_boolean`).
const SWITCH: &str = "not one of 1, yes, on, true, 0, no, off, false";

/// A switch: on when it stands alone.
fn switch(value: Option<&str>) -> Option<bool> {
    match value {
        None | Some("1" | "yes" | "on" | "true") => Some(true),
        Some("0" | "no" | "off" | "false") => Some(false),
        Some(_) => None,
    }
}

/// One that must be understood.
fn switch_of_trust(name: &str, value: Option<&str>) -> Result<bool, BadCmdline> {
    let shown = value.unwrap_or_default();
    switch(value).ok_or_else(|| BadCmdline(format!("ashlar.{name}={shown} is {SWITCH}")))
}

/// The words of a command line. Quotes protect white space and are taken away.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quoted = false;
    for c in text.chars() {
        match c {
            '"' => quoted = !quoted,
            c if c.is_ascii_whitespace() && !quoted => {
                words.extend(Some(std::mem::take(&mut word)).filter(|word| !word.is_empty()));
            }
            c => word.push(c),
        }
    }
    words.extend(Some(word).filter(|word| !word.is_empty()));
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::config::{Etc, Overlay, Var};

    const HEX: &str = "6d9b0c1e6d9b0c1e6d9b0c1e6d9b0c1e6d9b0c1e6d9b0c1e6d9b0c1e6d9b0c1e";

    fn parse(text: &str) -> BootArgs {
        BootArgs::parse(text).unwrap().unwrap()
    }

    #[test]
    fn other_systems_are_left_alone() {
        for text in ["", "root=/dev/sda1 ro quiet", "ashlard=1 xashlar=2", "ashlar.etc=ro"] {
            assert_eq!(BootArgs::parse(text).unwrap(), None, "{text}");
        }
    }

    #[test]
    fn images_are_named_in_each_way() {
        assert_eq!(parse("ashlar").wanted, Wanted::Any);
        assert_eq!(parse("ashlar=").wanted, Wanted::Any);
        assert_eq!(parse("ashlar=a.img").wanted, Wanted::Name("a.img".into()));
        let args = parse(&format!("quiet ashlar=?{HEX} rw"));
        assert_eq!(args.wanted, Wanted::Digest(HEX.parse().unwrap()));
        assert!(args.unauthenticated && args.use_file && !args.may_fall_back());
        // The last one wins, `?` with it.
        let args = parse("ashlar=?a ashlar=b");
        assert_eq!((&args.wanted, args.unauthenticated), (&Wanted::Name("b".into()), false));
        assert!(args.may_fall_back());
        assert!(parse(&format!("ashlar={HEX} ashlar.fallback")).may_fall_back());
        assert!(!parse("ashlar=a ashlar.fallback=no").may_fall_back());
        assert!(!parse(&format!("ashlar=a ashlar.roothash={HEX}")).may_fall_back());
    }

    #[test]
    fn a_trace_is_a_switch() {
        assert_eq!(parse("ashlar ashlar.io-timeout=30").io_timeout_secs, 30);
        assert!(parse("ashlar").takeover && !parse("ashlar ashlar.takeover=no").takeover);
        assert!(parse("ashlar ashlar.trace").trace && parse("ashlar ashlar.trace=on").trace);
        assert!(!parse("ashlar").trace && !parse("ashlar ashlar.trace ashlar.trace=0").trace);
        let odd = parse("ashlar ashlar.trace=/tmp/x");
        assert!(!odd.trace && odd.odd[0].contains("ashlar.trace=/tmp/x"));
    }

    #[test]
    fn a_server_is_confined_unless_that_is_switched_off() {
        assert!(!parse("ashlar").unconfined && !parse("ashlar ashlar.confine").unconfined);
        assert!(parse("ashlar ashlar.confine=no").unconfined);
        let odd = parse("ashlar ashlar.confine=never");
        assert!(!odd.unconfined && odd.odd[0].contains("ashlar.confine=never"));
    }

    #[test]
    fn a_shell_is_forbidden_by_any_panic() {
        assert!(parse("ashlar panic=0").panic && parse("panic=10 ashlar").panic);
        assert!(!parse("ashlar").panic);
    }

    #[test]
    fn the_first_program_is_the_last_one_named() {
        assert_eq!(parse("ashlar init=/a init=/bin/b").init.unwrap(), "/bin/b");
        assert_eq!(parse("ashlar init=relative").init, None);
    }

    #[test]
    fn what_is_for_the_first_program_is_not_for_us() {
        assert_eq!(BootArgs::parse("root=/dev/sda1 -- ashlar").unwrap(), None);
        let args = parse("ashlar=a panic=0 -- ashlar=?b ashlar.fallback=none init=/x");
        assert_eq!((args.wanted, args.unauthenticated), (Wanted::Name("a".into()), false));
        assert_eq!((args.fallback, args.init), (None, None));
        assert_eq!(parse("ashlar=a --debug ashlar=b").wanted, Wanted::Name("b".into()));
    }

    #[test]
    fn quotes_protect_white_space() {
        assert_eq!(words("a  \"b c\"\td=\"e f\"g\n"), ["a", "b c", "d=e fg"]);
        assert_eq!(words("\"open"), ["open"]);
        assert_eq!(parse("\"ashlar=with space\"").wanted, Wanted::Name("with space".into()));
    }

    #[test]
    fn the_state_is_said() {
        let args = parse(
            "ashlar ashlar.overlay=tmpfs:size=1G ashlar.etc=merge ashlar.var=transient panic=10 \
             ashlar.bind=/etc/hostname,/root/.ssh ashlar.slot=previous ashlar.reset ashlar.config=no",
        );
        assert_eq!(args.config.overlay, Some(Overlay::Tmpfs { size: Some("1G".into()) }));
        assert_eq!((args.config.etc, args.config.var), (Some(Etc::Merge), Some(Var::Transient)));
        assert_eq!(args.config.bind.unwrap(), ["/etc/hostname", "/root/.ssh"]);
        assert_eq!(args.slot, Slot::Previous);
        assert!(args.panic && args.reset && !args.use_file);
        assert_eq!(args.odd, [""; 0]);
    }

    #[test]
    fn what_is_not_understood_is_told_and_ignored() {
        let text = "ashlar ashlar.etc=maybe ashlar.colour=blue ashlar.slot=b ashlar.reset=never ashlar.debug=2";
        let args = parse(text);
        assert_eq!(args.odd.len(), 5, "{:?}", args.odd);
        assert_eq!(args.config.etc, None);
        assert!(!args.reset && !args.debug);
    }

    #[test]
    fn what_decides_over_trust_must_be_understood() {
        let other = HEX.replace('6', "7");
        for text in [
            "ashlar ashlar.roothash=123",
            "ashlar ashlar.key=abc",
            "ashlar ashlar.key",
            "ashlar ashlar.config=disabled",
            "ashlar ashlar.fallback=none",
            &format!("ashlar={HEX} ashlar.roothash={other}"),
        ] {
            assert!(BootArgs::parse(text).is_err(), "{text}");
        }
        // A digest is never overlooked.
        let args = parse(&format!("ashlar ashlar.roothash={HEX}"));
        assert_eq!(args.wanted, Wanted::Digest(HEX.parse().unwrap()));
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "(ashlar[.=?a-z,:/\" -]{0,30}|[ -~]{0,40}|\\PC{0,20} ){0,4}") {
            if let Ok(Some(args)) = BootArgs::parse(&text) {
                args.config.modes().write_data();
            }
        }
    }
}
