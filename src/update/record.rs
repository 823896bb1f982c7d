//! How is it remembered? A record of 512 bytes, which a disk writes whole or not at all, in one of two files by turns
//! (UPDATE.md, "Boot records").

use super::state::{BAD_MAX, Bad, State, Trial, Why};
use crate::format::digest::Digest;
use crate::format::field::{self, Field, field};

/// Length of a record in bytes: a sector.
pub const LEN: usize = 512;
/// What a record begins with.
pub const MAGIC: [u8; 8] = *b"ASHLBOOT";
/// The version that is written, and the only one that is read.
pub const VERSION: u32 = 1;
/// What is hashed is hashed for this alone.
const CONTEXT: &str = "ashlar update: boot record, version 1";

const VERSION_AT: usize = 0x008;
const TRIES_LEFT_AT: usize = 0x00c;
const TRIES_DONE_AT: usize = 0x00d;
const BAD_COUNT_AT: usize = 0x00e;
const SEQUENCE_AT: usize = 0x010;
const FLOOR_AT: usize = 0x018;
const DEFAULT_AT: usize = 0x020;
const PREVIOUS_AT: usize = 0x040;
const LAST_GOOD_AT: usize = 0x060;
const TRIAL_AT: usize = 0x080;
const BAD_WHY_AT: usize = 0x0a0;
const BAD_AT: usize = 0x0a8;
const REST_AT: usize = 0x168;
const CHECKSUM_AT: usize = 0x1e0;
const DIGEST_LEN: usize = 32;

const _: () = assert!(BAD_AT + BAD_MAX * DIGEST_LEN == REST_AT, "there is room for all");

/// The layout, as UPDATE.md has it.
pub const FIELDS: &[Field] = &[
    field(0, 8, "magic"),
    field(VERSION_AT, 4, "version"),
    field(TRIES_LEFT_AT, 1, "tries_left"),
    field(TRIES_DONE_AT, 1, "tries_done"),
    field(BAD_COUNT_AT, 1, "bad_count"),
    field(0x00f, 1, "reserved_0"),
    field(SEQUENCE_AT, 8, "sequence"),
    field(FLOOR_AT, 8, "version_floor"),
    field(DEFAULT_AT, DIGEST_LEN, "default"),
    field(PREVIOUS_AT, DIGEST_LEN, "previous"),
    field(LAST_GOOD_AT, DIGEST_LEN, "last_good"),
    field(TRIAL_AT, DIGEST_LEN, "trial"),
    field(BAD_WHY_AT, BAD_MAX, "bad_why"),
    field(0x0a6, 2, "reserved_1"),
    field(BAD_AT, BAD_MAX * DIGEST_LEN, "bad"),
    field(REST_AT, CHECKSUM_AT - REST_AT, "reserved_2"),
    field(CHECKSUM_AT, DIGEST_LEN, "checksum"),
];

/// A state, and how many were written before it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Record {
    /// The newer one of two has the higher number.
    pub sequence: u64,
    /// What is remembered.
    pub state: State,
}

impl Record {
    /// The record's bytes.
    pub fn encode(&self) -> [u8; LEN] {
        let state = &self.state;
        let mut raw = [0; LEN];
        let trial = state.trial.unwrap_or(Trial { image: NONE, tries_left: 0, tries_done: 0 });
        field::put(&mut raw, 0, &MAGIC);
        field::put(&mut raw, VERSION_AT, &VERSION.to_le_bytes());
        field::put(&mut raw, TRIES_LEFT_AT, &[trial.tries_left, trial.tries_done]);
        field::put(&mut raw, SEQUENCE_AT, &self.sequence.to_le_bytes());
        field::put(&mut raw, FLOOR_AT, &state.version_floor.to_le_bytes());
        field::put(&mut raw, DEFAULT_AT, &state.default.unwrap_or(NONE).0);
        field::put(&mut raw, PREVIOUS_AT, &state.previous.unwrap_or(NONE).0);
        field::put(&mut raw, LAST_GOOD_AT, &state.last_good.unwrap_or(NONE).0);
        field::put(&mut raw, TRIAL_AT, &trial.image.0);
        let mut count = 0_u8;
        for (bad, at) in state.bad.iter().zip(0..BAD_MAX) {
            field::put(&mut raw, BAD_WHY_AT.saturating_add(at), &[bad.why.number()]);
            let at = BAD_AT.saturating_add(at.saturating_mul(DIGEST_LEN));
            field::put(&mut raw, at, &bad.image.0);
            count = count.saturating_add(1);
        }
        field::put(&mut raw, BAD_COUNT_AT, &[count]);
        let checksum = checksum(&raw);
        field::put(&mut raw, CHECKSUM_AT, &checksum.0);
        raw
    }

