//! Which extended attributes go into an image, and how is each set of them kept once?

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};

use ashlarfs::format::xattr::POSIX_ACL_PREFIX;

use crate::options::Progress;
use crate::text::shown;
use crate::tree::XattrSet;

/// Whether an attribute goes into an image. The kernel lets user space set no others on a file system like ours.
pub(crate) fn is_kept(name: &[u8]) -> bool {
    [&b"user."[..], b"trusted.", b"security.", POSIX_ACL_PREFIX]
        .iter()
        .any(|prefix| name.starts_with(prefix) && name.len() > prefix.len())
}

/// Sets of attributes, each content once.
#[derive(Debug, Default)]
pub(crate) struct XattrSets {
    places: HashMap<XattrSet, u32>,
    ignored: RefCell<BTreeSet<Vec<u8>>>,
}

impl XattrSets {
    /// The number of a set; `None` for an empty one. Later attributes replace earlier ones of the same name.
    pub(crate) fn add(&mut self, mut set: XattrSet) -> Option<u32> {
        // Stable: of equal names the last given stays last.
        set.sort_by(|(a, _), (b, _)| a.cmp(b));
        set.reverse();
        set.dedup_by(|(a, _), (b, _)| a == b);
        set.reverse();
        if set.is_empty() {
            return None;
        }
        let next = self.places.len() as u32;
        Some(*self.places.entry(set).or_insert(next))
    }

    /// Whether an attribute goes into an image; what is left out is told once a name.
    pub(crate) fn keeps(&self, name: &[u8], progress: &dyn Progress) -> bool {
        let kept = is_kept(name);
        if !kept && self.ignored.borrow_mut().insert(name.to_vec()) {
            progress.warn(&format!("extended attributes `{}` are left out", shown(name)));
        }
        kept
    }

    /// All sets by their numbers.
    pub(crate) fn into_list(self) -> Vec<XattrSet> {
        let mut list: Vec<_> = self.places.into_iter().collect();
        list.sort_unstable_by_key(|(_, number)| *number);
        list.into_iter().map(|(set, _)| set).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(name: &str, value: &str) -> (Vec<u8>, Vec<u8>) {
        (name.into(), value.into())
    }

    #[test]
    fn equal_sets_are_one_whatever_their_order() {
        let mut sets = XattrSets::default();
        assert_eq!(sets.add(Vec::new()), None);
        assert_eq!(sets.add(vec![pair("user.b", "1"), pair("user.a", "2")]), Some(0));
        assert_eq!(sets.add(vec![pair("user.a", "2"), pair("user.b", "1")]), Some(0));
        assert_eq!(sets.add(vec![pair("user.a", "3")]), Some(1));
        let list = sets.into_list();
        assert_eq!(
            list,
            [vec![pair("user.a", "2"), pair("user.b", "1")], vec![pair("user.a", "3")]]
        );
    }

    #[test]
    fn the_last_value_of_a_name_counts() {
        let mut sets = XattrSets::default();
        sets.add(vec![pair("user.a", "1"), pair("user.b", "x"), pair("user.a", "2")]);
        assert_eq!(sets.into_list(), [vec![pair("user.a", "2"), pair("user.b", "x")]]);
    }
}
