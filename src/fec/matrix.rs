//! How do lost shards follow from what parity should have been? By a matrix that is written down, not searched for.
//!
//! With the shards at positions `E` lost, what is computed of the others differs from parity at position `j` by
//! the sum of `x(p) s(p) / (j + p)` over all `p` in `E`, where `s(p)` is the product of `p + k` over all positions `k` of the chunk,
//! divided by the same product for 0 without its zero. But for these factors that is a Cauchy matrix, whose inverse is known.

use reed_solomon_simd::engine::tables::get_exp_log;

/// Logarithms are counted modulo this.
const MODULUS: u64 = 65_535;

/// The matrix that makes lost shards of differences.
#[derive(Debug)]
pub(super) struct Matrix {
    /// Positions of lost shards and of parity shards that are used, as many.
    lost: Vec<u16>,
    used: Vec<u16>,
    of_lost: Vec<u64>,
    of_used: Vec<u64>,
}

/// The logarithm of a number that is not zero.
fn log(value: u16) -> u64 {
    get_exp_log().log.get(usize::from(value)).copied().unwrap_or(0).into()
}

/// The sum of the logarithms of `value` and each of the others added, itself left out.
fn sum(value: u16, others: impl Iterator<Item = u16>) -> u64 {
    // A field element is added to another by XOR.
    let sums = others.map(|other| other ^ value).filter(|sum| *sum != 0);
    // 65,536 of them at most, and each below 2^16.
    sums.map(log).fold(0, u64::saturating_add).checked_rem(MODULUS).unwrap_or(0)
}

/// `a - b` modulo 65,535, of numbers below that or equal to it.
fn difference(a: u64, b: u64) -> u64 {
    a.saturating_add(MODULUS).saturating_sub(b.checked_rem(MODULUS).unwrap_or(0))
}

impl Matrix {
    /// Of data shards that are lost and parity shards that are not, as many, by their positions; the first `chunk` positions are
    /// parity's.
    pub(super) fn new(chunk: u16, lost: Vec<u16>, used: Vec<u16>) -> Self {
        let of_whole = sum(0, 1..chunk);
        let of_lost = lost.iter().map(|p| {
            let above = sum(*p, used.iter().copied()).saturating_add(of_whole);
            let below = sum(*p, lost.iter().copied()).saturating_add(sum(*p, 0..chunk));
            difference(above, below)
        });
        let of_used = used.iter().map(|j| {
            let above = sum(*j, lost.iter().copied());
            difference(above, sum(*j, used.iter().copied()))
        });
        let (of_lost, of_used) = (of_lost.collect(), of_used.collect());
        Matrix { lost, used, of_lost, of_used }
    }

    /// The logarithms of the factors by which the differences make the `nth` lost shard, in the order of those used.
    pub(super) fn row(&self, nth: usize) -> Vec<u16> {
        let place = self.lost.get(nth).copied().unwrap_or(0);
        let of_place = self.of_lost.get(nth).copied().unwrap_or(0);
        let factor = |(j, of_used): (&u16, &u64)| {
            let value = difference(of_place.saturating_add(*of_used), log(place ^ *j));
            u16::try_from(value.checked_rem(MODULUS).unwrap_or(0)).unwrap_or(0)
        };
        self.used.iter().zip(&self.of_used).map(factor).collect()
    }
}
