//! How does a person ask for an image?
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the command line speaks to a person"
)]

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use ashlarfs::fec::Share;
use ashlarfs::format::superblock::LABEL_LEN;
use ashlarfs::format::trace;
use ashlarfs::format::{BLOCK_BITS_MAX, BLOCK_BITS_MIN};
use ashlarfs::lint::{Finding, Severity};
use clap::Parser;

use crate::Failure;
use crate::build::{Summary, build};
use crate::filter::{Filter, clean};
use crate::lint;
use crate::options::{Options, Progress};
use crate::overrides::Overrides;
use crate::plan::Wanted;
use crate::report::{self, Report};
use crate::scan::{ScanOptions, scan};
use crate::sign;
use crate::tar::{self, TarOptions};
use crate::tree::{Contents, SourceTree};

/// Level at which blocks are compressed when nobody says.
const LEVEL_DEFAULT: i32 = 19;
/// Levels of zstd. Those below 1 and the memory they need have no use for an image that is built once and read often.
const LEVELS: std::ops::RangeInclusive<i32> = 1..=22;

const EXAMPLES: &str = "\
Examples:
  mkimage rootfs/ root.img
      Pack a directory. Prints the root digest: give it to `ashlar mount --root-digest`.
  mkimage --sign-key minisign.key --image-version 7 rootfs/ root.img
      Sign the image; machines that know the public key need no digest.
  mkimage --base old.img rootfs/ new.img
      Take unchanged blocks from the version before: faster, and a small update.
  mkimage --all-root -e var/cache -e tmp --exclude-regex '\\.pyc$' rootfs/ root.img
      Leave things out, and give everything to root.
  tar --format=posix --xattrs --acls -C rootfs -cf - . | mkimage --tar - root.img
      Pack a tar stream, without unpacking it and without being root.
  mkimage --fec rootfs/ root.img
      Make the image one that can be repaired where it is, for 0.9 % of its size.
  podman export CONTAINER | mkimage --tar - root.img
  mkimage --root-image rootfs/ root.img
      Refuse what would not boot, and warn of what would surprise: see `ashlar lint`.

The same tree and options give the same image, bit for bit, on any machine and with any number of workers.
Set SOURCE_DATE_EPOCH to record a build time, and to hold back times of files that are later than it.";

/// Build a verifying read-only root filesystem image from a directory or a tar archive
///
/// The root digest of the image, by which it is verified, is written to standard output, and nothing else is.
/// An existing IMAGE is replaced only when the new one is complete, on disk and verified.
#[derive(Debug, Parser)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of its own")]
#[command(name = "mkimage", version, arg_required_else_help = true, after_help = EXAMPLES)]
struct Cli {
    /// Directory to pack; with --tar, a tar archive or `-` for standard input
    source: PathBuf,
    /// Image file to make
    image: PathBuf,

    /// Take SOURCE as a tar archive: plain, or packed with gzip, xz or zstd, which is found out
    #[arg(long, help_heading = "Source")]
    tar: bool,
    /// Directory for content of packed and piped archives [default: $TMPDIR, else where IMAGE is]
    #[arg(long, value_name = "DIR", requires = "tar", help_heading = "Source")]
    tmpdir: Option<PathBuf>,
    /// Leave out a path, seen from the root of SOURCE, and everything below it; may be given several times
    #[arg(short, long, value_name = "PATH", help_heading = "Source")]
    exclude_path: Vec<PathBuf>,
    /// Leave out paths in which this regular expression is found; may be given several times
    #[arg(long, value_name = "REGEX", help_heading = "Source")]
    exclude_regex: Vec<String>,
    /// Leave directories empty that are on other file systems than SOURCE
    #[arg(short = 'x', long, conflicts_with = "tar", help_heading = "Source")]
    one_file_system: bool,
    /// Warn about files that change or vanish while they are read, instead of giving up
    #[arg(long, help_heading = "Source")]
    ignore_changed: bool,

    /// Make everything root's; short for --force-uid 0 --force-gid 0
    #[arg(long, conflicts_with_all = ["force_uid", "force_gid"], help_heading = "Attributes")]
    all_root: bool,
    /// Give everything this owner
    #[arg(long, value_name = "UID", help_heading = "Attributes")]
    force_uid: Option<u32>,
    /// Give everything this group
    #[arg(long, value_name = "GID", help_heading = "Attributes")]
    force_gid: Option<u32>,
    /// Set every time to SECS since 1970
    #[arg(long, value_name = "SECS", allow_negative_numbers = true, help_heading = "Attributes")]
    all_time: Option<i64>,
    /// Leave out all extended attributes: capabilities, ACLs, labels
    #[arg(long, help_heading = "Attributes")]
    no_xattrs: bool,

