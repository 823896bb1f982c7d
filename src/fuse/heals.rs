//! What was healed, what is lost, and which files is that? Each is told once, by a thread that nobody waits for: the tree must be
//! searched for the files.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use super::allowance::Allowance;
use crate::format::field::u64_from_usize;
use crate::format::index::BlockIndex;
use crate::fs::Tree;
use crate::fs::holders::Holders;
use crate::store::heal::Outcome;

/// Most that wait to be told. Of what comes when there are so many, the number is told.
const WAITING_MAX: usize = 4096;
/// Most that are told in a minute, of a dying disk on a serial console.
const LINES_MAX: u32 = 200;
/// How long more is waited for, so that the tree is searched once for many.
const GATHERING: Duration = Duration::from_millis(200);

/// Has everything told that the tree's store heals or loses, by a thread that does something `first`.
pub(super) fn tell(tree: &Arc<Tree>, first: fn()) {
    let (sender, outcomes) = sync_channel(WAITING_MAX);
    let untold = Arc::new(AtomicU64::new(0));
    let (weak, theirs) = (Arc::downgrade(tree), Arc::clone(&untold));
    let thread = thread::Builder::new().name("heals".to_owned());
    if let Err(err) = thread.spawn(move || {
        first();
        run(&weak, &outcomes, &theirs);
    }) {
        tracing::warn!("cannot start a thread, nothing will be told of what is healed: {err}");
    }
    tree.store().listen(Box::new(move |outcome| {
        if sender.try_send(outcome).is_err() {
            untold.fetch_add(1, Ordering::Relaxed);
        }
    }));
}

/// Ends with the store, which holds the other end.
fn run(tree: &Weak<Tree>, outcomes: &Receiver<Outcome>, untold: &AtomicU64) {
    let mut lines = Allowance::default();
    while let Ok(first) = outcomes.recv() {
        thread::sleep(GATHERING);
        let now = Instant::now();
        let all = std::iter::once(first).chain(outcomes.try_iter());
        let (gathered, others): (Vec<_>, Vec<_>) = all.partition(|_| lines.take(LINES_MAX, now));
        untold.fetch_add(u64_from_usize(others.len()), Ordering::Relaxed);
        if gathered.is_empty() {
            continue;
        }
        let Some(tree) = tree.upgrade() else { return };
        let blocks = gathered.iter().filter_map(|outcome| outcome.wanted.part.block()).collect();
        let mut files = tree.holders(&blocks);
        drop(tree);
        for outcome in &gathered {
            say(outcome, &mut files);
        }
        let untold = untold.swap(0, Ordering::Relaxed);
        if untold > 0 {
            tracing::warn!("{untold} more were healed or are lost; `ashlar status` counts them");
        }
    }
}

fn say(outcome: &Outcome, files: &mut BTreeMap<BlockIndex, Holders>) {
    let Outcome { wanted, why, cure, took } = outcome;
    let (part, offset) = (wanted.part, wanted.offset);
    let block = part.block().map(|block| block.0);
    let holders = match part.block().map(|block| files.entry(block)) {
        Some(Entry::Occupied(found)) => shown(found.get()),
        _ => String::new(),
    };
    let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    match cure {
        Some(cure) => {
            let source = cure.name();
            tracing::warn!(block, offset, source, us, files = holders, "{part} is healed: {why}");
        }
        None => {
            tracing::error!(
                block,
                offset,
                us,
                files = holders,
                "{part} is lost, nobody has it: {why}"
            );
        }
    }
}

/// Paths as they are written to a log.
fn shown(holders: &Holders) -> String {
    let mut paths: Vec<String> =
        holders.paths.iter().map(|path| format!("/{}", path.escape_ascii())).collect();
    if holders.more > 0 {
        paths.push(format!("and {} more", holders.more));
    }
    paths.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_safe_to_show() {
        let holders = Holders { paths: vec![b"a\nb".to_vec(), b"c".to_vec()], more: 3 };
        assert_eq!(shown(&holders), "/a\\nb /c and 3 more");
    }
}
