//! Which parity does an image carry? A section behind all else, from which damaged bytes can be computed (SPEC §10).

use std::ops::Range;

use super::digest::Digest;
use super::field::{self, Field, field};

/// The first eight bytes of a head.
pub const MAGIC: [u8; 8] = *b"ASHLFECS";
/// The last eight bytes of a head.
pub const END_MAGIC: [u8; 8] = *b"ASHLFECE";
/// Length of a head in bytes.
pub const HEAD_LEN: usize = 0x60;
/// The same, as a length on disk.
pub const HEAD_LEN_ON_DISK: u64 = 0x60;
/// Shards start at multiples of this and are multiples of it long: a bad sector, or a lost page, costs one shard and not two.
pub const UNIT: u64 = 4096;
/// Most data shards. More would make damage that is scattered dearer to store and no cheaper to undo.
pub const DATA_COUNT_MAX: u32 = 32_768;
/// Fewest parity shards: damage of any size may lie on a border.
pub const PARITY_COUNT_MIN: u32 = 2;
/// Most parity shards: an eighth of the most data shards. What undoes so much damage takes a minute, and more would take hours.
pub const PARITY_COUNT_MAX: u32 = 4096;
/// Most bytes that are covered: more than the digest table can describe.
pub const COVERED_LEN_MAX: u64 = 1 << 48;
/// Length of a shard's checksum.
pub const SUM_LEN: usize = 4;
const SUM_LEN_ON_DISK: u64 = 4;

const COVERED_LEN_AT: usize = 0x08;
const PARITY_COUNT_AT: usize = 0x10;
const RESERVED_AT: usize = 0x14;
const TABLE_DIGEST_AT: usize = 0x18;
const CHECKSUM_AT: usize = 0x38;
const END_MAGIC_AT: usize = 0x58;

/// The layout of a head, as SPEC §10 has it.
pub const FIELDS: &[Field] = &[
    field(0x00, 8, "magic"),
    field(COVERED_LEN_AT, 8, "covered_len"),
    field(PARITY_COUNT_AT, 4, "parity_count"),
    field(RESERVED_AT, 4, "reserved"),
    field(TABLE_DIGEST_AT, 32, "table_digest"),
    field(CHECKSUM_AT, 32, "checksum"),
    field(END_MAGIC_AT, 8, "end_magic"),
];

/// A part of a whole, in hundred-thousandths: how much of an image may be damaged and come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share(u32);

impl Share {
    /// 0.8 %, as Android has it.
    pub const DEFAULT: Share = Share(800);
    /// 10 %.
    pub const MOST: Share = Share(Self::MAX);
    const MIN: u32 = 10;
    const MAX: u32 = 10_000;
    const WHOLE: u64 = 100_000;

    /// A share that is written in percent, with up to three digits behind the point: 0.01 to 10.
    pub fn from_percent(text: &str) -> Option<Share> {
        let (whole, part) = text.split_once('.').unwrap_or((text, ""));
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || whole.len() > 2 || part.len() > 3 || !digits(whole) || !digits(part)
        {
            return None;
        }
        let share = format!("{whole}{part:0<3}").parse().ok()?;
        (Self::MIN..=Self::MAX).contains(&share).then_some(Share(share))
    }

    /// So many parity shards undo damage of this share of the file, wherever it lies and however it lies across shards.
    fn parity_count(self, data_count: u32) -> u32 {
        // Of the file, parity is a part, too, and for each shard of at least 4096 bytes two checksums of 4.
        let share = u64::from(self.0).saturating_mul(513);
        let left = Self::WHOLE.saturating_mul(512).saturating_sub(share);
        let whole = u64::from(data_count).saturating_mul(share).div_ceil(left.max(1));
        // One for the border that damage lies across, one for the heads and what is rounded up.
        field::u32_from_u64(whole).saturating_add(2).min(PARITY_COUNT_MAX)
    }
}

