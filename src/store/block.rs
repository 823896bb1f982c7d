//! What is a block? Content that was found true; it cannot be made anywhere but in `store`.

use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard};

use super::lock;

/// The content of a block, verified and expanded; shared and immutable.
#[derive(Debug, Clone)]
pub struct Block(Arc<Content>);

#[derive(Debug)]
struct Content {
    /// As long as the pool's buffers are.
    buf: Vec<u8>,
    len: usize,
    pool: Arc<Pool>,
}

/// Buffers for blocks, used again and again. Memory that is new to a process costs it more than what is put there: the kernel
/// clears each page at its first touch. In a booting virtual machine that was a fifth of a server's time.
#[derive(Debug)]
pub(super) struct Pool {
    buf_len: usize,
    free_max: usize,
    free: Mutex<Vec<Vec<u8>>>,
}

impl Pool {
    /// A pool of buffers of `buf_len` bytes, which keeps up to `free_max` of those that are not in use.
    pub(super) fn new(buf_len: usize, free_max: usize) -> Arc<Self> {
        Arc::new(Pool { buf_len, free_max, free: Mutex::new(Vec::new()) })
    }

    /// A block of `len` bytes, which `fill` puts there: it is given them as they were left, and all of them are its to fill.
    /// More than a buffer holds is an error of the caller, who gets a block that is too short.
    pub(super) fn block<E>(
        self: &Arc<Self>,
        len: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<Block, E> {
        // Not in one line: the lock would be held while the kernel gives memory.
        let free = self.free().pop();
        let buf = free.unwrap_or_else(|| vec![0; self.buf_len]);
        let len = len.min(buf.len());
        let mut content = Content { buf, len, pool: Arc::clone(self) };
        fill(content.buf.get_mut(..len).unwrap_or_default())?;
        Ok(Block(Arc::new(content)))
    }

    fn free(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        lock(&self.free)
    }
}

impl Block {
    /// How much memory it takes, in bytes: a whole buffer, however short its content is.
    pub(super) fn memory(&self) -> usize {
        self.0.buf.len()
    }
}

impl Drop for Content {
    fn drop(&mut self) {
        let buf = std::mem::take(&mut self.buf);
        let mut free = self.pool.free();
        if free.len() < self.pool.free_max {
            free.push(buf);
        }
    }
}

impl Deref for Block {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.buf.get(..self.0.len).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_used_again() {
        let pool = Pool::new(100, 2);
        let filled = |len, with| {
            let fill = |buf: &mut [u8]| -> Result<(), ()> {
                buf.fill(with);
                Ok(())
            };
            pool.block(len, fill).unwrap()
        };
        let (one, two) = (filled(100, 1), filled(40, 2));
        assert_eq!((one.len(), &*two), (100, &[2; 40][..]));
        let (at, other) = (one.as_ptr(), one.clone());
        drop(one);
        assert_ne!(filled(1, 3).as_ptr(), at, "somebody has it still");
        drop(other);
        assert_eq!(filled(7, 4).as_ptr(), at);
        assert!(pool.block(5, |_| Err(())).is_err());
        assert_eq!(pool.free().len(), 2);
        drop(two);
        assert_eq!(pool.free().len(), 2, "no more than that are kept");
    }
}
