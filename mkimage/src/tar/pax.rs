//! What do extended headers say? POSIX's records `LEN KEY=VALUE\n`, with the keys of GNU tar, star and libarchive.

use crate::tree::XattrSet;

/// Most pieces of one sparse file: they are held in memory until the image is built.
pub(super) const EXTENTS_MAX: usize = 1 << 22;

/// What extended headers say of one entry; what they do not say stands in its header.
#[derive(Debug, Clone, Default)]
pub(super) struct Extended {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<(i64, u32)>,
    pub(super) device_major: Option<u64>,
    pub(super) device_minor: Option<u64>,
    pub(super) xattrs: XattrSet,
    /// libarchive writes attributes a second time, in its own way.
    pub(super) archived_xattrs: XattrSet,
    pub(super) acl_access: Option<Vec<u8>>,
    pub(super) acl_default: Option<Vec<u8>>,
    pub(super) selinux: Option<Vec<u8>>,
    pub(super) sparse: Sparse,
}

/// What they say of a sparse file, in versions 0.0, 0.1 and 1.0 of GNU's way.
#[derive(Debug, Clone, Default)]
pub(super) struct Sparse {
    pub(super) major: Option<u64>,
    pub(super) minor: Option<u64>,
    pub(super) name: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    /// Offsets and lengths; version 0 only.
    pub(super) map: Option<Vec<(u64, u64)>>,
    offset: Option<u64>,
}

impl Extended {
    /// Adds the records of one extended header to what is known so far.
    pub(super) fn add(&mut self, mut records: &[u8]) -> Result<(), String> {
        while !records.is_empty() {
            let (key, value, rest) = record(records).ok_or("an extended header is malformed")?;
            self.record(key, value).ok_or_else(|| {
                format!("the extended header `{}` has no valid value", crate::text::shown(key))
            })?;
            records = rest;
        }
        Ok(())
    }

    fn record(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        // An empty value takes back what a global header said.
        let given = !value.is_empty();
        let bytes = || given.then(|| value.to_vec());
        let number = || if given { decimal(value).map(Some) } else { Some(None) };
        match key {
            b"path" => self.path = bytes(),
            b"linkpath" => self.link = bytes(),
            b"size" => self.size = number()?,
            b"uid" => self.uid = number()?,
            b"gid" => self.gid = number()?,
            b"mtime" => self.mtime = if given { Some(time(value)?) } else { None },
            b"SCHILY.devmajor" => self.device_major = number()?,
            b"SCHILY.devminor" => self.device_minor = number()?,
            b"SCHILY.acl.access" => self.acl_access = bytes(),
            b"SCHILY.acl.default" => self.acl_default = bytes(),
            b"RHT.security.selinux" => self.selinux = bytes(),
            b"GNU.sparse.major" => self.sparse.major = number()?,
            b"GNU.sparse.minor" => self.sparse.minor = number()?,
            b"GNU.sparse.name" => self.sparse.name = bytes(),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => self.sparse.size = number()?,
            b"GNU.sparse.numblocks" => self.sparse.map = Some(Vec::new()),
            b"GNU.sparse.offset" => self.sparse.offset = number()?,
            b"GNU.sparse.numbytes" => {
                let extent = (self.sparse.offset.take()?, decimal(value)?);
                let map = self.sparse.map.get_or_insert_default();
                if map.len() == EXTENTS_MAX {
                    return None;
                }
                map.push(extent);
            }
            b"GNU.sparse.map" => self.sparse.map = Some(map(value)?),
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.push((gnu_key(name), value.to_vec()));
                } else if let Some(name) = key.strip_prefix(b"LIBARCHIVE.xattr.") {
                    self.archived_xattrs.push((percent_decoded(name)?, base64(value)?));
                }
                // All else (access times, user names, comments …) has no place in an image.
            }
        }
        Some(())
    }
}

/// The first record: key, value and what follows it.
fn record(records: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = records.iter().position(|byte| *byte == b' ')?;
    let len = usize::try_from(decimal(&records[..space])?).ok()?;
    let (record, rest) = records.split_at_checked(len)?;
    let text = record.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = text.iter().position(|byte| *byte == b'=')?;
    Some((&text[..equals], &text[equals + 1..], rest))
}

pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, digit| match digit {
        b'0'..=b'9' => number.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

/// Seconds with a fraction, rounded down to nanoseconds.
fn time(text: &[u8]) -> Option<(i64, u32)> {
    let (negative, text) = text.strip_prefix(b"-").map_or((false, text), |text| (true, text));
    let mut parts = text.splitn(2, |byte| *byte == b'.');
    let sec = i64::try_from(decimal(parts.next()?)?).ok()?;
    let fraction = parts.next().unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let nsec = (0..9).fold(0_u32, |nsec, at| {
        nsec * 10 + fraction.get(at).map_or(0, |digit| u32::from(digit - b'0'))
    });
    let is_rest = fraction.iter().skip(9).any(|digit| *digit != b'0');
    match (negative, nsec + u32::from(negative && is_rest)) {
        (false, nsec) => Some((sec, nsec)),
        (true, 0) => Some((-sec, 0)),
        (true, nsec) => Some((-sec - 1, 1_000_000_000 - nsec)),
    }
}

/// `offset,length,offset,length…`
fn map(text: &[u8]) -> Option<Vec<(u64, u64)>> {
    if text.is_empty() {
        return Some(Vec::new());
    }
    let numbers: Vec<_> = text.split(|byte| *byte == b',').map(decimal).collect::<Option<_>>()?;
    let (pairs, []) = numbers.as_chunks::<2>() else { return None };
    Some(pairs.iter().map(|[offset, len]| (*offset, *len)).collect())
}

/// GNU tar writes `=` and `%` in names of attributes as `%3D` and `%25`.
fn gnu_key(name: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((first, after)) = rest.split_first() {
        let (byte, after) = match rest {
            [b'%', b'3', b'D', after @ ..] => (b'=', after),
            [b'%', b'2', b'5', after @ ..] => (b'%', after),
            _ => (*first, after),
        };
        decoded.push(byte);
        rest = after;
    }
    decoded
}

fn percent_decoded(name: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut decoded = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((first, after)) = rest.split_first() {
        if *first != b'%' {
            decoded.push(*first);
            rest = after;
            continue;
        }
        let ([high, low], after) = after.split_first_chunk()?;
        decoded.push(digit(*high)? << 4 | digit(*low)?);
        rest = after;
    }
    Some(decoded)
}

fn base64(text: &[u8]) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(text.len() / 4 * 3 + 3);
    let (mut bits, mut count) = (0_u32, 0_u32);
    for byte in text.iter().filter(|byte| **byte != b'=') {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits << 6 | u32::from(value)) & 0xffff;
        count += 6;
        if count >= 8 {
            count -= 8;
            decoded.push((bits >> count & 0xff) as u8);
        }
    }
    Some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(records: &[(&str, &str)]) -> Result<Extended, String> {
        let mut bytes = Vec::new();
        for (key, value) in records {
            let len = key.len() + value.len() + 3;
            let digits = (1..9).find(|digits| (len + digits).to_string().len() == *digits).unwrap();
            bytes.extend(format!("{} {key}={value}\n", len + digits).into_bytes());
        }
        let mut extended = Extended::default();
        extended.add(&bytes).map(|()| extended)
    }

    #[test]
    fn records_of_every_kind() {
        let extended = read(&[
            ("path", "a=b\nc"),
            ("size", "18446744073709551615"),
            ("mtime", "-1.25"),
            ("SCHILY.xattr.user.a%3Db%25c", "v=\n"),
            ("LIBARCHIVE.xattr.user.x%20y", "aGVsbG8"),
            ("GNU.sparse.map", "0,5,10,20"),
            ("comment", "nothing"),
        ])
        .unwrap();
        assert_eq!(extended.path.unwrap(), b"a=b\nc");
        assert_eq!(extended.size, Some(u64::MAX));
        assert_eq!(extended.mtime, Some((-2, 750_000_000)));
        assert_eq!(extended.xattrs, [(b"user.a=b%c".to_vec(), b"v=\n".to_vec())]);
        assert_eq!(extended.archived_xattrs, [(b"user.x y".to_vec(), b"hello".to_vec())]);
        assert_eq!(extended.sparse.map, Some(vec![(0, 5), (10, 20)]));
    }

    #[test]
    fn times_are_rounded_down() {
        assert_eq!(time(b"12"), Some((12, 0)));
        assert_eq!(time(b"12.5"), Some((12, 500_000_000)));
        assert_eq!(time(b"12.1234567899"), Some((12, 123_456_789)));
        assert_eq!(time(b"-12"), Some((-12, 0)));
        assert_eq!(time(b"-0.000000001"), Some((-1, 999_999_999)));
        assert_eq!(time(b"-0.0000000001"), Some((-1, 999_999_999)));
        assert_eq!(time(b"-0.9999999999"), Some((-1, 0)));
        assert_eq!(time(b"1.x"), None);
        assert_eq!(time(b""), None);
    }

    #[test]
    fn malformed_records_are_refused() {
        for bad in [&b"x"[..], b"10 a=b\n", b"6 a=bc", b"5 ab\n", b"99999999999999999999 a=b\n"] {
            assert!(Extended::default().add(bad).is_err(), "{bad:?}");
        }
        assert!(read(&[("size", "12x")]).is_err());
        assert!(read(&[("GNU.sparse.map", "1,2,3")]).is_err());
        assert!(read(&[("GNU.sparse.numbytes", "1")]).is_err());
    }
}
