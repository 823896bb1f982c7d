//! What does the image's own parity say of what is lost?

use super::{Damage, prove};
use crate::cli::Failure;
use crate::cli::draft::Draft;
use crate::fec::{self, Restored};
use crate::format::fec::Head;
use crate::verify;

/// Writes the whole file that parity says there was, and proves it.
pub(super) fn restore(
    damage: &Damage<'_>,
    head: &Head,
    draft: &Draft,
    how: &verify::Options<'_>,
) -> Result<Restored, Failure> {
    let workers = how.workers.get();
    let restored = fec::restore(&*damage.source, head, draft.file(), workers, how.progress)?;
    let Some(wrong) = prove(draft, damage.open, how)? else { return Ok(restored) };
    if restored.data_shards == 0 {
        return Err(Failure::new("as far as its parity tells, no byte of the image is damaged")
            .hint("check the digest or the key: this may be another image"));
    }
    Err(Failure::new(format!("what parity says there was is not the image that was sealed: {wrong}"))
        .hint("copy the image again: its parity is of something else, or damage was not told from what is right"))
}