/// Where everything lies: it follows from two numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    covered_len: u64,
    parity_count: u32,
}

impl Geometry {
    /// That of `parity_count` shards over the first `covered_len` bytes of a file, if it may be.
    pub fn new(covered_len: u64, parity_count: u32) -> Option<Self> {
        let fits = (1..=COVERED_LEN_MAX).contains(&covered_len)
            && (PARITY_COUNT_MIN..=PARITY_COUNT_MAX).contains(&parity_count);
        fits.then_some(Geometry { covered_len, parity_count })
    }

    /// That of as many shards as undo damage of this share.
    pub fn of_share(covered_len: u64, share: Share) -> Option<Self> {
        let any = Geometry::new(covered_len, PARITY_COUNT_MIN)?;
        Geometry::new(covered_len, share.parity_count(any.data_count()))
    }

    /// Bytes that are covered, from the file's start: the image and its trailer.
    pub fn covered_len(&self) -> u64 {
        self.covered_len
    }

    /// Length of a shard in bytes.
    pub fn shard_len(&self) -> u64 {
        let most = UNIT.saturating_mul(DATA_COUNT_MAX.into());
        self.covered_len.div_ceil(most).saturating_mul(UNIT)
    }

    /// Shards of what is covered; the last one ends with zeros that are not stored.
    pub fn data_count(&self) -> u32 {
        field::u32_from_u64(self.covered_len.div_ceil(self.shard_len().max(1)))
    }

    /// Shards of parity.
    pub fn parity_count(&self) -> u32 {
        self.parity_count
    }

    /// Shards of both kinds; parity follows data.
    pub fn count(&self) -> u32 {
        self.data_count().saturating_add(self.parity_count)
    }

    /// Positions of the code word before the first data shard's: a power of two that has room for the parity shards.
    pub fn chunk(&self) -> u32 {
        self.parity_count.next_power_of_two()
    }

    /// Where the section starts, behind zeros.
    pub fn section_offset(&self) -> u64 {
        self.covered_len.next_multiple_of(UNIT)
    }

    /// Where the first table of checksums starts.
    pub fn table_offset(&self) -> u64 {
        self.section_offset().saturating_add(HEAD_LEN_ON_DISK)
    }

    /// Length of a table of checksums in bytes.
    pub fn table_len(&self) -> u64 {
        u64::from(self.count()).saturating_mul(SUM_LEN_ON_DISK)
    }

    /// Length of head and table with the zeros behind; what follows parity is as long.
    pub fn end_len(&self) -> u64 {
        self.table_len().saturating_add(HEAD_LEN_ON_DISK).next_multiple_of(UNIT)
    }

    /// Where parity starts.
    pub fn parity_offset(&self) -> u64 {
        self.section_offset().saturating_add(self.end_len())
    }

    /// Where parity ends, and the second table starts.
    pub fn second_table_offset(&self) -> u64 {
        let parity_len = u64::from(self.parity_count).saturating_mul(self.shard_len());
        self.parity_offset().saturating_add(parity_len)
    }

    /// Where the section ends: the end of the file.
    pub fn end(&self) -> u64 {
        self.second_table_offset().saturating_add(self.end_len())
    }

    /// Where the second head starts.
    pub fn second_head_offset(&self) -> u64 {
        self.end().saturating_sub(HEAD_LEN_ON_DISK)
    }

    /// Where a shard lies in the file: data shards first, then parity.
    pub fn place(&self, shard: u32) -> Range<u64> {
        let len = self.shard_len();
        match shard.checked_sub(self.data_count()) {
            None => {
                let start = u64::from(shard).saturating_mul(len);
                start..start.saturating_add(len).min(self.covered_len)
            }
            Some(nth) => {
                let before = u64::from(nth).saturating_mul(len);
                let start = self.parity_offset().saturating_add(before);
                start..start.saturating_add(len)
            }
        }
    }

