//! `ashlar update check`: is there a newer image?

use std::process::ExitCode;

use clap::Args;
use indicatif::HumanBytes;

use super::Target;
use super::source::{NetArgs, Remote, VouchArgs, is_url, open_file};
use crate::cli::{Failure, Outcome, say};
use crate::trust::Anchor;
use crate::update::install::{Offer, look, offer};
use crate::update::wish::Wish;

/// Arguments of `ashlar update check`.
#[derive(Debug, Args)]
#[command(after_help = "\
Nothing is installed or changed. --json writes one object: root_digest, image_version, bytes, is_here, given_up (why, or null), is_old,
update_available.")]
pub(super) struct CheckArgs {
    #[command(flatten)]
    vouch: VouchArgs,
    #[command(flatten)]
    net: NetArgs,
    /// Write what was found as JSON
    #[arg(long)]
    json: bool,
    /// URL of a `latest` manifest or of an image; or a file
    source: String,
}

/// Runs it.
pub(super) fn run(args: &CheckArgs, target: &Target) -> Outcome {
    let anchor = args.vouch.anchor(&args.source)?;
    let found = find(args, &anchor, target)?;
    if args.json {
        let text = serde_json::to_string(&found).map_err(Failure::new)?;
        say(&format!("{text}\n"))?;
    } else {
        say(&describe(&found))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn find(args: &CheckArgs, anchor: &Anchor, target: &Target) -> Result<Offer, Failure> {
    let signatures = args.vouch.signatures()?;
    let wish = Wish { signatures, booted: target.booted, ..Wish::new(anchor) };
    if !is_url(&args.source) {
        return Ok(look(&target.place, &*open_file(&args.source)?, &wish)?);
    }
    match args.net.open(&args.source, anchor, &args.net.options())? {
        Remote::Image(image) => Ok(look(&target.place, &*image, &wish)?),
        Remote::Manifest(latest, _) => {
            let (digest, version) = (latest.root_digest, latest.image_version);
            Ok(offer(&target.place, digest, version, latest.bytes, target.booted)?)
        }
    }
}

fn describe(found: &Offer) -> String {
    let verdict = match found.given_up {
        _ if found.update_available => "an update".to_owned(),
        Some(why) => format!("no update: it was given up on this machine ({why})"),
        None if found.is_old => "no update: it is older than what this machine had".to_owned(),
        None => "no update: it is what is booted next".to_owned(),
    };
    let Offer { root_digest, image_version, bytes, .. } = found;
    format!("{root_digest}\nversion {image_version}, {}: {verdict}\n", HumanBytes(*bytes))
}
