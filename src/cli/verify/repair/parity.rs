//! What does the image's own parity say of what is lost?

use super::{ByParity, Damage, Goal, Origin, Repaired, UNKNOWN, prove};
use crate::cli::Failure;
use crate::error::Error;
use crate::fec;
use crate::verify;

/// Writes the whole file that parity says there was, proves it, and puts it in its place. What goes wrong with the disk is a failure;
/// what parity does not know, others may.
pub(super) fn repair(
    damage: &Damage<'_>,
    goal: &Goal,
    how: &verify::Options<'_>,
) -> Result<ByParity, Failure> {
    let (source, workers) = (&*damage.source, how.workers.get());
    let unknown =
        |err: Error| Failure { status: UNKNOWN, ..Failure::about(damage.image.display(), &err) };
    let Some(found) = fec::search(source, workers, how.progress).map_err(unknown)? else {
        return Ok(ByParity::InVain { why: None, parity_count: None });
    };
    let geometry = found.head.geometry;
    let in_vain = |why| {
        let parity_count = Some(geometry.parity_count());
        Ok(ByParity::InVain { why: Some(why), parity_count })
    };
    if !found.damage.is_curable(geometry) {
        return in_vain(found.damage.too_much(geometry).into());
    }
    // What is wrong behind image and trailer is mended as well, and what could not be read once may be there now.
    let is_worth_it = damage.report.findings.iter().any(|finding| {
        let is_behind = finding.offset.is_some_and(|offset| offset >= geometry.covered_len());
        is_behind || matches!(finding.error, Error::Io { .. })
    });
    if found.damage.is_empty() && !is_worth_it {
        return in_vain(nothing_is_lost());
    }
    let draft = goal.begin(geometry.end())?;
    let restored = fec::restore(source, &found, draft.file(), workers, how.progress);
    let restored = restored.map_err(unknown)?;
    let root_digest = match prove(&draft, damage.open, how)? {
        Ok(root_digest) => root_digest,
        Err(_) if found.damage.data().is_empty() => return in_vain(nothing_is_lost()),
        Err(wrong) => {
            let what = "what parity says there was is not the image that was sealed";
            return in_vain(Failure::new(format!("{what}: {wrong}")));
        }
    };
    goal.finish(draft)?;
    let path = goal.target.clone();
    // Parity covers the signatures.
    let (from, are_signatures_lost) = (Origin::Parity(restored), false);
    Ok(ByParity::Done(Repaired { path, root_digest, from, are_signatures_lost }))
}

fn nothing_is_lost() -> Failure {
    Failure::new("as far as its parity tells, no byte of the image is damaged")
}
