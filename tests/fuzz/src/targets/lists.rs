//! Do texts that say what was read go there and back?

use ashlarfs::format::trace;
use ashlarfs::update::keep;

pub(crate) fn trace(input: &[u8]) {
    // Lines that digests of pins stand in, too: any text, of which only digests count.
    assert!(keep::digests_in(input).len() <= input.len() / 64);
    let Some(found) = trace::parse(input) else {
        assert!(!input.starts_with(trace::HEAD));
        return;
    };
    let pieces = match found {
        Ok(pieces) => pieces,
        Err(number) => {
            let lines = input.split(|byte| *byte == b'\n').count();
            assert!((2..=lines).contains(&number));
            return;
        }
    };
    let lines = pieces.iter().flat_map(|piece| trace::line(piece).unwrap());
    let text: Vec<u8> = trace::HEAD.iter().copied().chain(lines).collect();
    assert_eq!(trace::parse(&text), Some(Ok(pieces)));
}

pub(crate) fn trace_seeds() -> Vec<Vec<u8>> {
    let texts: [&[u8]; 4] = [
        b"ashlar trace 1\n0 131072 /usr/lib/systemd/systemd\n131072 16384 /usr/lib/a b\n",
        b"ashlar trace 1\n\n18446744073709551615 1 /\xff\n",
        b"ashlar trace 1\n1 2\n",
        b"# pins\nabababababababababababababababababababababababababababababababab\n",
    ];
    texts.map(<[u8]>::to_vec).to_vec()
}
