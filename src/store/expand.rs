//! What is the content of these stored bytes? Only ever asked about bytes that were found true.

use std::cell::RefCell;

use zstd::bulk::Decompressor;
use zstd::zstd_safe;

use crate::format::defect::Corrupt;
use crate::format::field::u32_from_usize;
use crate::format::index::BlockIndex;

/// A Zstandard frame starts with this (RFC 8878 §3.1.1); skippable frames start otherwise.
const FRAME_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

thread_local! {
    /// A context costs some 150 KiB and is used again and again; each thread has one.
    static CONTEXT: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// Expands one Zstandard frame into `content`, which it must fill exactly (S-30).
///
/// The buffer's length comes from the authenticated table; whatever the frame says of its own length is not believed.
pub(super) fn expand(stored: &[u8], content: &mut [u8], block: BlockIndex) -> Result<(), Corrupt> {
    let content_len = u32_from_usize(content.len());
    let wrong = |reason| Corrupt::Expansion { block, content_len, reason };
    if !stored.starts_with(&FRAME_MAGIC) {
        return Err(wrong("it is no zstd frame"));
    }
    // Single segment, no checksum, no dictionary: one spelling for one meaning, and no window but the content itself.
    if stored.get(4).is_none_or(|descriptor| descriptor & 0x3f != 0x20) {
        return Err(wrong("the frame has another header than the format allows"));
    }
    // The decompressor would go on with a second frame; the format has exactly one.
    if zstd_safe::find_frame_compressed_size(stored) != Ok(stored.len()) {
        return Err(wrong("the frame does not fill the stored bytes"));
    }
    let expanded = CONTEXT.with_borrow_mut(|context| {
        let decompressor = match context {
            Some(decompressor) => decompressor,
            None => context.insert(Decompressor::new().map_err(|_| wrong("no memory for zstd"))?),
        };
        decompressor
            .decompress_to_buffer(stored, content)
            .map_err(|_| wrong("the frame is malformed or holds more"))
    })?;
    if u32_from_usize(expanded) == content_len {
        Ok(())
    } else {
        Err(wrong("the frame holds less"))
    }
}
