//! What does a digest look like? 32 bytes, hex outside; this file knows no hash function.

use std::fmt;
use std::str::FromStr;

/// 32 bytes that name other bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(pub [u8; 32]);

/// Why a text is not a digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotADigest {
    /// Length of the text in bytes.
    pub len: usize,
}

impl fmt::Display for NotADigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.len == 64 {
            write!(f, "a digest has hexadecimal digits only")
        } else {
            write!(f, "a digest has 64 hexadecimal digits, this text has {} characters", self.len)
        }
    }
}

impl std::error::Error for NotADigest {}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = NotADigest;

    /// Accepts 64 hexadecimal digits of either case.
    fn from_str(text: &str) -> Result<Self, NotADigest> {
        let wrong = NotADigest { len: text.len() };
        if text.len() != 64 {
            return Err(wrong);
        }
        let mut out = [0; 32];
        for (byte, pair) in out.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let &[high, low] = pair else { return Err(wrong) };
            let (Some(high), Some(low)) =
                (char::from(high).to_digit(16), char::from(low).to_digit(16))
            else {
                return Err(wrong);
            };
            // cannot fail: two hexadecimal digits make at most 255
            *byte = u8::try_from((high << 4) | low).unwrap_or_default();
        }
        Ok(Digest(out))
    }
}

impl serde::Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_goes_out_and_in() {
        let digest = Digest([0xa5; 32]);
        assert_eq!(digest.to_string().parse(), Ok(digest));
        assert_eq!("A5".repeat(32).parse(), Ok(digest));
        assert_eq!("a5".parse::<Digest>(), Err(NotADigest { len: 2 }));
        assert!("zz".repeat(32).parse::<Digest>().is_err());
        assert!("é".repeat(32).parse::<Digest>().is_err());
    }
}
