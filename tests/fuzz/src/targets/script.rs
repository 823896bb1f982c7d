//! How do a few bytes change many? An input for a large structure is a script of edits on a sound one: short inputs reach
//! deep, and whatever a fuzzer does to a script is another script.

/// One edit: eight bytes of a script.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Edit {
    /// In which part; whoever runs the script knows which those are.
    pub(crate) part: u8,
    how: u8,
    at: u16,
    value: u32,
}

/// Numbers at which mistakes are at home.
pub(crate) const SPECIAL: [u64; 16] = [
    0,
    1,
    2,
    0x7f,
    0x80,
    0xff,
    0x0fff,
    0x1000,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_fffe,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    u64::MAX,
];

/// Longest piece that one edit puts in.
const PIECE_MAX: usize = 300;

/// The edits of a script; a rest that is no whole edit counts as nothing.
pub(crate) fn edits(script: &[u8]) -> impl Iterator<Item = Edit> + '_ {
    script.as_chunks::<8>().0.iter().map(|[part, how, at @ .., a, b, c, d]| Edit {
        part: *part,
        how: *how,
        at: u16::from_le_bytes(*at),
        value: u32::from_le_bytes([*a, *b, *c, *d]),
    })
}

impl Edit {
    /// An edit that puts a number of `1 << bits` bytes.
    pub(crate) fn put(part: u8, bits: u8, at: u16, value: u32) -> [u8; 8] {
        let mut raw = [part, bits, 0, 0, 0, 0, 0, 0];
        raw[2..4].copy_from_slice(&at.to_le_bytes());
        raw[4..].copy_from_slice(&value.to_le_bytes());
        raw
    }

    /// Some number below `limit`, or 0.
    pub(crate) fn index(self, limit: usize) -> usize {
        usize::from(self.at).checked_rem(limit).unwrap_or(0)
    }

    /// Another one.
    pub(crate) fn other(self, limit: usize) -> usize {
        (self.value as usize).checked_rem(limit).unwrap_or(0)
    }

    /// What is to be put: a small or a special number.
    pub(crate) fn number(self) -> u64 {
        match self.value.to_le_bytes() {
            [nth, 0xff, 0xff, 0xfe] => SPECIAL[usize::from(nth) % SPECIAL.len()],
            _ => self.value.into(),
        }
    }

    /// Does it to these bytes. Numbers go to multiples of their length; `long` says whether there may be more or fewer bytes
    /// afterwards.
    pub(crate) fn apply(self, bytes: &mut Vec<u8>, long: bool) {
        if bytes.is_empty() {
            bytes.push(0);
        }
        let len = bytes.len();
        let at = self.index(len);
        let number = self.number().to_le_bytes();
        let count = 1 + self.other(PIECE_MAX);
        match self.how % 12 {
            bits @ 0..4 => {
                let size = 1 << bits;
                let at = at / size * size;
                let end = len.min(at + size);
                bytes[at..end].copy_from_slice(&number[..end - at]);
            }
            // Where the value adds, distances between fields stay what they are.
            4 => bytes[at] = bytes[at].wrapping_add(number[0]),
            5 => bytes[at] ^= 1 << (number[0] % 8),
            6 => bytes[at..len.min(at + count)].fill(number[3]),
            7 => {
                let (from, size) = (self.other(len), 4_usize << (self.how / 12 % 8));
                let size = size.min(len - at).min(len - from);
                bytes.copy_within(from..from + size, at);
            }
            8 if long => bytes.truncate(at),
            9 if long => {
                bytes.drain(at..len.min(at + count));
            }
            10 if long => {
                bytes.splice(at..at, std::iter::repeat_n(number[3], count));
            }
            11 if long => bytes.extend(std::iter::repeat_n(number[3], count)),
            _ => bytes[at] = number[0],
        }
    }
}

/// What a script makes of sound bytes.
pub(crate) fn edited(sound: &[u8], script: &[u8]) -> Vec<u8> {
    let mut bytes = sound.to_vec();
    for edit in edits(script) {
        edit.apply(&mut bytes, true);
    }
    bytes
}

impl Edit {
    /// The same with the place taken from the value, where the place says which part is meant.
    pub(crate) fn shifted(self) -> Edit {
        let [low, high, ..] = self.value.to_le_bytes();
        let at = u16::from_le_bytes([low, high]);
        Edit { at, value: self.value.rotate_right(16) ^ u32::from(self.part / 16), ..self }
    }
}
