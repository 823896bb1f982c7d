//! `ashlar ls`: which files are in it?

use std::ffi::OsString;
use std::io::{self, BufWriter, ErrorKind, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::{Failure, Outcome, TrustArgs, escape};
use crate::error::Error;
use crate::format::inode::Kind;
use crate::fs::Tree;
use crate::fs::attr::Attr;
use crate::fs::walk::Visit;

/// Arguments of `ashlar ls`.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
#[command(after_help = "\
One line a file, in the order of names. Bytes of a name that are not printable, and the backslash, are shown as \\xHH.
A symlink that PATH ends with is followed only when PATH ends with a slash.

With --long: type and mode, links, owner, group, size (or major,minor), time of last change (UTC), name.
With --json: one object a line, with path, type, mode, nlink, uid, gid, size, mtime_sec, mtime_nsec, and where there \
are any target, or major and minor.

Exit status: 0, or 1 when something could not be read.")]
pub struct LsArgs {
    #[command(flatten)]
    trust: TrustArgs,
    /// Show mode, links, owner, size and time too
    #[arg(short, long)]
    long: bool,
    /// Show everything below a directory, as paths
    #[arg(short = 'R', long)]
    recursive: bool,
    /// Show a directory itself, not what is in it
    #[arg(short, long, conflicts_with = "recursive")]
    directory: bool,
    /// Write names as they are, each followed by a zero byte
    #[arg(short = '0', long, conflicts_with_all = ["long", "json"])]
    null: bool,
    /// Write one JSON object a line
    #[arg(long, conflicts_with = "long")]
    json: bool,
    /// The image
    image: PathBuf,
    /// A file or directory in it [default: its root]
    path: Option<OsString>,
}

/// Runs it.
pub fn run(args: &LsArgs) -> Outcome {
    let tree = args.trust.open(&args.image)?;
    let mut out = BufWriter::new(io::stdout().lock());
    let mut failed = 0_u64;
    let listed = list(args, &tree, &mut out, &mut failed);
    let flushed = listed.and_then(|()| out.flush().map_err(Stop::Output));
    match flushed {
        Err(Stop::Image(err)) => {
            // What was listed before is right, and worth seeing.
            written(out.flush())?;
            Err(Failure::about(escape(asked(args)), &err))
        }
        Err(Stop::Output(err)) => written(Err(err)),
        Ok(()) if failed > 0 => {
            Err(Failure::new(format!("{failed} places in the image could not be listed")))
        }
        Ok(()) => Ok(ExitCode::SUCCESS),
    }
}

/// What became of output. A reader that went away has seen what it wanted: no error, and no complaint.
pub(super) fn written(result: io::Result<()>) -> Outcome {
    match result {
        Err(err) if err.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::new(format!("cannot write to standard output: {err}")))
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// Why a command that streams its output ends early.
#[derive(Debug)]
pub(super) enum Stop {
    /// The image cannot be read any further.
    Image(Error),
    /// Nobody reads the output, or it cannot be written.
    Output(io::Error),
}

impl From<io::Error> for Stop {
    fn from(err: io::Error) -> Self {
        Stop::Output(err)
    }
}

fn list(args: &LsArgs, tree: &Tree, out: &mut impl Write, failed: &mut u64) -> Result<(), Stop> {
    let start = tree.resolve_to_last(asked(args)).map_err(Stop::Image)?;
    let inode = tree.inode(start.index).map_err(Stop::Image)?;
    let mut show = |path: &[u8], visit: Result<Visit, Error>| {
        let line = visit.and_then(|visit| line(args, tree, &visit));
        match line {
            Ok(line) => {
                out.write_all(&line)?;
                out.write_all(if args.null { b"\0" } else { b"\n" })
            }
            Err(err) => {
                // In its place among what could be listed.
                out.flush()?;
                eprintln!("ashlar: error: {}: {err}", escape(path));
                *failed = failed.saturating_add(1);
                Ok(())
            }
        }
    };
    if inode.kind != Kind::Dir || args.directory {
        let path = asked(args).to_vec();
        show(asked(args), Ok(Visit { path, index: start.index, inode }))?;
        return Ok(());
    }
    if args.recursive {
        for (path, visit) in tree.walk(start.index) {
            if visit.as_ref().is_ok_and(|visit| visit.path.is_empty()) {
                continue;
            }
            show(&path, visit)?;
        }
        return Ok(());
    }
    let directory = tree.directory(start.index).map_err(Stop::Image)?;
    for nth in 0..directory.len() {
        let entry = directory.entry(nth).and_then(|entry| {
            let inode = directory.child(nth, &entry)?;
            Ok(Visit { path: entry.name, index: entry.inode, inode })
        });
        let path = entry.as_ref().map_or(asked(args).to_vec(), |visit| visit.path.clone());
        show(&path, entry)?;
    }
    Ok(())
}

/// The path that was asked for; `/` when none was.
fn asked(args: &LsArgs) -> &[u8] {
    args.path.as_deref().map_or(b"/", OsStrExt::as_bytes)
}

/// One file as it is shown, without what ends it.
fn line(args: &LsArgs, tree: &Tree, visit: &Visit) -> Result<Vec<u8>, Error> {
    if args.null {
        return Ok(visit.path.clone());
    }
    let name = escape(&visit.path);
    if args.json {
        return json_line(&Record::new(tree, visit)?);
    }
    if !args.long {
        return Ok(name.into_bytes());
    }
    let attr = tree.attr_of(visit.index, &visit.inode)?;
    let size = match attr.kind {
        Kind::Char | Kind::Block => format!("{},{}", attr.device.0, attr.device.1),
        _ => attr.size.to_string(),
    };
    let target = match attr.kind {
        Kind::Link => format!(" -> {}", escape(&tree.read_link(visit.index)?)),
        _ => String::new(),
    };
    let (mode, time) = (mode_string(&attr), time_string(attr.mtime_sec));
    let Attr { nlink, uid, gid, .. } = attr;
    Ok(format!("{mode} {nlink:>3} {uid:>5} {gid:>5} {size:>11} {time} {name}{target}").into_bytes())
}

/// One file as JSON.
#[derive(Debug, serde::Serialize)]
pub(super) struct Record {
    path: String,
    #[serde(rename = "type")]
    kind: Kind,
    mode: String,
    nlink: u32,
    uid: u32,
    gid: u32,
    size: u64,
    mtime_sec: i64,
    mtime_nsec: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    major: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    minor: Option<u32>,
}

impl Record {
    pub(super) fn new(tree: &Tree, visit: &Visit) -> Result<Self, Error> {
        let attr = tree.attr_of(visit.index, &visit.inode)?;
        let target = match attr.kind {
            Kind::Link => Some(escape(&tree.read_link(visit.index)?)),
            _ => None,
        };
        let device = matches!(attr.kind, Kind::Char | Kind::Block).then_some(attr.device);
        Ok(Record {
            path: escape(&visit.path),
            kind: attr.kind,
            mode: format!("{:04o}", attr.permissions),
            nlink: attr.nlink,
            uid: attr.uid,
            gid: attr.gid,
            size: attr.size,
            mtime_sec: attr.mtime_sec,
            mtime_nsec: attr.mtime_nsec,
            target,
            major: device.map(|(major, _)| major),
            minor: device.map(|(_, minor)| minor),
        })
    }
}

/// A value as one line of JSON.
pub(super) fn json_line(value: &impl serde::Serialize) -> Result<Vec<u8>, Error> {
    // cannot fail: text and numbers in structs, written to memory
    serde_json::to_vec(value).map_err(|err| Error::io("cannot write JSON", err.into()))
}

/// Type and permissions as `ls -l` shows them: `-rwsr-xr-x`.
pub(super) fn mode_string(attr: &Attr) -> String {
    let has = |bit: u16| attr.permissions & bit != 0;
    let triple = |shift: u32, special: bool, mark: char| {
        let bit = |mask: u16| has(mask.checked_shl(shift).unwrap_or(0));
        let run = match (special, bit(0o1)) {
            (false, false) => '-',
            (false, true) => 'x',
            (true, true) => mark,
            (true, false) => mark.to_ascii_uppercase(),
        };
        [if bit(0o4) { 'r' } else { '-' }, if bit(0o2) { 'w' } else { '-' }, run]
    };
    let kind = match attr.kind {
        Kind::Fifo => 'p',
        Kind::Char => 'c',
        Kind::Dir => 'd',
        Kind::Block => 'b',
        Kind::File => '-',
        Kind::Link => 'l',
        Kind::Sock => 's',
    };
    std::iter::once(kind)
        .chain(triple(6, has(0o4000), 's'))
        .chain(triple(3, has(0o2000), 's'))
        .chain(triple(0, has(0o1000), 't'))
        .collect()
}

/// Seconds since 1970-01-01 UTC as `2023-11-14T22:13:20Z`, for any number of seconds.
pub(super) fn time_string(sec: i64) -> String {
    let (day, second) = (sec.div_euclid(86_400), sec.rem_euclid(86_400));
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    // Days from 0000-03-01 on, in eras of 400 years, all of which are alike (Howard Hinnant, "chrono-compatible
    // low-level date algorithms"). No sum below can overflow: a day is 86,400 times smaller than an `i64`.
    let day = day.saturating_add(719_468);
    let (era, in_era) = (day.div_euclid(146_097), day.rem_euclid(146_097));
    let leap = (in_era / 36_524).saturating_sub(in_era / 1460).saturating_sub(in_era / 146_096);
    let year_of_era = in_era.saturating_add(leap) / 365;
    let before_year = year_of_era
        .saturating_mul(365)
        .saturating_add(year_of_era / 4)
        .saturating_sub(year_of_era / 100);
    let day_of_year = in_era.saturating_sub(before_year);
    let month = day_of_year.saturating_mul(5).saturating_add(2) / 153;
    let before_month = month.saturating_mul(153).saturating_add(2) / 5;
    let day_of_month = day_of_year.saturating_sub(before_month).saturating_add(1);
    let is_next_year = month >= 10;
    let month = if is_next_year { month.saturating_sub(9) } else { month.saturating_add(3) };
    let year =
        era.saturating_mul(400).saturating_add(year_of_era).saturating_add(i64::from(is_next_year));
    format!("{year:04}-{month:02}-{day_of_month:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::time_string;

    #[test]
    fn times_are_told_as_date_tells_them() {
        // date -u -d @SECONDS +%FT%TZ
        for (sec, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (1_700_000_000, "2023-11-14T22:13:20Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (-1, "1969-12-31T23:59:59Z"),
            (-2_208_988_800, "1900-01-01T00:00:00Z"),
            (253_402_300_800, "10000-01-01T00:00:00Z"),
        ] {
            assert_eq!(time_string(sec), text);
        }
        assert!(time_string(i64::MIN).starts_with('-'));
        assert!(time_string(i64::MAX).ends_with('Z'));
    }
}
