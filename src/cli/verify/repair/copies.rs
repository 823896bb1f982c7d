//! Who else has what is lost? The disk itself, the images beside this one, those that were named, a server.

use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::ending::{Ending, Search, is_cut};
use super::{
    DAMAGE, Damage, Goal, MORE, NO_PLACE, Origin, Repaired, UNKNOWN, prove, wrongly_called,
};
use crate::cli::draft::Draft;
use crate::cli::{Failure, elsewhere};
use crate::error::{Error, Untrusted};
use crate::format::fec::Geometry;
use crate::format::field::u64_from_usize;
use crate::heal::Ladder;
use crate::heal::restore::{self, Lost};
use crate::store::Store;
use crate::store::heal::Cure;
use crate::trust::Anchor;
use crate::{CacheLimits, Digest, Options, verify};

/// Parts that are named; the report has all.
const LOST_SHOWN: usize = 20;

/// Where bytes may be taken from, besides the image itself and what is beside it.
#[derive(Debug, Default)]
pub(super) struct Copies {
    /// Images, and directories of them.
    paths: Vec<PathBuf>,
    url: Option<String>,
}

impl Copies {
    /// What `--from` names.
    pub(super) fn named(names: &[PathBuf]) -> Result<Self, Failure> {
        let mut copies = Copies::default();
        for name in names {
            let text = name.to_string_lossy();
            if !text.starts_with("http://") && !text.starts_with("https://") {
                copies.paths.push(name.clone());
            } else if copies.url.replace(text.into_owned()).is_some() {
                return Err(
                    wrongly_called("--from takes one URL").hint("repair twice, once from each")
                );
            }
        }
        Ok(copies)
    }

    /// Writes the whole file, proves it, and puts it in its place. `real` is the image's path without links; of parity there were so
    /// many shards.
    pub(super) fn write(
        &self,
        damage: &Damage<'_>,
        real: &Path,
        goal: &Goal,
        parity_count: Option<u32>,
        how: &verify::Options<'_>,
    ) -> Result<Repaired, Failure> {
        if matches!(damage.open.anchor, Anchor::Unauthenticated) {
            return Err(wrongly_called("nothing says what the image should be").hint(
                "--repair needs --root-digest or --key: what is written must be what was sealed",
            ));
        }
        // Which image it was may be lost with its superblocks.
        let root_digest = damage.report.root_digest.ok_or_else(|| {
            Failure {
                status: UNKNOWN,
                ..Failure::new("nothing is left that says which image it was")
            }
            .hint("give its --root-digest")
        })?;
        let unknown = |err: Error| Failure {
            status: UNKNOWN,
            ..Failure::about(damage.image.display(), &err)
        };
        let source = Arc::clone(&damage.source);
        let healers = self.ladder(real)?.into_healers();
        let store = Store::open_restoring(source, root_digest, CacheLimits::NONE, healers);
        let store = store.map_err(|err| Failure { status: DAMAGE, ..unknown(err) }.hint(MORE))?;
        let image_len = store.superblock().image_len;
        let (ending, are_signatures_lost) = self.ending(damage, real, image_len, root_digest)?;
        let Ending { trailer, parity_count: had } = ending;
        let covered_len = image_len.saturating_add(u64_from_usize(trailer.len()));
        // An image that had parity has it again, where this program can make any.
        let parity_count = parity_count.or(had).filter(|_| cfg!(feature = "fec"));
        let parity = parity_count.and_then(|count| Geometry::new(covered_len, count));
        let draft = goal.begin(parity.map_or(covered_len, |parity| parity.end()))?;
        let wrap = |err: io::Error| write_failure(&draft, &err);
        draft.file().write_all_at(&trailer, image_len).map_err(wrap)?;
        let lost = restore::write(&store, draft.file(), how.progress).map_err(unknown)?;
        if !lost.is_empty() {
            return Err(nowhere(&lost));
        }
        #[cfg(feature = "fec")]
        if let Some(geometry) = parity {
            let workers = how.workers.get();
            crate::fec::encode(draft.file(), geometry, workers, how.progress).map_err(unknown)?;
        }
        let sealed = Options::new(Anchor::RootDigest(root_digest));
        if let Err(wrong) = prove(&draft, &sealed, how)? {
            let what = format!("the new image is not whole either, so the old one stays: {wrong}");
            return Err(Failure { status: UNKNOWN, ..Failure::new(what) }.hint(
                "the disk may be failing, see the kernel log; or the image was sealed like this",
            ));
        }
        goal.finish(draft)?;
        let healed = store.healed().into_iter().filter(|(_, count)| *count > 0).collect();
        let path = goal.target.clone();
        Ok(Repaired { path, root_digest, from: Origin::Copies(healed), are_signatures_lost })
    }

