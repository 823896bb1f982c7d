//! How does a person ask, and what do we say back? Types and help texts here, one file for each command below.
#![expect(clippy::print_stderr, reason = "the command line speaks to a person")]

#[cfg(feature = "boot")]
pub mod boot;
pub mod cat;
pub mod diff;
mod draft;
pub mod dump;
mod elsewhere;
pub mod etc;
pub mod extract;
pub mod inspect;
#[cfg(feature = "sign")]
pub mod key;
pub mod lint;
#[cfg(feature = "fuse")]
mod log;
pub mod ls;
#[cfg(feature = "fuse")]
pub mod mount;
#[cfg(feature = "boot")]
pub mod scrub;
#[cfg(feature = "sign")]
pub mod sign;
#[cfg(feature = "fuse")]
pub mod status;
#[cfg(feature = "fuse")]
mod succeed;
#[cfg(feature = "boot")]
pub mod update;
#[cfg(feature = "fuse")]
pub mod upgrade_daemon;
pub mod verify;

use std::ffi::OsString;
use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::error::Error;
use crate::format::digest::Digest;
use crate::image::Method;
use crate::trust::{self, Anchor};
use crate::{Options, Tree};

/// A verifying, read-only root filesystem served from one image file.
#[derive(Debug, Parser)]
#[command(name = "ashlar", version, arg_required_else_help = true)]
#[command(
    after_help = "Build images with `mkimage SOURCE IMAGE`. Each command has its own --help."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Mount an image; returns once the mount answers
    #[cfg(feature = "fuse")]
    Mount(mount::MountArgs),
    /// Show what a mounted image did so far
    #[cfg(feature = "fuse")]
    Status(status::StatusArgs),
    /// Replace the program that serves a mounted image
    #[cfg(feature = "fuse")]
    UpgradeDaemon(upgrade_daemon::UpgradeDaemonArgs),
    /// Take over a mount, as the letter on standard input says
    #[cfg(feature = "fuse")]
    #[command(hide = true)]
    Succeed,
    /// Make an image the root of this machine
    #[cfg(feature = "boot")]
    Boot(boot::BootArgs),
    /// Install, try, bless and roll back images
    #[cfg(feature = "boot")]
    Update(update::UpdateArgs),
    /// Read all of the running image from the disk, in idle time
    #[cfg(feature = "boot")]
    Scrub(scrub::ScrubArgs),
    /// Show how /etc differs from the image's
    Etc(etc::EtcArgs),
    /// Name what would not boot, or would surprise
    Lint(lint::LintArgs),
    /// Read everything and name what is damaged
    Verify(verify::VerifyArgs),
    /// Show an image's superblock, sizes and signatures
    Inspect(inspect::InspectArgs),
    /// List files of an image
    Ls(ls::LsArgs),
    /// Write a file of an image to standard output
    Cat(cat::CatArgs),
    /// Copy files of an image into a directory
    Extract(extract::ExtractArgs),
    /// Show what differs between two images, and what an update from A to B would download
    Diff(diff::DiffArgs),
    /// Write a line for each file of an image, to be compared or kept
    Dump(dump::DumpArgs),
    /// Make and show signing keys
    #[cfg(feature = "sign")]
    Key(key::KeyArgs),
    /// Sign an image
    #[cfg(feature = "sign")]
    Sign(sign::SignArgs),
}

/// What an image is held against: the same for every command that opens one.
#[derive(Debug, Clone, Args)]
pub struct TrustArgs {
    /// Root digest that the image must have: 64 hexadecimal digits, as `mkimage` printed them
    #[arg(long, value_name = "HEX", conflicts_with = "key")]
    pub root_digest: Option<Digest>,
    /// Public key (minisign) by which the image must be signed; may be given several times
    #[arg(long, value_name = "FILE")]
    pub key: Vec<PathBuf>,
    /// Signature beside the image [default: IMAGE.minisig, where there is one and a key is given]
    #[arg(long, value_name = "FILE", requires = "key")]
    pub signature: Vec<PathBuf>,
}

impl TrustArgs {
    /// Options to open `image` with. Reads key and signature files.
    pub fn options(&self, image: &Path) -> Result<Options, Error> {
        let anchor = match self.root_digest {
            Some(digest) => Anchor::RootDigest(digest),
            None if self.key.is_empty() => Anchor::Unauthenticated,
            None => Anchor::Keys(
                self.key.iter().map(|path| trust::read_key(path)).collect::<Result<_, _>>()?,
            ),
        };
        let mut options = Options::new(anchor);
        let mut signatures = self.signature.clone();
        if signatures.is_empty() && !self.key.is_empty() {
            let beside = trust::signature_beside(image);
            signatures.extend(Some(beside).filter(|path| path.exists()));
        }
        for path in signatures {
            options.detached_signatures.push(trust::read_signature(&path)?);
        }
        Ok(options)
    }

    /// Opens `image` for a command that reads it; says aloud when nothing vouches for it.
    pub fn open(&self, image: &Path) -> Result<Tree, Error> {
        let options = self.options(image)?;
        let tree = crate::open(image, &options)?;
        if matches!(options.anchor, Anchor::Unauthenticated) {
            warn_unauthenticated(image);
        }
        Ok(tree)
    }
}

/// The one loud line for an image that nothing vouches for.
pub(crate) fn warn_unauthenticated(image: &Path) {
    eprintln!(
        "ashlar: warning: {} is not authenticated: give --root-digest or --key to be sure of it",
        image.display()
    );
}

