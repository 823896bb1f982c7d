//! What is asked of the C library's memory? That little of it is kept that nobody uses, for a server lives as long as its machine; and
//! that the memory which the kernel writes questions to is there at any time.
#![allow(
    unsafe_code,
    reason = "an allocator, a function of the C library and a system call, none of which has a safe wrapper"
)]

use std::alloc::{GlobalAlloc, Layout, System};

use rustix::mm::Advice;

/// Bytes from which on memory comes from the kernel, and goes back to it at once. A usual block with what is around it is shorter.
const MAPPED_FROM: libc::c_int = 256 << 10;
/// Bytes that may be free at an arena's end. Less would be asked for again and again.
const KEPT_MAX: libc::c_int = 1 << 20;
/// Length of a buffer for questions, at least: fuser's is as long as the longest WRITE that it would take.
const BUFFER_LEN: usize = 16 << 20;
/// How much of that a question takes, at most: there are a header, numbers, and a name.
const QUESTION_LEN: usize = 4096;
/// The smallest page that Linux has.
const PAGE_LEN: usize = 4096;

/// Has the C library give back what is freed. To be called before there are threads.
///
/// It learns from what it is given: after one buffer of some megabytes has been freed, as parity needs them, it takes buffers of up to
/// that length from its arenas, and gives an arena's free end back only when that is twice as long (`M_MMAP_THRESHOLD` in
/// mallopt(3)). There are up to eight arenas for each processor, and all of them come to be as large as the largest work that was ever
/// done in them: a server on two processors had grown to 87 MiB after eight minutes of healing, and did not stop. With limits that
/// stay what they are it keeps 43.
pub(super) fn keep_little() {
    for (what, value) in [(libc::M_MMAP_THRESHOLD, MAPPED_FROM), (libc::M_TRIM_THRESHOLD, KEPT_MAX)]
    {
        // SAFETY: two numbers go in, and the C library looks at no memory of ours. It takes its own locks. What it does not
        // understand it refuses, and goes on as before.
        unsafe { libc::mallopt(what, value) };
    }
}

/// The system's allocator, which has the buffers for questions ready.
///
/// A question is lost when a server is killed while the kernel writes it to a page that is not there: who waits to be ended gets no
/// pages, and whoever asked gets EIO (`fuse_copy_fill`, Linux 6.12). That is so for what was never written to, and, after a fork, for
/// what has not been written to since: until then parent and child share it; and for what was swapped out. So these buffers are
/// written to when they are made, locked, and no child gets them.
pub(super) struct Ready;

// SAFETY: whatever is asked goes to the system's allocator as it is. What that gives is only written to where it is, with what it
// holds.
unsafe impl GlobalAlloc for Ready {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller promises what the system's allocator wants.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        let new = unsafe { System.alloc_zeroed(layout) };
        if layout.size() >= BUFFER_LEN && !new.is_null() {
            make_ready(new, layout.size());
        }
        new
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, len: usize) -> *mut u8 {
        // SAFETY: as above.
        unsafe { System.realloc(memory, layout, len) }
    }
}

/// `new` are `len` zeros that nobody else knows of yet, at least [`BUFFER_LEN`].
fn make_ready(new: *mut u8, len: usize) {
    // Memory of its own from the kernel begins with a head of the C library's, and ends with a page. Where it is not that, the pages
    // at its ends are a child's, too, and nothing is kept from one.
    let head = new.addr() % PAGE_LEN;
    // SAFETY: it was allocated by the C library just now.
    let usable = unsafe { libc::malloc_usable_size(new.cast()) };
    if head == size_of::<[usize; 2]>() && new.addr().saturating_add(usable) % PAGE_LEN == 0 {
        let start = new.wrapping_sub(head);
        let len = head.saturating_add(len).div_ceil(PAGE_LEN).saturating_mul(PAGE_LEN);
        // SAFETY: these pages are nobody's but ours, and a child knows nothing of them: all that ours do is to start a program.
        // Where the kernel refuses, all is as it was.
        let _refused = unsafe { rustix::mm::madvise(start.cast(), len, Advice::LinuxDontFork) };
    }
    // Nor are they to be where a page that is wanted has to come from first. Without the right to that they are where they were.
    // SAFETY: it locks pages and looks at none; the memory is longer than that by far.
    let _refused = unsafe { rustix::mm::mlock(new.cast(), QUESTION_LEN.saturating_add(1)) };
    for at in [0, QUESTION_LEN] {
        // SAFETY: it is in the new memory, which is longer than that by far.
        unsafe { new.add(at).write_volatile(0) };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::thread;

    use super::*;

    const LEN: usize = 2 << 20;
    const THREADS: usize = 8;

    /// Memory of this process that is no file's, in bytes.
    fn anonymous() -> usize {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
    }

    #[test]
    fn what_is_freed_is_given_back() {
        keep_little();
        let before = anonymous();
        let all_have_one = Barrier::new(THREADS);
        let work = || {
            // After the first one the C library knows how long they are.
            for _ in 0..2 {
                let buffer = vec![1_u8; LEN];
                all_have_one.wait();
                drop(std::hint::black_box(buffer));
            }
        };
        thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(work);
            }
        });
        let kept = anonymous().saturating_sub(before);
        assert!(kept < THREADS * LEN / 4, "{kept} bytes are kept");
    }

    /// What `/proc/self/smaps` says of the mapping that has an address.
    fn mapping(address: usize) -> Vec<String> {
        let place = |line: &str| {
            let (start, end) = line.split(' ').next()?.split_once('-')?;
            let number = |digits| usize::from_str_radix(digits, 16).ok();
            Some(number(start)?..number(end)?)
        };
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let has = |line: &str| place(line).is_some_and(|place| place.contains(&address));
        let from = maps.lines().skip_while(|line| !has(line)).skip(1);
        from.take_while(|line| place(line).is_none()).map(str::to_owned).collect()
    }

    #[test]
    fn a_buffer_for_questions_is_there_and_no_childs() {
        let buffer = vec![0_u8; BUFFER_LEN + 4096];
        let mapping = mapping(buffer.as_ptr().addr());
        let value = |name| mapping.iter().find_map(|line| line.strip_prefix(name)).unwrap();
        assert!(value("VmFlags:").split(' ').any(|flag| flag == "dc"), "{mapping:?}");
        // The head's page and the one behind it.
        let there: usize = value("Private_Dirty:").trim().trim_end_matches(" kB").parse().unwrap();
        assert!(there >= 8, "{mapping:?}");
        assert!(buffer.iter().all(|byte| *byte == 0));
    }
}