    /// Who is asked.
    fn ladder(&self, real: &Path) -> Result<Ladder, Failure> {
        // What parity can do was tried.
        let mut ladder = Ladder { parity: None, ..Ladder::beside(real) };
        for from in &self.paths {
            let wrap = |err| {
                Failure::new(format!("cannot take anything from {}: {err}", from.display()))
                    .hint("name an image, a directory of images, or a URL")
            };
            ladder.add(real, from).map_err(wrap)?;
        }
        if let Some(url) = &self.url {
            ladder.distant = Some(elsewhere::distant(url)?);
        }
        Ok(ladder)
    }

    /// What is to stand behind the image, and whether its signatures are lost, if it had any: what is there itself; when that is damaged,
    /// what is behind another copy of this image.
    fn ending(
        &self,
        damage: &Damage<'_>,
        real: &Path,
        image_len: u64,
        root_digest: Digest,
    ) -> Result<(Ending, bool), Failure> {
        let is_damaged = damage.report.findings.iter().any(|finding| {
            matches!(finding.error, Error::Untrusted(Untrusted::Trailer { .. }))
                || matches!(finding.error, Error::Io { .. }) && finding.offset == Some(image_len)
        });
        let is_cut = is_cut(&*damage.source, image_len);
        if !is_damaged && !is_cut {
            let ending = Ending::read(&*damage.source, image_len).map_err(|err| Failure {
                status: UNKNOWN,
                ..Failure::about(damage.image.display(), &err)
            })?;
            return Ok((ending, false));
        }
        let (named, url) = (&*self.paths, self.url.as_deref());
        let found = Search { real, named, url, image_len, root_digest }.run().unwrap_or_default();
        let has_signatures = !found.trailer.is_empty();
        if has_signatures || is_cut {
            return Ok((found, !has_signatures));
        }
        let what = "the image's signatures are damaged, and no other copy of it with signatures is \
                    beside it or was named";
        Err(Failure { status: DAMAGE, ..Failure::new(what) }
            .hint("name one with --from, or `ashlar sign` the image anew with --root-digest"))
    }
}

/// What came from where, for a person.
pub(super) fn told(healed: &[(Cure, u64)]) -> String {
    let word = |(cure, count): &(Cure, u64)| match cure {
        Cure::Reread => format!("{count} parts were good when they were read once more"),
        Cure::Image => format!("{count} parts from other images"),
        Cure::Fec => format!("{count} parts from the image's parity"),
        Cure::Server => format!("{count} parts from the server"),
    };
    let words: Vec<String> = healed.iter().map(word).collect();
    if words.is_empty() { "all of it was there".to_owned() } else { words.join(", ") }
}

fn nowhere(lost: &Lost) -> Failure {
    let mut parts: Vec<String> =
        lost.iter().take(LOST_SHOWN).map(|(part, _)| part.to_string()).collect();
    if let Some(more) = lost.len().checked_sub(LOST_SHOWN).filter(|more| *more > 0) {
        parts.push(format!("{more} more"));
    }
    let what = format!("nothing is repaired: nobody has {}", parts.join(", "));
    Failure { status: DAMAGE, ..Failure::new(what) }.hint(MORE)
}

fn write_failure(draft: &Draft, err: &io::Error) -> Failure {
    let failure = Failure::new(format!("cannot write {}: {err}", draft.target().display()));
    let hint = match err.kind() {
        io::ErrorKind::StorageFull => NO_PLACE,
        _ => "may you write there? the new image is written beside the old one",
    };
    Failure { status: UNKNOWN, ..failure }.hint(hint)
}
