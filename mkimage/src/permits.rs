//! How much may be under way? So many pieces as there are permits: memory stays bounded however unevenly threads run.

use std::sync::{Condvar, Mutex, PoisonError};

/// How many pieces of work may still be begun.
#[derive(Debug)]
pub(crate) struct Permits {
    free: Mutex<usize>,
    freed: Condvar,
}

impl Permits {
    /// So many are free.
    pub(crate) fn new(count: usize) -> Self {
        Permits { free: Mutex::new(count), freed: Condvar::new() }
    }

    /// Waits for one.
    pub(crate) fn take(&self) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        while *free == 0 {
            free = self.freed.wait(free).unwrap_or_else(PoisonError::into_inner);
        }
        *free -= 1;
    }

    /// Gives one back.
    pub(crate) fn give(&self) {
        *self.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.freed.notify_one();
    }

    /// Lets everybody go on, since all is over; whoever gets a permit has to look whether it is.
    pub(crate) fn give_all(&self) {
        *self.free.lock().unwrap_or_else(PoisonError::into_inner) = usize::MAX / 2;
        self.freed.notify_all();
    }
}
