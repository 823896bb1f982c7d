//! `ashlar verify --repair`: what is damaged comes back, in a new file that takes the old one's place once it is proved.

mod copies;
mod ending;
#[cfg(feature = "fec")]
mod parity;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use rustix::fs::Advice;
use serde_json::{Map, Value, json};

use super::{DAMAGE, UNKNOWN, USAGE};
use crate::Digest;
use crate::cli::Failure;
use crate::cli::draft::Draft;
use crate::error::Error;
use crate::image::Source;
use crate::store;
use crate::store::heal::Cure;
use crate::trust::Anchor;
use crate::verify::{self, Report};
use copies::Copies;

/// How an image is repaired.
#[derive(Debug, Args)]
pub(super) struct RepairArgs {
    /// Restore what is damaged: a new file is written, verified whole, and renamed to IMAGE
    #[arg(long)]
    repair: bool,
    /// Where else to take it from: an image, a directory of images, or the URL of an image; may be given several times
    #[arg(long, value_name = "IMAGE|URL", requires = "repair")]
    from: Vec<PathBuf>,
    /// Write the repaired image there, and leave IMAGE as it is
    #[arg(long, value_name = "FILE", requires = "repair")]
    output: Option<PathBuf>,
}

/// What is to be repaired, as it was found.
pub(super) struct Damage<'a> {
    pub(super) image: &'a Path,
    pub(super) source: Arc<dyn Source>,
    pub(super) open: &'a crate::Options,
    pub(super) report: &'a Report,
}

/// Where what was lost came from.
#[derive(Debug)]
enum Origin {
    /// From parity.
    #[cfg(feature = "fec")]
    Parity(crate::fec::Restored),
    /// From other copies of so many parts.
    Copies(Vec<(Cure, u64)>),
}

/// An image that is whole again.
#[derive(Debug)]
pub(super) struct Repaired {
    path: PathBuf,
    root_digest: Digest,
    from: Origin,
    /// Whether the file was cut where its signatures were, if it had any, and nobody else has them.
    are_signatures_lost: bool,
}

/// What came of it.
#[derive(Debug)]
pub(super) enum Repair {
    /// The image is whole again.
    Done(Repaired),
    /// It is as damaged as it was.
    Failed(Failure),
}

impl RepairArgs {
    pub(super) fn is_wanted(&self) -> bool {
        self.repair
    }

    /// Repairs an image that was found damaged.
    pub(super) fn run(&self, damage: &Damage<'_>, how: &verify::Options<'_>) -> Repair {
        self.try_to(damage, how).map_or_else(Repair::Failed, Repair::Done)
    }

    fn try_to(&self, damage: &Damage<'_>, how: &verify::Options<'_>) -> Result<Repaired, Failure> {
        let copies = Copies::named(&self.from)?;
        // Where it really is: a symlink is followed, not replaced.
        let wrap = |err| Failure::new(format!("cannot open {}: {err}", damage.image.display()));
        let real = fs::canonicalize(damage.image).map_err(wrap)?;
        if self.output.is_none() && !real.is_file() {
            return Err(wrongly_called(format!("{} is no regular file", damage.image.display()))
                .hint(
                    "write the repaired image to a file with --output, then copy it to the device",
                ));
        }
        damage.refuse_another()?;
        // What was verified, whatever has its name by now.
        let old = damage.source.descriptor().map(|old| old.try_clone_to_owned().map(File::from));
        let like = old.transpose().map_err(wrap)?.filter(|_| real.is_file());
        let target = self.output()?.unwrap_or_else(|| real.clone());
        let goal = Goal { is_old: target == real, target, like };
        let (why, parity_count) = match by_parity(damage, &goal, how)? {
            #[cfg(feature = "fec")]
            ByParity::Done(repaired) => return Ok(repaired),
            ByParity::InVain { why, parity_count } => (why, parity_count),
        };
        copies.write(damage, &real, &goal, parity_count, how).map_err(|mut failure| {
            let Some(why) = why else { return failure };
            failure.message = format!("{}; {}", why.message, failure.message);
            // It was called as it should be, had parity been enough.
            failure.status = if failure.status == USAGE { DAMAGE } else { failure.status };
            failure
        })
    }

    /// Where `--output` really is. There is a file, or nothing: told before anything takes long.
    pub(super) fn output(&self) -> Result<Option<PathBuf>, Failure> {
        let Some(output) = &self.output else { return Ok(None) };
        let shown = output.display();
        if !output.is_symlink() && !output.exists() {
            return Ok(Some(output.clone()));
        }
        let real = fs::canonicalize(output)
            .map_err(|err| wrongly_called(format!("cannot write {shown}: {err}")))?;
        if !real.is_file() {
            return Err(wrongly_called(format!("{shown} is no regular file"))
                .hint("write the repaired image to a file, then copy it to the device"));
        }
        Ok(Some(real))
    }
}

/// Where the repaired image goes.
pub(super) struct Goal {
    target: PathBuf,
    /// The image as it was opened, whose mode and owner it gets.
    like: Option<File>,
    /// Whether it takes that one's place.
    is_old: bool,
}

impl Goal {
    /// Begins it, with room for all of it.
    fn begin(&self, len: u64) -> Result<Draft, Failure> {
        let draft = Draft::create(&self.target, self.like.as_ref());
        let draft = draft.and_then(|draft| draft.reserve(len).map(|()| draft));
        draft.map_err(|failure| Failure { status: UNKNOWN, ..failure }.hint(NO_PLACE))
    }

