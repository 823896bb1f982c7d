//! How does a thread of the superuser's become one like any other?

use std::io;

use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets};

/// Whether this thread may take capabilities out of its bounding set.
pub(super) fn may_drop_bounding_set() -> bool {
    rustix::thread::capabilities(None)
        .is_ok_and(|sets| sets.effective.contains(CapabilitySet::SETPCAP))
}

/// Gives up all capabilities but `kept`, for good.
pub(super) fn quit(kept: CapabilitySet) -> io::Result<()> {
    // Those that a program could bring along come first: to forgo them is a privilege itself.
    if may_drop_bounding_set() {
        empty_bounding_set(kept)?;
    }
    rustix::thread::clear_ambient_capability_set()?;
    let had = rustix::thread::capabilities(None)?;
    let left = had.permitted & kept;
    let sets =
        CapabilitySets { effective: left, permitted: left, inheritable: CapabilitySet::empty() };
    Ok(rustix::thread::set_capabilities(None, sets)?)
}

fn empty_bounding_set(kept: CapabilitySet) -> io::Result<()> {
    for number in 0..u64::BITS {
        let one = CapabilitySet::from_bits_retain(1_u64.wrapping_shl(number));
        if kept.contains(one) {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(one) {
            Ok(()) => {}
            // The kernel knows no more than those before.
            Err(Errno::INVAL) => break,
            Err(err) => return Err(err.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_and_its_children_have_nothing_and_others_all() {
        let before = rustix::thread::capabilities(None).unwrap();
        let had_setpcap = may_drop_bounding_set();
        std::thread::spawn(move || {
            quit(CapabilitySet::empty()).unwrap();
            std::thread::spawn(move || {
                let sets = rustix::thread::capabilities(None).unwrap();
                let none = CapabilitySet::empty();
                assert_eq!((sets.effective, sets.permitted, sets.inheritable), (none, none, none));
                let chown = CapabilitySet::CHOWN;
                let may_again = rustix::thread::capability_is_in_bounding_set(chown).unwrap();
                assert!(!had_setpcap || !may_again);
                // Once more is no mistake.
                quit(none).unwrap();
            })
            .join()
            .unwrap();
        })
        .join()
        .unwrap();
        assert_eq!(rustix::thread::capabilities(None).unwrap(), before);
    }

    #[test]
    fn what_is_kept_is_kept() {
        let kept = CapabilitySet::SYS_ADMIN | CapabilitySet::DAC_READ_SEARCH;
        let had = rustix::thread::capabilities(None).unwrap().permitted;
        std::thread::spawn(move || {
            quit(kept).unwrap();
            assert_eq!(rustix::thread::capabilities(None).unwrap().effective, had & kept);
        })
        .join()
        .unwrap();
    }
}
