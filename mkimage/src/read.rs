//! What is in the files, ahead of who packs it? Threads open, read and hash; what they have comes out in the order of content.
//!
//! Most files are small, and each costs the kernel more than its bytes do. One thread that opened them one after another
//! would keep all others waiting, and on a cold disk would itself wait for each of them.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, Scope};
use std::vec;

use crate::Failure;
use crate::content::{ContentHash, hash};
use crate::ordered::Ordered;
use crate::permits::Permits;
use crate::plan::{Plan, index};
use crate::tree::{Body, Content, Contents, NodeId};

/// Bytes of content that a thread reads at a time; one block where blocks are larger.
const SLICE_LEN: u64 = 1 << 20;
/// Files that a thread reads at a time. Not so many that others wait for it at the end.
const SLICE_FILES: usize = 64;
/// Fewest threads that read: they wait for the disk more than they work.
const READERS_MIN: usize = 4;

/// A part of a file's content, in the order in which it lies there.
#[derive(Debug)]
pub(crate) enum Part {
    /// So many full blocks of zeros.
    Zeros(u32),
    /// A full block of something else.
    Block(Vec<u8>, ContentHash),
    /// What is behind the last full block.
    Tail(Vec<u8>, ContentHash),
    /// The same, where it is so many zeros.
    ZeroTail(u64),
    /// The file is no longer the one that was scanned; the text says how.
    Changed(String),
    /// The next part belongs to the next file.
    End,
}

/// Where the content to be read comes from.
#[derive(Clone, Copy)]
pub(crate) struct Files<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) contents: &'a dyn Contents,
    pub(crate) block_size: u32,
}

/// What one thread reads at a time.
enum Slice {
    /// Whole files, by their places in the order of content.
    Files(Range<usize>),
    /// A piece of a large file: zeros, full blocks, and the tail behind the last of them.
    Piece { node: NodeId, size: u64, zeros: u32, blocks: Range<u32> },
}

/// Cuts the order of content into slices.
struct Slices<'a> {
    files: Files<'a>,
    /// Slices so far.
    number: u64,
    /// Place of the next file in the order of content.
    at: usize,
    /// The large file that is being cut, and its first block that is in no slice.
    large: Option<(Large<'a>, u32)>,
}

/// A large file. It is open only to find its holes: a sparse one may have more slices than there is time for.
struct Large<'a> {
    node: NodeId,
    size: u64,
    full: u32,
    content: Box<dyn Content + 'a>,
}

impl<'a> Slices<'a> {
    /// The next slice and its number.
    fn next(&mut self) -> Option<(u64, Result<Slice, Failure>)> {
        let slice = caught(|| self.cut()).transpose()?;
        let number = self.number;
        self.number += 1;
        Some((number, slice))
    }

    fn cut(&mut self) -> Result<Option<Slice>, Failure> {
        if let Some((large, next)) = self.large.take() {
            return self.cut_large(large, next).map(Some);
        }
        let first = self.at;
        let mut len = 0;
        while let Some((node, size)) = self.files.nth(self.at) {
            if size > self.slice_len() {
                if self.at > first {
                    break;
                }
                self.at += 1;
                let full = u32::try_from(size / u64::from(self.files.block_size));
                let full = full.map_err(|_| {
                    Failure::new("a file has more than 2^32 blocks")
                        .hint("give a larger --block-size")
                })?;
                let content = self.files.contents.open(node)?;
                return self.cut_large(Large { node, size, full, content }, 0).map(Some);
            }
            len += size;
            if self.at > first && (len > self.slice_len() || self.at - first >= SLICE_FILES) {
                break;
            }
            self.at += 1;
        }
        Ok((self.at > first).then_some(Slice::Files(first..self.at)))
    }

    fn cut_large(&mut self, mut large: Large<'a>, next: u32) -> Result<Slice, Failure> {
        let block_size = u64::from(self.files.block_size);
        let zeros = zeros_at(&mut *large.content, large.size, block_size, next..large.full)?;
        let first = next + zeros;
        let count = (self.slice_len() / block_size) as u32;
        let blocks = first..large.full.min(first.saturating_add(count));
        let slice =
            Slice::Piece { node: large.node, size: large.size, zeros, blocks: blocks.clone() };
        if blocks.end < large.full {
            self.large = Some((large, blocks.end));
        }
        Ok(slice)
    }

    fn slice_len(&self) -> u64 {
        SLICE_LEN.max(self.files.block_size.into())
    }
}

/// How many whole blocks at the front of a range need not be read, because the next data is behind them.
fn zeros_at(
    content: &mut dyn Content,
    size: u64,
    block_size: u64,
    blocks: Range<u32>,
) -> Result<u32, Failure> {
    let offset = u64::from(blocks.start) * block_size;
    let data = content.next_data(offset).map_err(Failure::new)?.min(size) / block_size;
    Ok((data.min(blocks.end.into()) as u32).saturating_sub(blocks.start))
}