    /// What the bytes say; nothing when they are torn, damaged or of another version.
    pub fn decode(raw: &[u8; LEN]) -> Option<Self> {
        let is_ours = raw.starts_with(&MAGIC) && field::get_u32(raw, VERSION_AT) == VERSION;
        if !is_ours || checksum(raw).0 != field::get_32(raw, CHECKSUM_AT) {
            return None;
        }
        let digest = |at| Some(Digest(field::get_32(raw, at))).filter(|digest| *digest != NONE);
        let count = usize::from(field::get_u8(raw, BAD_COUNT_AT)).min(BAD_MAX);
        let mut bad = Vec::new();
        for at in 0..count {
            let number = field::get_u8(raw, BAD_WHY_AT.saturating_add(at));
            let why = Why::ALL.into_iter().find(|why| why.number() == number)?;
            let at = BAD_AT.saturating_add(at.saturating_mul(DIGEST_LEN));
            bad.push(Bad { image: digest(at)?, why });
        }
        let tries_left = field::get_u8(raw, TRIES_LEFT_AT);
        let tries_done = field::get_u8(raw, TRIES_DONE_AT);
        Some(Record {
            sequence: field::get_u64(raw, SEQUENCE_AT),
            state: State {
                default: digest(DEFAULT_AT),
                previous: digest(PREVIOUS_AT),
                last_good: digest(LAST_GOOD_AT),
                trial: digest(TRIAL_AT).map(|image| Trial { image, tries_left, tries_done }),
                bad,
                version_floor: field::get_u64(raw, FLOOR_AT),
            },
        })
    }
}

/// No image has this digest.
const NONE: Digest = Digest([0; DIGEST_LEN]);

fn checksum(raw: &[u8; LEN]) -> Digest {
    let said = raw.get(..CHECKSUM_AT).unwrap_or_default();
    Digest(*blake3::Hasher::new_derive_key(CONTEXT).update(said).finalize().as_bytes())
}

/// Which of two is the newer one, whatever became of the other.
pub fn newer(records: &[Option<Record>; 2]) -> Option<usize> {
    match records {
        [Some(one), Some(other)] => Some(usize::from(other.sequence > one.sequence)),
        [Some(_), None] => Some(0),
        [None, Some(_)] => Some(1),
        [None, None] => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn digest() -> impl Strategy<Value = Digest> {
        // Few of them, so that they meet.
        (1_u8..6).prop_map(|byte| Digest([byte; 32]))
    }

    fn record() -> impl Strategy<Value = Record> {
        let images = [(); 3].map(|()| proptest::option::of(digest()));
        let trial = proptest::option::of((digest(), any::<u8>(), any::<u8>()));
        let bad = proptest::collection::vec((digest(), 0_usize..4), 0..=BAD_MAX);
        (images, trial, bad, any::<u64>(), any::<u64>()).prop_map(
            |([default, previous, last_good], trial, bad, version_floor, sequence)| Record {
                sequence,
                state: State {
                    default,
                    previous,
                    last_good,
                    trial: trial.map(|(image, tries_left, tries_done)| Trial {
                        image,
                        tries_left,
                        tries_done,
                    }),
                    bad: bad
                        .into_iter()
                        .map(|(image, why)| Bad { image, why: Why::ALL[why] })
                        .collect(),
                    version_floor,
                },
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(record in record()) {
            prop_assert_eq!(Record::decode(&record.encode()), Some(record));
        }

        #[test]
        fn a_record_torn_anywhere_is_none(old in record(), new in record(), at in 1..LEN) {
            let (mut raw, new) = (old.encode(), new.encode());
            raw[..at].copy_from_slice(&new[..at]);
            let read = Record::decode(&raw);
            prop_assert!(read.is_none() || raw == new || raw == old.encode());
        }

        #[test]
        fn a_flipped_bit_makes_it_none(record in record(), bit in 0..LEN * 8) {
            let mut raw = record.encode();
            raw[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(Record::decode(&raw), None);
        }

        #[test]
        fn no_bytes_make_it_panic(mut raw in proptest::array::uniform32(any::<u8>()), number in any::<u8>()) {
            let mut whole = Record::default().encode();
            for chunk in whole[16..CHECKSUM_AT].chunks_mut(32) {
                raw[0] ^= number;
                let len = chunk.len();
                chunk.copy_from_slice(&raw[..len]);
            }
            whole[BAD_COUNT_AT] = number;
            let sum = checksum(&whole);
            whole[CHECKSUM_AT..].copy_from_slice(&sum.0);
            // Authentic as far as it goes: anything may be in it.
            if let Some(record) = Record::decode(&whole) {
                prop_assert!(record.state.bad.len() <= BAD_MAX);
            }
        }
    }

    #[test]
    fn the_newer_counts_whatever_became_of_the_other() {
        let record = |sequence| Some(Record { sequence, ..Record::default() });
        assert_eq!(newer(&[record(1), record(2)]), Some(1));
        assert_eq!(newer(&[record(3), record(2)]), Some(0));
        assert_eq!(newer(&[record(2), record(2)]), Some(0));
        assert_eq!(newer(&[record(3), None]), Some(0));
        assert_eq!(newer(&[None, record(0)]), Some(1));
        assert_eq!(newer(&[None, None]), None);
    }

    #[test]
    fn fields_follow_each_other() {
        let mut at = 0;
        for field in FIELDS {
            assert_eq!(field.at, at, "{}", field.name);
            at += field.len;
        }
        assert_eq!(at, LEN);
    }
}
