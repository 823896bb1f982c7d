//! `ashlar diff`: what is different between two images, and what would an update download?

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use indicatif::HumanBytes;

use super::ls::{Record, Stop, json_line, mode_string, time_string, written};
use super::{Failure, Outcome, TrustArgs, escape};
use crate::diff::{self, Aspect, Difference, Download, Which};
use crate::error::Error;
use crate::format::digest::Digest;
use crate::format::inode::Kind;
use crate::fs::Tree;
use crate::fs::walk::Visit;

/// Arguments of `ashlar diff`.
#[derive(Debug, Args)]
#[command(after_help = "\
One line a path that is not the same: `+` only in B, `-` only in A, `~` in both, with what is different: type, mode, \
owner, links, size, mtime, target, device, xattrs, content. Content is compared by what is stored of it, and by bytes \
where that is different. At the end, how many there are, and how many bytes an update from A to B would download: the \
blocks of B that A does not have, and B's tables.

With --json one object a line: {\"change\":\"added\"|\"removed\",\"file\":{…}}, \
{\"change\":\"changed\",\"aspects\":[…],\"a\":{…},\"b\":{…}}, \
{\"change\":\"unreadable\",\"image\":\"a\"|\"b\",\"path\":…,\"error\":…}, with files as `ls --json` shows them; the last \
line is {\"summary\":{…},\"download\":{…}}.

Exit status: 0, or 1 when something could not be read. With --exit-code as diff(1): 0 same, 1 different, 2 trouble.")]
pub struct DiffArgs {
    /// Root digest that A must have
    #[arg(long, value_name = "HEX", conflicts_with = "key")]
    root_digest_a: Option<Digest>,
    /// Root digest that B must have
    #[arg(long, value_name = "HEX", conflicts_with = "key")]
    root_digest_b: Option<Digest>,
    /// Public key (minisign) by which both must be signed; may be given several times
    #[arg(long, value_name = "FILE")]
    key: Vec<PathBuf>,
    /// Write one JSON object a line
    #[arg(long)]
    json: bool,
    /// Show only what an update would download; the trees are not compared
    #[arg(long, conflicts_with = "exit_code")]
    bytes: bool,
    /// Exit with 1 when the trees are different, and with 2 when something could not be read
    #[arg(long)]
    exit_code: bool,
    /// The image that an update starts from
    a: PathBuf,
    /// The image that it ends at
    b: PathBuf,
}

/// How many paths there are of each kind.
#[derive(Debug, Default, serde::Serialize)]
struct Counts {
    added: u64,
    removed: u64,
    changed: u64,
    unreadable: u64,
}

/// Runs it.
pub fn run(args: &DiffArgs) -> Outcome {
    let trouble = if args.exit_code { 2 } else { 1 };
    compare(args).map_err(|failure| Failure { status: trouble, ..failure })
}

fn compare(args: &DiffArgs) -> Outcome {
    let a = open(args, &args.a, args.root_digest_a)?;
    let b = open(args, &args.b, args.root_digest_b)?;
    let download = diff::download(a.store(), b.store())?;
    let mut out = BufWriter::new(io::stdout().lock());
    let mut counts = Counts::default();
    let told = tell(args, &a, &b, &download, &mut counts, &mut out);
    match told.and_then(|()| Ok(out.flush()?)) {
        Ok(()) => {}
        Err(Stop::Image(err)) => {
            written(out.flush())?;
            return Err(err.into());
        }
        Err(Stop::Output(err)) => return written(Err(err)),
    }
    if counts.unreadable > 0 {
        let what = format!("{} places could not be read", counts.unreadable);
        return Err(Failure::new(what).hint("`ashlar verify` names everything that is damaged"));
    }
    let differs = counts.added > 0 || counts.removed > 0 || counts.changed > 0;
    Ok(if args.exit_code && differs { ExitCode::from(1) } else { ExitCode::SUCCESS })
}

fn open(args: &DiffArgs, image: &Path, root_digest: Option<Digest>) -> Result<Tree, Failure> {
    let trust = TrustArgs { root_digest, key: args.key.clone(), signature: Vec::new() };
    trust.open(image).map_err(|err| match err {
        Error::Io { .. } => err.into(),
        _ => Failure::about(image.display(), &err),
    })
}

fn tell(
    args: &DiffArgs,
    a: &Tree,
    b: &Tree,
    download: &Download,
    counts: &mut Counts,
    out: &mut impl Write,
) -> Result<(), Stop> {
    if !args.bytes {
        for difference in diff::diff(a, b) {
            let counter = match &difference {
                Difference::Added(_) => &mut counts.added,
                Difference::Removed(_) => &mut counts.removed,
                Difference::Changed { .. } => &mut counts.changed,
                Difference::Unreadable { .. } => &mut counts.unreadable,
            };
            *counter = counter.saturating_add(1);
            if args.json {
                out.write_all(&object(a, b, &difference).map_err(Stop::Image)?)?;
                writeln!(out)?;
            } else if let Difference::Unreadable { path, image, err } = &difference {
                out.flush()?;
                let image = if *image == Which::A { &args.a } else { &args.b };
                eprintln!("ashlar: error: {}: {}: {err}", image.display(), escape(path));
            } else {
                writeln!(out, "{}", line(a, b, &difference).map_err(Stop::Image)?)?;
            }
        }
    }
    if args.json {
        let summary = (!args.bytes).then_some(&*counts);
        out.write_all(&json_line(&Last { summary, download }).map_err(Stop::Image)?)?;
        writeln!(out)?;
        return Ok(());
    }
    if !args.bytes {
        let Counts { added, removed, changed, .. } = counts;
        writeln!(out, "{added} added, {removed} removed, {changed} changed")?;
    }
    writeln!(out, "{}", download_line(download))?;
    Ok(())
}

fn download_line(download: &Download) -> String {
    let Download { blocks, table_bytes, bytes, total_blocks, total_bytes, .. } = *download;
    // In tenths of a percent; an image has at least two superblocks.
    let permille = u128::from(bytes)
        .saturating_mul(1000)
        .checked_div(u128::from(total_bytes))
        .unwrap_or_default();
    format!(
        "an update downloads {bytes} bytes ({}) of {total_bytes} ({}), {}.{} %: \
         {blocks} of {total_blocks} blocks, and {table_bytes} bytes of tables",
        HumanBytes(bytes),
        HumanBytes(total_bytes),
        permille / 10,
        permille % 10,
    )
}

/// One line of JSON.
#[derive(Debug, serde::Serialize)]
#[serde(tag = "change", rename_all = "lowercase")]
enum Object<'a> {
    Added { file: Record },
    Removed { file: Record },
    Changed { aspects: &'a [Aspect], a: Box<Record>, b: Box<Record> },
    Unreadable { image: Which, path: String, error: String },
}

/// The last line.
#[derive(Debug, serde::Serialize)]
struct Last<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    summary: Option<&'a Counts>,
    download: &'a Download,
}

