//! Blocks go in, compressed blocks come out in the same order: threads may race, order may not.
//!
//! The caller's thread reads and numbers blocks; workers compress and hash; one thread writes. A block holds a permit
//! from the moment it goes in until it is written, so memory stays bounded however unevenly the workers run.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, Scope, ScopedJoinHandle};

use ashlarfs::format::branch::{self, Machine};
use ashlarfs::format::entry::{Codec, Entry};
use ashlarfs::format::superblock;
use ashlarfs::store::proof::{BlockKind, hash_block};
use zstd::bulk::Compressor;
use zstd::zstd_safe::CParameter;

use crate::Failure;
use crate::permits::Permits;

/// A block ready to be written.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) bytes: Vec<u8>,
    pub(crate) codec: Codec,
    pub(crate) content_len: u32,
    pub(crate) kind: BlockKind,
}

struct Job {
    number: u32,
    content: Vec<u8>,
    kind: BlockKind,
    /// Whose code may be in it.
    machine: Option<Machine>,
}

type Ready = Result<(Stored, Entry), io::Error>;

/// The threads between a reader of content and the image file.
pub(crate) struct Pipeline<'scope> {
    jobs: Sender<Job>,
    ready: Sender<(u32, Ready)>,
    permits: Arc<Permits>,
    workers: Vec<ScopedJoinHandle<'scope, ()>>,
    writer: ScopedJoinHandle<'scope, Result<(File, Vec<Entry>), Failure>>,
    failed: Arc<AtomicBool>,
    next: u32,
}

/// Bytes of content that may be under way, beyond two blocks for each worker.
const UNDER_WAY_MAX: usize = 16 << 20;

impl<'scope> Pipeline<'scope> {
    /// Starts the threads. Blocks are written to `file` from offset 4096 on.
    pub(crate) fn start<'env>(
        scope: &'scope Scope<'scope, 'env>,
        file: File,
        level: Option<i32>,
        workers: usize,
        block_size: usize,
    ) -> Self {
        Self::start_with(scope, file, workers, block_size, move || {
            let mut compressors = level.map(Compressors::new);
            move |job| match &mut compressors {
                None => Ok(uncompressed(job)),
                Some(Ok(compressors)) => compressors.compress(job),
                Some(Err(err)) => Err(io::Error::new(err.kind(), err.to_string())),
            }
        })
    }

    /// The same, with what each worker does to a block.
    fn start_with<'env, W: FnMut(Job) -> io::Result<Stored>>(
        scope: &'scope Scope<'scope, 'env>,
        file: File,
        workers: usize,
        block_size: usize,
        worker: impl Fn() -> W + Copy + Send + 'scope,
    ) -> Self {
        let (jobs, todo) = mpsc::channel::<Job>();
        let (ready, done) = mpsc::channel();
        let todo = Arc::new(Mutex::new(todo));
        let handles = (0..workers.max(1)).map(|_| {
            let (todo, ready) = (Arc::clone(&todo), ready.clone());
            scope.spawn(move || work(&todo, &ready, worker()))
        });
        let handles = handles.collect();
        drop(todo);
        let count = (UNDER_WAY_MAX / block_size).min(4 * workers + 8).max(2 * workers);
        let permits = Arc::new(Permits::new(count));
        let failed = Arc::new(AtomicBool::new(false));
        let writer = {
            let (permits, failed) = (Arc::clone(&permits), Arc::clone(&failed));
            scope.spawn(move || {
                let over = Over { permits: &permits, failed: &failed };
                let written = write(file, &done, &permits);
                drop(over);
                written
            })
        };
        Pipeline { jobs, ready, permits, workers: handles, writer, failed, next: 0 }
    }

    /// How many blocks went in so far: the number that the next one gets.
    pub(crate) fn count(&self) -> u32 {
        self.next
    }

    /// Puts a block of content in, which may hold code of `machine`; returns its number.
    pub(crate) fn push(
        &mut self,
        content: Vec<u8>,
        kind: BlockKind,
        machine: Option<Machine>,
    ) -> Result<u32, Failure> {
        let number = self.admit()?;
        // Fails when no worker is left: they end when `jobs` is dropped, or by a panic.
        self.jobs.send(Job { number, content, kind, machine }).map_err(|_| stopped())?;
        Ok(number)
    }

    /// Puts a block in that is stored already.
    pub(crate) fn push_stored(&mut self, stored: Stored) -> Result<u32, Failure> {
        let number = self.admit()?;
        let entry = entry_of(&stored);
        self.ready.send((number, Ok((stored, entry)))).map_err(|_| stopped())?;
        Ok(number)
    }

    fn admit(&mut self) -> Result<u32, Failure> {
        self.permits.take();
        if self.failed.load(Ordering::Acquire) {
            return Err(stopped());
        }
        let number = self.next;
        self.next =
            self.next.checked_add(1).ok_or_else(|| Failure::new("more blocks than 2^32 - 1"))?;
        Ok(number)
    }

    /// Waits until everything is written.
    pub(crate) fn finish(self) -> Result<(File, Vec<Entry>), Failure> {
        drop(self.jobs);
        drop(self.ready);
        // All are joined, whatever became of them: the scope would panic in its turn.
        let worked = self.workers.into_iter().map(ScopedJoinHandle::join).fold(Ok(()), Result::and);
        let written =
            self.writer.join().map_err(|_| Failure::new("the writing thread panicked"))?;
        let written = written?;
        worked.map_err(|_| Failure::new("a compressing thread panicked"))?;
        Ok(written)
    }
}

fn stopped() -> Failure {
    Failure::new("writing the image has stopped")
}

