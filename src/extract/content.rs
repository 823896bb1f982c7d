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
use super::{Job, add, split};
use crate::error::{Error, Result};
use crate::format::field::{u64_from_usize, usize_from_u64};
use crate::fs::file::Place;
use crate::fs::walk::Visit;

/// What one thread does of a file at a time: a multiple of every block size, and enough to be worth handing over.
const PIECE_LEN: u64 = 8 << 20;
/// What is read and written at once. The largest block size: blocks are expanded straight into the buffer.
const CHUNK_LEN: usize = 1 << 20;
/// Most files that are handed over at once. One by one, waking a thread costs more than filling a small file.
const BATCH_FILES: usize = 16;
/// Most batches on their way. With what the workers have, this limits how many directories are open.
const BATCHES_WAITING: usize = 4;
/// Most workers: they would wait for the disk, and for open files.
const WORKERS_MAX: usize = 32;

/// Something to do for a worker.
enum Work {
    /// Make a file and fill it.
    Whole { directory: Arc<OwnedFd>, visit: Visit },
    /// Fill a part of a large file.
    Piece { file: Arc<Filling>, range: Range<u64> },
}

/// A file that is being filled. Whoever lets go of it last finishes it.
struct Filling {
    made: Made<File>,
    directory: Arc<OwnedFd>,
    visit: Visit,
    failed: AtomicBool,
}

/// Work on its way to the workers.
pub(super) struct Queue {
    sender: SyncSender<Vec<Work>>,
    batch: Vec<Work>,
    batch_bytes: u64,
}

impl Queue {
    /// Starts the workers. They end when the queue is gone and all is done.
    pub(super) fn start<'scope>(
        scope: &'scope Scope<'scope, '_>,
        job: &'scope Job<'_>,
        workers: usize,
    ) -> Self {
        let (sender, receiver) = sync_channel(BATCHES_WAITING);
        let receiver = Arc::new(Mutex::new(receiver));
        for _ in 0..workers.min(WORKERS_MAX) {
            let receiver = Arc::clone(&receiver);
            scope.spawn(move || work(job, &receiver));
        }
        Queue { sender, batch: Vec::new(), batch_bytes: 0 }
    }

    /// Has a regular file made and filled.
    pub(super) fn make(&mut self, job: &Job<'_>, target: &Target<'_>, visit: Visit) -> Result<()> {
        let size = visit.inode.size;
        if size <= PIECE_LEN {
            let directory = Arc::clone(target.directory);
            self.push(Work::Whole { directory, visit }, size);
            return Ok(());
        }
        let file = Arc::new(Filling::make(target, visit)?);
        let handed = self.hand_over(job, &file);
        // A worker that failed before has told why.
        let result = handed.or_else(|err| {
            if file.failed.swap(true, Ordering::Relaxed) { Ok(()) } else { Err(err) }
        });
        finish_last(job, file);
        result
    }

    /// Cuts a large file into pieces, each of which starts with data: holes may be longer than anybody can count pieces.
    fn hand_over(&mut self, job: &Job<'_>, file: &Arc<Filling>) -> Result<()> {
        let size = file.visit.inode.size;
        let reader = job.tree.file_of(file.visit.index, &file.visit.inode)?;
        let mut start = 0;
        while start < size {
            let extent = reader.extent_at(start)?;
            let is_hole = extent.place == Place::Hole;
            let end = if is_hole {
                extent.offset.saturating_add(extent.len).min(size)
            } else {
                start.saturating_add(PIECE_LEN).min(size)
            };
            let len = end.checked_sub(start).filter(|len| *len > 0).ok_or(Error::Invalid)?;
            if is_hole {
                job.watch.progress(len);
            } else {
                self.push(Work::Piece { file: Arc::clone(file), range: start..end }, len);
            }
            start = end;
        }
        Ok(())
    }

    fn push(&mut self, work: Work, bytes: u64) {
        self.batch.push(work);
        self.batch_bytes = self.batch_bytes.saturating_add(bytes);
        if self.batch.len() >= BATCH_FILES || self.batch_bytes >= PIECE_LEN {
            self.send();
        }
    }

    fn send(&mut self) {
        self.batch_bytes = 0;
        // Nobody is there to receive it only if all workers panicked, which the scope tells.
        self.sender.send(std::mem::take(&mut self.batch)).ok();
    }

    /// Sends what is left.
    pub(super) fn finish(mut self) {
        self.send();
    }
}

fn work(job: &Job<'_>, batches: &Mutex<Receiver<Vec<Work>>>) {
    let mut buf = vec![0; CHUNK_LEN];
    loop {
        let received = batches.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(batch) = received else { return };
        for work in batch {
            match work {
                Work::Whole { directory, visit } => {
                    let name = split(&visit.path).1;
                    let target = Target { directory: &directory, name, force: job.options.force };
                    match Filling::make(&target, visit.clone()) {
                        Ok(file) => {
                            fill(job, &file, 0..visit.inode.size, &mut buf);
                            finish(job, file);
                        }
                        Err(err) => job.lose(&visit, err),
                    }
                }
                Work::Piece { file, range } => {
                    fill(job, &file, range, &mut buf);
                    finish_last(job, file);
                }
            }
        }
    }
}

impl Filling {
    /// Makes the file, of its length but with nothing in it: holes are what is never written to.
    fn make(target: &Target<'_>, visit: Visit) -> Result<Self> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let own = Mode::RUSR | Mode::WUSR;
        let made = target
            .make(|name| rustix::fs::openat(target.directory, name, flags, own).map(File::from))
            .map_err(wrap("cannot make the file"))?;
        let size = visit.inode.size;
        if size > 0
            && let Err(errno) = rustix::fs::ftruncate(&made.value, size)
        {
            made.discard(target.directory, target.name);
            return Err(wrap("cannot set the length")(errno));
        }
        let directory = Arc::clone(target.directory);
        Ok(Filling { made, directory, visit, failed: AtomicBool::new(false) })
    }
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

/// Lets go of a file; if nobody else has it, it is finished.
fn finish_last(job: &Job<'_>, file: Arc<Filling>) {
    if let Some(file) = Arc::into_inner(file) {
        finish(job, file);
    }
}

/// Gives a file its attributes and its name if it is whole, and removes it if not.
fn finish(job: &Job<'_>, file: Filling) {
    let Filling { made, directory, visit, failed } = file;
    let name = split(&visit.path).1;
    if failed.into_inner() {
        made.discard(&directory, name);
        return;
    }
    restore(job, Handle::Open(made.value.as_fd()), &visit);
    match made.commit(&directory, name) {
        Ok(()) => {
            add(&job.counts.files, 1);
            add(&job.counts.bytes, visit.inode.size);
        }
        Err(err) => job.lose(&visit, err),
    }
}
