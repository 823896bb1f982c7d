//! How does a thread work without being in anybody's way?
#![expect(
    unsafe_code,
    reason = "the kernel's word for it has no safe wrapper in the crates used here"
)]

/// From now on, this thread runs only where a processor would idle otherwise, and gives way at once (sched(7)). Where the
/// kernel refuses, which it does to nobody, it runs as others do.
pub(super) fn become_idle() {
    let none = libc::sched_param { sched_priority: 0 };
    // SAFETY: 0 is the calling thread, and the kernel reads one `sched_param`, which lives as long as the call.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const none) };
    if result != 0 {
        let err = std::io::Error::last_os_error();
        tracing::debug!("cannot make a thread run in idle time only: {err}");
    }
}
