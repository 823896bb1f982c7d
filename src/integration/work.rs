//! What has to be done to install or to remove? First all of it is looked at, then all of it is done.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::obstacle::Obstacle;
use super::place::{Found, Place};
use super::record::{self, Entry, Record};
use super::{CARRIED, Content, KEYS, Part};

/// Where the record of a system lies, and that of a data partition.
const RECORDS: [&str; 2] = ["usr/lib/ashlar/installed", "ashlar/installed"];
const RECORD_MODE: u32 = 0o644;

/// A file that shall be there.
#[derive(Debug)]
pub struct Wanted {
    /// Where, without the slash in front.
    pub path: String,
    /// Its permission bits.
    pub mode: u32,
    /// Who needs it.
    pub parts: BTreeSet<Part>,
    /// What is in it.
    pub content: Found,
}

impl Wanted {
    /// A file for one part.
    pub fn file(path: impl Into<String>, part: Part, mode: u32, content: Vec<u8>) -> Self {
        Wanted {
            path: path.into(),
            mode,
            parts: [part].into(),
            content: Found::File(content, mode),
        }
    }
}

/// The carried files of these parts.
pub fn carried(parts: &BTreeSet<Part>) -> Vec<Wanted> {
    let wanted = CARRIED.iter().map(|carried| Wanted {
        path: carried.path.to_owned(),
        mode: carried.mode,
        parts: carried.parts.iter().copied().filter(|part| parts.contains(part)).collect(),
        content: found(carried.content, carried.mode),
    });
    wanted.filter(|wanted| !wanted.parts.is_empty()).collect()
}

fn found(content: Content<'_>, mode: u32) -> Found {
    match content {
        Content::File(bytes) => Found::File(bytes.to_vec(), mode),
        Content::Link(target) => Found::Link(target.as_bytes().to_vec()),
    }
}

/// What is done with a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// A directory is made.
    Make,
    /// A file that was not there is written.
    Write,
    /// One that was is replaced.
    Replace,
    /// It is as it should be.
    Unchanged,
    /// It is removed.
    Remove,
    /// It was changed since it was written, and stays.
    Keep,
}

impl Action {
    /// As a word.
    pub fn name(self) -> &'static str {
        match self {
            Action::Make => "make",
            Action::Write => "write",
            Action::Replace => "replace",
            Action::Unchanged => "unchanged",
            Action::Remove => "remove",
            Action::Keep => "keep",
        }
    }
}

/// One thing that is done or was found done.
#[derive(Debug)]
pub struct Step {
    /// Where, without the slash in front.
    pub path: String,
    /// What.
    pub action: Action,
}

/// A system, or a data partition, and what was installed there before.
#[derive(Debug)]
pub struct Work {
    place: Place,
    record_path: &'static str,
    record: Record,
}

impl Work {
    /// Looks at the tree below `root`: a data partition that is booted without an initramfs, or a system.
    pub fn open(root: &Path, is_data: bool) -> Result<Self, Obstacle> {
        let place = Place::open(root)?;
        let [system, data] = RECORDS;
        let record_path = if is_data { data } else { system };
        let record = match place.look(record_path)? {
            Found::File(text, _) => Record::parse(&String::from_utf8_lossy(&text)),
            _ => Record::default(),
        };
        Ok(Work { place, record_path, record })
    }

    /// The tree.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Sees to it that all `wanted` is there, and the directories. Nothing is written if anything is in the way, and
    /// nothing at all if this is only for show (`dry_run`).
    pub fn install(
        mut self,
        wanted: &[Wanted],
        directories: &[&str],
        force: bool,
        dry_run: bool,
    ) -> Result<Vec<Step>, Obstacle> {
        let mut steps = self.directories_to_make(wanted, directories);
        let mut foreign = Vec::new();
        for Wanted { path, content, .. } in wanted {
            let there = self.place.look(path)?;
            let same = record::digest(&there) == record::digest(content);
            let action = match &there {
                Found::Nothing => Action::Write,
                _ if there == *content => Action::Unchanged,
                Found::File(..) | Found::Link(_)
                    if same || force || self.record.wrote(path, &there) =>
                {
                    Action::Replace
                }
                _ => {
                    foreign.push(self.place.shown(path));
                    continue;
                }
            };
            steps.push(Step { path: path.clone(), action });
        }
        if !foreign.is_empty() {
            return Err(Obstacle::Foreign { paths: foreign });
        }
        if dry_run {
            return Ok(steps);
        }
        let contents: BTreeMap<_, _> =
            wanted.iter().map(|wanted| (&*wanted.path, wanted)).collect();
        for step in &steps {
            match (step.action, contents.get(&*step.path)) {
                (Action::Make, _) => {
                    self.record.directories.extend(self.place.make_directories(&step.path)?);
                }
                (Action::Write | Action::Replace, Some(wanted)) => self.put(wanted)?,
                _ => {}
            }
        }
        let was_there = |path: &str| {
            steps.iter().any(|step| step.action == Action::Unchanged && step.path == path)
        };
        for Wanted { path, content, parts, .. } in wanted {
            // A key that was there already is somebody's own, and not ours to remove.
            let is_new = !self.record.entries.contains_key(path);
            if path.starts_with(KEYS) && is_new && was_there(path) {
                continue;
            }
            let Some(digest) = record::digest(content) else { continue };
            let entry = self
                .record
                .entries
                .entry(path.clone())
                .or_insert_with(|| Entry { digest: String::new(), parts: BTreeSet::new() });
            entry.digest = digest;
            entry.parts.extend(parts);
        }
        self.save()?;
        Ok(steps)
    }

