//! Where does an image come from, and who must vouch for it? The options that `install` and `check` share.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::cli::{Failure, warn_unauthenticated};
use crate::format::digest::Digest;
use crate::integration;
use crate::trust::{self, Anchor};
use crate::update::delta::DeltaOrigin;
#[cfg(feature = "net")]
use crate::update::http::{self, Http, HttpOptions};
#[cfg(feature = "net")]
use crate::update::latest::{self, Latest};
use crate::update::origin::{FileOrigin, Origin};

/// Who must vouch for the image.
#[derive(Debug, Args)]
pub(super) struct VouchArgs {
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
}

impl VouchArgs {
    /// Who must vouch for what is at `source`.
    pub(super) fn anchor(&self, source: &str) -> Result<Anchor, Failure> {
        if let Some(digest) = self.root_digest {
            return Ok(Anchor::RootDigest(digest));
        }
        if self.unauthenticated {
            warn_unauthenticated(Path::new(source));
            return Ok(Anchor::Unauthenticated);
        }
        let mut paths = self.key.clone();
        if paths.is_empty() {
            paths = default_keys();
        }
        if paths.is_empty() {
            return Err(Failure::new(format_args!("nothing vouches for {source}")).hint(
                format_args!(
                    "give --key or --root-digest, or put keys into /{}; --unauthenticated takes it nevertheless",
                    integration::KEYS
                ),
            ));
        }
        Ok(Anchor::Keys(paths.iter().map(|path| trust::read_key(path)).collect::<Result<_, _>>()?))
    }

    /// The signatures that were named.
    pub(super) fn signatures(&self) -> Result<Vec<Vec<u8>>, Failure> {
        Ok(self
            .signature
            .iter()
            .map(|path| trust::read_signature(path))
            .collect::<Result<_, _>>()?)
    }
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

/// How a server is asked; the names are RAUC's and curl's.
#[cfg(feature = "net")]
#[derive(Debug, Args)]
pub(super) struct NetArgs {
    /// Certificates of the authorities that may vouch for the server (PEM) [default: those of the system]
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// Certificate of this machine (PEM)
    #[arg(long, value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// Its key (PEM), if it is not in the same file
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// A further header of each question, `Name: value`; may be given several times
    #[arg(long, value_name = "LINE", value_parser = header)]
    http_header: Vec<(String, String)>,
    /// Most bytes in a second, with K, M or G
    #[arg(long, value_name = "SPEED", value_parser = speed)]
    limit_rate: Option<u64>,
    /// Name that a manifest must have [default: `IMAGE_ID` of /etc/os-release, where it has one]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// How many ranges are asked for at the same time
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    connections: u16,
}

#[cfg(feature = "net")]
fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("it has no colon")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

#[cfg(feature = "net")]
fn speed(text: &str) -> Result<u64, String> {
    let units = [("K", 1 << 10), ("M", 1 << 20), ("G", 1 << 30)];
    let upper = text.to_ascii_uppercase();
    let (digits, unit) = units
        .into_iter()
        .find_map(|(suffix, unit)| Some((upper.strip_suffix(suffix)?.to_owned(), unit)))
        .unwrap_or((upper.clone(), 1_u64));
    let speed = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    speed.filter(|speed| *speed > 0).ok_or_else(|| "not a number of bytes".to_owned())
}

#[cfg(feature = "net")]
impl NetArgs {
    pub(super) fn options(&self) -> HttpOptions {
        HttpOptions {
            connections: self.connections.into(),
            limit_rate: self.limit_rate,
            tls_ca: self.tls_ca.clone(),
            tls_cert: self.tls_cert.clone(),
            tls_key: self.tls_key.clone(),
            headers: self.http_header.clone(),
            ..HttpOptions::default()
        }
    }
}

/// Whether it is an address on a network.
pub(super) fn is_url(source: &str) -> bool {
    ["http://", "https://"].iter().any(|scheme| {
        source.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme))
    })
}

/// Opens what is here: an image, or a delta.
pub(super) fn open_file(source: &str) -> Result<Box<dyn Origin>, Failure> {
    let path = Path::new(source);
    Ok(match DeltaOrigin::open(path)? {
        Some(delta) => Box::new(delta),
        None => Box::new(FileOrigin::open(path)?),
    })
}

/// Most bytes of a manifest.
#[cfg(feature = "net")]
const MANIFEST_LEN_MAX: u64 = 8192;

/// What is at an address.
#[cfg(feature = "net")]
#[derive(Debug)]
pub(super) enum Remote {
    /// An image.
    Image(Box<Http>),
    /// A manifest that somebody vouches for, and where the image is.
    Manifest(Latest, String),
}

#[cfg(feature = "net")]
impl NetArgs {
    /// Looks at what is at an address. A manifest must be signed by a key, unless anything is taken, and be for this kind of machine.
    pub(super) fn open(
        &self,
        url: &str,
        anchor: &Anchor,
        options: &HttpOptions,
    ) -> Result<Remote, Failure> {
        let image = Http::open(url, options)?;
        if !latest::is_manifest(image.beginning()) {
            return Ok(Remote::Image(Box::new(image)));
        }
        let text = http::get_text(url, options, MANIFEST_LEN_MAX)?;
        let manifest = match anchor {
            Anchor::Keys(keys) => {
                let signatures: Vec<Vec<u8>> = image.signature().into_iter().collect();
                Latest::verify(&text, &signatures, keys)?
            }
            // The image is held against its digest all the same.
            Anchor::RootDigest(_) | Anchor::Unauthenticated => Latest::decode(&text)?,
        };
        let wanted = self.name.clone().or_else(image_id);
        if let Some(wanted) = wanted.filter(|wanted| *wanted != manifest.name) {
            return Err(Failure::new(format_args!(
                "{url} is for machines of the kind `{}`, and this is `{wanted}`",
                manifest.name
            ))
            .hint("--name says what it shall be for"));
        }
        let image = latest::resolve(url, &manifest.url)?;
        Ok(Remote::Manifest(manifest, image))
    }
}

/// What this system says it is (`os-release(5)`).
#[cfg(feature = "net")]
fn image_id() -> Option<String> {
    let text = fs::read_to_string("/etc/os-release").ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix("IMAGE_ID="))?;
    Some(value.trim_matches(['"', '\'']).to_owned()).filter(|name| !name.is_empty())
}
