//! In which order was content read? A text that a mount writes and `mkimage --order` reads.
//!
//! ```text
//! ashlar trace 1
//! 0 131072 /usr/lib/systemd/systemd
//! 131072 16384 /usr/lib/systemd/systemd
//! ```
//!
//! Each line is a piece of a file, in bytes: where it starts, how long it is, and the path to the end of the line. Names of
//! paths rather than numbers of blocks, for a trace is recorded with one image and used for the next.

/// The first line, with its line feed.
pub const HEAD: &[u8] = b"ashlar trace 1\n";

/// A piece of a file that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece<'a> {
    /// Where it starts, in bytes.
    pub offset: u64,
    /// How many bytes it has.
    pub len: u64,
    /// The file's path, with a leading slash.
    pub path: &'a [u8],
}

/// The line of a piece; nothing for a path with a line feed, which no line can hold.
pub fn line(piece: &Piece<'_>) -> Option<Vec<u8>> {
    if piece.path.contains(&b'\n') {
        return None;
    }
    let numbers = format!("{} {} ", piece.offset, piece.len);
    Some([numbers.as_bytes(), piece.path, b"\n"].concat())
}

/// The pieces of a trace, or the number of the first line (from 1) that is none. `None` when the text is no trace at all.
pub fn parse(text: &[u8]) -> Option<Result<Vec<Piece<'_>>, usize>> {
    let lines = text.strip_prefix(HEAD)?.split(|byte| *byte == b'\n').zip(2..);
    let lines = lines.filter(|(line, _)| !line.is_empty());
    Some(lines.map(|(line, number)| piece(line).ok_or(number)).collect())
}

fn piece(line: &[u8]) -> Option<Piece<'_>> {
    let mut words = line.splitn(3, |byte| *byte == b' ');
    let mut number = || std::str::from_utf8(words.next()?).ok()?.parse().ok();
    let (offset, len) = (number()?, number()?);
    let path = words.next().filter(|path| path.starts_with(b"/"))?;
    Some(Piece { offset, len, path })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_go_there_and_back() {
        let pieces = [
            Piece { offset: 0, len: 4096, path: b"/a b" },
            Piece { offset: u64::MAX, len: 1, path: b"/\xff\t " },
        ];
        let lines = pieces.iter().flat_map(|piece| line(piece).unwrap());
        let text: Vec<u8> = HEAD.iter().copied().chain(lines).collect();
        assert_eq!(parse(&text).unwrap().unwrap(), pieces);
        assert_eq!(line(&Piece { offset: 0, len: 1, path: b"/a\nb" }), None);
    }

    #[test]
    fn what_is_no_trace_and_what_is_a_broken_one() {
        assert_eq!(parse(b"/usr/bin/a\n"), None);
        assert_eq!(parse(b""), None);
        for line in
            ["1 2", "1 2 a", "1  /a", "x 2 /a", "-1 2 /a", "1 2 ", "99999999999999999999 1 /a"]
        {
            let text = [HEAD, b"0 1 /a\n", line.as_bytes(), b"\n"].concat();
            assert_eq!(parse(&text).unwrap(), Err(3), "{line}");
        }
    }
}
