//! What does `-o` mean? The words of mount(8) and our own.

use std::path::PathBuf;

use rustix::mount::MountFlags;
use tracing::level_filters::LevelFilter;

use crate::cli::{Failure, ReadMethod, TrustArgs};
use crate::heal::corruption::OnCorruption;

/// What the options say.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a word of its own")]
pub(super) struct MountOptions {
    /// Called by mount(8).
    pub(super) helper: bool,
    pub(super) flags: MountFlags,
    pub(super) allow_other: bool,
    pub(super) cache_bytes: Option<u64>,
    pub(super) workers: Option<usize>,
    pub(super) readahead_kb: Option<u32>,
    pub(super) method: ReadMethod,
    pub(super) digest_xattr: bool,
    pub(super) log: LevelFilter,
    /// Whether a second process keeps the server alive; where nothing is said, for those that nobody else watches.
    pub(super) takeover: Option<bool>,
    pub(super) watchdog_secs: u64,
    pub(super) io_timeout_secs: u64,
    pub(super) on_corruption: OnCorruption,
    /// Images, or directories of images.
    pub(super) heal_from: Vec<PathBuf>,
    /// An image on a server.
    pub(super) heal_url: Option<String>,
    /// Whether the server gives up what it does not need.
    pub(super) confine: bool,
}

impl Default for MountOptions {
    fn default() -> Self {
        MountOptions {
            helper: false,
            flags: MountFlags::empty(),
            allow_other: false,
            cache_bytes: None,
            workers: None,
            readahead_kb: None,
            method: ReadMethod::Pread,
            digest_xattr: false,
            log: LevelFilter::INFO,
            takeover: None,
            watchdog_secs: WATCHDOG_SECS,
            io_timeout_secs: 0,
            on_corruption: OnCorruption::default(),
            heal_from: Vec::new(),
            heal_url: None,
            confine: true,
        }
    }
}

/// Where to look when an option is not understood.
const HINT: &str = "`ashlar mount --help` lists the options";

/// Most threads that answer the kernel.
const WORKERS_MAX: usize = 64;
/// How long a server may not answer before it is replaced, in seconds: longer than a disk takes to give up on a sector.
const WATCHDOG_SECS: u64 = 120;
/// The longest time that may be asked for, in seconds.
const SECS_MAX: u64 = 24 * 3600;
/// Longest read-ahead in KiB: more than 1 MiB is cut into pieces by the kernel anyway.
const READAHEAD_KB_MAX: u32 = 16 * 1024;

/// Options that are for mount(8), systemd and others who read fstab, or that mean nothing where nothing is written.
const IGNORED: [&str; 25] = [
    "defaults",
    "auto",
    "noauto",
    "user",
    "nouser",
    "users",
    "owner",
    "group",
    "_netdev",
    "nofail",
    "suid",
    "dev",
    "exec",
    "atime",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
    "lazytime",
    "nolazytime",
    "sync",
    "async",
    "dirsync",
    "symfollow",
    "silent",
];

/// The same, of those that carry a value or a suffix.
const IGNORED_PREFIXES: [&str; 6] = ["x-", "X-", "comment=", "user=", "uhelper=", "helper="];

/// Options that are bits of `mount(2)`.
const FLAGS: [(&str, MountFlags); 6] = [
    ("nosuid", MountFlags::NOSUID),
    ("nodev", MountFlags::NODEV),
    ("noexec", MountFlags::NOEXEC),
    ("noatime", MountFlags::NOATIME),
    ("nodiratime", MountFlags::NODIRATIME),
    ("nosymfollow", MountFlags::NOSYMFOLLOW),
];

impl MountOptions {
    /// Takes the options in a text. Where they say what to trust, it goes to `trust`.
    pub(super) fn parse(
        &mut self,
        text: &str,
        trust: &mut TrustArgs,
        sloppy: bool,
    ) -> Result<(), Failure> {
        for option in split(text) {
            self.take(&option, trust, sloppy)?;
        }
        Ok(())
    }

