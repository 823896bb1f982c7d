//! Where does this machine code go? Code names its targets by their distance, so one target has another spelling at each place
//! that names it. Here distances become places in the block, and places distances again (SPEC §5.1): what names one target
//! is then equal bytes, which a compressor finds.
//!
//! All bytes go through and come back, those that are no code too.

use super::field::u32_from_usize;

/// A machine whose code is known here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Machine {
    /// Its instructions start anywhere; calls, jumps, and moves and addresses that count from themselves are changed.
    X86_64,
    /// Its instructions have four bytes each; calls are changed.
    Arm64,
}

/// Makes places of distances in the content of a block: what a builder does before it compresses.
pub fn to_places(machine: Machine, content: &mut [u8]) {
    match machine {
        Machine::X86_64 => x86_64(content, u32::wrapping_add),
        Machine::Arm64 => arm64(content, u32::wrapping_add),
    }
}

/// Makes distances of places: what a reader does after it expanded a block.
pub fn to_distances(machine: Machine, content: &mut [u8]) {
    match machine {
        Machine::X86_64 => x86_64(content, u32::wrapping_sub),
        Machine::Arm64 => arm64(content, u32::wrapping_sub),
    }
}

/// Farther than this, in bytes, hardly any code goes: a larger number is taken for something else.
const X86_64_REACH: u32 = 1 << 26;
/// An opcode, one byte more, and a distance.
const X86_64_LEN: usize = 6;
/// Bytes that are compared in one go.
const WINDOW: usize = 512;

/// Whoever wants a block waits for this. Code has a distance each 30 bytes or so, and no processor foresees where; so the bytes
/// are not asked one by one. All are compared (16 at once: the compiler sees to it), and the finds become bits, and the bits a list,
/// which is gone through. That is five times faster.
#[inline]
fn x86_64(content: &mut [u8], turn: impl Fn(u32, u32) -> u32) {
    let end = content.len().saturating_add(1).saturating_sub(X86_64_LEN);
    let mut marks = [0; WINDOW];
    let mut list = [0; WINDOW + 1];
    let mut free = 0;
    for start in (0..end).step_by(WINDOW) {
        let stop = start.saturating_add(WINDOW).min(end);
        mark(content.get(start..=stop).unwrap_or_default(), &mut marks);
        for find in write_down(&marks, &mut list) {
            let at = start.saturating_add(usize::from(*find));
            // One that starts in a distance is part of it.
            if at >= free {
                free = x86_64_at(content, at, &turn);
            }
        }
    }
}

/// Changes the distance of the instruction at `at`; returns where the instruction ends.
#[inline]
fn x86_64_at(content: &mut [u8], at: usize, turn: impl Fn(u32, u32) -> u32) -> usize {
    let opcode = content.get(at).copied().unwrap_or(0);
    let place = at.saturating_add(if opcode >= 0xe8 { 1 } else { 2 });
    if let Some(raw) = content.get_mut(place..).and_then(|rest| rest.first_chunk_mut::<4>()) {
        let shifted = u32::from_le_bytes(*raw).wrapping_add(X86_64_REACH);
        if shifted < 2 * X86_64_REACH {
            let turned = turn(shifted, u32_from_usize(place)) % (2 * X86_64_REACH);
            *raw = turned.wrapping_sub(X86_64_REACH).to_le_bytes();
        }
    }
    place.saturating_add(4)
}

/// Marks each byte of `seen` but the last with 1 if an instruction with a distance seems to start there, else with 0.
fn mark(seen: &[u8], marks: &mut [u8; WINDOW]) {
    let seconds = seen.get(1..).unwrap_or_default();
    for ((mark, first), second) in marks.iter_mut().zip(seen).zip(seconds) {
        let calls_or_jumps = u8::from(first & 0xfe == 0xe8);
        let moves_or_addresses = u8::from(first & 0xf9 == 0x89) & u8::from(second & 0xc7 == 0x05);
        *mark = calls_or_jumps | moves_or_addresses;
    }
    marks.get_mut(seconds.len()..).unwrap_or_default().fill(0);
}

/// Lists the marked places. Four of 64 are written down whether there are so many or not, and those that are none are written over:
/// what is done each time needs no guess.
fn write_down<'a>(marks: &[u8; WINDOW], list: &'a mut [u16; WINDOW + 1]) -> &'a [u16] {
    let mut len = 0_usize;
    for (marks, base) in marks.as_chunks::<64>().0.iter().zip((0_u16..).step_by(64)) {
        let mut finds = gather(marks);
        let mut put = |finds: u64| {
            if let Some(slot) = list.get_mut(len) {
                let find = (finds | 1 << 63).trailing_zeros();
                *slot = base.saturating_add(u16::try_from(find).unwrap_or(0));
            }
            len = len.saturating_add(usize::from(finds != 0));
            finds & finds.wrapping_sub(1)
        };
        for _ in 0..4 {
            finds = put(finds);
        }
        while finds != 0 {
            finds = put(finds);
        }
    }
    list.get(..len).unwrap_or_default()
}

