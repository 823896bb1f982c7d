//! `ashlar update`: which image is next?

#[cfg(feature = "net")]
mod check;
mod delta;
mod install;
mod list;
#[cfg(feature = "sign")]
mod manifest;
mod progress;
mod source;
mod status;

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};

pub(super) use self::progress::Bar;
use super::{Failure, Outcome, say};
use crate::boot::{cmdline, control};
use crate::format::digest::Digest;
use crate::update::failed::Failed;
use crate::update::keep;
use crate::update::place::Place;
use crate::update::scrub;
use crate::update::state::Why;

/// Arguments of `ashlar update`.
#[derive(Debug, Args)]
#[command(after_help = "\
An image is put in its place with `install`, and tried at the next boot. When the machine is found healthy there, `bless` makes it
the default; ashlar-bless.service does so behind boot-complete.target, when all of the image was read. An image that is
booted three times and not blessed is given up, and the one before is booted again.

  ashlar update install root-2.img                    from a file
  ashlar update install https://example.org/root.img  only what is new comes over the wire
  ashlar update status
  ashlar update rollback

Keys are read from /etc/ashlar/keys/*.pub unless --key or --root-digest is given. All commands take --data DIR, where the
data partition is mounted; without it, that of the running system is meant.")]
pub struct UpdateArgs {
    /// Where the data partition is mounted: the directory that holds images/ or root.img [default: that of the running system]
    #[arg(long, value_name = "DIR", global = true)]
    data: Option<PathBuf>,
    #[command(subcommand)]
    command: UpdateCommand,
}

#[derive(Debug, Subcommand)]
enum UpdateCommand {
    /// Put an image in its place, and have it tried at the next boot
    Install(install::InstallArgs),
    /// Ask whether there is a newer image
    #[cfg(feature = "net")]
    Check(check::CheckArgs),
    /// Show what runs, what is next, and what was given up
    Status(status::StatusArgs),
    /// Go back to the image before
    Rollback(RollbackArgs),
    /// Make the running image the default: it is healthy
    Bless(BlessArgs),
    /// Never boot an image again
    MarkBad(MarkBadArgs),
    /// List the images that are there
    List(list::ListArgs),
    /// Keep an image whatever comes
    Pin(PinArgs),
    /// Remove images that nothing needs, and the /etc of those that are gone
    Gc(GcArgs),
    /// Write what an image has and another one lacks into a file, for machines without a network
    Delta(delta::DeltaArgs),
    /// Write and sign the text by which machines learn of a new image
    #[cfg(feature = "sign")]
    Manifest(manifest::ManifestArgs),
}

/// Arguments of `ashlar update rollback`.
#[derive(Debug, Args)]
struct RollbackArgs {
    /// The image to go back to [default: the one that was the default before]
    #[arg(long, value_name = "HEX")]
    to: Option<Digest>,
    /// Reboot when it is done
    #[arg(long)]
    reboot: bool,
}

/// Arguments of `ashlar update bless`.
#[derive(Debug, Args)]
struct BlessArgs {
    /// The image [default: the one that runs]
    image: Option<Digest>,
    /// Do not read all of the image first
    #[arg(long)]
    no_scrub: bool,
}

/// Arguments of `ashlar update mark-bad`.
#[derive(Debug, Args)]
struct MarkBadArgs {
    /// The image [default: the one that runs]
    image: Option<Digest>,
    /// Reboot when it is done
    #[arg(long)]
    reboot: bool,
}

/// Arguments of `ashlar update pin`.
#[derive(Debug, Args)]
struct PinArgs {
    /// The image
    image: Digest,
    /// Let go of it again
    #[arg(long)]
    remove: bool,
}

/// Arguments of `ashlar update gc`.
#[derive(Debug, Args)]
struct GcArgs {
    /// Say what would be removed, and remove nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
}

/// Runs it.
pub fn run(args: UpdateArgs) -> Outcome {
    super::log::to_stderr(tracing::level_filters::LevelFilter::WARN);
    match args.command {
        UpdateCommand::Status(status) => status::run(&status, &reading(args.data)?),
        UpdateCommand::List(list) => list::run(&list, &reading(args.data)?),
        #[cfg(feature = "net")]
        UpdateCommand::Check(check) => check::run(&check, &reading(args.data)?),
        UpdateCommand::Delta(delta) => delta::run(&delta),
        UpdateCommand::Bless(args_bless) => bless(&args_bless, args.data),
        #[cfg(feature = "sign")]
        UpdateCommand::Manifest(manifest) => manifest::run(&manifest),
        command => writing(args.data, |target| match command {
            UpdateCommand::Install(install) => install::run(&install, target),
            UpdateCommand::Rollback(rollback) => roll_back(&rollback, target),
            UpdateCommand::MarkBad(mark) => mark_bad(&mark, target),
            UpdateCommand::Pin(pin) => {
                keep::pin(&target.place, pin.image, !pin.remove)?;
                Ok(ExitCode::SUCCESS)
            }
            UpdateCommand::Gc(gc) => collect_garbage(&gc, target),
            _ => Ok(ExitCode::SUCCESS),
        }),
    }
}

/// A data partition, and what runs if it is that of the running system.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) place: Place,
    pub(super) booted: Option<Digest>,
}

impl Target {
    /// The image that is meant where none is named.
    fn image_or_booted(&self, image: Option<Digest>) -> Result<Digest, Failure> {
        image.or(self.booted).ok_or_else(|| {
            Failure::new("which image?").hint(
                "name it by its root digest: this is not the data partition of the running system",
            )
        })
    }
}

fn not_booted() -> Failure {
    Failure::new("this system was not booted from an image")
        .hint("--data names where a data partition is mounted")
}

/// The data partition, to be looked at.
pub(super) fn reading(data: Option<PathBuf>) -> Result<Target, Failure> {
    let running = control::running();
    match (data, running) {
        (Some(data), running) => named(&data, running),
        (None, Some((data, booted))) => {
            Ok(Target { place: Place::new(&data)?, booted: Some(booted) })
        }
        (None, None) => Err(not_booted()),
    }
}

fn named(data: &Path, running: Option<(PathBuf, Digest)>) -> Result<Target, Failure> {
    let id = |path: &Path| std::fs::metadata(path).ok().map(|it| (it.dev(), it.ino()));
    let is_same =
        |running: &(PathBuf, Digest)| id(&running.0).is_some_and(|it| Some(it) == id(data));
    let booted = running.filter(is_same).map(|(_, booted)| booted);
    Ok(Target { place: Place::new(data)?, booted })
}

/// The data partition, to be changed: that of the running system is made writable meanwhile, if it is not.
fn writing(data: Option<PathBuf>, work: impl FnOnce(&Target) -> Outcome) -> Outcome {
    match (data, control::running()) {
        (Some(data), running) => work(&named(&data, running)?),
        (None, Some((_, booted))) => control::change(|data| {
            work(&Target { place: Place::new(&data.path)?, booted: Some(booted) })
        }),
        (None, None) => Err(not_booted()),
    }
}

fn roll_back(args: &RollbackArgs, target: &Target) -> Outcome {
    let image = keep::roll_back(&target.place, args.to)?;
    eprintln!("ashlar: {image} is booted next");
    reboot_if(args.reboot)
}

/// All of the image is read before anything is locked or made writable: that may take long.
fn bless(args: &BlessArgs, data: Option<PathBuf>) -> Outcome {
    let target = reading(data.clone())?;
    let image = target.image_or_booted(args.image)?;
    if !keep::is_to_be_blessed(&target.place, image) {
        return Ok(ExitCode::SUCCESS);
    }
    let found = if args.no_scrub { None } else { Some(scrub_in_idle_time(&target.place, image)?) };
    writing(data, |target| {
        if let Some(found) = &found {
            scrub::note(&target.place, image, found)?;
            if !found.is_good() {
                return Err(not_blessed(target, image, found));
            }
        }
        if keep::bless(&target.place, image)? {
            eprintln!("ashlar: {image} is the default now");
        }
        if target.booted == Some(image) {
            control::end_trial();
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// On a thread of its own: what comes after it should not have to wait for a processor that idles.
fn scrub_in_idle_time(place: &Place, image: Digest) -> Result<scrub::Scrubbed, Failure> {
    let bar = Bar::new(false);
    let read = || {
        scrub::become_idle();
        scrub::scrub(place, image, &|step, done, total| bar.tell(step, done, total))
    };
    let found = std::thread::scope(|scope| scope.spawn(read).join());
    Ok(found.map_err(|_| Failure::new("the thread that reads the image panicked"))??)
}

fn not_blessed(target: &Target, image: Digest, found: &scrub::Scrubbed) -> Failure {
    let what = format!("{image} is not blessed: {} blocks of it are damaged", found.damaged);
    let failure = Failure::new(what);
    match keep::refuse(&target.place, image) {
        Ok(true) => failure.hint("it is given up: reboot into the image before"),
        Ok(false) => failure.hint("install it again: what is damaged is replaced"),
        Err(failed) => failure.hint(failed),
    }
}

fn mark_bad(args: &MarkBadArgs, target: &Target) -> Outcome {
    let image = target.image_or_booted(args.image)?;
    match keep::mark_bad(&target.place, image, Why::Marked)? {
        Some(other) => eprintln!("ashlar: {image} is given up, {other} is booted next"),
        None => eprintln!("ashlar: {image} is given up"),
    }
    reboot_if(args.reboot)
}

fn collect_garbage(args: &GcArgs, target: &Target) -> Outcome {
    // Whatever names an image wants it: the kernel command line, and what was added to the running system.
    let cmdline = cmdline::read().unwrap_or_default();
    let words = cmdline
        .split_whitespace()
        .filter(|word| word.trim_start_matches('"').starts_with("ashlar"));
    let mut also: BTreeSet<Digest> =
        words.flat_map(|word| keep::digests_in(word.as_bytes())).collect();
    also.extend(keep::digests_in(control::extensions().join(" ").as_bytes()));
    also.extend(target.booted);
    let garbage = keep::collect_garbage(&target.place, &also, args.dry_run)?;
    for path in &garbage.paths {
        say(&format!("{}\n", path.display()))?;
    }
    let (count, bytes) = (garbage.paths.len(), indicatif::HumanBytes(garbage.bytes));
    let done = if args.dry_run { "would be removed" } else { "removed" };
    eprintln!("ashlar: {count} files, {bytes} {done}");
    Ok(ExitCode::SUCCESS)
}

/// Writes a file beside its name and renames it: nobody ever reads half of it.
fn replace(path: &Path, content: &[u8]) -> Result<(), Failure> {
    let mut draft = path.as_os_str().to_owned();
    draft.push(".tmp");
    std::fs::write(&draft, content)
        .and_then(|()| std::fs::rename(&draft, path))
        .map_err(|err| Failure::new(format!("cannot write {}: {err}", path.display())))
}

/// Reboots, the way that ends services.
pub(super) fn reboot_if(wanted: bool) -> Outcome {
    if wanted {
        let status = std::process::Command::new("systemctl").arg("reboot").status();
        let is_done = status.as_ref().is_ok_and(std::process::ExitStatus::success);
        if !is_done {
            return Err(
                Failure::new("cannot reboot with `systemctl reboot`").hint("reboot by hand")
            );
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl From<Failed> for Failure {
    fn from(failed: Failed) -> Self {
        Failure { message: failed.message, hint: failed.hint, status: 1 }
    }
}
