//! Which blocks did the maker of the image see wanted first? They are expanded in that order while a processor idles, never
//! more of them than the cache has room for. Where nobody asks for that many of them, the rest of the list is left alone.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering, fence};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Weak};
use std::thread;

use super::super::Store;
use super::idle::Idler;
use crate::format::field::{u32_from_usize, usize_from_u32};
use crate::format::index::BlockIndex;

/// A list that is being followed.
#[derive(Debug)]
pub(in super::super) struct Listed {
    progress: Arc<Progress>,
    /// Where each block stands.
    places: HashMap<BlockIndex, u32>,
    /// Wakes the thread up when a block that waited was asked for.
    used: SyncSender<()>,
}

/// What became of each block.
#[derive(Debug)]
struct Progress {
    list: Vec<(BlockIndex, AtomicU8)>,
    /// How many were expanded and not asked for yet.
    waiting: AtomicU32,
}

/// Nobody has touched the block.
const FRESH: u8 = 0;
/// It was expanded, or is just being.
const EXPANDED: u8 = 1;
/// Somebody has asked for it.
const ASKED: u8 = 2;

impl Listed {
    /// Starts the thread. It ends with the list, or with the store.
    pub(in super::super) fn start(
        store: &Arc<Store>,
        list: Vec<BlockIndex>,
        waiting_max: u32,
    ) -> std::io::Result<Self> {
        let mut places = HashMap::new();
        let mut once = Vec::new();
        for block in list {
            // What was named before has its place.
            if let Entry::Vacant(place) = places.entry(block) {
                place.insert(u32_from_usize(once.len()));
                once.push((block, AtomicU8::new(FRESH)));
            }
        }
        let list = once;
        let progress = Arc::new(Progress { list, waiting: AtomicU32::new(0) });
        let (used, woken) = sync_channel(1);
        let (store, theirs) = (Arc::downgrade(store), Arc::clone(&progress));
        thread::Builder::new().name("prefetch-list".into()).spawn(move || {
            match Idler::start() {
                Ok(idler) => run(&store, &theirs, &woken, waiting_max, &idler),
                Err(err) => {
                    tracing::warn!("cannot start a thread, nothing is expanded ahead: {err}");
                }
            }
        })?;
        Ok(Listed { progress, places, used })
    }

    /// A block was asked for.
    pub(in super::super) fn note(&self, block: BlockIndex) {
        let Some(place) = self.places.get(&block) else { return };
        let Some((_, state)) = self.progress.list.get(usize_from_u32(*place)) else { return };
        if state.swap(ASKED, Ordering::Relaxed) == EXPANDED {
            self.progress.waiting.fetch_sub(1, Ordering::Relaxed);
            // Either the thread sees the new count, or this sees the channel empty.
            fence(Ordering::SeqCst);
            // A full channel means that it will look anyway; a closed one that it is done.
            self.used.try_send(()).unwrap_or_default();
        }
    }
}

fn run(
    store: &Weak<Store>,
    progress: &Progress,
    woken: &Receiver<()>,
    waiting_max: u32,
    idler: &Idler,
) {
    for (block, state) in &progress.list {
        while progress.waiting.load(Ordering::Relaxed) >= waiting_max {
            if woken.recv().is_err() {
                return;
            }
            fence(Ordering::SeqCst);
        }
        // Counted first: whoever asks meanwhile takes it off again.
        progress.waiting.fetch_add(1, Ordering::Relaxed);
        let fresh = state.compare_exchange(FRESH, EXPANDED, Ordering::Relaxed, Ordering::Relaxed);
        if fresh.is_err() {
            progress.waiting.fetch_sub(1, Ordering::Relaxed);
            continue;
        }
        let Some(store) = store.upgrade() else { return };
        let failed = store.get_in_idle_time(*block, idler).is_err();
        // It is nobody's failure yet: whoever asks for the block meets it again and is told.
        if failed && state.swap(ASKED, Ordering::Relaxed) == EXPANDED {
            progress.waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
