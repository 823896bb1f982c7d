//! `ashlar status`: what did a mount do so far?

use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;

use super::{Failure, Outcome};
use crate::fuse::status::{self, Status, StatusError};

/// Arguments of `ashlar status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// The mount point, or anything below it
    mountpoint: PathBuf,
}

/// Runs it.
pub fn run(args: &StatusArgs) -> Outcome {
    let path = args.mountpoint.display();
    let status = status::ask(&args.mountpoint).map_err(|err| match err {
        StatusError::Path(err) if err.kind() == io::ErrorKind::NotConnected => {
            Failure::new(format!("{path}: the server of this mount is gone"))
                .hint(format!("`umount {path}`, then mount the image again"))
        }
        StatusError::Path(err) => Failure::new(format!("{path}: {err}")),
        StatusError::NotOurs => Failure::new(format!("{path} is not on a mounted image"))
            .hint("`findmnt -t fuse.ashlar` lists what is mounted"),
        StatusError::Server(err) => {
            Failure::new(format!("{path}: the server of this mount does not answer: {err}"))
        }
    })?;
    let text = if args.json {
        serde_json::to_string_pretty(&status).map_err(|err| Failure::new(&err))?
    } else {
        describe(&status)
    };
    writeln!(io::stdout(), "{text}")
        .map_err(|err| Failure::new(format!("cannot write to standard output: {err}")))?;
    Ok(ExitCode::SUCCESS)
}

fn describe(status: &Status) -> String {
    let since = UNIX_EPOCH.checked_add(Duration::from_secs(status.since)).unwrap_or(UNIX_EPOCH);
    let age = SystemTime::now().duration_since(since).unwrap_or_default();
    let trusted = match status.anchor.as_str() {
        "root-digest" => "by its root digest",
        "key" => "by a signature",
        _ => "by nothing: it only agrees with itself",
    };
    let mut lines = vec![
        row("image", &super::escape(status.image.as_os_str().as_bytes())),
        row("mounted on", &super::escape(status.mountpoint.as_os_str().as_bytes())),
        row("root digest", &status.root_digest),
        row("trusted", trusted),
        row("version", &status.image_version.to_string()),
        row("label", &super::escape(status.label.as_bytes())),
        row("server", &format!("process {}, mounted for {}", status.pid, duration(age.as_secs()))),
        row("holder", &holder(status)),
        row(
            "verified",
            &format!("{} blocks, {} bytes", status.blocks_verified, status.bytes_verified),
        ),
        row("cache", &format!("{} hits, {} bytes kept", status.cache_hits, status.cached_bytes)),
        row("failures", &format!("{} blocks, {} answers", status.blocks_failed, status.failures)),
    ];
    let healed = status.blocks_healed.iter().filter(|(_, count)| **count > 0);
    let healed: Vec<String> = healed.map(|(source, count)| format!("{source} {count}")).collect();
    if !healed.is_empty() || status.blocks_lost > 0 {
        let healed = if healed.is_empty() { "nothing".to_owned() } else { healed.join(", ") };
        lines.push(row("healed", &format!("{healed}; {} blocks lost", status.blocks_lost)));
    }
    if status.used_backup {
        lines.push(row("superblock", "the first is damaged, its backup serves"));
    }
    let asked = status.upcalls.iter().filter(|(_, count)| **count > 0);
    let asked: Vec<String> = asked.map(|(kind, count)| format!("{kind} {count}")).collect();
    lines.push(row("questions", &asked.join(", ")));
    lines.join("\n")
}

fn holder(status: &Status) -> String {
    match (status.holder_pid, status.takeovers) {
        (None, 0) => "none: the mount ends with its server".to_owned(),
        (None, count) => format!("none now; {count} servers were replaced"),
        (Some(pid), 0) => format!("process {pid}"),
        (Some(pid), count) => format!("process {pid}; {count} servers were replaced"),
    }
}

fn row(name: &str, value: &str) -> String {
    format!("{name:<12} {value}")
}

/// Seconds in the two largest units.
fn duration(secs: u64) -> String {
    let (days, hours, minutes) = (secs / 86_400, secs / 3600 % 24, secs / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{secs} s"),
        (0, 0, _) => format!("{minutes} min {} s", secs % 60),
        (0, _, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_in_two_units() {
        assert_eq!(duration(59), "59 s");
        assert_eq!(duration(61), "1 min 1 s");
        assert_eq!(duration(3 * 3600 + 120), "3 h 2 min");
        assert_eq!(duration(2 * 86_400 + 3601), "2 d 1 h");
    }
}