    fn directories_to_make(&self, wanted: &[Wanted], directories: &[&str]) -> Vec<Step> {
        let files = wanted.iter().map(|wanted| &*wanted.path).chain([self.record_path]);
        let parents = files.filter_map(|path| path.rsplit_once('/')).map(|(parent, _)| parent);
        let mut needed = BTreeSet::new();
        for directory in parents.chain(directories.iter().copied()) {
            let ends = directory.match_indices('/').map(|(at, _)| at).chain([directory.len()]);
            needed.extend(ends.filter_map(|end| directory.get(..end)));
        }
        needed
            .into_iter()
            .filter(|directory| !self.place.has(directory))
            .map(|directory| Step { path: directory.to_owned(), action: Action::Make })
            .collect()
    }

    fn put(&self, wanted: &Wanted) -> Result<(), Obstacle> {
        match &wanted.content {
            Found::File(content, mode) => self.place.write(&wanted.path, content, *mode),
            Found::Link(target) => self.place.link(&wanted.path, &String::from_utf8_lossy(target)),
            Found::Nothing | Found::Directory | Found::Other => Ok(()),
        }
    }

    /// Removes what was written for these parts, and no other part needs. What was changed since stays.
    pub fn uninstall(
        mut self,
        parts: &BTreeSet<Part>,
        dry_run: bool,
    ) -> Result<Vec<Step>, Obstacle> {
        let has_record = !self.record.entries.is_empty();
        let own = carried(parts);
        let own: BTreeMap<_, _> =
            own.iter().map(|wanted| (&*wanted.path, &wanted.content)).collect();
        let recorded = self.record.entries.iter();
        let recorded = recorded.filter(|(_, entry)| !entry.parts.is_disjoint(parts));
        let mut paths: BTreeSet<String> = recorded.map(|(path, _)| path.clone()).collect();
        paths.extend(own.keys().map(|path| (*path).to_owned()));

        let mut steps = Vec::new();
        for path in paths {
            if self.needed_by_others(&path, parts) {
                continue;
            }
            let there = self.place.look(&path)?;
            // Where there is no record, what is as it would be written counts as written.
            let is_own = !has_record
                && own
                    .get(&*path)
                    .is_some_and(|content| record::digest(content) == record::digest(&there));
            let action = match there {
                Found::Nothing => None,
                _ if is_own || self.record.wrote(&path, &there) => Some(Action::Remove),
                _ => Some(Action::Keep),
            };
            self.record.entries.remove(&path);
            steps.extend(action.map(|action| Step { path, action }));
        }
        for entry in self.record.entries.values_mut() {
            entry.parts.retain(|part| !parts.contains(part));
        }
        if dry_run {
            return Ok(steps);
        }
        for step in steps.iter().filter(|step| step.action == Action::Remove) {
            self.place.remove(&step.path)?;
        }
        let is_last = self.record.entries.is_empty();
        if is_last && self.place.look(self.record_path)? != Found::Nothing {
            self.place.remove(self.record_path)?;
        }
        steps.extend(self.remove_directories(&steps)?);
        if !is_last {
            self.save()?;
        }
        Ok(steps)
    }

    /// Whether parts that stay need what is at `path`.
    fn needed_by_others(&self, path: &str, parts: &BTreeSet<Part>) -> bool {
        match self.record.entries.get(path) {
            Some(entry) => entry.parts.difference(parts).next().is_some(),
            // Where the record is lost, only who takes away all of it takes away what is shared.
            None => CARRIED
                .iter()
                .filter(|carried| carried.path == path)
                .any(|carried| carried.parts.iter().any(|part| !parts.contains(part))),
        }
    }

    /// Removes the directories that were made once and those that bear our name, where they are empty; deepest first.
    fn remove_directories(&mut self, steps: &[Step]) -> Result<Vec<Step>, Obstacle> {
        let mut directories = self.record.directories.clone();
        for path in steps.iter().map(|step| &*step.path).chain([self.record_path]) {
            let parents = path.match_indices('/').filter_map(|(at, _)| path.get(..at));
            let own = parents.skip_while(|parent| !parent.ends_with("ashlar"));
            directories.extend(own.map(str::to_owned));
        }
        let mut removed = Vec::new();
        for path in directories.into_iter().rev() {
            if self.place.remove_directory(&path)? {
                self.record.directories.remove(&path);
                removed.push(Step { path, action: Action::Remove });
            }
        }
        Ok(removed)
    }

    fn save(&self) -> Result<(), Obstacle> {
        match self.record.text() {
            Some(text) => self.place.write(self.record_path, text.as_bytes(), RECORD_MODE),
            None => Ok(()),
        }
    }
}
