//! Bytes that do not compress, the same for the same seed: a file of them has blocks of its own, and whoever reads it
//! knows what must be in it.

/// `len` bytes of `seed`.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed;
    let mut bytes = Vec::with_capacity(len.saturating_add(8));
    while bytes.len() < len {
        // SplitMix64.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bytes.extend_from_slice(&(word ^ (word >> 31)).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Length of the files below `/fresh`, which nobody reads before a case asks for them.
pub(crate) const FRESH_LEN: usize = 20_000;

/// How many of them there are, called `/fresh/0` and so on; the number is the seed.
pub(crate) const FRESH_COUNT: u64 = 64;
