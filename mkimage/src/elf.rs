//! Whose code is in this file?

use ashlarfs::format::branch::Machine;

/// What the start of an ELF file says: 64 bits, little-endian, and one of the machines whose code is worth a second try. It
/// decides what is tried, not what is kept, so nothing else is asked of the file.
pub(crate) fn machine(start: &[u8]) -> Option<Machine> {
    if !start.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    match start.get(18..20)? {
        [62, 0] => Some(Machine::X86_64),
        [183, 0] => Some(Machine::Arm64),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_machines_that_are_known_count() {
        let start = |class, order, machine: [u8; 2]| {
            [b"\x7fELF", &[class, order][..], &[0; 12], &machine].concat()
        };
        assert_eq!(machine(&start(2, 1, [62, 0])), Some(Machine::X86_64));
        assert_eq!(machine(&start(2, 1, [183, 0])), Some(Machine::Arm64));
        for other in [start(1, 1, [62, 0]), start(2, 2, [0, 62]), start(2, 1, [243, 0])] {
            assert_eq!(machine(&other), None);
        }
        let whole = start(2, 1, [62, 0]);
        assert_eq!(machine(&whole[..19]), None);
        assert_eq!(machine(b"#!/bin/sh"), None);
    }
}