fn entry_of(stored: &Stored) -> Entry {
    Entry {
        digest: hash_block(stored.kind, &stored.bytes),
        offset: 0,
        codec: stored.codec,
        stored_len: stored.bytes.len() as u32,
        content_len: stored.content_len,
    }
}

/// Tells, when the writer ends in whatever way, that it is over; who waits for a permit must get one to see it.
struct Over<'a> {
    permits: &'a Permits,
    failed: &'a AtomicBool,
}

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.failed.store(true, Ordering::Release);
        self.permits.give_all();
    }
}

/// Tells the writer of a block that will never be ready, since the thread that had it panicked. Nobody would ever get
/// the permits of the blocks behind it.
struct InHand<'a> {
    number: u32,
    ready: &'a Sender<(u32, Ready)>,
}

impl Drop for InHand<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            let err = io::Error::other("the thread panicked");
            // Fails when the writer has ended already, which is what this is for.
            drop(self.ready.send((self.number, Err(err))));
        }
    }
}

fn work(
    todo: &Mutex<Receiver<Job>>,
    ready: &Sender<(u32, Ready)>,
    mut worker: impl FnMut(Job) -> io::Result<Stored>,
) {
    loop {
        let job = todo.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        let number = job.number;
        let in_hand = InHand { number, ready };
        let stored = worker(job).map(|stored| {
            let entry = entry_of(&stored);
            (stored, entry)
        });
        drop(in_hand);
        if ready.send((number, stored)).is_err() {
            return;
        }
    }
}

fn compressor(level: i32) -> io::Result<Compressor<'static>> {
    let mut compressor = Compressor::new(level)?;
    // The header that the format asks for (SPEC §5): content size, no checksum, no dictionary.
    compressor.set_parameter(CParameter::ContentSizeFlag(true))?;
    compressor.set_parameter(CParameter::ChecksumFlag(false))?;
    compressor.set_parameter(CParameter::DictIdFlag(false))?;
    Ok(compressor)
}

fn uncompressed(job: Job) -> Stored {
    let content_len = job.content.len() as u32;
    Stored { bytes: job.content, codec: Codec::None, content_len, kind: job.kind }
}

/// Level at which both ways are tried. It errs about one block in a hundred, by little; trying at the level that is asked for
/// would take twice the time.
const LEVEL_TRIED: i32 = 3;

/// What a worker compresses with.
struct Compressors {
    level: Compressor<'static>,
    trial: Compressor<'static>,
}

impl Compressors {
    fn new(level: i32) -> io::Result<Self> {
        Ok(Compressors {
            level: compressor(level)?,
            trial: Compressor::new(level.min(LEVEL_TRIED))?,
        })
    }

    /// Compresses a block, filtered where it has code and that promises to be shorter; one that does not become shorter is stored as
    /// it is.
    fn compress(&mut self, job: Job) -> io::Result<Stored> {
        let content_len = job.content.len() as u32;
        let filtered = match job.machine {
            Some(machine) => self.filtered(machine, &job.content)?,
            None => None,
        };
        let codec = Codec::zstd(job.machine.filter(|_| filtered.is_some()));
        let bytes = self.level.compress(filtered.as_ref().unwrap_or(&job.content))?;
        if bytes.len() >= job.content.len() {
            return Ok(uncompressed(job));
        }
        Ok(Stored { bytes, codec, content_len, kind: job.kind })
    }

    /// The content as the filter leaves it, if that promises to be shorter.
    fn filtered(&mut self, machine: Machine, content: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let mut filtered = content.to_vec();
        branch::to_places(machine, &mut filtered);
        let is_shorter =
            self.trial.compress(&filtered)?.len() < self.trial.compress(content)?.len();
        Ok(is_shorter.then_some(filtered))
    }
}

/// Writes blocks in the order of their numbers, whatever the order in which they get ready.
fn write(
    file: File,
    done: &Receiver<(u32, Ready)>,
    permits: &Permits,
) -> Result<(File, Vec<Entry>), Failure> {
    let wrap = |err| Failure::io("cannot write the image", &err);
    let mut out = BufWriter::with_capacity(1 << 20, file);
    out.write_all(&[0; superblock::LEN]).map_err(wrap)?;
    let mut offset = superblock::LEN_ON_DISK;
    let mut entries: Vec<Entry> = Vec::new();
    let mut early = BTreeMap::new();
    for (number, ready) in done {
        early.insert(number, ready.map_err(|err| Failure::io("cannot compress a block", &err))?);
        while let Some((stored, mut entry)) = early.remove(&(entries.len() as u32)) {
            out.write_all(&stored.bytes).map_err(wrap)?;
            entry.offset = offset;
            offset += u64::from(entry.stored_len);
            entries.push(entry);
            permits.give();
        }
    }
    let file = out.into_inner().map_err(|err| wrap(err.into_error()))?;
    Ok((file, entries))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_of_a_worker_ends_the_build_with_an_error() {
        for workers in [1, 3] {
            let file = tempfile::tempfile().unwrap();
            let (pushed, written) = thread::scope(|scope| {
                let mut pipeline = Pipeline::start_with(scope, file, workers, 4096, || {
                    |job: Job| {
                        assert_ne!(job.number, 3, "a panic that a test wants");
                        Ok(uncompressed(job))
                    }
                });
                // Far more than there are permits.
                let pushed = (0..10_000)
                    .try_for_each(|_| pipeline.push(vec![1; 64], BlockKind::Data, None).map(drop));
                (pushed, pipeline.finish())
            });
            assert!(pushed.is_err());
            assert!(written.unwrap_err().message.contains("panicked"));
        }
    }
}
