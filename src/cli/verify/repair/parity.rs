//! What does the image's own parity say of what is lost?

use super::{ByParity, Damage, Goal, Origin, Repaired, UNKNOWN, prove};
use crate::cli::Failure;
use crate::error::Error;
use crate::fec;
use crate::verify;

/// Writes the whole file that parity says there was, proves it, and puts it in its place. What parity does not know, others may, and
/// also what it cannot compute since a sector that was read a moment ago cannot be read any more.
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
    // Should it be the new file that cannot be written, it cannot be for others either.
    let restored = match restored {
        Ok(restored) => restored,
        Err(err) => return in_vain(unknown(err)),
    };
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::{Anchor, Options, Source};

    /// Has a place that can be read so many times more.
    #[derive(Debug)]
    struct Wearing {
        bytes: Vec<u8>,
        place: u64,
        left: AtomicU32,
    }

    impl Source for Wearing {
        fn len(&self) -> u64 {
            self.bytes.len() as u64
        }

        fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
            let is_there = (offset..offset + buf.len() as u64).contains(&self.place);
            let less = |left: u32| left.checked_sub(1);
            let (some, none) = (Ordering::Relaxed, Ordering::Relaxed);
            if is_there && self.left.fetch_update(some, none, less).is_err() {
                return Err(io::Error::from_raw_os_error(5));
            }
            buf.copy_from_slice(&self.bytes[usize::try_from(offset).unwrap()..][..buf.len()]);
            Ok(())
        }
    }

    #[test]
    fn what_parity_cannot_read_any_more_others_may_have() {
        let directory = tempfile::tempdir().unwrap();
        let [tree, image, new] = ["tree", "image", "new"].map(|name| directory.path().join(name));
        fs::create_dir(&tree).unwrap();
        let content: Vec<u8> = (0..60_000_u32).flat_map(u32::to_le_bytes).collect();
        fs::write(tree.join("file"), content).unwrap();
        let args = ["mkimage", "-q", "-b", "4K", "-z", "none", "--fec", tree.to_str().unwrap()];
        let args = args.into_iter().chain([image.to_str().unwrap()]);
        let digest = ashlarfs_mkimage::run(args).unwrap().root_digest.parse().unwrap();
        let mut bytes = fs::read(&image).unwrap();
        bytes[3 * 4096] ^= 1;
        let left = AtomicU32::new(u32::MAX);
        let source = Arc::new(Wearing { bytes, place: 20 * 4096, left });
        let open = Options::new(Anchor::RootDigest(digest));
        let how = verify::Options::default();
        let report = verify::verify_source(source.clone(), &open, &how);
        let damage = Damage { image: &image, source: source.clone(), open: &open, report: &report };
        let goal = Goal { target: new.clone(), like: None, is_old: false };
        // It is read to find what is lost, and once more to be copied.
        source.left.store(1, Ordering::Relaxed);
        let repaired = repair(&damage, &goal, &how);
        let Ok(ByParity::InVain { why: Some(why), .. }) = repaired else { panic!("it is over") };
        assert!(why.message.contains("cannot read") && !new.exists(), "{why:?}");
        source.left.store(u32::MAX, Ordering::Relaxed);
        assert!(matches!(repair(&damage, &goal, &how), Ok(ByParity::Done(_))) && new.exists());
    }
}
