//! What was written here, and is it still the same? Kept in a file beside the program, for `uninstall` and the next
//! version.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use super::Part;
use super::place::Found;

const HEAD: &str =
    "# Written by `ashlar boot install`, read by `ashlar boot uninstall`. Not to be changed.";

/// What was written, by path, and which directories were made for it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Files and symlinks: what they held, and which parts they belong to.
    pub entries: BTreeMap<String, Entry>,
    /// Directories that were not there before.
    pub directories: BTreeSet<String>,
}

/// One file or symlink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Of what was written.
    pub digest: String,
    /// Who needs it.
    pub parts: BTreeSet<Part>,
}

impl Record {
    /// Reads a record. Lines that make no sense are taken as if they were not there: what they told of is then somebody
    /// else's, and stays.
    pub fn parse(text: &str) -> Self {
        let mut record = Record::default();
        for line in text.lines() {
            match line.split_once(' ') {
                Some(("directory", path)) if is_path(path) => {
                    record.directories.insert(path.to_owned());
                }
                Some((digest, rest)) => {
                    let Some((parts, path)) = rest.split_once(' ') else { continue };
                    let parts = parts.split(',').filter_map(Part::from_name).collect();
                    if digest != "#" && is_path(path) {
                        let entry = Entry { digest: digest.to_owned(), parts };
                        record.entries.insert(path.to_owned(), entry);
                    }
                }
                None => {}
            }
        }
        record
    }

    /// As text; nothing where there is nothing to tell.
    pub fn text(&self) -> Option<String> {
        if self.entries.is_empty() && self.directories.is_empty() {
            return None;
        }
        let mut text = format!("{HEAD}\n");
        for directory in &self.directories {
            // Writing to a String does not fail.
            writeln!(text, "directory {directory}").unwrap_or_default();
        }
        for (path, Entry { digest, parts }) in &self.entries {
            let parts: Vec<_> = parts.iter().map(|part| part.name()).collect();
            writeln!(text, "{digest} {} {path}", parts.join(",")).unwrap_or_default();
        }
        Some(text)
    }

    /// Whether what is at `path` now is what was written there.
    pub fn wrote(&self, path: &str, found: &Found) -> bool {
        self.entries.get(path).is_some_and(|entry| digest(found).as_ref() == Some(&entry.digest))
    }
}

/// A record may come from a tree that somebody else made: it names nothing but paths below that tree's root.
fn is_path(path: &str) -> bool {
    path.split('/').all(|name| !matches!(name, "" | "." | ".."))
}

/// What tells one content from another.
pub fn digest(found: &Found) -> Option<String> {
    let (kind, content) = match found {
        Found::File(content, _) => ("file", content),
        Found::Link(target) => ("link", target),
        Found::Nothing | Found::Directory | Found::Other => return None,
    };
    Some(format!("{kind}:{}", blake3::hash(content).to_hex()))
}

#[cfg(test)]
mod tests {
    use super::{Entry, Found, Record, digest};
    use crate::integration::Part;

    #[test]
    fn comes_back_as_it_was_written() {
        let found = Found::File(b"content".to_vec(), 0o644);
        let mut record = Record::default();
        record.directories.insert("usr/lib/ashlar".to_owned());
        let entry =
            Entry { digest: digest(&found).unwrap(), parts: [Part::Dracut, Part::Systemd].into() };
        record.entries.insert("usr/lib/a name".to_owned(), entry);
        assert_eq!(Record::parse(&record.text().unwrap()), record);
        assert!(record.wrote("usr/lib/a name", &found));
        assert!(!record.wrote("usr/lib/a name", &Found::Link(b"content".to_vec())));
        assert!(!record.wrote("usr/lib/other", &found));
        assert_eq!(Record::default().text(), None);
    }

    #[test]
    fn names_nothing_outside() {
        let text = "directory ../x\ndirectory /x\nfile:00 dracut a/../../b\nfile:00 dracut /b\nfile:00\n\nx\n";
        assert_eq!(Record::parse(text), Record::default());
    }
}