/// How the image file is read.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub enum ReadMethod {
    /// Map files, read block devices
    Auto,
    /// Copy out of a memory map
    Mmap,
    /// Read each piece with pread(2)
    Pread,
}

impl From<ReadMethod> for Method {
    fn from(method: ReadMethod) -> Self {
        match method {
            ReadMethod::Auto => Method::Auto,
            ReadMethod::Mmap => Method::Map,
            ReadMethod::Pread => Method::Pread,
        }
    }
}

/// Why a command failed: one line, and a second one that says what to do where there is something to do.
#[derive(Debug)]
pub struct Failure {
    /// What went wrong: lower case, no period, with the numbers that find the fault.
    pub message: String,
    /// What a person can do about it.
    pub hint: Option<String>,
    /// The exit status.
    pub status: u8,
}

impl Failure {
    /// A failure with exit status 1 and no hint.
    pub fn new(message: impl fmt::Display) -> Self {
        Failure { message: message.to_string(), hint: None, status: 1 }
    }

    /// The same with a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl fmt::Display) -> Self {
        self.hint = Some(hint.to_string());
        self
    }

    /// What went wrong with `subject` (a path, mostly).
    pub fn about(subject: impl fmt::Display, err: &Error) -> Self {
        let failure = Failure::new(format!("{subject}: {err}"));
        match err.hint() {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}

impl From<Error> for Failure {
    fn from(err: Error) -> Self {
        let hint = err.hint().map(str::to_owned);
        Failure { message: err.to_string(), hint, status: 1 }
    }
}

/// What a command returns: its exit status.
pub type Outcome = Result<ExitCode, Failure>;

/// Runs the command that `args` asks for. `mount.ashlar` and `fsck.ashlar` are answered by their names.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.collect();
    #[cfg(feature = "boot")]
    if boot::is_first_program(&args) {
        return boot::first_program(&args);
    }
    let args = called_as(args);
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(err) => return usage(&err, args.get(1).is_some_and(|command| command == "verify")),
    };
    let outcome = match cli.command {
        #[cfg(feature = "fuse")]
        Command::Mount(args) => mount::run(args),
        #[cfg(feature = "fuse")]
        Command::Status(args) => status::run(&args),
        #[cfg(feature = "fuse")]
        Command::UpgradeDaemon(args) => upgrade_daemon::run(&args),
        #[cfg(feature = "fuse")]
        Command::Succeed => succeed::run(),
        #[cfg(feature = "boot")]
        Command::Boot(args) => boot::run(args),
        #[cfg(feature = "boot")]
        Command::Update(args) => update::run(args),
        #[cfg(feature = "boot")]
        Command::Scrub(args) => scrub::run(&args),
        Command::Etc(args) => etc::run(&args),
        Command::Lint(args) => lint::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Ls(args) => ls::run(&args),
        Command::Cat(args) => cat::run(&args),
        Command::Extract(args) => extract::run(&args),
        Command::Diff(args) => diff::run(&args),
        Command::Dump(args) => dump::run(&args),
        #[cfg(feature = "sign")]
        Command::Key(args) => key::run(args),
        #[cfg(feature = "sign")]
        Command::Sign(args) => sign::run(&args),
    };
    outcome.unwrap_or_else(|failure| {
        tell(&failure);
        ExitCode::from(failure.status)
    })
}

/// Tells a person what went wrong, and what to do about it.
fn tell(failure: &Failure) {
    eprintln!("ashlar: error: {}", failure.message);
    if let Some(hint) = &failure.hint {
        eprintln!("ashlar: hint: {hint}");
    }
}

/// Tells how a command is used. `verify` promises the exit status of fsck(8) for that, too.
fn usage(err: &clap::Error, is_verify: bool) -> ExitCode {
    // Where standard error is closed, the status still tells.
    err.print().unwrap_or_default();
    match err.exit_code() {
        0 => ExitCode::SUCCESS,
        _ if is_verify => ExitCode::from(verify::USAGE),
        status => ExitCode::from(u8::try_from(status).unwrap_or(1)),
    }
}

/// `mount.ashlar …` is what mount(8) calls for `mount -t ashlar …`, `fsck.ashlar …` is `ashlar verify …`.
fn called_as(mut args: Vec<OsString>) -> Vec<OsString> {
    let name = args.first().map(PathBuf::from).unwrap_or_default();
    match name.file_name().and_then(|name| name.to_str()) {
        #[cfg(feature = "fuse")]
        Some("mount.ashlar" | "mount.fuse.ashlar") => return mount::from_helper_args(args),
        Some("fsck.ashlar") => args.insert(1, "verify".into()),
        _ => {}
    }
    args
}

/// Writes to standard output. Whoever reads it may have had enough of it: that is no failure.
pub(crate) fn say(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(err) if err.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::new(format!("cannot write to standard output: {err}")))
        }
        _ => Ok(()),
    }
}

/// Writes bytes of a name or path for a terminal: what is not printable is escaped as `\xHH`, and so is the backslash.
pub(crate) fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c == '\\' || c.is_control() {
                let mut buf = [0; 4];
                c.encode_utf8(&mut buf).bytes().for_each(|byte| escape_byte(&mut text, byte));
            } else {
                text.push(c);
            }
        }
        chunk.invalid().iter().for_each(|byte| escape_byte(&mut text, *byte));
    }
    text
}

fn escape_byte(text: &mut String, byte: u8) {
    text.push_str("\\x");
    text.extend(
        [byte >> 4, byte & 0xf].into_iter().filter_map(|digit| char::from_digit(digit.into(), 16)),
    );
}
