//! When is content the same? When its hash is.

/// Tells equal content; never leaves the builder.
pub(crate) type ContentHash = [u8; 32];

/// Hashes content.
pub(crate) fn hash(content: &[u8]) -> ContentHash {
    *blake3::hash(content).as_bytes()
}
