//! `ashlar extract`: files out of an image, as they were.

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Args;
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

use super::{Failure, Outcome, TrustArgs, escape};
use crate::error::Error;
use crate::extract::{self, Options, Skipped, Summary, Watch};
use crate::format::index::InodeIndex;
use crate::format::inode::Kind;
use crate::fs::Tree;

/// Arguments of `ashlar extract`.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
#[command(after_help = "\
Restores types, modes, owners, times (to the nanosecond), extended attributes (with ACLs and capabilities), holes, hard \
links and device nodes. Nothing is written outside DIR, whatever is in the image or in DIR.

Only root can restore owners, device nodes and most extended attributes. Others get what they can have; the rest is \
counted in one warning, and set-user-ID and set-group-ID are left out with the owner. That is no failure.

A file that is damaged in the image is named and left out, and the rest is extracted.

Exit status: 0, or 1 when something is missing or not as it is in the image, other than what only root can restore.")]
pub struct ExtractArgs {
    #[command(flatten)]
    trust: TrustArgs,
    /// Extract only PATH, with what is below it; may be given several times. Symlinks on the way to it are followed
    #[arg(short, long = "path", value_name = "PATH")]
    paths: Vec<OsString>,
    /// Replace files that DIR has already, and leave its other files alone
    #[arg(short, long)]
    force: bool,
    /// Do not restore owners
    #[arg(long)]
    no_owner: bool,
    /// Do not restore extended attributes
    #[arg(long)]
    no_xattrs: bool,
    /// How many threads expand and write files [default: one for each processor]
    #[arg(short = 'j', long, value_name = "N")]
    workers: Option<NonZeroUsize>,
    /// Show neither progress nor summary
    #[arg(short, long)]
    quiet: bool,
    /// The image
    image: PathBuf,
    /// Where to: a directory that is empty, or not there yet
    #[arg(value_name = "DIR")]
    target: PathBuf,
}

/// Runs it.
pub fn run(args: &ExtractArgs) -> Outcome {
    let tree = args.trust.open(&args.image)?;
    for path in &args.paths {
        let path = path.as_bytes();
        tree.resolve_to_last(path).map_err(|err| Failure::about(escape(path), &err))?;
    }
    let options = Options {
        paths: args.paths.iter().map(|path| path.clone().into_vec()).collect(),
        owners: !args.no_owner,
        xattrs: !args.no_xattrs,
        force: args.force,
        workers: args.workers.unwrap_or_else(processors),
    };
    let watcher = Watcher::new(progress_bar(args, &tree));
    let extracted = extract::extract(&tree, &args.target, &options, &watcher);
    watcher.bar.finish_and_clear();
    let summary = extracted.map_err(|err| failure(&err))?;
    tell_skipped(&summary);
    if !args.quiet {
        tell_summary(&summary);
    }
    if summary.failed == 0 {
        return Ok(ExitCode::SUCCESS);
    }
    let failure = Failure::new(format!("{} files are missing or not whole", summary.failed));
    Err(if watcher.saw_damage.into_inner() {
        failure.hint("`ashlar verify` names everything that is damaged")
    } else {
        failure
    })
}

fn processors() -> NonZeroUsize {
    std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

fn failure(err: &Error) -> Failure {
    let Error::Io { source, .. } = err else { return Failure::new(err) };
    match source.kind() {
        std::io::ErrorKind::DirectoryNotEmpty => {
            Failure::new(err).hint("choose an empty directory, or replace files with --force")
        }
        _ => Failure::new(err),
    }
}

/// Shows what happens, and tells what goes wrong as it does.
struct Watcher {
    bar: ProgressBar,
    saw_damage: AtomicBool,
}

impl Watcher {
    fn new(bar: ProgressBar) -> Self {
        Watcher { bar, saw_damage: AtomicBool::new(false) }
    }
}

impl Watch for Watcher {
    fn progress(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    fn failed(&self, path: &[u8], err: &Error) {
        if err.is_damage() {
            self.saw_damage.store(true, Ordering::Relaxed);
        }
        // A message may hold names from the image.
        let (path, err) = (escape(path), escape(err.to_string().as_bytes()));
        self.bar.suspend(|| eprintln!("ashlar: error: {path}: {err}"));
    }

    fn skipped(&self, _path: &[u8], _what: Skipped) {}
}

/// A bar on a terminal, nothing elsewhere.
fn progress_bar(args: &ExtractArgs, tree: &Tree) -> ProgressBar {
    use std::io::IsTerminal;
    if args.quiet || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    // How much there is below some paths only is not known before it is done.
    let bytes = if args.paths.is_empty() { content_bytes(tree) } else { None };
    let (bar, template) = match bytes {
        Some(bytes) => (
            ProgressBar::new(bytes),
            "{bar:40} {percent:>3}% {bytes}/{total_bytes} {bytes_per_sec} {eta}",
        ),
        None => (ProgressBar::new_spinner(), "{spinner} {bytes} {bytes_per_sec} {elapsed}"),
    };
    let style = ProgressStyle::with_template(template);
    let bar = bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

/// Lengths of all regular files. Nothing where an inode cannot be read: the extraction will say so.
fn content_bytes(tree: &Tree) -> Option<u64> {
    (0..tree.superblock().inode_count()).try_fold(0_u64, |bytes, index| {
        let inode = tree.inode(InodeIndex(index)).ok()?;
        Some(if inode.kind == Kind::File { bytes.saturating_add(inode.size) } else { bytes })
    })
}

fn tell_skipped(summary: &Summary) {
    let parts = [
        (summary.skipped_owners, "owners"),
        (summary.skipped_devices, "device nodes"),
        (summary.skipped_xattrs, "extended attributes"),
    ];
    let parts: Vec<String> = parts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    if !parts.is_empty() {
        eprintln!("ashlar: warning: left out what only root can restore: {}", parts.join(", "));
    }
}

fn tell_summary(summary: &Summary) {
    let Summary { directories, files, bytes, hard_links, symlinks, special, .. } = summary;
    eprintln!(
        "extracted {files} files ({}), {directories} directories, {symlinks} symlinks, \
         {hard_links} hard links, {special} devices, pipes and sockets",
        HumanBytes(*bytes)
    );
}