    fn take(&mut self, option: &str, trust: &mut TrustArgs, sloppy: bool) -> Result<(), Failure> {
        if let Some((_, flag)) = FLAGS.iter().find(|(word, _)| *word == option) {
            self.flags |= *flag;
            return Ok(());
        }
        let ignored = IGNORED.contains(&option)
            || IGNORED_PREFIXES.iter().any(|prefix| option.starts_with(prefix));
        let (word, value) = option.split_once('=').unzip();
        let word = word.unwrap_or(option);
        match (word, value) {
            ("" | "ro", None) => {}
            // mount(8) says "rw" for everyone who did not say "ro".
            ("rw", None) if self.helper => {}
            ("rw", None) => {
                return Err(Failure::new("option rw: an image cannot be written to").hint(
                    "leave it out; for a writable tree put an overlay on the mounted image",
                ));
            }
            ("allow_other", None) => self.allow_other = true,
            ("noconfine", None) => self.confine = false,
            ("digest_xattr", None) => self.digest_xattr = true,
            ("takeover", None) => self.takeover = Some(true),
            ("notakeover", None) => self.takeover = Some(false),
            ("watchdog", Some(value)) => {
                self.watchdog_secs = number(option, value, 0, SECS_MAX)?;
            }
            ("io_timeout", Some(value)) => {
                self.io_timeout_secs = number(option, value, 0, SECS_MAX)?;
            }
            ("root_digest", Some(value)) => {
                let digest = value.parse().map_err(|err| wrong(option, &err))?;
                if trust.root_digest.is_some_and(|before| before != digest) {
                    return Err(Failure::new("two different root digests were given"));
                }
                trust.root_digest = Some(digest);
            }
            ("key", Some(value)) => trust.key.push(PathBuf::from(value)),
            ("signature", Some(value)) => trust.signature.push(PathBuf::from(value)),
            ("cachesize", Some(value)) => {
                let bytes = size(value);
                let wanted = "a number of bytes, or of K, M or G";
                self.cache_bytes = Some(bytes.ok_or_else(|| wrong(option, &wanted))?);
            }
            ("workers", Some(value)) => {
                self.workers = Some(number(option, value, 1, WORKERS_MAX)?);
            }
            ("readahead", Some(value)) => {
                self.readahead_kb = Some(number(option, value, 0, READAHEAD_KB_MAX)?);
            }
            ("method", Some(value)) => {
                self.method = clap::ValueEnum::from_str(value, false)
                    .map_err(|_| wrong(option, &"auto, mmap or pread"))?;
            }
            ("on_corruption", Some(value)) => {
                self.on_corruption = value.parse().map_err(|err: String| wrong(option, &err))?;
            }
            ("heal_from", Some(value)) => self.heal_from.push(PathBuf::from(value)),
            ("heal_url", Some(value)) => self.heal_url = Some(value.to_owned()),
            ("log", Some(value)) => {
                let level = value.parse();
                self.log = level.map_err(|_| wrong(option, &"error, warn, info or debug"))?;
            }
            _ if ignored || sloppy => {}
            _ => {
                return Err(Failure::new(format!("unknown mount option `{option}`")).hint(HINT));
            }
        }
        Ok(())
    }
}

fn wrong(option: &str, wanted: &dyn std::fmt::Display) -> Failure {
    Failure::new(format!("mount option `{option}`: {wanted}")).hint(HINT)
}

fn number<N>(option: &str, value: &str, min: N, max: N) -> Result<N, Failure>
where
    N: std::str::FromStr + PartialOrd + std::fmt::Display + Copy,
{
    let number = value.parse().ok().filter(|number| (min..=max).contains(number));
    number.ok_or_else(|| wrong(option, &format!("a number from {min} to {max}")))
}

/// `64M` and the like, in bytes; units are powers of 1024.
fn size(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit: u64 = match text.get(digits.len()..)? {
        "" => 1,
        "k" | "K" | "KiB" => 1 << 10,
        "m" | "M" | "MiB" => 1 << 20,
        "g" | "G" | "GiB" => 1 << 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

/// Options are separated by commas; a backslash takes a comma's meaning away.
fn split(text: &str) -> Vec<String> {
    let mut options = vec![String::new()];
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match (c, options.last_mut()) {
            (',', _) => options.push(String::new()),
            ('\\', Some(option)) if chars.peek() == Some(&',') => option.extend(chars.next()),
            (c, Some(option)) => option.push(c),
            (_, None) => {}
        }
    }
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<(MountOptions, TrustArgs), String> {
        let mut options = MountOptions::default();
        let mut trust = TrustArgs { root_digest: None, key: Vec::new(), signature: Vec::new() };
        options.parse(text, &mut trust, false).map_err(|failure| failure.message)?;
        Ok((options, trust))
    }

    #[test]
    fn words_of_fstab() {
        let (options, _) = parse("defaults,ro,nosuid,x-systemd.automount,_netdev,noauto,").unwrap();
        assert_eq!(options.flags, MountFlags::NOSUID);
    }

    #[test]
    fn our_own_words() {
        let digest = "0f".repeat(32);
        let text = format!(
            "root_digest={digest},key=a\\,b,cachesize=64M,workers=2,method=pread,log=debug,\
             on_corruption=eio,heal_from=/a,heal_from=/b\\,c,heal_url=http://x/?a=b"
        );
        let (options, trust) = parse(&text).unwrap();
        assert_eq!(trust.root_digest.unwrap().to_string(), digest);
        assert_eq!(trust.key, [PathBuf::from("a,b")]);
        assert_eq!(options.cache_bytes, Some(64 << 20));
        assert_eq!(options.workers, Some(2));
        assert!(matches!(options.method, ReadMethod::Pread));
        assert_eq!(options.on_corruption, OnCorruption::Eio);
        assert_eq!(options.heal_from, [PathBuf::from("/a"), PathBuf::from("/b,c")]);
        assert_eq!(options.heal_url.unwrap(), "http://x/?a=b");
        assert!(options.confine && !parse("noconfine").unwrap().0.confine);
    }

    #[test]
    fn wrong_words() {
        assert!(parse("rw").unwrap_err().contains("cannot be written"));
        assert!(parse("ro,frobnicate").unwrap_err().contains("`frobnicate`"));
        assert!(parse("workers=0").unwrap_err().contains("from 1 to 64"));
        assert!(parse("cachesize=1T").unwrap_err().contains("cachesize=1T"));
        assert!(parse("cachesize=99999999999999999999").is_err());
        assert!(parse("root_digest=12").is_err());
        assert!(parse("on_corruption=ignore").unwrap_err().contains("eio, heal, restart, panic"));
        let two = format!("root_digest={},root_digest={}", "00".repeat(32), "11".repeat(32));
        assert!(parse(&two).unwrap_err().contains("two different"));
    }
}
