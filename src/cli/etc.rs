//! `ashlar etc`: what was changed in /etc since the image, and what would a new image make of it?

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::ls::written;
use super::{Failure, Outcome, TrustArgs, escape};
use crate::error::Error;
use crate::format::digest::Digest;
use crate::fs::Tree;
use crate::state::etc::{self, Change, What};

/// What a running system says about its boot.
const BOOT_RECORD: &str = "/run/ashlar/boot.json";

/// Arguments of `ashlar etc`.
#[derive(Debug, Args)]
pub struct EtcArgs {
    #[command(subcommand)]
    command: EtcCommand,
}

#[derive(Debug, Subcommand)]
enum EtcCommand {
    /// List what differs from the image
    Diff(DiffArgs),
    /// Make in a new directory what the first boot of a new image would make of /etc
    Merge(MergeArgs),
}

/// Arguments of `ashlar etc diff`.
#[derive(Debug, Args)]
#[command(after_help = "\
One line a path that is not as the image has it: `A` added, `M` modified (type, mode, owner, target, device, extended \
attributes or content; times do not count), `D` removed, with what is below it, `H` hidden by a mount. Paths are below /etc. With --json one \
object a line: {\"change\":\"added\"|\"modified\"|\"removed\"|\"hidden\",\"path\":…}.

Without --etc and --image it is this system's own /etc, and the image that it was booted from. Only root can read all of it.")]
struct DiffArgs {
    #[command(flatten)]
    trust: TrustArgs,
    /// Write one JSON object a line
    #[arg(long)]
    json: bool,
    /// Compare this directory
    #[arg(long, value_name = "DIR", requires = "image")]
    etc: Option<PathBuf>,
    /// With the /etc of this image
    #[arg(long, requires = "etc")]
    image: Option<PathBuf>,
}

/// Arguments of `ashlar etc merge`.
#[derive(Debug, Args)]
#[command(after_help = "\
What was changed, added or removed in DIR stays so; all else is as NEW has it. What has no place any more is kept as \
<name>.ashlar-old. What happened is told on standard error, or with --json on standard output.")]
struct MergeArgs {
    /// The image that DIR was made from
    #[arg(long, value_name = "IMAGE")]
    old: PathBuf,
    /// The /etc of today
    #[arg(long, value_name = "DIR")]
    current: PathBuf,
    /// The image that comes
    #[arg(long, value_name = "IMAGE")]
    new: PathBuf,
    /// Root digest that OLD must have
    #[arg(long, value_name = "HEX", conflicts_with = "key")]
    root_digest_old: Option<Digest>,
    /// Root digest that NEW must have
    #[arg(long, value_name = "HEX", conflicts_with = "key")]
    root_digest_new: Option<Digest>,
    /// Public key (minisign) by which both must be signed; may be given several times
    #[arg(long, value_name = "FILE")]
    key: Vec<PathBuf>,
    /// Write what happened as JSON
    #[arg(long)]
    json: bool,
    /// Where to: a directory that is not there yet
    #[arg(value_name = "OUT")]
    out: PathBuf,
}

/// Runs it.
pub fn run(args: &EtcArgs) -> Outcome {
    match &args.command {
        EtcCommand::Diff(args) => diff(args),
        EtcCommand::Merge(args) => merge(args),
    }
}

fn diff(args: &DiffArgs) -> Outcome {
    let (tree, directory) = match (&args.etc, &args.image) {
        (Some(etc), Some(image)) => (args.trust.open(image)?, etc.clone()),
        _ => booted(&args.trust)?,
    };
    let changes = etc::changes(&tree, &directory).map_err(|err| failure(&directory, &err))?;
    let mut out = BufWriter::new(io::stdout().lock());
    let told = changes.iter().try_for_each(|change| tell(change, args.json, &mut out));
    written(told.and_then(|()| out.flush()))
}

/// The image that this system was booted from, and its /etc.
fn booted(trust: &TrustArgs) -> Result<(Tree, PathBuf), Failure> {
    let elsewhere = "elsewhere give --etc DIR and --image IMAGE";
    let text = std::fs::read(BOOT_RECORD).map_err(|err| {
        Failure::new(format!("{BOOT_RECORD}: {err}"))
            .hint(format!("this system was not booted from an image; {elsewhere}"))
    })?;
    let record: serde_json::Value = serde_json::from_slice(&text)
        .map_err(|err| Failure::new(format!("{BOOT_RECORD}: {err}")))?;
    let field = |name: &str| {
        let missing = || Failure::new(format!("{BOOT_RECORD} has no {name}")).hint(elsewhere);
        record.get(name).and_then(serde_json::Value::as_str).ok_or_else(missing)
    };
    let image = PathBuf::from(field("image")?);
    let root_digest: Digest = field("root_digest")?
        .parse()
        .map_err(|err| Failure::new(format!("{BOOT_RECORD}: {err}")))?;
    let directory = Path::new(field("data")?).join("state").join(etc::directory_name(root_digest));
    if directory.symlink_metadata().is_err_and(|err| err.kind() == io::ErrorKind::NotFound) {
        return Err(Failure::new(format!("{} is not there", directory.display())).hint(
            "this system keeps no /etc of its own (ashlar.etc=merge would); what lies over the image's now is shown \
             by --etc /etc --image IMAGE",
        ));
    }
    let trust = match (trust.root_digest, trust.key.is_empty()) {
        (None, true) => TrustArgs { root_digest: Some(root_digest), ..trust.clone() },
        _ => trust.clone(),
    };
    Ok((trust.open(&image)?, directory))
}

fn tell(change: &Change, json: bool, out: &mut impl Write) -> io::Result<()> {
    let path = match change.path.as_slice() {
        b"" => ".".to_owned(),
        path => escape(path),
    };
    if json {
        let line = serde_json::json!({ "change": change.what, "path": path });
        return writeln!(out, "{line}");
    }
    let letter = match change.what {
        What::Added => 'A',
        What::Removed => 'D',
        What::Modified => 'M',
        What::Hidden => 'H',
    };
    writeln!(out, "{letter} {path}")
}

fn merge(args: &MergeArgs) -> Outcome {
    let open = |image: &Path, root_digest| {
        let trust = TrustArgs { root_digest, key: args.key.clone(), signature: Vec::new() };
        trust.open(image).map_err(|err| match err {
            Error::Io { .. } => err.into(),
            _ => Failure::about(image.display(), &err),
        })
    };
    let old = open(&args.old, args.root_digest_old)?;
    let new = open(&args.new, args.root_digest_new)?;
    let report = etc::merge(&old, &args.current, &new, &args.out)
        .map_err(|err| failure(&args.current, &err))?;
    if args.json {
        let text = serde_json::to_string_pretty(&report).map_err(|err| Failure::new(&err))?;
        super::say(&format!("{text}\n"))?;
        return Ok(ExitCode::SUCCESS);
    }
    for line in report.warnings() {
        eprintln!("ashlar: warning: {line}");
    }
    eprintln!("{report}");
    Ok(ExitCode::SUCCESS)
}

fn failure(subject: &Path, err: &Error) -> Failure {
    let Error::Io { source, .. } = err else { return Failure::about(subject.display(), err) };
    let failure = Failure::new(format!("{}: {err}", subject.display()));
    match source.kind() {
        io::ErrorKind::PermissionDenied => failure.hint("only root can read all of /etc"),
        _ => failure,
    }
}
