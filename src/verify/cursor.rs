//! Do records lie back to back?

/// Where the next record of a section is due, when records have to lie back to back in the order of their inodes.
#[derive(Debug)]
pub(super) struct Cursor {
    due: u64,
    /// Whether all inodes before are known, so that `due` is where the record must be and not only where it may be.
    sure: bool,
}

/// What a cursor says of a record.
pub(super) struct Placed {
    /// Where it should be, if it is not there.
    pub(super) misplaced: Option<u64>,
    /// Whether it lies behind everything that was read so far. If not, it is not read: no byte of a section is read twice.
    pub(super) fresh: bool,
}

impl Default for Cursor {
    fn default() -> Self {
        Cursor { due: 0, sure: true }
    }
}

impl Cursor {
    /// A record of `len` at `at` that is known to be inside its section.
    pub(super) fn place(&mut self, at: u64, len: u64) -> Placed {
        let fresh = at >= self.due;
        let right = at == self.due || (fresh && !self.sure);
        let placed = Placed { misplaced: (!right).then_some(self.due), fresh };
        self.due = self.due.max(at.saturating_add(len));
        self.sure = true;
        placed
    }

    /// Some inodes could not be had: the next record may be anywhere behind.
    pub(super) fn skip(&mut self) {
        self.sure = false;
    }

    /// Where the last record ended, if the section should have ended there and does not.
    pub(super) fn rest(&self, section_len: u64) -> Option<u64> {
        (self.sure && self.due != section_len).then_some(self.due)
    }
}
