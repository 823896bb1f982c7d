//! What if the disk never answers? Then whoever reads is told so after a while, and somebody else goes on waiting.
//!
//! A read from a dead disk or a network block device without a network cannot be interrupted. So it is done by threads that
//! nobody waits for longer than so; what is in the page cache already is read without them.

use std::fmt;
use std::io::{self, IoSliceMut};
use std::os::fd::BorrowedFd;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use rustix::io::ReadWriteFlags;

use super::Source;

/// Most threads that read. When all of them wait for the disk, there is no use in one more.
const THREADS_MAX: usize = 16;

/// A source whose reads end in time, with or without success.
#[derive(Debug)]
pub struct Patient {
    source: Arc<dyn Source>,
    patience: Duration,
    threads: Arc<Threads>,
}

#[derive(Debug)]
struct Threads {
    state: Mutex<State>,
    came_back: Condvar,
    /// What each of them does first.
    first: fn(),
}

#[derive(Default)]
struct State {
    count: usize,
    idle: Vec<Sender<Job>>,
}

/// A read that somebody wants, and the way to the thread that does it.
struct Job {
    source: Arc<dyn Source>,
    offset: u64,
    len: usize,
    answer: SyncSender<io::Result<Vec<u8>>>,
    thread: Sender<Job>,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} threads are idle", self.idle.len(), self.count)
    }
}

impl Patient {
    /// Reads from `source`, but waits no longer than `patience` for each read. Threads that read do something `first`.
    pub fn new(source: Arc<dyn Source>, patience: Duration, first: fn()) -> Patient {
        let threads = Threads { state: Mutex::default(), came_back: Condvar::new(), first };
        Patient { source, patience, threads: Arc::new(threads) }
    }

    /// Reads what needs no disk.
    fn read_at_once(&self, buf: &mut [u8], offset: u64) -> bool {
        let Some(file) = self.source.descriptor() else { return false };
        let len = buf.len();
        let into = &mut [IoSliceMut::new(buf)];
        let read = rustix::io::preadv2(file, into, offset, ReadWriteFlags::NOWAIT);
        read.is_ok_and(|read_len| read_len == len)
    }
}

impl Threads {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A thread that has nothing to do, now or soon.
    fn take(self: &Arc<Self>, patience: Duration) -> io::Result<Sender<Job>> {
        let mut state = self.lock();
        if let Some(thread) = state.idle.pop() {
            return Ok(thread);
        }
        if state.count >= THREADS_MAX {
            let none = |state: &mut State| state.idle.is_empty();
            let waited = self.came_back.wait_timeout_while(state, patience, none);
            let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
            return state.idle.pop().ok_or_else(|| {
                let why = format!("{THREADS_MAX} reads wait for the disk already");
                io::Error::new(io::ErrorKind::TimedOut, why)
            });
        }
        let (sender, jobs) = mpsc::channel();
        let (threads, first) = (Arc::downgrade(self), self.first);
        let thread = thread::Builder::new().name("read".to_owned()).stack_size(128 * 1024);
        thread.spawn(move || {
            first();
            work(&jobs, &threads);
        })?;
        state.count = state.count.saturating_add(1);
        Ok(sender)
    }
}

fn work(jobs: &Receiver<Job>, threads: &Weak<Threads>) {
    for Job { source, offset, len, answer, thread } in jobs {
        let mut content = vec![0; len];
        let read = source.read_exact_at(&mut content, offset).map(|()| content);
        drop(source);
        // First, so that who is answered finds it idle; and who asked may have lost patience.
        if let Some(threads) = threads.upgrade() {
            threads.lock().idle.push(thread);
            threads.came_back.notify_one();
        }
        answer.try_send(read).unwrap_or_default();
    }
}

impl Source for Patient {
    fn len(&self) -> u64 {
        self.source.len()
    }

    fn has_slack(&self) -> bool {
        self.source.has_slack()
    }

    fn will_need(&self, offset: u64, len: u64) {
        self.source.will_need(offset, len);
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.source.descriptor()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        if self.read_at_once(buf, offset) {
            return Ok(());
        }
        let thread = self.threads.take(self.patience)?;
        let (answer, read) = mpsc::sync_channel(1);
        let source = Arc::clone(&self.source);
        let job = Job { source, offset, len: buf.len(), answer, thread: thread.clone() };
        thread.send(job).map_err(|_| io::Error::other("the thread that reads is gone"))?;
        drop(thread);
        match read.recv_timeout(self.patience) {
            Ok(content) => {
                buf.copy_from_slice(&content?);
                Ok(())
            }
            Err(RecvTimeoutError::Timeout) => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("the disk has not answered for {} ms", self.patience.as_millis()),
            )),
            Err(RecvTimeoutError::Disconnected) => {
                Err(io::Error::other("the thread that reads is gone"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::RwLock;

    /// A disk that answers when it is let go.
    #[derive(Debug)]
    struct Stuck(RwLock<()>);

    impl Source for Stuck {
        fn len(&self) -> u64 {
            1 << 20
        }

        fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
            drop(self.0.read().unwrap());
            if offset >= 1 << 20 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            buf.fill(7);
            Ok(())
        }
    }

    #[test]
    fn who_waits_for_a_stuck_disk_is_told_and_served_when_it_comes_back() {
        let disk = Arc::new(Stuck(RwLock::new(())));
        let source = Arc::clone(&disk) as Arc<dyn Source>;
        let patient = Patient::new(source, Duration::from_millis(50), || {});
        let mut buf = [0; 100];
        patient.read_exact_at(&mut buf, 0).unwrap();
        assert_eq!(buf, [7; 100]);
        let held = disk.0.write().unwrap();
        for _ in 0..THREADS_MAX + 4 {
            let begun = std::time::Instant::now();
            let err = patient.read_exact_at(&mut buf, 0).unwrap_err();
            assert_eq!(err.kind(), io::ErrorKind::TimedOut);
            assert!(begun.elapsed() < Duration::from_secs(5));
        }
        drop(held);
        thread::sleep(Duration::from_millis(100));
        patient.read_exact_at(&mut buf, 0).unwrap();
        let err = patient.read_exact_at(&mut buf, 1 << 20).unwrap_err();
        assert_eq!(err.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn threads_end_with_the_source() {
        let disk: Arc<dyn Source> = Arc::new(Stuck(RwLock::new(())));
        let patient = Patient::new(Arc::clone(&disk), Duration::from_secs(5), || {});
        patient.read_exact_at(&mut [0; 10], 0).unwrap();
        drop(patient);
        for _ in 0..500 {
            if Arc::strong_count(&disk) == 1 {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        panic!("a thread still has it");
    }
}