    /// Stretches of the section in which there are but zeros.
    pub fn zeros(&self) -> [Range<u64>; 3] {
        let first_table_end = self.table_offset().saturating_add(self.table_len());
        let second_table_end = self.second_table_offset().saturating_add(self.table_len());
        [
            self.covered_len..self.section_offset(),
            first_table_end..self.parity_offset(),
            second_table_end..self.second_head_offset(),
        ]
    }
}

/// What a head says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Where everything lies.
    pub geometry: Geometry,
    /// The digest of the table of checksums.
    pub table_digest: Digest,
}

impl Head {
    /// Decodes a head; `checksum` computes the digest of one whose checksum field is zero.
    pub fn decode(
        raw: &[u8; HEAD_LEN],
        checksum: impl Fn(&[u8]) -> Digest,
    ) -> Result<Self, &'static str> {
        if !raw.starts_with(&MAGIC) || !raw.ends_with(&END_MAGIC) {
            return Err("a head has not its magic");
        }
        let mut blank = *raw;
        field::put(&mut blank, CHECKSUM_AT, &[0; 32]);
        if checksum(&blank).0 != field::get_32(raw, CHECKSUM_AT) {
            return Err("the checksum of a head is wrong");
        }
        if !field::is_zero(raw, RESERVED_AT, 4) {
            return Err("reserved bytes of a head are not zero");
        }
        let covered_len = field::get_u64(raw, COVERED_LEN_AT);
        let geometry = Geometry::new(covered_len, field::get_u32(raw, PARITY_COUNT_AT));
        Ok(Head {
            geometry: geometry.ok_or("a head has impossible lengths")?,
            table_digest: Digest(field::get_32(raw, TABLE_DIGEST_AT)),
        })
    }

    /// Encodes a head.
    pub fn encode(&self, checksum: impl Fn(&[u8]) -> Digest) -> [u8; HEAD_LEN] {
        let mut raw = [0; HEAD_LEN];
        field::put(&mut raw, 0, &MAGIC);
        field::put(&mut raw, COVERED_LEN_AT, &self.geometry.covered_len.to_le_bytes());
        field::put(&mut raw, PARITY_COUNT_AT, &self.geometry.parity_count.to_le_bytes());
        field::put(&mut raw, TABLE_DIGEST_AT, &self.table_digest.0);
        field::put(&mut raw, END_MAGIC_AT, &END_MAGIC);
        let sum = checksum(&raw);
        field::put(&mut raw, CHECKSUM_AT, &sum.0);
        raw
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Any digest of all bytes does.
    fn sum(raw: &[u8]) -> Digest {
        let mut out = [0_u8; 32];
        for (nth, byte) in raw.iter().enumerate() {
            out[nth % 32] = out[nth % 32].rotate_left(3).wrapping_add(*byte);
        }
        Digest(out)
    }

    #[test]
    fn shares_are_percent() {
        let share = |text| Share::from_percent(text).map(|share| share.0);
        assert_eq!(share("0.8"), Some(800));
        assert_eq!(share("10"), Some(10_000));
        assert_eq!(share("0.01"), Some(10));
        assert_eq!(share("2.125"), Some(2125));
        for bad in
            ["", ".8", "0", "0.009", "10.001", "11", "1.2345", "-1", "0.8%", "1e1", "1.", "100"]
        {
            // A point without digits behind it is no mistake worth an error.
            assert_eq!(share(bad), (bad == "1.").then_some(1000), "{bad}");
        }
    }

    fn check(geometry: Geometry) {
        let len = geometry.shard_len();
        assert!(len >= UNIT && len.is_multiple_of(UNIT));
        assert!((1..=DATA_COUNT_MAX).contains(&geometry.data_count()));
        assert!(geometry.chunk() + geometry.data_count() <= 65_536);
        // Data shards are what is covered, in order, and parity shards what lies between the tables.
        let mut due = 0;
        for shard in [0, geometry.data_count() / 2, geometry.data_count() - 1] {
            let place = geometry.place(shard);
            assert_eq!(place.start, u64::from(shard) * len);
            assert!(place.end - place.start <= len && !place.is_empty());
            due = place.end;
        }
        assert_eq!(due, geometry.covered_len());
        assert_eq!(geometry.place(geometry.data_count()).start, geometry.parity_offset());
        assert_eq!(geometry.place(geometry.count() - 1).end, geometry.second_table_offset());
        // All parts follow each other.
        let [before, front, back] = geometry.zeros();
        assert_eq!(before, geometry.covered_len()..geometry.section_offset());
        assert_eq!(geometry.section_offset() + HEAD_LEN_ON_DISK, geometry.table_offset());
        assert_eq!(geometry.table_offset() + geometry.table_len(), front.start);
        assert!(front.start <= front.end && back.start <= back.end);
        assert_eq!(front.end, geometry.parity_offset());
        assert_eq!(geometry.second_table_offset() + geometry.table_len(), back.start);
        assert_eq!(back.end + HEAD_LEN_ON_DISK, geometry.end());
        assert!(
            geometry.end().is_multiple_of(UNIT) && geometry.parity_offset().is_multiple_of(UNIT)
        );
    }

    proptest! {
        #[test]
        fn every_byte_has_one_place(
            bits in 0_u32..48,
            low in any::<u64>(),
            parity_count in PARITY_COUNT_MIN..=PARITY_COUNT_MAX,
        ) {
            let covered_len = (1_u64 << bits) | (low & ((1 << bits) - 1));
            check(Geometry::new(covered_len, parity_count).unwrap());
        }

        #[test]
        fn damage_of_its_share_is_never_too_much(
            bits in 12_u32..40,
            low in any::<u64>(),
            share in 10_u32..=10_000,
        ) {
            let covered_len = (1_u64 << bits) | (low & ((1 << bits) - 1));
            let geometry = Geometry::of_share(covered_len, Share(share)).unwrap();
            check(geometry);
            // Anywhere in the file it touches so many shards at most.
            let damage = geometry.end() * u64::from(share) / 100_000;
            let touched = damage.saturating_sub(1).div_ceil(geometry.shard_len()) + 1;
            prop_assert!(touched <= geometry.parity_count().into(), "{touched} of {geometry:?}");
        }

        #[test]
        fn heads_come_back(covered_len in 1..=COVERED_LEN_MAX, parity_count in 2_u32..=4096, digest in any::<[u8; 32]>()) {
            let geometry = Geometry::new(covered_len, parity_count).unwrap();
            let head = Head { geometry, table_digest: Digest(digest) };
            let raw = head.encode(sum);
            prop_assert_eq!(Head::decode(&raw, sum), Ok(head));
        }

        #[test]
        fn other_bytes_are_no_head(raw in any::<[u8; HEAD_LEN]>(), magic in any::<bool>()) {
            let mut raw = raw;
            if magic {
                field::put(&mut raw, 0, &MAGIC);
                field::put(&mut raw, END_MAGIC_AT, &END_MAGIC);
                field::put(&mut raw, CHECKSUM_AT, &[0; 32]);
                let right = sum(&raw);
                field::put(&mut raw, CHECKSUM_AT, &right.0);
            }
            // Whatever it is, it is refused or has a geometry that holds.
            if let Ok(head) = Head::decode(&raw, sum) {
                check(head.geometry);
            }
        }
    }

    #[test]
    fn impossible_lengths_are_refused() {
        for (covered_len, parity_count) in [
            (0, 2),
            (COVERED_LEN_MAX + 1, 2),
            (u64::MAX, 2),
            (1, 1),
            (1, 0),
            (1, 4097),
            (1, u32::MAX),
        ] {
            assert_eq!(Geometry::new(covered_len, parity_count), None);
        }
    }
}