fn object(a: &Tree, b: &Tree, difference: &Difference) -> Result<Vec<u8>, Error> {
    json_line(&match difference {
        Difference::Added(visit) => Object::Added { file: Record::new(b, visit)? },
        Difference::Removed(visit) => Object::Removed { file: Record::new(a, visit)? },
        Difference::Changed { a: in_a, b: in_b, aspects } => Object::Changed {
            aspects,
            a: Box::new(Record::new(a, in_a)?),
            b: Box::new(Record::new(b, in_b)?),
        },
        Difference::Unreadable { path, image, err } => {
            Object::Unreadable { image: *image, path: escape(path), error: err.to_string() }
        }
    })
}

fn line(a: &Tree, b: &Tree, difference: &Difference) -> Result<String, Error> {
    Ok(match difference {
        Difference::Added(visit) => format!("+ {}", name(visit)),
        Difference::Removed(visit) => format!("- {}", name(visit)),
        Difference::Changed { a: in_a, b: in_b, aspects } => {
            let aspects: Vec<String> = aspects
                .iter()
                .map(|aspect| describe(*aspect, (a, in_a), (b, in_b)))
                .collect::<Result<_, _>>()?;
            format!("~ {}: {}", name(in_a), aspects.join(", "))
        }
        Difference::Unreadable { path, .. } => escape(path),
    })
}

/// A path; directories end with a slash, which is all that the root has.
fn name(visit: &Visit) -> String {
    let slash = if visit.inode.kind == Kind::Dir { "/" } else { "" };
    escape(&visit.path) + slash
}

fn describe(aspect: Aspect, a: (&Tree, &Visit), b: (&Tree, &Visit)) -> Result<String, Error> {
    let word = match aspect {
        Aspect::Type => "type",
        Aspect::Mode => "mode",
        Aspect::Owner => "owner",
        Aspect::Links => "links",
        Aspect::Size => "size",
        Aspect::Mtime => "mtime",
        Aspect::Target => "target",
        Aspect::Device => "device",
        Aspect::Xattrs => "xattrs",
        Aspect::Content => "content",
    };
    let (before, after) = (value(aspect, a.0, a.1)?, value(aspect, b.0, b.1)?);
    // What has no short value, and times that differ by less than a second.
    Ok(if before == after { word.to_owned() } else { format!("{word} {before} -> {after}") })
}

/// An aspect of a file as a word, where it has one.
fn value(aspect: Aspect, tree: &Tree, visit: &Visit) -> Result<String, Error> {
    let attr = tree.attr_of(visit.index, &visit.inode)?;
    Ok(match aspect {
        Aspect::Type => mode_string(&attr),
        Aspect::Mode => format!("{:04o}", attr.permissions),
        Aspect::Owner => format!("{}:{}", attr.uid, attr.gid),
        Aspect::Links => attr.nlink.to_string(),
        Aspect::Size => attr.size.to_string(),
        Aspect::Mtime => time_string(attr.mtime_sec),
        Aspect::Target => escape(&tree.read_link(visit.index)?),
        Aspect::Device => format!("{},{}", attr.device.0, attr.device.1),
        Aspect::Xattrs | Aspect::Content => String::new(),
    })
}