    /// Size of data blocks, a power of two from 4K to 1M
    #[arg(short, long, value_name = "SIZE", default_value = "64K", value_parser = block_bits, help_heading = "Image")]
    block_size: u8,
    /// How to compress: `zstd`, `zstd,LEVEL` with a level from 1 to 22, or `none`
    #[arg(short = 'z', long, value_name = "HOW", default_value_t = Compress(Some(LEVEL_DEFAULT)), value_parser = compress, help_heading = "Image")]
    compress: Compress,
    /// Name of the image, up to 64 bytes
    #[arg(short = 'L', long, value_name = "TEXT", default_value = "", hide_default_value = true, value_parser = label, help_heading = "Image")]
    label: String,
    /// Version of the image; an updater refuses to go back to a lower one
    #[arg(
        long,
        value_name = "N",
        default_value_t = 0,
        hide_default_value = true,
        help_heading = "Image"
    )]
    image_version: u64,
    /// Order in which content lies: `path`, or a file with a path a line, what is read first first; or a trace of
    /// `ashlar mount --record-trace`, whose pieces are listed in the image, too, and expanded ahead of those who read
    #[arg(long, value_name = "path|FILE", default_value = "path", help_heading = "Image")]
    order: PathBuf,
    /// Older image whose stored blocks are taken where content is equal
    #[arg(long, value_name = "OLD.img", help_heading = "Image")]
    base: Option<PathBuf>,
    /// Sign with this secret key (minisign); may be given several times. A password is asked for, or taken from the
    /// environment variable `ASHLAR_KEY_PASSWORD`
    #[arg(long, value_name = "FILE", help_heading = "Image")]
    sign_key: Vec<PathBuf>,

    /// Add Reed-Solomon parity, by which `ashlar verify --repair` restores an image with one hole of up to PERCENT of it, wherever
    /// it lies, or with damage that touches no more 4 KiB pieces than that hole would (of images longer than 128 MiB, pieces are a
    /// 32,768th); 0.01 to 10 [default: 0.8]
    #[arg(long, value_name = "PERCENT", num_args = 0..=1, require_equals = true, default_missing_value = "0.8", value_parser = share, help_heading = "Image")]
    fec: Option<Share>,

    /// Refuse a tree that would not boot, and warn of what would surprise: `ashlar lint` before anything takes long
    #[arg(long, help_heading = "Root")]
    root_image: bool,
    /// Leave out a lint of --root-image by its name; may be given several times
    #[arg(long, value_name = "LINT", requires = "root_image", value_parser = lint::lint_name, help_heading = "Root")]
    allow: Vec<&'static str>,

    /// Compress on so many processors [default: all of them]
    #[arg(short = 'j', long, visible_alias = "processors", value_name = "N")]
    workers: Option<NonZeroUsize>,
    /// Show neither progress nor summary
    #[arg(short, long)]
    quiet: bool,
    /// Write the summary as JSON, to standard error
    #[arg(long)]
    json: bool,
}

/// A compressor with its level; none stores everything as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Compress(Option<i32>);

impl std::fmt::Display for Compress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(level) => write!(f, "zstd,{level}"),
            None => write!(f, "none"),
        }
    }
}

fn compress(text: &str) -> Result<Compress, String> {
    match text.split_once(',') {
        None if text == "none" => Ok(Compress(None)),
        None if text == "zstd" => Ok(Compress(Some(LEVEL_DEFAULT))),
        Some(("zstd", level)) => match level.parse() {
            Ok(level) if LEVELS.contains(&level) => Ok(Compress(Some(level))),
            _ => Err(format!("levels of zstd are {} to {}", LEVELS.start(), LEVELS.end())),
        },
        _ => Err("`zstd`, `zstd,LEVEL` and `none` are known".into()),
    }
}

/// The base-2 logarithm of `4096`, `128K` or `1M`.
fn block_bits(text: &str) -> Result<u8, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" => Some(1),
        "k" | "kib" => Some(1 << 10),
        "m" | "mib" => Some(1 << 20),
        _ => None,
    };
    let size = unit.and_then(|unit: u32| unit.checked_mul(digits.parse().ok()?));
    (BLOCK_BITS_MIN..=BLOCK_BITS_MAX)
        .find(|bits| size == Some(1 << bits))
        .ok_or_else(|| "a power of two from 4K to 1M is needed".into())
}

fn share(text: &str) -> Result<Share, String> {
    Share::from_percent(text).ok_or_else(|| "a percentage from 0.01 to 10 is needed".into())
}

fn label(text: &str) -> Result<String, String> {
    if text.len() > LABEL_LEN {
        return Err(format!("it has {} bytes, {LABEL_LEN} are possible", text.len()));
    }
    if text.chars().any(char::is_control) {
        return Err("it has control characters".into());
    }
    Ok(text.to_owned())
}

