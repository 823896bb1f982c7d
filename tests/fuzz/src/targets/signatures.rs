//! Does a signature count that nobody made?

use std::sync::LazyLock;

use ashlarfs::trust;

/// The key of these tests, whose secret half nobody has any more.
pub(crate) const KEY: &str = include_str!("../../data/key.pub");
/// Its signature of [`TEXT`].
pub(crate) const SIGNATURE: &str = include_str!("../../data/text.minisig");
/// What it signed.
pub(crate) const TEXT: &str = include_str!("../../data/text");

static KEYS: LazyLock<Vec<trust::Key>> = LazyLock::new(|| vec![trust::parse_key(KEY).unwrap()]);

/// The input is taken for a key, for a signature, and for edits on the signature that is good.
pub(crate) fn minisign(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let raw = trust::key_file_bytes(&text);
    assert!(raw.is_none_or(|raw| raw.len() <= text.len()));
    if let Some(key) = trust::parse_key(&text) {
        // Of another key the signature is not, whoever's it is; of the same one it is.
        let same = trust::key_file_bytes(&format!("\n{}", text.lines().last().unwrap_or_default()));
        let ours = trust::key_file_bytes(KEY);
        let counts = trust::is_signed(TEXT, SIGNATURE.as_bytes(), &[key]);
        assert!(!counts || same == ours || trust::key_file_bytes(&text) == ours, "{text}");
    }
    let edited = super::script::edited(SIGNATURE.as_bytes(), input);
    for signature in [input, &edited] {
        assert!(!trust::is_signed("another text", signature, &KEYS));
        if !trust::is_signed(TEXT, signature, &KEYS) {
            continue;
        }
        // Only the comment that nobody vouches for may be another, and white space.
        let told = std::str::from_utf8(signature).unwrap();
        let line = |text: &str, nth| text.lines().nth(nth).unwrap().trim().to_owned();
        assert_eq!(trust::key_file_bytes(told), trust::key_file_bytes(SIGNATURE), "{told}");
        assert_eq!(line(told, 2), line(SIGNATURE, 2), "{told}");
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let line = KEY.lines().nth(1).unwrap();
    vec![
        KEY.as_bytes().to_vec(),
        line.as_bytes().to_vec(),
        SIGNATURE.as_bytes().to_vec(),
        SIGNATURE.replace('\n', "\r\n").into_bytes(),
        vec![0, 4, 0, 0, 1, 0, 0, 0],
    ]
}
