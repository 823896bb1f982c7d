//! What does `verify` say of an image?

use std::collections::BTreeSet;

use ashlarfs::{Anchor, Digest, Error, Options};

use crate::image::Memory;

/// What an image is held against.
pub(crate) fn options(root: Option<Digest>, key: Option<&str>) -> Options {
    Options::new(match (root, key) {
        (Some(root), _) => Anchor::RootDigest(root),
        (None, Some(key)) => Anchor::Keys(vec![ashlarfs::trust::parse_key(key).unwrap()]),
        (None, None) => Anchor::Unauthenticated,
    })
}

/// The class and name of every finding, or `ok`.
pub(crate) fn of(image: &[u8], root: Option<Digest>, key: Option<&str>) -> BTreeSet<String> {
    let source = Memory::new(image.to_vec());
    let report = ashlarfs::verify::verify_source(
        source,
        &options(root, key),
        &ashlarfs::verify::Options::default(),
    );
    if report.is_clean() {
        assert_eq!(report.bytes_checked, image.len() as u64);
        return BTreeSet::from(["ok".to_owned()]);
    }
    assert!(!report.findings.is_empty(), "{report:?}");
    assert!(report.bytes_checked <= image.len() as u64);
    let name = |err: &Error| match err {
        Error::Untrusted(untrusted) => format!("untrusted {}", untrusted.name()),
        Error::Corrupt(corrupt) => format!("corrupt {}", corrupt.name()),
        Error::Unsupported(unsupported) => format!("unsupported {}", unsupported.name()),
        other => format!("{other}"),
    };
    report.findings.iter().map(|finding| name(&finding.error)).collect()
}