impl Files<'_> {
    /// A file by its place in the order of content, and its size.
    fn nth(&self, nth: usize) -> Option<(NodeId, u64)> {
        let node = self.plan.nodes[index(*self.plan.content_order.get(nth)?)];
        match self.plan.tree.nodes[index(node)].body {
            Body::File { size } => Some((node, size)),
            // cannot be: only regular files have content
            _ => None,
        }
    }

    fn read(&self, slice: &Slice) -> Result<Vec<Part>, Failure> {
        let mut parts = Vec::new();
        match slice {
            Slice::Files(files) => {
                for (node, size) in files.clone().filter_map(|nth| self.nth(nth)) {
                    let full = (size / u64::from(self.block_size)) as u32;
                    self.read_piece(node, size, 0..full, &mut parts)?;
                }
            }
            Slice::Piece { node, size, zeros, blocks } => {
                parts.extend((*zeros > 0).then_some(Part::Zeros(*zeros)));
                self.read_piece(*node, *size, blocks.clone(), &mut parts)?;
            }
        }
        Ok(parts)
    }

    /// Reads full blocks of a file, and its tail behind the last of them.
    fn read_piece(
        &self,
        node: NodeId,
        size: u64,
        blocks: Range<u32>,
        parts: &mut Vec<Part>,
    ) -> Result<(), Failure> {
        let block_size = u64::from(self.block_size);
        let full = size / block_size;
        let mut content = self.contents.open(node)?;
        let mut next = blocks.start;
        while next < blocks.end {
            let zeros = zeros_at(&mut *content, size, block_size, next..blocks.end)?;
            if zeros > 0 {
                parts.push(Part::Zeros(zeros));
                next += zeros;
                continue;
            }
            let bytes = read_at(&mut *content, u64::from(next) * block_size, block_size)?;
            parts.push(if is_zero(&bytes) {
                Part::Zeros(1)
            } else {
                let hash = hash(&bytes);
                Part::Block(bytes, hash)
            });
            next += 1;
        }
        let is_last = u64::from(blocks.end) == full;
        let (offset, tail_len) = (full * block_size, size % block_size);
        if is_last && tail_len > 0 {
            let is_hole = content.next_data(offset).map_err(Failure::new)? >= size;
            let bytes =
                if is_hole { Vec::new() } else { read_at(&mut *content, offset, tail_len)? };
            parts.push(if is_zero(&bytes) {
                Part::ZeroTail(tail_len)
            } else {
                let hash = hash(&bytes);
                Part::Tail(bytes, hash)
            });
        }
        parts.extend(content.finish().err().map(Part::Changed));
        parts.extend(is_last.then_some(Part::End));
        Ok(())
    }
}

fn read_at(content: &mut dyn Content, offset: u64, len: u64) -> Result<Vec<u8>, Failure> {
    let mut bytes = vec![0; len as usize];
    content.read_exact_at(&mut bytes, offset).map_err(Failure::new)?;
    Ok(bytes)
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

/// What was read of a slice, or why not.
type Read = Result<Vec<Part>, Failure>;

/// All content, part by part. A slice holds a permit from before it is cut until it is taken, so memory stays
/// bounded, and the slice that is due is always among those that have one.
#[derive(Debug)]
pub(crate) struct Parts {
    read: Ordered<Read>,
    now: vec::IntoIter<Part>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    permits: Permits,
    is_over: AtomicBool,
}

impl Parts {
    /// Starts the threads that read. They end with the content, or when this is dropped.
    pub(crate) fn start<'scope, 'env>(
        scope: &'scope Scope<'scope, 'env>,
        files: Files<'env>,
        workers: usize,
    ) -> Result<Self, Failure> {
        let readers = workers.saturating_mul(2).max(READERS_MIN);
        let (sender, read) = Ordered::new();
        let shared = Arc::new(Shared {
            permits: Permits::new(2 * readers),
            is_over: AtomicBool::new(false),
        });
        let parts = Parts { read, now: Vec::new().into_iter(), shared: Arc::clone(&shared) };
        let slices = Arc::new(Mutex::new(Slices { files, number: 0, at: 0, large: None }));
        for _ in 0..readers {
            let (slices, sender, shared) =
                (Arc::clone(&slices), sender.clone(), Arc::clone(&shared));
            thread::Builder::new()
                .name("read".to_owned())
                .spawn_scoped(scope, move || read_slices(files, &slices, &sender, &shared))
                .map_err(|err| Failure::io("cannot start a thread", &err))?;
        }
        Ok(parts)
    }

    /// The next part; nothing when everything was read.
    pub(crate) fn next(&mut self) -> Result<Option<Part>, Failure> {
        loop {
            if let Some(part) = self.now.next() {
                return Ok(Some(part));
            }
            // Nothing comes when all threads are done; they send all that they took.
            let Some(parts) = self.read.next() else { return Ok(None) };
            self.now = parts?.into_iter();
            self.shared.permits.give();
        }
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Release);
        self.shared.permits.give_all();
    }
}

fn read_slices(
    files: Files<'_>,
    slices: &Mutex<Slices<'_>>,
    sender: &Sender<(u64, Read)>,
    shared: &Shared,
) {
    loop {
        shared.permits.take();
        if shared.is_over.load(Ordering::Acquire) {
            return;
        }
        let next = slices.lock().unwrap_or_else(PoisonError::into_inner).next();
        let Some((number, slice)) = next else { return };
        let parts = caught(|| slice.and_then(|slice| files.read(&slice)));
        if sender.send((number, parts)).is_err() {
            return;
        }
    }
}

/// A slice that never came would be waited for, so a panic is a failure like any other.
fn caught<T>(work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(Failure::new("a reading thread panicked")))
}
