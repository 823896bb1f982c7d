//! What if everybody is stopped, and we with them? systemd ends processes in three steps: all are stopped (`kill(-1,
//! SIGSTOP)`, which nobody can block), each is looked at, all go on. While we are stopped it looks for
//! `/etc/initrd-release`, say; when the kernel has forgotten that name, it asks us, and the machine hangs at the very end of
//! its shutdown.
//!
//! The kernel itself lets us go on: SIGCONT ends a stop when it is sent, whether or not it is blocked (signal(7)), and a
//! timer of `timer_create(2)` sends any signal, whatever its process is doing. So a stop lasts a quarter of a second. Somebody
//! has to take that signal, for a timer that nobody heard is not set again: the one thread here.

use std::io;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{SigEvent, SigSet, SigevNotify, Signal};
use nix::sys::timer::{Expiration, Timer, TimerSetTimeFlags};
use nix::time::ClockId;

/// How long a stop lasts at most. Short enough that a shutdown with its two stops is not slower by it, and long enough that
/// nobody sees it on a battery.
const PERIOD: Duration = Duration::from_millis(250);

/// Sees to it that this process is never stopped for long, in a thread that does something `first`. SIGCONT must be blocked,
/// in this thread and all others.
pub(super) fn watch(first: fn()) -> io::Result<()> {
    let thread = thread::Builder::new().name("resume".to_owned()).stack_size(64 * 1024);
    let watch = move || {
        first();
        if let Err(err) = go_on_forever() {
            tracing::error!("whoever stops the server now stops it for good: {err}");
        }
    };
    thread.spawn(watch).map(drop)
}

fn go_on_forever() -> io::Result<()> {
    // SIGSTOP takes back a SIGCONT that is on its way. Should it meet the first timer's in that instant, there is the second.
    let (mut first, mut second) = (timer()?, timer()?);
    let mut awaited = SigSet::empty();
    awaited.add(Signal::SIGCONT);
    loop {
        for (timer, after) in [(&mut first, PERIOD), (&mut second, PERIOD.saturating_mul(2))] {
            timer.set(Expiration::OneShot(after.into()), TimerSetTimeFlags::empty())?;
        }
        awaited.wait()?;
    }
}

fn timer() -> io::Result<Timer> {
    let event = SigevNotify::SigevSignal { signal: Signal::SIGCONT, si_value: 0 };
    Ok(Timer::new(ClockId::CLOCK_MONOTONIC, SigEvent::new(event))?)
}
