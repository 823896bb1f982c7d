//! What if the power fails? Whoever changes a disk asks here before each change, and a test can say that there is no power any more:
//! from then on nothing reaches the disk.

/// Asked before every change.
#[cfg(not(test))]
#[expect(clippy::unnecessary_wraps, reason = "in tests the power may be gone")]
pub(crate) fn step(_doing: &'static str) -> std::io::Result<()> {
    Ok(())
}

#[cfg(test)]
pub(crate) use cut::{cut_after, done, step};

#[cfg(test)]
mod cut {
    use std::cell::{Cell, RefCell};
    use std::io;

    thread_local! {
        static LEFT: Cell<Option<usize>> = const { Cell::new(None) };
        static DONE: RefCell<Vec<&'static str>> = const { RefCell::new(Vec::new()) };
    }

    /// The power fails after this many more changes of this thread, or never.
    pub(crate) fn cut_after(changes: Option<usize>) {
        LEFT.set(changes);
        DONE.take();
    }

    /// What was done since.
    pub(crate) fn done() -> Vec<&'static str> {
        DONE.with_borrow(Clone::clone)
    }

    pub(crate) fn step(doing: &'static str) -> io::Result<()> {
        match LEFT.get() {
            Some(0) => return Err(io::Error::other("the power is gone")),
            Some(left) => LEFT.set(Some(left - 1)),
            None => {}
        }
        DONE.with_borrow_mut(|done| done.push(doing));
        Ok(())
    }
}
