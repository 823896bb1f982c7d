//! How does content get into a file? In pieces, by several threads, past holes; a file that is not right to its last byte
//! is removed.

use std::fs::File;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Scope;

use rustix::fs::{Mode, OFlags};

use super::attributes::{Handle, restore};
use super::place::{Made, Target, wrap};
use super::{Job, add};
use crate::error::{Error, Result};
use crate::format::field::{u64_from_usize, usize_from_u64};
use crate::fs::file::Place;
use crate::fs::walk::Visit;

/// What one thread does of a file at a time: a multiple of every block size, and enough to be worth handing over.
const PIECE_LEN: u64 = 8 << 20;
/// What is read and written at once. The largest block size: blocks are expanded straight into the buffer.
const CHUNK_LEN: usize = 1 << 20;
/// Pieces waiting for each thread. Each may hold two files open.
const WAITING_PER_WORKER: usize = 8;

/// A file that is being filled. Whoever lets go of it last finishes it.
struct Filling {
    made: Made<File>,
    directory: Arc<OwnedFd>,
    name: Vec<u8>,
    visit: Visit,
    failed: AtomicBool,
}

/// Part of a file, in bytes.
struct Piece {
    file: Arc<Filling>,
    range: Range<u64>,
}

/// Pieces on their way to the workers.
pub(super) struct Queue(SyncSender<Piece>);

impl Queue {
    /// Starts the workers. They end when the queue is gone.
    pub(super) fn start<'scope>(
        scope: &'scope Scope<'scope, '_>,
        job: &'scope Job<'_>,
        workers: usize,
    ) -> Self {
        let (sender, receiver) = sync_channel(workers.saturating_mul(WAITING_PER_WORKER));
        let receiver = Arc::new(Mutex::new(receiver));
        for _ in 0..workers {
            let receiver = Arc::clone(&receiver);
            scope.spawn(move || work(job, &receiver));
        }
        Queue(sender)
    }
}

fn work(job: &Job<'_>, pieces: &Mutex<Receiver<Piece>>) {
    let mut buf = vec![0; CHUNK_LEN];
    loop {
        let received = pieces.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Piece { file, range }) = received else { return };
        fill(job, &file, range, &mut buf);
        finish_last(job, file);
    }
}

/// Makes a regular file and has it filled.
pub(super) fn make(job: &Job<'_>, target: &Target<'_>, visit: &Visit, queue: &Queue) -> Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let own = Mode::RUSR | Mode::WUSR;
    let made = target
        .make(|name| rustix::fs::openat(target.directory, name, flags, own).map(File::from))
        .map_err(wrap("cannot make the file"))?;
    let size = visit.inode.size;
    let file = Arc::new(Filling {
        made,
        directory: Arc::clone(target.directory),
        name: target.name.to_vec(),
        visit: visit.clone(),
        failed: AtomicBool::new(false),
    });
    // Holes are what is never written to.
    if size > 0
        && let Err(errno) = rustix::fs::ftruncate(&file.made.value, size)
    {
        file.made.discard(&file.directory, &file.name);
        return Err(wrap("cannot set the length")(errno));
    }
    let mut start = 0;
    while start < size {
        let end = start.saturating_add(PIECE_LEN).min(size);
        let piece = Piece { file: Arc::clone(&file), range: start..end };
        if queue.0.send(piece).is_err() {
            // All workers are gone, which they are only if they panicked; the scope will tell.
            file.failed.store(true, Ordering::Relaxed);
        }
        start = end;
    }
    finish_last(job, file);
    Ok(())
}

/// Fills a part of a file, unless another part failed already.
fn fill(job: &Job<'_>, file: &Filling, range: Range<u64>, buf: &mut [u8]) {
    if file.failed.load(Ordering::Relaxed) || job.fatal.get().is_some() {
        file.failed.store(true, Ordering::Relaxed);
        return;
    }
    if let Err(err) = copy(job, file, range, buf)
        && !file.failed.swap(true, Ordering::Relaxed)
    {
        job.lose(&file.visit, err);
    }
}

fn copy(job: &Job<'_>, file: &Filling, range: Range<u64>, buf: &mut [u8]) -> Result<()> {
    let reader = job.tree.file_of(file.visit.index, &file.visit.inode)?;
    let mut at = range.start;
    while at < range.end {
        let extent = reader.extent_at(at)?;
        let end = extent.offset.saturating_add(extent.len).min(range.end);
        let len = end.checked_sub(at).filter(|len| *len > 0).ok_or(Error::Invalid)?;
        if extent.place == Place::Hole {
            job.watch.progress(len);
            at = end;
            continue;
        }
        let len = usize_from_u64(len).min(CHUNK_LEN);
        let chunk = buf.get_mut(..len).ok_or(Error::Invalid)?;
        reader.read_at(at, chunk)?;
        let written = file.made.value.write_all_at(chunk, at);
        written.map_err(|err| Error::io("cannot write", err))?;
        job.watch.progress(u64_from_usize(len));
        at = at.saturating_add(u64_from_usize(len));
    }
    Ok(())
}

/// Lets go of a file; if nobody else has it, it is whole and gets its attributes and its name, or is removed.
fn finish_last(job: &Job<'_>, file: Arc<Filling>) {
    let Some(file) = Arc::into_inner(file) else { return };
    let Filling { made, directory, name, visit, failed } = file;
    if failed.into_inner() {
        made.discard(&directory, &name);
        return;
    }
    restore(job, Handle::Open(made.value.as_fd()), &visit);
    match made.commit(&directory, &name) {
        Ok(()) => {
            add(&job.counts.files, 1);
            add(&job.counts.bytes, visit.inode.size);
        }
        Err(err) => job.lose(&visit, err),
    }
}
