//! What is left out? Paths and patterns, held against paths from the root of the tree without leading slash.

use std::cell::Cell;
use std::collections::BTreeMap;

use regex::bytes::{RegexSet, RegexSetBuilder};

use crate::Failure;
use crate::text::shown;

/// Excludes: a path that is excluded takes everything below it along.
#[derive(Debug, Default)]
pub(crate) struct Filter {
    /// Each with whether it ever matched.
    paths: BTreeMap<Vec<u8>, Cell<bool>>,
    patterns: Option<RegexSet>,
}

impl Filter {
    /// Excludes for `paths`, and for what any of `patterns` matches somewhere in its path.
    pub(crate) fn new(paths: &[Vec<u8>], patterns: &[String]) -> Result<Self, Failure> {
        let mut filter = Filter::default();
        for path in paths {
            let clean = clean(path);
            if clean.is_empty() {
                return Err(Failure::new(format!(
                    "--exclude-path `{}` names the root: nothing would be left",
                    shown(path)
                ))
                .hint("paths to exclude start at the root of SOURCE, for example `var/cache`"));
            }
            filter.paths.insert(clean, Cell::new(false));
        }
        if !patterns.is_empty() {
            // Names are bytes, not text: a dot matches any of them.
            let set = RegexSetBuilder::new(patterns)
                .unicode(false)
                .dot_matches_new_line(true)
                .build()
                .map_err(|err| Failure::new(format!("--exclude-regex: {err}")))?;
            filter.patterns = Some(set);
        }
        Ok(filter)
    }

    /// Whether everything passes, so that no path need be built.
    pub(crate) fn is_empty(&self) -> bool {
        self.paths.is_empty() && self.patterns.is_none()
    }

    /// Whether this very path is excluded.
    pub(crate) fn excludes(&self, path: &[u8]) -> bool {
        if let Some(matched) = self.paths.get(path) {
            matched.set(true);
            return true;
        }
        self.patterns.as_ref().is_some_and(|patterns| patterns.is_match(path))
    }

    /// Paths that excluded nothing so far: most likely misspelt. What lies below another excluded path is not among them.
    pub(crate) fn unmatched(&self) -> impl Iterator<Item = &[u8]> {
        self.paths
            .iter()
            .filter(|(path, matched)| !matched.get() && !self.is_below_another(path))
            .map(|(path, _)| path.as_slice())
    }

    fn is_below_another(&self, path: &[u8]) -> bool {
        let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        slashes.into_iter().any(|(at, _)| self.paths.contains_key(&path[..at]))
    }
}

/// A path from the root without leading, final and doubled slashes and without `.`.
pub(crate) fn clean(path: &[u8]) -> Vec<u8> {
    let names: Vec<_> =
        path.split(|byte| *byte == b'/').filter(|name| !matches!(*name, b"" | b".")).collect();
    names.join(&b'/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_match_whole_and_patterns_anywhere() {
        let filter =
            Filter::new(&[b"./var//cache/".to_vec(), b"/tmp/x".to_vec()], &["\\.pyc$".into()])
                .unwrap();
        assert!(filter.excludes(b"var/cache"));
        assert!(!filter.excludes(b"var/cache2"));
        assert!(!filter.excludes(b"usr/var/cache"));
        assert!(filter.excludes(b"usr/\xff.pyc"));
        assert!(!filter.excludes(b"usr/a.pycx"));
        assert_eq!(filter.unmatched().collect::<Vec<_>>(), [b"tmp/x"]);
    }

    #[test]
    fn a_dot_matches_any_byte() {
        let filter = Filter::new(&[], &["^a.b$".into()]).unwrap();
        assert!(filter.excludes(b"a\xffb") && filter.excludes(b"a\nb"));
    }

    #[test]
    fn the_root_cannot_be_excluded() {
        assert!(Filter::new(&[b"./".to_vec()], &[]).is_err());
        assert!(Filter::new(&[], &["(".into()]).is_err());
    }
}
