//! `ashlar update install`: an image is put in its place.

use std::path::PathBuf;

use clap::Args;
use indicatif::HumanBytes;

use super::progress::Bar;
#[cfg(feature = "net")]
use super::source::{NetArgs, Remote};
use super::source::{VouchArgs, is_url, open_file};
use super::{Target, reboot_if};
use crate::boot::control;
use crate::cli::{Failure, Outcome, say};
#[cfg(feature = "net")]
use crate::store::proof;
use crate::trust::Anchor;
use crate::update::checked::{self, Checked};
#[cfg(feature = "net")]
use crate::update::http::Http;
use crate::update::install::{self, Installed};
use crate::update::origin::Origin;
use crate::update::state::TRIES;
use crate::update::wish::Wish;

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
    #[command(flatten)]
    vouch: VouchArgs,
    #[cfg(feature = "net")]
    #[command(flatten)]
    net: NetArgs,
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
    /// The image or a delta, a file or a block device; or a URL of an image or of a `latest` manifest
    source: String,
}

/// Runs it.
pub(super) fn run(args: &InstallArgs, target: &Target) -> Outcome {
    let anchor = args.vouch.anchor(&args.source)?;
    let origin = open(args, &anchor)?;
    let bar = Bar::new(args.quiet || args.json);
    let wish = Wish {
        anchor: &anchor,
        signatures: args.vouch.signatures()?,
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
    if target.booted.is_some() && control::is_named() {
        eprintln!(
            "ashlar: warning: the kernel command line names an image, and that is booted: take `ashlar=` to the new one"
        );
    }
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
    let now = checked::now();
    let installed_at = (!installed.was_here).then_some(now);
    let note = Checked { time: now, good: true, damaged: 0, installed_at };
    if let Err(failed) = checked::note(&target.place, digest, note) {
        tracing::warn!("{failed}");
    }
}

/// Opens what is to be installed. A manifest says which image it must be; who vouches for that is asked all the same.
#[cfg(feature = "net")]
fn open(args: &InstallArgs, anchor: &Anchor) -> Result<Box<dyn Origin>, Failure> {
    if !is_url(&args.source) {
        return open_file(&args.source);
    }
    let options = args.net.options();
    match args.net.open(&args.source, anchor, &options)? {
        Remote::Image(image) => Ok(image),
        Remote::Manifest(manifest, url) => {
            let image = Http::open(&url, &options)?;
            let found = proof::hash_superblock(image.beginning());
            if (found, image.len()) != (manifest.root_digest, manifest.bytes) {
                return Err(Failure::new(format_args!(
                    "the manifest names image {} of {} bytes, and at {url} is {found} of {}",
                    manifest.root_digest,
                    manifest.bytes,
                    image.len(),
                ))
                .hint("run it again: one of the two may be about to be replaced on the server"));
            }
            Ok(Box::new(image))
        }
    }
}

#[cfg(not(feature = "net"))]
fn open(args: &InstallArgs, _anchor: &Anchor) -> Result<Box<dyn Origin>, Failure> {
    if is_url(&args.source) {
        return Err(Failure::new("this program was built without a network")
            .hint("use the `ashlar` of the whole package, or install from a file"));
    }
    open_file(&args.source)
}
