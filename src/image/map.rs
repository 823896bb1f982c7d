//! A source that copies out of a memory map.
//!
//! A map turns a read error or a truncated file into SIGBUS, which would kill the daemon and with it the machine. Two
//! guards stand before that. The pages are faulted in with `MADV_POPULATE_READ`, which reports failure instead of
//! raising the signal. Between that and the copy a page may still be lost; then a SIGBUS handler puts zero pages in its
//! place, and the map, now worthless, is given up for `pread(2)`, which tells what is wrong. Zeros read in that moment are
//! caught like any other wrong byte: what is copied out is hashed.
#![allow(
    unsafe_code,
    reason = "nearly all unsafe code is here; each block says what it needs and who promises it"
)]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Once, OnceLock};

use memmap2::Mmap;

use super::Source;

/// An image file, read through a memory map.
#[derive(Debug)]
pub struct Map {
    file: File,
    mapped: Mmap,
    /// Its place among the maps that the signal handler knows; without one the map is not used.
    slot: Option<&'static Slot>,
}

/// One map's address range, readable by the signal handler.
#[derive(Debug)]
struct Slot {
    taken: AtomicBool,
    start: AtomicUsize,
    end: AtomicUsize,
    /// Set when a page of the map was lost.
    lost: AtomicBool,
}

/// Maps that may be open at once; further ones are read with `pread(2)`.
const SLOT_COUNT: usize = 64;

static SLOTS: [Slot; SLOT_COUNT] = [const {
    Slot {
        taken: AtomicBool::new(false),
        start: AtomicUsize::new(0),
        end: AtomicUsize::new(0),
        lost: AtomicBool::new(false),
    }
}; SLOT_COUNT];

/// What answered SIGBUS before us.
static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();

/// Page size that the handler replaces at a time. Smaller than or equal to every page size of Linux, and each is a
/// multiple of it, so that an address rounded down to it after rounding to a real page stays inside the map.
static PAGE_SIZE: AtomicUsize = AtomicUsize::new(4096);

impl Map {
    /// Maps a regular file.
    pub fn new(file: File) -> io::Result<Self> {
        install_handler()?;
        // SAFETY: needed: the bytes of the map may change under us, which Rust forbids for `&[u8]`. No reference to them is
        // ever made: `copy` reads through a raw pointer into private memory, and what is copied is hashed before use. If
        // the file shrinks, the two guards above turn the fault into an error.
        let mapped = unsafe { Mmap::map(&file)? };
        // Reads jump; the kernel's own guess of what comes next is made per file by `pread` and faults alike.
        let slot = SLOTS.iter().find(|slot| {
            slot.taken.compare_exchange(false, true, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        });
        if let Some(slot) = slot {
            slot.lost.store(false, Ordering::Release);
            slot.start.store(mapped.as_ptr().addr(), Ordering::Release);
            slot.end.store(mapped.as_ptr().addr().saturating_add(mapped.len()), Ordering::Release);
        }
        Ok(Map { file, mapped, slot })
    }

    /// Copies from the map; false when that could not be done, or not be relied on.
    fn copy(&self, buf: &mut [u8], offset: u64) -> bool {
        let Some(slot) = self.slot.filter(|slot| !slot.lost.load(Ordering::Acquire)) else {
            return false;
        };
        let Ok(start) = usize::try_from(offset) else { return false };
        let inside = start.checked_add(buf.len()).is_some_and(|end| end <= self.mapped.len());
        if !inside || !populate(&self.mapped, start, buf.len()) {
            return false;
        }
        // SAFETY: needed: a copy that makes no reference to memory that others may write; and a copy it is, for the one who
        // asked is behind a virtual call and cannot be given the map's own bytes in its place. `start + buf.len()` lies inside
        // the map (checked above), which lives as long as `self`; `buf` is private, so they do not overlap. If a page is
        // lost meanwhile, the handler puts zeros there and sets `lost`, which is looked at below.
        unsafe {
            std::ptr::copy_nonoverlapping(
                self.mapped.as_ptr().wrapping_add(start),
                buf.as_mut_ptr(),
                buf.len(),
            );
        }
        !slot.lost.load(Ordering::Acquire)
    }
}

impl Source for Map {
    fn will_need(&self, offset: u64, len: u64) {
        let Ok(start) = usize::try_from(offset) else { return };
        let rest = self.mapped.len().saturating_sub(start);
        let len = usize::try_from(len).unwrap_or(rest).min(rest);
        if len > 0 {
            // It is advice: what does not come by itself is read when it is wanted.
            self.mapped.advise_range(memmap2::Advice::WillNeed, start, len).unwrap_or_default();
        }
    }

    fn len(&self) -> u64 {
        self.file.metadata().map_or(0, |metadata| metadata.len())
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.file.as_fd())
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        // What the map cannot give, `pread` either gives or has the right error for.
        if self.copy(buf, offset) { Ok(()) } else { self.file.read_exact_at(buf, offset) }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        if let Some(slot) = self.slot {
            // The end first: the range must not grow down to 0 for even a moment, or faults of others would be taken for ours.
            slot.end.store(0, Ordering::Release);
            slot.start.store(0, Ordering::Release);
            slot.taken.store(false, Ordering::Release);
        }
    }
}

