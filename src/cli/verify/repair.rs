//! `ashlar verify --repair`: what is damaged comes back, in a new file that takes the old one's place once it is proved.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};

use crate::cli::Failure;
use crate::cli::draft::Draft;
use crate::fec::{self, Progress, Restored};
use crate::format::fec::Head;
use crate::image::{self, Method, Source};
use crate::verify::{self, Report};

/// How an image is repaired.
#[derive(Debug, Args)]
pub(super) struct RepairArgs {
    /// Restore what is damaged from the image's parity (`mkimage --fec`): a new file is written, verified whole, and
    /// renamed to IMAGE
    #[arg(long)]
    repair: bool,
    /// Write the repaired image there, and leave IMAGE as it is
    #[arg(long, value_name = "FILE", requires = "repair")]
    output: Option<PathBuf>,
}

/// What came of it.
#[derive(Debug)]
pub(super) enum Repair {
    /// The image is whole again, at this path.
    Done(Restored, PathBuf),
    /// It is as damaged as it was.
    Failed(Failure),
}

impl RepairArgs {
    pub(super) fn is_wanted(&self) -> bool {
        self.repair
    }

    /// Repairs an image that was found damaged.
    pub(super) fn run(
        &self,
        image: &Path,
        source: &dyn Source,
        open: &crate::Options,
        how: &verify::Options<'_>,
    ) -> Repair {
        self.try_to(image, source, open, how)
            .map_or_else(Repair::Failed, |(restored, path)| Repair::Done(restored, path))
    }

    fn try_to(
        &self,
        image: &Path,
        source: &dyn Source,
        open: &crate::Options,
        how: &verify::Options<'_>,
    ) -> Result<(Restored, PathBuf), Failure> {
        // Where it really is: a symlink is followed, not replaced.
        let wrap = |err| Failure::new(format!("cannot open {}: {err}", image.display()));
        let real = fs::canonicalize(image).map_err(wrap)?;
        let target = self.output.clone().unwrap_or_else(|| real.clone());
        if self.output.is_none() && !real.is_file() {
            return Err(Failure::new(format!("{} is no regular file", image.display())).hint(
                "write the repaired image to a file with --output, then copy it to the device",
            ));
        }
        let head = fec::search(source).ok_or_else(|| {
            Failure::new(format!("{} has no parity to repair it from", image.display()))
                .hint("copy the image again; `mkimage --fec` makes images that can be repaired")
        })?;
        let old = File::open(&real).map_err(wrap)?;
        let like = Some(&old).filter(|_| real.is_file());
        let draft = Draft::create(&target, like)?;
        let restored = restore(source, &head, &draft, how.workers.get(), how.progress)?;
        draft.sync()?;
        prove(&draft, &restored, open, how)?;
        draft.finish()?;
        Ok((restored, target))
    }
}

fn restore(
    source: &dyn Source,
    head: &Head,
    draft: &Draft,
    workers: usize,
    progress: Progress<'_>,
) -> Result<Restored, Failure> {
    fec::restore(source, head, draft.file(), workers, progress).map_err(|err| {
        Failure::from(err)
            .hint("copy the image again: more of it is damaged than its parity can restore")
    })
}

/// Verifies all of the new file, as every later reader would.
fn prove(
    draft: &Draft,
    restored: &Restored,
    open: &crate::Options,
    how: &verify::Options<'_>,
) -> Result<(), Failure> {
    let source = image::open(draft.path(), Method::Pread)?;
    let report: Report = verify::verify_source(source, open, how);
    if report.is_clean() {
        return Ok(());
    }
    if restored.data_shards == 0 {
        return Err(Failure::new("as far as its parity tells, no byte of the image is damaged")
            .hint("check the digest or the key: this may be another image"));
    }
    let what = match report.findings.first() {
        Some(finding) => finding.error.to_string(),
        None => "bytes of it belong to nothing".to_owned(),
    };
    Err(Failure::new(format!("what parity says there was is not the image that was sealed: {what}"))
        .hint("copy the image again: its parity is of something else, or damage was not told from what is right"))
}

impl Repair {
    pub(super) fn to_json(&self) -> Value {
        match self {
            Repair::Done(restored, path) => json!({
                "done": true,
                "path": path.to_string_lossy(),
                "data_shards": restored.data_shards,
                "parity_shards": restored.parity_shards,
                "shards_max": restored.shards_max,
                "shard_len": restored.shard_len,
            }),
            Repair::Failed(failure) => json!({ "done": false, "error": failure.message }),
        }
    }

    /// A line for a person, where it was done.
    pub(super) fn line(&self) -> Option<String> {
        let Repair::Done(restored, path) = self else { return None };
        let Restored { data_shards, parity_shards, shards_max, shard_len } = restored;
        Some(format!(
            "repaired: {} is whole; {data_shards} shards and {parity_shards} of parity were damaged \
             ({shards_max} of {shard_len} bytes can be)",
            path.display()
        ))
    }
}
