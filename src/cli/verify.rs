//! `ashlar verify`: is all of it true?

mod repair;

use std::io::IsTerminal;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::{Failure, Outcome, TrustArgs, escape, say, warn_unauthenticated};
use crate::error::{Corrupt, Error};
use crate::format::field::u64_from_usize;
use crate::image::{self, Method};
use crate::trust::Anchor;
use crate::verify::{self, Finding, Report};

/// Exit status, as of fsck(8): there was damage, and it was repaired.
const REPAIRED: u8 = 1;
/// Exit status, as of fsck(8): there is damage, and it is still there.
const DAMAGE: u8 = 4;
/// Exit status: could not tell.
const UNKNOWN: u8 = 8;
/// Exit status: wrongly called.
pub(super) const USAGE: u8 = 16;
/// Files that are written for one finding; --json has them all.
const FILES_SHOWN: usize = 20;

/// Arguments of `ashlar verify`.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit status, as of fsck(8): 0 clean, 1 repaired (a whole image was written: to --output, where that is given), 4 damaged, 8 could not tell, 16 wrongly called; 4 and 8 may be added.

--repair writes a new file beside the image with what is whole of it, and the rest from its parity (`mkimage --fec`), or from the
images (*.img, *.ashlar) beside it and whatever --from names: an older or newer image that shares blocks, or a copy. Those need
not be trusted: the new file is verified as a whole against the image's own digests and then takes the name, or nothing is changed.
Signatures are not part of what the digests cover: where they are damaged or cut off, those of another copy of the same image are taken.
A mount goes on with the old file until it is unmounted.

--json writes one object: image, root_digest, authenticated_by (root-digest, key or null), clean, file_bytes,
bytes_checked, slack_bytes (behind the image on a block device), blocks, blocks_good, inodes, signatures (number of),
findings_omitted, and findings, each with class (io, untrusted, corrupt or unsupported), rule and name (of SPEC.md, or
null), message, block, offset and part (or null), files (paths hit), inodes (hit, paths unknown), more_files. All of it is about
IMAGE as it was found; with --repair there is also repair: null where nothing had to be done, or done (true or false),
and with it path, root_digest (of the repaired image), signatures_lost (the file was cut in front of them, if it had any, and no
copy has them: sign it anew), and blocks_healed (parts, by where they came from: reread, image, server), or data_shards and parity_shards
(damaged), shards_max (that may be) and shard_len; or error.")]
pub struct VerifyArgs {
    #[command(flatten)]
    trust: TrustArgs,
    /// Threads that hash and expand [default: one for each processor]
    #[arg(short = 'j', long, value_name = "N")]
    workers: Option<NonZeroUsize>,
    /// Write the report as JSON
    #[arg(long)]
    json: bool,
    /// Write findings only
    #[arg(short, long)]
    quiet: bool,
    /// The image: a file or a block device
    image: PathBuf,
    #[command(flatten)]
    repair: repair::RepairArgs,
    #[command(flatten)]
    fsck: FsckArgs,
}

/// What fsck(8) and its callers pass: an image is repaired by --repair only, never asked about or skipped, so none of it matters.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag that others pass")]
struct FsckArgs {
    #[arg(short = 'a', hide = true)]
    auto: bool,
    #[arg(short = 'p', hide = true)]
    preen: bool,
    #[arg(short = 'y', hide = true)]
    yes: bool,
    #[arg(short = 'n', hide = true)]
    no: bool,
    #[arg(short = 'f', hide = true)]
    force: bool,
    #[arg(short = 'C', hide = true, value_name = "FD")]
    progress_fd: Option<u32>,
    #[arg(short = 'T', hide = true)]
    no_title: bool,
    #[arg(short = 'M', hide = true)]
    skip_mounted: bool,
    #[arg(short = 'V', hide = true)]
    verbose: bool,
}