/// See [`crate::run`].
pub(crate) fn run_args(
    args: impl IntoIterator<Item = impl Into<OsString> + Clone>,
) -> Result<Summary, Failure> {
    run(&Cli::try_parse_from(args).map_err(Failure::new)?)
}

/// See [`crate::main`].
pub(crate) fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = Cli::parse_from(args);
    match run(&cli) {
        Ok(summary) => {
            println!("{}", summary.root_digest);
            ExitCode::SUCCESS
        }
        Err(failure) => {
            eprintln!("mkimage: error: {}", failure.message);
            if let Some(hint) = failure.hint {
                eprintln!("mkimage: hint: {hint}");
            }
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<Summary, Failure> {
    check_image(&cli.image, &cli.source)?;
    // What can be wrong is found wrong before anything takes long; passwords too.
    let epoch = source_date_epoch(std::env::var_os("SOURCE_DATE_EPOCH"))?;
    let excluded: Vec<_> =
        cli.exclude_path.iter().map(|path| path.as_os_str().as_bytes().to_vec()).collect();
    let filter = Filter::new(&excluded, &cli.exclude_regex)?;
    let options = Options {
        block_bits: cli.block_size,
        level: cli.compress.0,
        workers: workers(cli.workers),
        label: cli.label.clone(),
        image_version: cli.image_version,
        build_time: epoch.unwrap_or(0),
        base: cli.base.clone(),
        order: read_order(&cli.order)?,
        ignore_changed: cli.ignore_changed,
        sign_keys: sign::open(&cli.sign_key)?,
        parity: cli.fec,
    };
    let overrides = Overrides {
        uid: cli.force_uid.or(cli.all_root.then_some(0)),
        gid: cli.force_gid.or(cli.all_root.then_some(0)),
        time: cli.all_time,
        time_max: epoch,
        no_xattrs: cli.no_xattrs,
    };
    let report = Report::new(cli.quiet);
    let summary = make(cli, &filter, &overrides, &options, &report);
    report.end();
    let (summary, findings) = summary?;
    if cli.json {
        let findings = cli.root_image.then(|| findings.iter().map(lint::json).collect());
        let json = serde_json::to_string(&Told { summary: &summary, findings })
            .map_err(|err| Failure::new(format!("cannot write the summary: {err}")))?;
        eprintln!("{json}");
    } else if !cli.quiet {
        eprint!("{}", report::summary(&summary, &cli.image, 1 << options.block_bits));
    }
    Ok(summary)
}

/// What --json writes.
#[derive(serde::Serialize)]
struct Told<'a> {
    #[serde(flatten)]
    summary: &'a Summary,
    /// With --root-image only.
    #[serde(skip_serializing_if = "Option::is_none")]
    findings: Option<Vec<serde_json::Value>>,
}

/// From source to image.
fn make(
    cli: &Cli,
    filter: &Filter,
    overrides: &Overrides,
    options: &Options,
    report: &Report,
) -> Result<(Summary, Vec<Finding>), Failure> {
    report.phase("reading the tree");
    let (mut tree, contents): (SourceTree, Box<dyn Contents>) = if cli.tar {
        let tmpdir = tmpdir(cli);
        let options = TarOptions { filter, xattrs: !cli.no_xattrs, tmpdir: &tmpdir };
        let (tree, contents) = tar::read(&cli.source, &options, report)?;
        (tree, Box::new(contents))
    } else {
        let options = ScanOptions {
            filter,
            one_file_system: cli.one_file_system,
            xattrs: !cli.no_xattrs,
            image: &cli.image,
            ignore_changed: cli.ignore_changed,
            workers: options.workers,
        };
        let (tree, contents) = scan(&cli.source, &options, report)?;
        (tree, Box::new(contents))
    };
    for path in filter.unmatched() {
        report.warn(&format!("--exclude-path {}: there is nothing", crate::text::shown(path)));
    }
    overrides.apply(&mut tree);
    let mut findings = Vec::new();
    if cli.root_image {
        report.phase("looking the tree over");
        findings = lint::lint(&mut tree, &*contents, &cli.allow)?;
        let refusal = lint::refusal(&findings);
        for finding in findings.iter().filter(|finding| finding.severity > Severity::Info) {
            // What --json tells at the end is not told twice; but what stops here has no end.
            if !cli.json || refusal.is_some() {
                report.line(&lint::line(finding));
            }
        }
        if let Some(refusal) = refusal {
            return Err(refusal);
        }
    }
    let summary = build(tree, &*contents, &cli.image, options, report)?;
    Ok((summary, findings))
}

/// Holds that IMAGE can be replaced by a rename, which is how it is written, and that nothing dear is lost by it.
fn check_image(image: &Path, source: &Path) -> Result<(), Failure> {
    let shown = image.display();
    let directory = image.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(directory) = directory.filter(|directory| !directory.is_dir()) {
        let missing = directory.display();
        return Err(Failure::new(format!("cannot write {shown}: there is no directory {missing}")));
    }
    let Ok(metadata) = std::fs::metadata(image) else { return Ok(()) };
    let kind = metadata.file_type();
    if kind.is_dir() {
        return Err(Failure::new(format!("{shown} is a directory"))
            .hint(format!("name the image file: {}", image.join("root.img").display())));
    }
    if kind.is_block_device() || !kind.is_file() {
        return Err(Failure::new(format!("{shown} is no regular file"))
            .hint("build into a file, then copy it: dd if=root.img of=DEVICE bs=4M conv=fsync"));
    }
    let is_source = std::fs::metadata(source)
        .is_ok_and(|source| (source.dev(), source.ino()) == (metadata.dev(), metadata.ino()));
    if is_source {
        return Err(Failure::new(format!("{shown} is the source itself")));
    }
    Ok(())
}

/// As the reproducible-builds specification has it: decimal seconds since 1970.
fn source_date_epoch(value: Option<OsString>) -> Result<Option<i64>, Failure> {
    let Some(value) = value else { return Ok(None) };
    let digits = value.to_str().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    digits.and_then(|digits| digits.parse().ok()).map(Some).ok_or_else(|| {
        Failure::new(format!("SOURCE_DATE_EPOCH is no number of seconds: `{}`", value.display()))
            .hint("set it like this: SOURCE_DATE_EPOCH=$(git log -1 --format=%ct), or unset it")
    })
}

fn workers(asked: Option<NonZeroUsize>) -> usize {
    asked.or_else(|| std::thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get)
}

/// What an order file wants first: the pieces of a trace; or files by their paths, in lines, or ended by zero bytes when there are
/// any. Paths alone say how content shall lie, and not what will be wanted.
fn read_order(order: &Path) -> Result<Vec<Wanted>, Failure> {
    if order.as_os_str() == "path" {
        return Ok(Vec::new());
    }
    let text = std::fs::read(order).map_err(|err| {
        Failure::io(format!("cannot read the order file {}", order.display()), &err)
    })?;
    match trace::parse(&text) {
        Some(Ok(pieces)) => {
            let wanted = pieces.into_iter().map(|piece| Wanted {
                path: clean(piece.path),
                piece: piece.offset..piece.offset.saturating_add(piece.len),
            });
            return Ok(wanted.collect());
        }
        Some(Err(line)) => {
            let shown = order.display();
            return Err(Failure::new(format!("line {line} of the trace {shown} is none")).hint(
                "a line is `OFFSET LENGTH /PATH`; `ashlar mount --record-trace` writes them",
            ));
        }
        None => {}
    }
    let end = if text.contains(&0) { 0 } else { b'\n' };
    let paths = text.split(|byte| *byte == end).map(clean).filter(|path| !path.is_empty());
    Ok(paths.map(|path| Wanted { path, piece: 0..0 }).collect())
}

fn tmpdir(cli: &Cli) -> PathBuf {
    let from_environment =
        || std::env::var_os("TMPDIR").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let beside = || {
        let parent = cli.image.parent().map(|parent| parent.as_os_str().as_bytes().to_vec());
        let parent = parent.filter(|parent| !parent.is_empty()).unwrap_or_else(|| b".".to_vec());
        PathBuf::from(OsString::from_vec(parent))
    };
    cli.tmpdir.clone().or_else(from_environment).unwrap_or_else(beside)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn block_sizes() {
        assert_eq!(block_bits("128K"), Ok(17));
        assert_eq!(block_bits("4096"), Ok(12));
        assert_eq!(block_bits("1M"), Ok(20));
        assert_eq!(block_bits("64kib"), Ok(16));
        for bad in ["", "K", "2K", "3K", "2M", "100", "64KB", "-4K", "4294967296M", "é"] {
            assert!(block_bits(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn compressors() {
        assert_eq!(compress("none"), Ok(Compress(None)));
        assert_eq!(compress("zstd"), Ok(Compress(Some(LEVEL_DEFAULT))));
        assert_eq!(compress("zstd,3"), Ok(Compress(Some(3))));
        for bad in ["", "gzip", "zstd,", "zstd,0", "zstd,23", "none,1"] {
            assert!(compress(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn source_date_epoch_is_seconds_or_an_error() {
        let read = |text: &str| source_date_epoch(Some(text.into())).ok().flatten();
        assert_eq!(read("1700000000"), Some(1_700_000_000));
        assert_eq!(source_date_epoch(None).unwrap(), None);
        for bad in ["", "yesterday", "-1", "1.5", "99999999999999999999"] {
            assert_eq!(read(bad), None, "{bad}");
            assert!(source_date_epoch(Some(bad.into())).is_err());
        }
    }
}