    /// Gives it its name. An image that was put there while this one was repaired is not replaced.
    fn finish(&self, draft: Draft) -> Result<(), Failure> {
        let finished = match self.like.as_ref().filter(|_| self.is_old) {
            Some(old) => draft.finish_instead_of(old),
            None => draft.finish(),
        };
        finished.map_err(|failure| Failure { status: UNKNOWN, ..failure })
    }
}

/// What came of trying parity.
pub(super) enum ByParity {
    #[cfg(feature = "fec")]
    Done(Repaired),
    InVain {
        /// Nothing, where there is no parity.
        why: Option<Failure>,
        /// Parity shards that there were.
        parity_count: Option<u32>,
    },
}

#[cfg(feature = "fec")]
use parity::repair as by_parity;

/// This program can neither use nor make any.
#[cfg(not(feature = "fec"))]
fn by_parity(damage: &Damage<'_>, _: &Goal, _: &verify::Options<'_>) -> Result<ByParity, Failure> {
    if crate::store::last_parity_head(&*damage.source).is_some() {
        tracing::warn!("the new image has no parity, for this program was built without it");
    }
    Ok(ByParity::InVain { why: None, parity_count: None })
}

impl Damage<'_> {
    /// An image that is whole and only another one than was asked for is not replaced.
    fn refuse_another(&self) -> Result<(), Failure> {
        let Anchor::RootDigest(wanted) = self.open.anchor else { return Ok(()) };
        let other = store::whole_image(&*self.source).filter(|other| *other != wanted);
        let Some(other) = other else { return Ok(()) };
        let image = self.image.display();
        Err(wrongly_called(format!(
            "{image} is another image, with root digest {other}, and whole"
        ))
        .hint("check path and digest; to have the image of that digest there, copy it"))
    }
}

/// What else may help.
const MORE: &str = "copy the image again; or name more with --from: the image before or after this one, another machine's copy, or \
                    its URL";

fn wrongly_called(what: impl Into<String>) -> Failure {
    Failure { status: USAGE, ..Failure::new(what.into()) }
}

/// Where the new file cannot be begun.
const NO_PLACE: &str = "the new image is written whole before it takes the old one's place: make room, or name another place with \
                        --output";

/// What a cut file does not tell.
const SIGNATURES_LOST: &str = "the file was cut in front of its signatures, if it had any, and no other copy of the image with \
                               signatures was found: whoever trusts a key refuses it now. `ashlar sign` it anew with --root-digest, or \
                               copy the image again from where it was signed";

/// Writes the new file down to the disk, and verifies all of what the disk has, as every later reader would. What is wrong is the
/// inner error.
fn prove(
    draft: &Draft,
    open: &crate::Options,
    how: &verify::Options<'_>,
) -> Result<Result<Digest, Error>, Failure> {
    draft.sync()?;
    // What is still in memory says nothing of the disk.
    rustix::fs::fadvise(draft.file(), 0, None, Advice::DontNeed).unwrap_or_default();
    let mut report: Report = verify::verify_source(draft.source()?, open, how);
    if let Some(root_digest) = report.root_digest.filter(|_| report.is_clean()) {
        return Ok(Ok(root_digest));
    }
    let first = report.findings.drain(..).next();
    Ok(Err(first.map_or(Error::Invalid, |finding| finding.error)))
}

impl Repair {
    pub(super) fn to_json(&self) -> Value {
        let Repaired { path, root_digest, from, are_signatures_lost } = match self {
            Repair::Done(repaired) => repaired,
            Repair::Failed(failure) => {
                return json!({ "done": false, "error": failure.message });
            }
        };
        let path = path.to_string_lossy();
        match from {
            #[cfg(feature = "fec")]
            Origin::Parity(restored) => json!({
                "done": true,
                "path": path,
                "root_digest": root_digest,
                "signatures_lost": are_signatures_lost,
                "data_shards": restored.data_shards,
                "parity_shards": restored.parity_shards,
                "shards_max": restored.shards_max,
                "shard_len": restored.shard_len,
            }),
            Origin::Copies(healed) => {
                let healed =
                    healed.iter().map(|(cure, count)| (cure.name().to_owned(), json!(count)));
                json!({
                    "done": true,
                    "path": path,
                    "root_digest": root_digest,
                    "signatures_lost": are_signatures_lost,
                    "blocks_healed": healed.collect::<Map<_, _>>(),
                })
            }
        }
    }

    /// What is not as it was, though it was done.
    pub(super) fn warning(&self) -> Option<String> {
        let Repair::Done(Repaired { path, are_signatures_lost: true, .. }) = self else {
            return None;
        };
        Some(format!("{}: {SIGNATURES_LOST}", path.display()))
    }

    /// A line for a person, where it was done.
    pub(super) fn line(&self) -> Option<String> {
        let Repair::Done(Repaired { path, root_digest, from, .. }) = self else { return None };
        let how = match from {
            #[cfg(feature = "fec")]
            Origin::Parity(restored) => {
                let crate::fec::Restored { data_shards, parity_shards, shards_max, shard_len } =
                    restored;
                format!(
                    "{data_shards} shards and {parity_shards} of parity were damaged ({shards_max} of {shard_len} bytes can be)"
                )
            }
            Origin::Copies(healed) => copies::told(healed),
        };
        Some(format!("repaired: {} is whole, root digest {root_digest}; {how}", path.display()))
    }
}