/// Runs it.
pub fn run(args: &VerifyArgs) -> Outcome {
    let unknown =
        |err: Error| Failure { status: UNKNOWN, ..Failure::about(args.image.display(), &err) };
    args.repair.output()?;
    let options = args.trust.options(&args.image).map_err(unknown)?;
    // Every byte is read once: a map would only fill memory with what is not looked at again.
    let source = image::open(&args.image, Method::Pread).map_err(unknown)?;
    let authenticated_by = match options.anchor {
        Anchor::RootDigest(_) => Some("root-digest"),
        Anchor::Keys(_) => Some("key"),
        Anchor::Unauthenticated => {
            warn_unauthenticated(&args.image);
            None
        }
    };
    let bar = progress_bar(args);
    let progress = |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    };
    let mut how = verify::Options { progress: &progress, ..verify::Options::default() };
    how.workers = args.workers.unwrap_or(how.workers);
    let report = verify::verify_source(Arc::clone(&source), &options, &how);
    if args.repair.is_wanted() {
        let damage = repair::Damage { image: &args.image, source, open: &options, report: &report };
        let repair = (!report.is_clean()).then(|| args.repair.run(&damage, &how));
        bar.finish_and_clear();
        return tell_repair(args, authenticated_by, &report, repair);
    }
    bar.finish_and_clear();
    if args.json {
        say(&format!("{}\n", to_json(&args.image, authenticated_by, &report)))?;
    } else {
        say(&to_text(&report, args.quiet))?;
    }
    Ok(ExitCode::from(status(&report)))
}

/// Tells what was found and what came of it.
fn tell_repair(
    args: &VerifyArgs,
    authenticated_by: Option<&str>,
    report: &Report,
    repair: Option<repair::Repair>,
) -> Outcome {
    if args.json {
        let mut told = to_json(&args.image, authenticated_by, report);
        if let Some(object) = told.as_object_mut() {
            let repair = repair.as_ref().map_or(Value::Null, repair::Repair::to_json);
            object.insert("repair".to_owned(), repair);
        }
        say(&format!("{told}\n"))?;
    } else {
        say(&to_text(report, args.quiet))?;
        let line = repair.as_ref().and_then(repair::Repair::line).filter(|_| !args.quiet);
        say(&line.map(|line| line + "\n").unwrap_or_default())?;
    }
    if let Some(warning) = repair.as_ref().and_then(repair::Repair::warning) {
        eprintln!("ashlar: warning: {warning}");
    }
    match repair {
        None => Ok(ExitCode::from(status(report))),
        Some(repair::Repair::Done(_)) => Ok(ExitCode::from(REPAIRED)),
        Some(repair::Repair::Failed(failure)) => {
            Err(Failure { status: failure.status.max(status(report)), ..failure })
        }
    }
}