/// 64 marks as bits, the first as the lowest.
fn gather(marks: &[u8; 64]) -> u64 {
    marks.as_chunks::<8>().0.iter().rev().fold(0, |bits, eight| {
        // The factor moves each of eight bytes that are 0 or 1 to its place in the highest byte.
        let gathered = u64::from_le_bytes(*eight).wrapping_mul(0x0102_0408_1020_4080) >> 56;
        bits << 8 | gathered
    })
}

/// `bl`, and where its distance stands, in words.
const ARM64_CALL: u32 = 0x9400_0000;
const ARM64_DISTANCE: u32 = 0x03ff_ffff;

#[inline]
fn arm64(content: &mut [u8], turn: impl Fn(u32, u32) -> u32) {
    for (raw, place) in content.as_chunks_mut::<4>().0.iter_mut().zip(0_u32..) {
        let word = u32::from_le_bytes(*raw);
        let turned = turn(word, place) & ARM64_DISTANCE | ARM64_CALL;
        let is_call = word & !ARM64_DISTANCE == ARM64_CALL;
        *raw = (if is_call { turned } else { word }).to_le_bytes();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// SPEC §5.1, word by word.
    fn as_specified(content: &mut [u8]) {
        let mut at = 0;
        while at + 6 <= content.len() {
            let place = match (content[at], content[at + 1]) {
                (first, _) if first & 0xfe == 0xe8 => at + 1,
                (first, second) if first & 0xf9 == 0x89 && second & 0xc7 == 0x05 => at + 2,
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

    /// Bytes that are instructions far more often than chance would have it, one in the other too.
    fn code() -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![
            Just(0xe8),
            Just(0xe9),
            Just(0x8b),
            Just(0x89),
            Just(0x05),
            Just(0x3d),
            Just(0),
            Just(0xff),
            Just(0xfc),
            Just(0x94),
            any::<u8>(),
        ];
        proptest::collection::vec(byte, 0..3 * WINDOW)
    }

    proptest! {
        #[test]
        fn all_bytes_come_back(bytes in code()) {
            for machine in [Machine::X86_64, Machine::Arm64] {
                let mut content = bytes.clone();
                to_places(machine, &mut content);
                to_distances(machine, &mut content);
                prop_assert_eq!(&content, &bytes);
                // What an enemy sealed need not be what a builder makes.
                to_distances(machine, &mut content);
                to_places(machine, &mut content);
                prop_assert_eq!(&content, &bytes);
            }
        }

        #[test]
        fn places_are_those_of_the_specification(bytes in code()) {
            let (mut content, mut specified) = (bytes.clone(), bytes);
            to_places(Machine::X86_64, &mut content);
            as_specified(&mut specified);
            prop_assert_eq!(content, specified);
        }
    }

    #[test]
    fn one_target_has_one_spelling() {
        // call, jmp and lea, all to 0x1000 bytes from the start.
        let mut content = vec![0x90; 64];
        for (at, instruction) in [(3, &[0xe8_u8][..]), (20, &[0xe9]), (40, &[0x48, 0x8d, 0x3d])] {
            let place = at + instruction.len();
            let distance = i32::try_from(0x1000 - place).unwrap();
            content[at..place].copy_from_slice(instruction);
            content[place..place + 4].copy_from_slice(&distance.to_le_bytes());
        }
        to_places(Machine::X86_64, &mut content);
        for place in [4, 21, 43] {
            assert_eq!(content[place..place + 4], [0, 0x10, 0, 0]);
        }
        let call = |words: u32| (0x9400_0000 | words & 0x03ff_ffff).to_le_bytes();
        let mut content = [call(5), call(4), 7_u32.to_le_bytes(), call(2)].concat();
        to_places(Machine::Arm64, &mut content);
        assert_eq!(content, [call(5), call(5), 7_u32.to_le_bytes(), call(5)].concat());
        content = [call(0), call(0)].concat();
        to_distances(Machine::Arm64, &mut content);
        assert_eq!(content, [call(0), call(u32::MAX)].concat());
    }

    #[test]
    fn an_instruction_at_the_end_is_whole_or_left_alone() {
        for len in 0..=WINDOW + 80 {
            // The first byte that is cut off would be part of the last distance.
            let bytes = [vec![0x90; len], vec![0xe8, 0, 0, 0, 0]].concat();
            for cut in 0..5 {
                let mut content = bytes[..bytes.len() - cut].to_vec();
                to_places(Machine::X86_64, &mut content);
                assert_eq!(content, bytes[..bytes.len() - cut], "a sixth byte is missing");
            }
            let mut content = [&bytes[..], &[0]].concat();
            to_places(Machine::X86_64, &mut content);
            let place = u32::try_from(len + 1).unwrap();
            assert_eq!(content[len + 1..len + 5], place.to_le_bytes());
        }
    }
}
