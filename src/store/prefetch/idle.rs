//! How is a block expanded without being in anybody's way?
#![expect(
    unsafe_code,
    reason = "the kernel's word for it has no safe wrapper in the crates used here"
)]

use std::cell::RefCell;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use super::super::{Store, copy};
use crate::error::{Error, Result};
use crate::format::entry::Entry;
use crate::format::field::usize_from_u32;
use crate::format::index::BlockIndex;

/// A thread that reads, hashes and expands where a processor would idle otherwise, and does nothing else. It may be interrupted
/// for as long as there is other work, so it takes no lock that somebody else may want: those who answer the kernel
/// would wait for it. Who gives it work does that for it.
#[derive(Debug)]
pub(in super::super) struct Idler {
    jobs: SyncSender<Job>,
    done: Receiver<(Vec<u8>, Result<()>)>,
    /// Its memory, while it has nothing to do.
    content: RefCell<Vec<u8>>,
}

#[derive(Debug)]
struct Job {
    store: Arc<Store>,
    block: BlockIndex,
    entry: Entry,
    content: Vec<u8>,
}

impl Idler {
    /// Starts the thread. It ends when this is dropped.
    pub(super) fn start() -> io::Result<Self> {
        let (jobs, todo) = sync_channel::<Job>(0);
        let (finished, done) = sync_channel(0);
        thread::Builder::new().name("prefetch-idle".into()).spawn(move || {
            become_idle();
            for Job { store, block, entry, mut content } in todo {
                content.resize(usize_from_u32(entry.content_len), 0);
                let expanded = store.expand_unnoticed(block, &entry, &mut content);
                drop(store);
                if finished.send((content, expanded)).is_err() {
                    return;
                }
            }
        })?;
        Ok(Idler { jobs, done, content: RefCell::default() })
    }

    /// Expands a block into `content`, whose length must be the block's. It may take long.
    pub(in super::super) fn expand(
        &self,
        store: &Arc<Store>,
        block: BlockIndex,
        entry: Entry,
        content: &mut [u8],
    ) -> Result<()> {
        store.note_place(&entry);
        let store = Arc::clone(store);
        let job = Job { store, block, entry, content: self.content.take() };
        // It is gone only if it panicked.
        self.jobs.send(job).map_err(|_| Error::Invalid)?;
        let (expanded, result) = self.done.recv().map_err(|_| Error::Invalid)?;
        let copied = result.and_then(|()| copy(&expanded, content));
        self.content.replace(expanded);
        copied
    }
}

/// From now on, this thread runs only where a processor would idle otherwise, and gives way at once (sched(7)); its questions to
/// a disk are asked when nobody else asks (`ioprio_get(2)`, "CPU nice value and scheduler class"). Where the
/// kernel refuses, which it does to nobody, it runs as others do.
pub(crate) fn become_idle() {
    let none = libc::sched_param { sched_priority: 0 };
    // SAFETY: 0 is the calling thread, and the kernel reads one `sched_param`, which lives as long as the call.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const none) };
    if result != 0 {
        let err = io::Error::last_os_error();
        tracing::debug!("cannot make a thread run in idle time only: {err}");
    }
}