/// On a terminal only; a bar that is not drawn costs nothing.
fn progress_bar(args: &VerifyArgs) -> ProgressBar {
    if args.quiet || args.json || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(0);
    let template = "{bar:30} {percent:>3} %  {bytes} of {total_bytes}  {bytes_per_sec}  {eta} left";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// The exit status: what fsck(8) calls "the sum of the conditions".
fn status(report: &Report) -> u8 {
    let each = report.findings.iter().map(|finding| match finding.error {
        // An image of another kind, or of a later one, was not found damaged: it was not looked at.
        Error::Corrupt(Corrupt::NotAnImage { .. }) => UNKNOWN,
        Error::Untrusted(_) | Error::Corrupt(_) => DAMAGE,
        _ => UNKNOWN,
    });
    let status = each.fold(0, |status, more| status | more);
    if status == 0 && !report.is_clean() { UNKNOWN } else { status }
}

fn to_text(report: &Report, quiet: bool) -> String {
    let mut lines = Vec::new();
    for finding in &report.findings {
        lines.push(format!("{}: {}", class(&finding.error), message(finding)));
        let paths = finding.files.iter().map(|path| escape(path));
        let lost = finding.unnamed.iter().map(|inode| format!("inode {inode}, whose path is lost"));
        lines.extend(paths.chain(lost).take(FILES_SHOWN).map(|file| format!("    hits {file}")));
        let hit = finding.files.len().saturating_add(finding.unnamed.len());
        match hit.saturating_sub(FILES_SHOWN) {
            0 if finding.more_files => lines.push("    and more".to_owned()),
            0 => {}
            more if finding.more_files => lines.push(format!("    and {more} or more others")),
            more => lines.push(format!("    and {more} more")),
        }
    }
    if report.findings_omitted > 0 {
        lines.push(format!("and {} more findings", report.findings_omitted));
    }
    if !quiet {
        summarize(report, &mut lines);
    }
    lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect()
}

fn summarize(report: &Report, lines: &mut Vec<String>) {
    let blocks = report.superblock.as_ref().map_or(0, |superblock| superblock.block_count);
    let Report { bytes_checked, file_bytes, blocks_good, inodes_checked, slack_bytes, .. } = report;
    lines.push(if report.is_clean() {
        format!("clean: {bytes_checked} bytes in {blocks} blocks, {inodes_checked} inodes")
    } else {
        let findings =
            u64_from_usize(report.findings.len()).saturating_add(report.findings_omitted);
        format!(
            "not clean: {findings} findings; {bytes_checked} of {file_bytes} bytes checked, \
             {blocks_good} of {blocks} blocks good"
        )
    });
    if *slack_bytes > 0 {
        lines.push(format!("{slack_bytes} bytes behind the image on the device are no part of it"));
    }
    if let Some(digest) = report.root_digest {
        lines.push(format!("root digest: {digest}"));
    }
}

/// What is wrong, where the numbers are not in the error itself.
fn message(finding: &Finding) -> String {
    let place = match (finding.block, &finding.error) {
        (Some(block), Error::Io { .. }) => format!(" (block {block})"),
        _ => String::new(),
    };
    let part = finding.part.map(|part| format!(" (in the {part} section)")).unwrap_or_default();
    let part = if finding.block.is_some() { part } else { String::new() };
    format!("{}{place}{part}", finding.error)
}

fn class(err: &Error) -> &'static str {
    match err {
        Error::Untrusted(_) => "untrusted",
        Error::Corrupt(_) => "corrupt",
        Error::Unsupported(_) => "unsupported",
        _ => "io",
    }
}

fn rule(err: &Error) -> Option<(&'static str, &'static str)> {
    match err {
        Error::Untrusted(untrusted) => Some((untrusted.rule(), untrusted.name())),
        Error::Corrupt(corrupt) => Some((corrupt.rule(), corrupt.name())),
        Error::Unsupported(unsupported) => Some((unsupported.rule(), unsupported.name())),
        _ => None,
    }
}

fn to_json(image: &Path, authenticated_by: Option<&str>, report: &Report) -> Value {
    let findings: Vec<Value> = report
        .findings
        .iter()
        .map(|finding| {
            json!({
                "class": class(&finding.error),
                "rule": rule(&finding.error).map(|rule| rule.0),
                "name": rule(&finding.error).map(|rule| rule.1),
                "message": finding.error.to_string(),
                "block": finding.block,
                "offset": finding.offset,
                "part": finding.part,
                "files": finding.files.iter().map(|path| escape(path)).collect::<Vec<_>>(),
                "inodes": finding.unnamed,
                "more_files": finding.more_files,
            })
        })
        .collect();
    json!({
        "image": image.to_string_lossy(),
        "root_digest": report.root_digest,
        "authenticated_by": authenticated_by,
        "clean": report.is_clean(),
        "file_bytes": report.file_bytes,
        "bytes_checked": report.bytes_checked,
        "slack_bytes": report.slack_bytes,
        "blocks": report.superblock.as_ref().map(|superblock| superblock.block_count),
        "blocks_good": report.blocks_good,
        "inodes": report.inodes_checked,
        "signatures": report.signatures.len(),
        "findings": findings,
        "findings_omitted": report.findings_omitted,
    })
}
