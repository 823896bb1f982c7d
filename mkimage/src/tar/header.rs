//! What does a tar header say? 512 bytes, in the layouts of POSIX (ustar), GNU and the seventh edition.

/// Archives are made of records of this length; headers are one record.
pub(super) const RECORD_LEN: usize = 512;

/// One header record.
#[derive(Debug, Clone, Copy)]
pub(super) struct Header<'a>(pub(super) &'a [u8; RECORD_LEN]);

/// A field that holds no number, by its name.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NoNumber(pub(super) &'static str);

const CHECKSUM: (usize, usize) = (148, 8);

impl<'a> Header<'a> {
    pub(super) fn is_zero(self) -> bool {
        self.0.iter().all(|byte| *byte == 0)
    }

    /// Whether its checksum is right, the one thing by which a header is known.
    pub(super) fn is_header(self) -> bool {
        let Ok(told) = self.number("checksum", CHECKSUM) else { return false };
        let counted = |at: usize| {
            if (CHECKSUM.0..CHECKSUM.0 + CHECKSUM.1).contains(&at) { b' ' } else { self.0[at] }
        };
        let sum: i64 = (0..RECORD_LEN).map(|at| i64::from(counted(at))).sum();
        // Some old programs added signed characters.
        let signed: i64 = (0..RECORD_LEN).map(|at| i64::from(counted(at).cast_signed())).sum();
        told == sum || told == signed
    }

    fn field(self, (at, len): (usize, usize)) -> &'a [u8] {
        &self.0[at..at + len]
    }

    fn is_posix(self) -> bool {
        self.field((257, 6)) == b"ustar\0"
    }

    /// The path, its prefix included.
    pub(super) fn path(self) -> Vec<u8> {
        let name = text(self.field((0, 100)));
        // GNU keeps times where POSIX has a prefix, and star keeps them in its last 24 bytes.
        let prefix = match (self.is_posix(), self.field((508, 4)) == b"tar\0") {
            (false, _) => b"",
            (true, false) => text(self.field((345, 155))),
            (true, true) => text(self.field((345, 131))),
        };
        if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }

    pub(super) fn link(self) -> Vec<u8> {
        text(self.field((157, 100))).to_vec()
    }

    pub(super) fn type_flag(self) -> u8 {
        self.0[156]
    }

    pub(super) fn mode(self) -> Result<i64, NoNumber> {
        self.number("mode", (100, 8))
    }

    pub(super) fn uid(self) -> Result<i64, NoNumber> {
        self.number("uid", (108, 8))
    }

    pub(super) fn gid(self) -> Result<i64, NoNumber> {
        self.number("gid", (116, 8))
    }

    pub(super) fn size(self) -> Result<i64, NoNumber> {
        self.number("size", (124, 12))
    }

    pub(super) fn mtime(self) -> Result<i64, NoNumber> {
        self.number("mtime", (136, 12))
    }

    pub(super) fn device(self) -> Result<(i64, i64), NoNumber> {
        Ok((self.number("devmajor", (329, 8))?, self.number("devminor", (337, 8))?))
    }

    /// The map of GNU's old sparse files: its first four entries, and whether records with more follow.
    pub(super) fn sparse_map(self) -> Result<(Vec<(i64, i64)>, bool), NoNumber> {
        Ok((self.sparse_entries(386, 4)?, self.0[482] != 0))
    }

    /// The same of a record with more.
    pub(super) fn more_sparse_map(self) -> Result<(Vec<(i64, i64)>, bool), NoNumber> {
        Ok((self.sparse_entries(0, 21)?, self.0[504] != 0))
    }

    pub(super) fn sparse_size(self) -> Result<i64, NoNumber> {
        self.number("realsize", (483, 12))
    }

    fn sparse_entries(self, first: usize, count: usize) -> Result<Vec<(i64, i64)>, NoNumber> {
        let entries = (0..count).map(|nth| first + nth * 24).take_while(|at| self.0[*at] != 0);
        entries
            .map(|at| {
                Ok((self.number("offset", (at, 12))?, self.number("numbytes", (at + 12, 12))?))
            })
            .collect()
    }

    /// A number in octal, or in binary when its first bit is set.
    fn number(self, name: &'static str, at: (usize, usize)) -> Result<i64, NoNumber> {
        let field = self.field(at);
        let number = match field.first() {
            Some(first) if first & 0x80 != 0 => binary(field),
            _ => octal(field),
        };
        number.ok_or(NoNumber(name))
    }
}

/// Bytes up to the first zero byte.
fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or(field)
}

fn octal(field: &[u8]) -> Option<i64> {
    let digits = text(field).trim_ascii();
    digits.iter().try_fold(0_i64, |number, digit| match digit {
        b'0'..=b'7' => number.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
        _ => None,
    })
}

/// Two's complement, big endian; the first bit only marks it and repeats the sign in the second.
fn binary(field: &[u8]) -> Option<i64> {
    let (first, rest) = field.split_first()?;
    let negative = first & 0x40 != 0;
    let first = if negative { *first } else { first & 0x7f };
    let start = if negative { -1_i128 } else { 0 };
    let number = std::iter::once(&first)
        .chain(rest)
        .try_fold(start, |number, byte| number.checked_mul(256)?.checked_add(i128::from(*byte)))?;
    i64::try_from(number).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_all_kinds() {
        assert_eq!(octal(b"0000644\0"), Some(0o644));
        assert_eq!(octal(b"   644 \0"), Some(0o644));
        assert_eq!(octal(b"\0\0\0\0"), Some(0));
        assert_eq!(octal(b"77777777777\0"), Some(8_589_934_591));
        assert_eq!(octal(b"12a4"), None);
        assert_eq!(octal(b"9"), None);
        assert_eq!(binary(b"\x80\0\0\0\0\0\0\x02\0\0\0\0"), Some(0x2_0000_0000));
        assert_eq!(binary(&[0xff; 12]), Some(-1));
        assert_eq!(binary(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfb"), Some(-5));
        assert_eq!(binary(b"\xbf\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfb"), None);
    }
}
