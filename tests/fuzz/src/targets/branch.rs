//! Do all bytes come back through the filters, and are places those that SPEC 5.1 says?

use ashlarfs::format::branch::{Machine, to_distances, to_places};

pub(crate) fn branch(input: &[u8]) {
    for machine in [Machine::X86_64, Machine::Arm64] {
        let mut content = input.to_vec();
        to_places(machine, &mut content);
        assert_eq!(content, specified(machine, input), "{machine:?}");
        to_distances(machine, &mut content);
        assert_eq!(content, input, "{machine:?}");
        // What an enemy sealed need not be what a builder makes.
        to_distances(machine, &mut content);
        to_places(machine, &mut content);
        assert_eq!(content, input, "{machine:?}");
    }
}

/// SPEC 5.1, word by word.
fn specified(machine: Machine, input: &[u8]) -> Vec<u8> {
    let mut content = input.to_vec();
    match machine {
        Machine::Arm64 => {
            for at in (0..(content.len() / 4) * 4).step_by(4) {
                let word = u32::from_le_bytes(content[at..at + 4].try_into().unwrap());
                if word >> 26 == 0b10_0101 {
                    let place = u32::try_from(at / 4).unwrap();
                    let moved = (word & 0x03ff_ffff).wrapping_add(place) & 0x03ff_ffff;
                    let turned = (0x9400_0000 | moved).to_le_bytes();
                    content[at..at + 4].copy_from_slice(&turned);
                }
            }
        }
        Machine::X86_64 => {
            let mut at = 0;
            while at + 6 <= content.len() {
                let place = match (content[at], content[at + 1]) {
                    (0xe8 | 0xe9, _) => at + 1,
                    (0x89 | 0x8b | 0x8d | 0x8f, second) if second & 0xc7 == 0x05 => at + 2,
                    _ => {
                        at += 1;
                        continue;
                    }
                };
                let raw: [u8; 4] = content[place..place + 4].try_into().unwrap();
                let distance = i64::from(i32::from_le_bytes(raw));
                let reach = 1_i64 << 26;
                if (-reach..reach).contains(&distance) {
                    let moved = distance + reach + i64::try_from(place).unwrap();
                    let turned = i32::try_from(moved.rem_euclid(2 * reach) - reach).unwrap();
                    content[place..place + 4].copy_from_slice(&turned.to_le_bytes());
                }
                at = place + 4;
            }
        }
    }
    content
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let calls = [0xe8, 1, 0, 0, 0, 0x48, 0x8d, 0x05, 0xff, 0xff, 0xff, 0xfc, 0xe9, 0, 0, 0, 4];
    vec![
        calls.to_vec(),
        // One in the other, and one at the border of what is looked at in one go.
        [&[0x90; 511][..], &[0xe8, 0xe8, 0xe9, 0x00, 0x00, 0x00, 0x00, 0x8b, 0x05, 1, 0, 0, 0]]
            .concat(),
        [5, 0, 0, 0x94, 4, 0, 0, 0x97, 0, 0, 0, 0x14, 0xff, 0xff, 0xff, 0x94].to_vec(),
    ]
}
