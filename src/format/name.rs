//! What is a file name?

use super::NAME_MAX;

/// Why bytes are not a file name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotAName {
    /// Empty, or longer than 255 bytes (S-61).
    Length,
    /// With a zero byte or a slash, or `.` or `..` (S-62).
    Bytes,
}

/// Checks the rules S-61 and S-62.
pub fn check(name: &[u8]) -> Result<(), NotAName> {
    if name.is_empty() || name.len() > NAME_MAX {
        return Err(NotAName::Length);
    }
    if name == b"." || name == b".." || name.iter().any(|byte| matches!(byte, 0 | b'/')) {
        return Err(NotAName::Bytes);
    }
    Ok(())
}
