//! `ashlar update manifest`: a text that tells machines of a new image, signed by the key that signs images.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::replace;
use crate::cli::key::{public_key, read_secret};
use crate::cli::{Failure, Outcome, say};
use crate::image::{self, Method};
use crate::store;
use crate::trust::{self, Anchor};
use crate::update::latest::Latest;

/// Arguments of `ashlar update manifest`.
#[derive(Debug, Args)]
#[command(after_help = "\
Put the manifest, its .minisig and the image on a web server; machines ask `ashlar update check URL` and `ashlar update install URL`
with the manifest's address.")]
pub(super) struct ManifestArgs {
    /// Name of the product: letters, digits, dots, hyphens and underscores
    #[arg(long, value_name = "NAME")]
    name: String,
    /// Where the image is: a URL, or a path that starts at the manifest [default: the image's own name]
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Secret key (minisign) to sign with
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Where the manifest goes; its signature goes to FILE.minisig
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// The image
    image: PathBuf,
}

/// Runs it.
pub(super) fn run(args: &ManifestArgs) -> Outcome {
    let source = image::open(&args.image, Method::Pread)?;
    let root_digest = trust::root_digest(&*source, &Anchor::Unauthenticated, &[])?;
    let (superblock, _) = store::open_superblock(&*source, root_digest)?;
    let own_name = || args.image.file_name().and_then(|name| name.to_str()).map(str::to_owned);
    let url = args.url.clone().or_else(own_name);
    let latest = Latest {
        name: args.name.clone(),
        image_version: superblock.image_version,
        root_digest,
        bytes: source.len(),
        url: url.ok_or_else(|| Failure::new("where is the image?").hint("give --url"))?,
    };
    let text = latest.encode()?;
    let secret = read_secret(&args.key)?;
    let public = public_key(&secret)?;
    let comment = format!("ashlar latest {} version {}", latest.name, latest.image_version);
    let signature = minisign::sign(
        Some(&public),
        &secret,
        text.as_bytes(),
        Some(&comment),
        Some("signature of an ashlar manifest"),
    )
    .map_err(|err| Failure::new(format!("cannot sign: {err}")))?;
    // The signature first: whoever has the new text finds its signature.
    replace(&trust::signature_beside(&args.output), signature.to_string().as_bytes())?;
    replace(&args.output, text.as_bytes())?;
    say(&text)?;
    Ok(ExitCode::SUCCESS)
}
