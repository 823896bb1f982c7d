//! `ashlar cat`: what is in a file?

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::ls::{Stop, written};
use super::{Failure, Outcome, TrustArgs, escape};
use crate::error::Error;
use crate::format::field::{u64_from_usize, usize_from_u32};
use crate::fs::file::FileReader;

/// Arguments of `ashlar cat`.
#[derive(Debug, Args)]
#[command(after_help = "\
Symlinks are followed inside the image. Nothing is written before all PATHs are found. Every byte that is written was \
verified before; at the first that cannot be, the command ends.

Exit status: 0, or 1 when not everything was written.")]
pub struct CatArgs {
    #[command(flatten)]
    trust: TrustArgs,
    /// The image
    image: PathBuf,
    /// Regular files in it
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<OsString>,
}

/// Runs it.
pub fn run(args: &CatArgs) -> Outcome {
    let tree = args.trust.open(&args.image)?;
    let mut files = Vec::with_capacity(args.paths.len());
    for path in &args.paths {
        let found = tree.resolve_following(path.as_bytes()).and_then(|at| tree.file(at.index));
        files.push((path, found.map_err(|err| about(path, &err))?));
    }
    // Not through the standard library's buffer, which looks for ends of lines.
    let out = io::stdout().as_fd().try_clone_to_owned();
    let mut out =
        File::from(out.map_err(|err| Failure::new(format!("no standard output: {err}")))?);
    // One block at a time: up to the very block that is damaged, everything is written.
    let mut buf = vec![0; usize_from_u32(tree.superblock().block_size())];
    for (path, file) in files {
        match copy(&file, &mut buf, &mut out) {
            Ok(()) => {}
            Err(Stop::Image(err)) => return Err(about(path, &err)),
            Err(Stop::Output(err)) => return written(Err(err)),
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn about(path: &OsString, err: &Error) -> Failure {
    Failure::about(escape(path.as_bytes()), err)
}

fn copy(file: &FileReader<'_>, buf: &mut [u8], out: &mut File) -> Result<(), Stop> {
    let mut at = 0;
    while at < file.size() {
        let len = file.read_at(at, buf).map_err(Stop::Image)?;
        out.write_all(buf.get(..len).unwrap_or_default())?;
        at = at.saturating_add(u64_from_usize(len));
    }
    Ok(())
}
