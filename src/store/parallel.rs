//! How is one work done on several threads?

use std::thread::{self, Builder};

/// Does the same on up to `workers` threads, this one among them, and returns what each of them has. One that cannot be started
/// is done without.
pub(crate) fn on_threads<T: Send>(
    workers: usize,
    work: impl Fn() -> T + Sync,
) -> Vec<thread::Result<T>> {
    thread::scope(|scope| {
        let start = |_| Builder::new().name("worker".to_owned()).spawn_scoped(scope, &work).ok();
        let others: Vec<_> = (1..workers).filter_map(start).collect();
        let mine = work();
        others.into_iter().map(thread::ScopedJoinHandle::join).chain([Ok(mine)]).collect()
    })
}