/// Faults the pages of `[start, start + len)` in; false when one of them cannot be read.
fn populate(map: &Mmap, start: usize, len: usize) -> bool {
    // Linux 5.14 has MADV_POPULATE_READ; an older kernel answers EINVAL, and every read goes through `pread`.
    map.advise_range(memmap2::Advice::PopulateRead, start, len).is_ok()
}

/// Installs the SIGBUS handler once; a handler that was there before gets the faults that are not ours.
fn install_handler() -> io::Result<()> {
    static ONCE: Once = Once::new();
    static INSTALLED: AtomicBool = AtomicBool::new(false);
    ONCE.call_once(|| {
        // SAFETY: sysconf has no preconditions.
        let page_size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        PAGE_SIZE.store(usize::try_from(page_size).unwrap_or(4096), Ordering::Release);
        // SAFETY: needed: the handler is the second guard. `action` is fully initialised (all-zero is a valid sigaction) and
        // `on_sigbus` has the signature that SA_SIGINFO asks for and does only what signal(7) allows: atomics and mmap.
        let installed = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) =
                on_sigbus;
            #[expect(
                clippy::as_conversions,
                reason = "sigaction wants the handler's address as a number"
            )]
            {
                action.sa_sigaction = handler as usize;
            }
            action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER;
            let mut before: libc::sigaction = std::mem::zeroed();
            let done = libc::sigaction(libc::SIGBUS, &raw const action, &raw mut before) == 0;
            BEFORE.get_or_init(|| before);
            done
        };
        INSTALLED.store(installed, Ordering::Release);
    });
    if INSTALLED.load(Ordering::Acquire) {
        Ok(())
    } else {
        Err(io::Error::other("the SIGBUS handler could not be installed"))
    }
}

/// Puts a zero page where one was lost, if it is one of ours; else leaves the fault to whoever was there before.
extern "C" fn on_sigbus(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: with SA_SIGINFO the kernel passes a valid siginfo, and for SIGBUS si_addr is the address that faulted.
    let address = unsafe { (*info).si_addr() }.addr();
    for slot in &SLOTS {
        let (start, end) = (slot.start.load(Ordering::Acquire), slot.end.load(Ordering::Acquire));
        // A slot may be changing hands: with the start of the old map and the end of the new one it would claim all that
        // lies between, which is somebody else's.
        if slot.start.load(Ordering::Acquire) != start || !(start..end).contains(&address) {
            continue;
        }
        slot.lost.store(true, Ordering::Release);
        let page_size = PAGE_SIZE.load(Ordering::Acquire);
        let page = address & !(page_size.wrapping_sub(1));
        // SAFETY: the page lies inside a map of ours (start is page-aligned), which nobody reads but through `copy`;
        // replacing it by zeros is what `copy` expects. mmap is a plain system call, safe in a signal handler.
        let placed = unsafe {
            libc::mmap(
                std::ptr::without_provenance_mut(page),
                page_size,
                libc::PROT_READ,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
                -1,
                0,
            )
        };
        if placed != libc::MAP_FAILED {
            return;
        }
    }
    let before = BEFORE.get().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: sigaction is async-signal-safe, and `before` is what it gave us, or null, which changes nothing. The fault
    // comes again at once and is answered by whoever was there before; the default action ends the process.
    unsafe {
        libc::sigaction(libc::SIGBUS, before, std::ptr::null_mut());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_truncated_file_is_an_error_and_not_a_signal() {
        let path = std::env::temp_dir().join(format!("ashlar-map-{}", std::process::id()));
        std::fs::write(&path, vec![7; 64 * 1024]).unwrap();
        let map = Map::new(File::open(&path).unwrap()).unwrap();
        let mut buf = vec![0; 8192];
        map.read_exact_at(&mut buf, 32 * 1024).unwrap();
        assert_eq!(buf, vec![7; 8192]);

        File::options().write(true).open(&path).unwrap().set_len(16 * 1024).unwrap();
        assert_eq!(
            map.read_exact_at(&mut buf, 32 * 1024).unwrap_err().kind(),
            io::ErrorKind::UnexpectedEof
        );
        map.read_exact_at(&mut buf, 0).unwrap();
        assert_eq!(buf, vec![7; 8192]);

        // The second guard by itself: a page that was populated and then lost.
        // SAFETY: the address lies inside the map; its page is gone, so the read raises SIGBUS, which the handler answers.
        let zero = unsafe { std::ptr::read_volatile(map.mapped.as_ptr().wrapping_add(32 * 1024)) };
        assert_eq!(zero, 0);
        assert!(map.slot.unwrap().lost.load(Ordering::Acquire));
        map.read_exact_at(&mut buf, 0).unwrap();
        assert_eq!(buf, vec![7; 8192]);
        std::fs::remove_file(path).unwrap();
    }
}
