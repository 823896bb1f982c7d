//! `ashlar dump`: every file as a line of text.

use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::{Failure, Outcome, TrustArgs};
use crate::manifest::{self, Stop};

/// Arguments of `ashlar dump`.
#[derive(Debug, Args)]
#[command(after_help = "\
One line for each path, sorted by the path's bytes; twelve fields with a tab between them:

  path     from the root, which is `/`
  type     file, dir, link, char, block, fifo or sock
  mode     permissions in octal, four digits
  uid, gid
  size     bytes; - for a directory
  nlink    links; - for a directory
  mtime    seconds since 1970, a point, nanoseconds in nine digits
  device   major:minor; - for what is none
  target   of a link; - for what is none
  xattrs   name=value;name=value in ascending order, values in hexadecimal; - for none
  content  BLAKE3 of a file's content in hexadecimal; - for what is none

In path, target and xattr names every byte outside of ! to ~ and the backslash is written \\xHH; in xattr names
; and = are, too.")]
pub struct DumpArgs {
    #[command(flatten)]
    trust: TrustArgs,
    /// Write - for content, and do not read it
    #[arg(long)]
    no_content: bool,
    /// The image
    image: PathBuf,
}

/// Runs it.
pub fn run(args: &DumpArgs) -> Outcome {
    let tree = args.trust.open(&args.image)?;
    let mut out = BufWriter::new(io::stdout().lock());
    let written = manifest::write(&tree, !args.no_content, &mut out);
    match written.and_then(|()| Ok(out.flush()?)) {
        Err(Stop::Image { path, error }) => Err(Failure::about(path, &error)),
        Err(Stop::Output(err)) if err.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::new(format!("cannot write to standard output: {err}")))
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}
