//! How far is a work that several threads do?

use std::sync::atomic::{AtomicU64, Ordering};

/// Told how far a work is: bytes done, and bytes in all. Called from several threads.
pub type Progress<'a> = &'a (dyn Fn(u64, u64) + Sync);

/// Told of bytes done, sums them up for one who is told how far it is.
pub(super) fn adding<'a>(
    done: &'a AtomicU64,
    total: u64,
    progress: Progress<'a>,
) -> impl Fn(u64) + Sync + 'a {
    move |bytes| {
        let before = done.fetch_add(bytes, Ordering::Relaxed);
        progress(before.saturating_add(bytes).min(total), total);
    }
}
