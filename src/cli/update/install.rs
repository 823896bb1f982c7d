//! `ashlar update install`: an image is put in its place.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use indicatif::HumanBytes;

use super::progress::Bar;
use super::{Target, reboot_if};
use crate::cli::{Failure, Outcome, say, warn_unauthenticated};
use crate::format::digest::Digest;
use crate::integration;
use crate::trust::{self, Anchor};
use crate::update::checked::{self, Checked};
use crate::update::install::{self, Installed, Wish};
use crate::update::origin::{FileOrigin, Origin};
use crate::update::state::TRIES;

/// Arguments of `ashlar update install`.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of its own")]
#[command(after_help = "\
Blocks that an image on the data partition has already are taken from there; the others are fetched, each held against its digest as
it comes, and all of it is read back from the disk before it gets its name. An interrupted run goes on where it stopped when
it is started again; until it is done the machine boots what it would have booted before.

--json writes one object: root_digest, image_version, path, bytes, bytes_fetched, bytes_copied (from other images here),
bytes_resumed (from an interrupted run), was_here, is_next.")]
pub(super) struct InstallArgs {
    /// Root digest that the image must have: 64 hexadecimal digits, as `mkimage` printed them
    #[arg(long, value_name = "HEX", conflicts_with_all = ["key", "unauthenticated"])]
    root_digest: Option<Digest>,
    /// Public key (minisign) by which the image must be signed; may be given several times [default: /etc/ashlar/keys/*.pub]
    #[arg(long, value_name = "FILE")]
    key: Vec<PathBuf>,
    /// Signature beside the image [default: SOURCE.minisig, where the image has none in it]
    #[arg(long, value_name = "FILE")]
    signature: Vec<PathBuf>,
    /// Take an image that nothing vouches for
    #[arg(long, conflicts_with = "key")]
    unauthenticated: bool,
    /// Take an image that is older than the newest one that was blessed here
    #[arg(long)]
    allow_downgrade: bool,
    /// Take an image that was given up here
    #[arg(long)]
    allow_bad: bool,
    /// How often the image may be booted until it is blessed
    #[arg(long, value_name = "N", default_value_t = TRIES, value_parser = clap::value_parser!(u8).range(1..))]
    tries: u8,
    /// Make it the default at once, without a trial
    #[arg(long, conflicts_with = "tries")]
    no_trial: bool,
    /// Another image or device that may have blocks of it; may be given several times
    #[arg(long, value_name = "FILE")]
    seed: Vec<PathBuf>,
    /// Reboot when it is done
    #[arg(long)]
    reboot: bool,
    /// Write what was done as JSON
    #[arg(long)]
    json: bool,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
    /// The image: a file or a block device
    source: String,
}

/// Runs it.
pub(super) fn run(args: &InstallArgs, target: &Target) -> Outcome {
    let anchor = anchor(args)?;
    let signatures =
        args.signature.iter().map(|path| trust::read_signature(path)).collect::<Result<_, _>>()?;
    let origin = open(args)?;
    let bar = Bar::new(args.quiet || args.json);
    let wish = Wish {
        anchor: &anchor,
        signatures,
        allow_downgrade: args.allow_downgrade,
        allow_bad: args.allow_bad,
        tries: (!args.no_trial).then_some(args.tries),
        booted: target.booted,
        seeds: args.seed.clone(),
        progress: &|step, done, total| bar.tell(step, done, total),
    };
    let installed = install::install(&target.place, &*origin, &wish)?;
    drop(bar);
    note_checked(target, &installed);
    if args.json {
        let text = serde_json::to_string(&installed).map_err(Failure::new)?;
        say(&format!("{text}\n"))?;
    } else if !args.quiet {
        say(&describe(&installed))?;
    }
    reboot_if(args.reboot)
}

fn describe(installed: &Installed) -> String {
    let Installed { root_digest, image_version, bytes, .. } = installed;
    let came = if installed.was_here {
        "it was here already".to_owned()
    } else {
        let mut parts = vec![format!("{} fetched", HumanBytes(installed.bytes_fetched))];
        for (bytes, from) in [
            (installed.bytes_copied, "from images that are here"),
            (installed.bytes_resumed, "from an interrupted run"),
        ] {
            parts.extend((bytes > 0).then(|| format!("{} {from}", HumanBytes(bytes))));
        }
        parts.join(", ")
    };
    let next =
        if installed.is_next { "it is booted next" } else { "it is not what is booted next" };
    format!("{root_digest}\nversion {image_version}, {}: {came}; {next}\n", HumanBytes(*bytes))
}

/// It was read whole just now.
fn note_checked(target: &Target, installed: &Installed) {
    let Ok(digest) = installed.root_digest.parse() else { return };
    let stored = target.place.stored().unwrap_or_default();
    let there: Vec<Digest> = stored.iter().map(|stored| stored.root_digest).collect();
    let note = Checked { time: checked::now(), good: true, blocks: 0, damaged: 0 };
    if let Err(failed) = checked::note(target.place.data(), digest, note, &there) {
        tracing::warn!("{failed}");
    }
}

/// Who must vouch for the image.
fn anchor(args: &InstallArgs) -> Result<Anchor, Failure> {
    if let Some(digest) = args.root_digest {
        return Ok(Anchor::RootDigest(digest));
    }
    if args.unauthenticated {
        warn_unauthenticated(Path::new(&args.source));
        return Ok(Anchor::Unauthenticated);
    }
    let mut paths = args.key.clone();
    if paths.is_empty() {
        paths = default_keys();
    }
    if paths.is_empty() {
        return Err(Failure::new(format_args!("nothing vouches for {}", args.source)).hint(format_args!(
            "give --key or --root-digest, or put keys into /{}; --unauthenticated takes it nevertheless",
            integration::KEYS
        )));
    }
    Ok(Anchor::Keys(paths.iter().map(|path| trust::read_key(path)).collect::<Result<_, _>>()?))
}

/// The keys of this system.
fn default_keys() -> Vec<PathBuf> {
    let directory = Path::new("/").join(integration::KEYS);
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|suffix| suffix == "pub"));
    paths.sort();
    paths
}

fn open(args: &InstallArgs) -> Result<Box<dyn Origin>, Failure> {
    Ok(Box::new(FileOrigin::open(Path::new(&args.source))?))
}
