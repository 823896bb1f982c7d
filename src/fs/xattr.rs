//! Which extended attributes does an inode have?

use std::ops::ControlFlow;

use super::Tree;
use crate::error::Result;
use crate::format::XATTR_LIST_MAX;
use crate::format::defect::Corrupt;
use crate::format::field::{get_u16, u32_from_u64, usize_from_u32};
use crate::format::index::InodeIndex;
use crate::format::superblock::Section;
use crate::format::xattr::{self, COUNT_LEN, HEAD_LEN, Head};

/// Longest xattr section that is searched for a name; labels of a whole system, each kept once, have some ten KiB.
const XATTR_SCAN_MAX: u64 = 1 << 20;

/// One attribute's name, and where its value is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) name: Vec<u8>,
    value_at: u64,
    value_len: u32,
}

impl Found {
    /// Where the attribute ends in the xattr section.
    pub(crate) fn end(&self) -> u64 {
        self.value_at.saturating_add(self.value_len.into())
    }
}

impl Tree {
    /// Names of an inode's extended attributes in ascending order.
    pub fn xattr_names(&self, index: InodeIndex) -> Result<Vec<Vec<u8>>> {
        let Some(set) = self.inode(index)?.xattrs else { return Ok(Vec::new()) };
        let mut names = Vec::new();
        self.visit_xattrs(set, |found| {
            names.push(found.name);
            ControlFlow::Continue(())
        })?;
        Ok(names)
    }

    /// The value of one extended attribute; nothing when the inode does not have it.
    pub fn xattr(&self, index: InodeIndex, name: &[u8]) -> Result<Option<Vec<u8>>> {
        let Some(set) = self.inode(index)?.xattrs else { return Ok(None) };
        let mut wanted = None;
        self.visit_xattrs(set, |found| {
            if found.name == name {
                wanted = Some(found);
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        })?;
        let Some(found) = wanted else { return Ok(None) };
        if found.value_len == 0 {
            return Ok(Some(Vec::new()));
        }
        let value =
            self.section(Section::Xattrs, found.value_at, usize_from_u32(found.value_len))?;
        Ok(Some(value.to_vec()))
    }

    /// Whether any inode may have an attribute of this name. Looks at all sets; where they are many, or cannot be read,
    /// the answer is yes.
    pub fn may_have_xattr(&self, name: &[u8]) -> bool {
        let section_len = self.superblock().sections.get(Section::Xattrs);
        if section_len > XATTR_SCAN_MAX {
            return true;
        }
        let mut at = 0;
        while at < section_len {
            let mut found = false;
            let visited = self.visit_xattrs(u32_from_u64(at), |attribute| {
                found = found || attribute.name == name;
                ControlFlow::Continue(())
            });
            match visited {
                Ok(end) if !found => at = end,
                _ => return true,
            }
        }
        false
    }

    /// Looks at each attribute of the set at `set`, holding it against its rules; returns where the set ends.
    pub(crate) fn visit_xattrs(
        &self,
        set: u32,
        mut visit: impl FnMut(Found) -> ControlFlow<()>,
    ) -> Result<u64> {
        let section_len = self.superblock().sections.get(Section::Xattrs);
        let piece = |at: u64, len: usize| {
            let end = at.checked_add(crate::format::field::u64_from_usize(len));
            if end.is_none_or(|end| end > section_len) {
                return Err(Corrupt::XattrOutside { at: set }.into());
            }
            self.section(Section::Xattrs, at, len)
        };
        let mut at = u64::from(set);
        let count = get_u16(&piece(at, COUNT_LEN)?, 0);
        at = at.saturating_add(2);
        let mut list_len = 0_usize;
        let mut before: Vec<u8> = Vec::new();
        for _ in 0..count {
            let head_raw = piece(at, HEAD_LEN)?;
            let head = Head::decode(
                head_raw.first_chunk().ok_or(Corrupt::XattrOutside { at: set })?,
                set,
            )?;
            let name_at = at.saturating_add(8);
            let value_at = name_at.saturating_add(head.name_len.into());
            at = value_at.saturating_add(head.value_len.into());
            if at > section_len {
                return Err(Corrupt::XattrOutside { at: set }.into());
            }
            // An empty name would be a piece of no length, which no section has.
            if head.name_len == 0 {
                return Err(Corrupt::XattrName { at: set }.into());
            }
            let name = piece(name_at, usize::from(head.name_len))?.to_vec();
            xattr::check_name(&name, set)?;
            if before >= name {
                return Err(Corrupt::XattrOrder { at: set }.into());
            }
            list_len = list_len.saturating_add(name.len()).saturating_add(1);
            if list_len > XATTR_LIST_MAX {
                return Err(Corrupt::XattrSize { at: set }.into());
            }
            before.clone_from(&name);
            if visit(Found { name, value_at, value_len: head.value_len }).is_break() {
                return Ok(at);
            }
        }
        if count == 0 { Err(Corrupt::XattrSize { at: set }.into()) } else { Ok(at) }
    }
}
