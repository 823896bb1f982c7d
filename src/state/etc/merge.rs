//! How do the old image's /etc, what the user made of it, and the new image's become one? Directory by directory, with a
//! stack of our own; what cannot be read of the user's is named and left behind, and nothing of it stops the boot.

use std::collections::BTreeSet;

use rustix::fd::OwnedFd;

use super::record::{Damage, Entry, Record, find};
use super::rule::{Look, Pair, Verdict, decide};
use super::{Conflict, Left, Report};
use crate::error::{Error, Result};
use crate::format::NAME_MAX;
use crate::format::index::InodeIndex;
use crate::format::inode::{Inode, Kind};
use crate::fs::Tree;
use crate::state::copy::{Out, Trouble};
use crate::state::disk::{self, Trail};
use crate::state::node::{Found, Node};
use crate::state::shown;

/// What a name gets that had to make place.
const ASIDE: &[u8] = b".ashlar-old";
/// The stamp of `ConditionNeedsUpdate=`: without it, what depends on /usr is brought up to date after an update.
pub(super) const STAMP: &[u8] = b".updated";

/// The three that are to become one.
pub(super) struct Sides<'a> {
    /// What /etc was before anybody changed it; without it everything that differs from the new image is the user's.
    pub(super) old: Option<&'a Record>,
    /// What it is.
    pub(super) current: Option<OwnedFd>,
    pub(super) new: &'a Tree,
    pub(super) new_record: &'a Record,
    /// What to do about a file of the image that cannot be read.
    pub(super) damage: Damage,
}

/// Writes the new /etc into an empty directory.
pub(super) fn merge(sides: Sides<'_>, out: OwnedFd, report: &mut Report) -> Result<()> {
    let current = sides.current.map(|fd| Found::of(fd, b"etc")).transpose()?;
    let mut merge = Merge {
        old: sides.old,
        new: sides.new,
        new_record: sides.new_record,
        damage: sides.damage,
        current: None,
        out: Out::new(out)?,
        stack: Vec::new(),
        path: Vec::new(),
        report,
    };
    let top = Inside { current, new: find(sides.new)?, has_old: true, ..Inside::default() };
    merge.push(b"", top)?;
    merge.run()?;
    for (path, why) in std::mem::take(&mut merge.out.not_restored) {
        merge.report.not_restored.push(Left { path: shown(&path), why });
    }
    Ok(())
}

/// What there is of a directory that is about to be written.
#[derive(Default)]
struct Inside {
    current: Option<Found>,
    new: Option<InodeIndex>,
    /// Whether what the old image had counts in it: not in what comes whole from one side.
    has_old: bool,
    /// Whether it goes again when nothing is put in it.
    is_optional: bool,
    /// To be told when it stays: it is put beside what the image has.
    conflict: Option<Conflict>,
}

/// A directory that is being written.
#[expect(clippy::struct_excessive_bools, reason = "each is a question of its own")]
struct Frame {
    /// Names that are still to come, the next one last.
    names: Vec<Vec<u8>>,
    /// All names that are taken in it.
    taken: BTreeSet<Vec<u8>>,
    has_current: bool,
    new: Option<InodeIndex>,
    has_old: bool,
    is_optional: bool,
    was_used: bool,
    conflict: Option<Conflict>,
    /// What the directory itself will be.
    node: Node,
    path_len: usize,
}

struct Merge<'a> {
    old: Option<&'a Record>,
    new: &'a Tree,
    new_record: &'a Record,
    damage: Damage,
    /// Where we are in the current one.
    current: Option<Trail>,
    out: Out,
    stack: Vec<Frame>,
    /// Where we are in all three; in what is written it may have another name.
    path: Vec<u8>,
    report: &'a mut Report,
}

impl Merge<'_> {
    fn run(&mut self) -> Result<()> {
        while let Some(frame) = self.stack.last_mut() {
            self.path.truncate(frame.path_len);
            if let Some(name) = frame.names.pop() {
                if !self.path.is_empty() {
                    self.path.push(b'/');
                }
                self.path.extend_from_slice(&name);
                self.visit(&name)?;
            } else if let Some(frame) = self.stack.pop() {
                self.close(frame)?;
            }
        }
        Ok(())
    }

    /// One name of the directory where we are.
    fn visit(&mut self, name: &[u8]) -> Result<()> {
        let Some(frame) = self.stack.last() else { return Ok(()) };
        let (has_old, is_whole) = (frame.has_old, !frame.has_old && frame.new.is_none());
        let new = match frame.new {
            Some(directory) => self.new.lookup(directory, name)?,
            None => None,
        };
        let new_entry = new.as_ref().and_then(|_| self.new_record.get(&self.path));
        let old_entry = self.old.filter(|_| has_old).and_then(|old| old.get(&self.path));
        let found = match &self.current {
            Some(current) if frame.has_current => Found::open(current.here(), name),
            _ => Ok(None),
        };
        let found = found.and_then(|found| {
            let Some(found) = found else { return Ok(None) };
            let entry = Entry::on_disk(&found, &[old_entry, new_entry])?;
            Ok(Some((found, entry)))
        });
        let (found, is_lost) = match found {
            Ok(found) => (found, false),
            Err(err) => {
                self.lose(&err);
                (None, true)
            }
        };
        let (found, entry) = found.unzip();
        let mut equal = |pair| {
            let (one, other) = match pair {
                Pair::CurrentAndOld => (entry.as_ref(), old_entry),
                Pair::CurrentAndNew => (entry.as_ref(), new_entry),
                Pair::NewAndOld | Pair::NewAndOldExactly => (new_entry, old_entry),
            };
            one.zip(other).is_some_and(|(one, other)| match pair {
                Pair::NewAndOldExactly => one.is_exactly(other),
                _ => one.is_like(other),
            })
        };
        let look = |kind: Option<Kind>| match kind {
            None => Look::Nothing,
            Some(Kind::Dir) => Look::Dir,
            Some(_) => Look::Leaf,
        };
        // What cannot be read was not removed by anybody.
        let old_look = look(old_entry.map(|entry| entry.kind).filter(|_| !is_lost));
        let current_look = look(found.as_ref().map(|found| found.node.kind));
        let new_look = look(new.as_ref().map(|(_, inode)| inode.kind));
        let verdict = decide(old_look, current_look, new_look, &mut equal);
        let keeps_attributes = equal(Pair::CurrentAndOld);
        let new_index = new.as_ref().map(|(index, _)| *index);
        match (verdict, found) {
            (Verdict::Removed, _) => {
                self.report.removed_local.push(shown(&self.path));
                Ok(())
            }
            (Verdict::New, _) => self.take_new(name, new),
            (Verdict::Same, Some(found)) if found.node.is_special() => self.take_new(name, new),
            (Verdict::Same | Verdict::Current | Verdict::CurrentOverNew, Some(found)) => {
                if verdict != Verdict::Same && !is_whole && !found.node.is_special() {
                    self.tell_kept(&found.node, verdict == Verdict::CurrentOverNew);
                }
                if found.node.kind == Kind::Dir {
                    self.push(name, Inside { current: Some(found), ..Inside::default() })
                } else if self.put_current(name, &found)? {
                    Ok(())
                } else {
                    self.take_new(name, new)
                }
            }
            (Verdict::Both, current) => {
                self.push(name, Inside { current, new: new_index, has_old, ..Inside::default() })
            }
            (Verdict::Remnants, current) => {
                let is_optional = keeps_attributes;
                self.push(name, Inside { current, has_old, is_optional, ..Inside::default() })
            }
            (Verdict::Aside, Some(found)) => self.put_aside(name, found, new, has_old),
            (_, _) => Ok(()),
        }
    }

    /// Puts what the image has, and what the user has beside it.
    fn put_aside(
        &mut self,
        name: &[u8],
        found: Found,
        new: Option<(InodeIndex, Inode)>,
        has_old: bool,
    ) -> Result<()> {
        let Some(frame) = self.stack.last_mut() else { return Ok(()) };
        let aside = free_name(name, &frame.taken);
        frame.taken.insert(aside.clone());
        let path_aside = [self.path.strip_suffix(name).unwrap_or_default(), &aside].concat();
        let is_directory = found.node.kind == Kind::Dir;
        let conflict = Conflict {
            path: shown(&self.path),
            why: if is_directory {
                "a directory with changes, where the image now has none"
            } else {
                "no directory, where the image now has one"
            },
            saved_as: shown(&path_aside),
        };
        if is_directory {
            self.take_new(name, new)?;
            let (conflict, current) = (Some(conflict), Some(found));
            let inside = Inside { current, has_old, is_optional: true, conflict, new: None };
            return self.push(&aside, inside);
        }
        if self.put_current(&aside, &found)? {
            self.report.conflicts.push(conflict);
        }
        self.take_new(name, new)
    }

    /// Puts what the image has, with everything below it.
    fn take_new(&mut self, name: &[u8], new: Option<(InodeIndex, Inode)>) -> Result<()> {
        let Some((index, inode)) = new else { return Ok(()) };
        if inode.kind == Kind::Dir {
            return self.push(name, Inside { new: Some(index), ..Inside::default() });
        }
        let node = Node::in_image(self.new, index, &inode)?;
        match self.out.put_from_image(name, self.new, index, &node) {
            Ok(()) => self.use_frame(),
            Err(Trouble::From(err)) if self.damage == Damage::Suffered => self.lose(&err),
            Err(trouble) => return Err(trouble.into_error()),
        }
        Ok(())
    }

    /// Puts what there is, which is no directory. Tells whether it could be read, and is worth it.
    fn put_current(&mut self, name: &[u8], found: &Found) -> Result<bool> {
        if found.node.is_special() {
            let why = "a device, pipe or socket".to_owned();
            self.report.skipped.push(Left { path: shown(&self.path), why });
            return Ok(false);
        }
        match self.out.put_from_disk(name, found) {
            Ok(()) => {
                self.use_frame();
                Ok(true)
            }
            Err(Trouble::From(err)) => {
                self.lose(&err);
                Ok(false)
            }
            Err(Trouble::To(err)) => Err(err),
        }
    }

    fn use_frame(&mut self) {
        if let Some(frame) = self.stack.last_mut() {
            frame.was_used = true;
        }
    }

    /// Makes a directory and goes into it, and into the current one.
    fn push(&mut self, name: &[u8], inside: Inside) -> Result<()> {
        let mut taken = BTreeSet::new();
        let mut current = inside.current;
        if let Some(found) = &current {
            match disk::names(&found.fd) {
                Ok(names) => taken.extend(names),
                Err(errno) => {
                    let err = Error::io("cannot list it", errno.into());
                    if self.stack.is_empty() {
                        // It may be possible at the next boot; what is made without it would stay.
                        return Err(err);
                    }
                    self.lose(&err);
                    current = None;
                }
            }
        }
        if let Some(index) = inside.new {
            for entry in self.new.directory(index)?.iter_from(0) {
                taken.insert(entry?.name);
            }
        }
        let is_top = self.stack.is_empty();
        if current.is_none() && inside.new.is_none() && !is_top {
            return Ok(());
        }
        if is_top {
            taken.remove(STAMP);
        } else {
            self.out.enter(name)?;
        }
        let has_old = inside.has_old && current.is_some();
        let node = self.directory(current.as_ref(), inside.new, has_old)?;
        let has_current = current.is_some();
        match (current, &mut self.current) {
            (Some(found), Some(trail)) => trail.enter(found.fd)?,
            (Some(found), none) => *none = Some(Trail::new(found.fd)),
            (None, _) => {}
        }
        self.stack.push(Frame {
            names: taken.iter().rev().cloned().collect(),
            taken,
            has_current,
            new: inside.new,
            has_old,
            is_optional: inside.is_optional,
            was_used: false,
            conflict: inside.conflict,
            node,
            path_len: self.path.len(),
        });
        Ok(())
    }

    /// Whose mode, owner and attributes a directory gets: the rule for files, without their content.
    fn directory(
        &mut self,
        current: Option<&Found>,
        new: Option<InodeIndex>,
        has_old: bool,
    ) -> Result<Node> {
        let new = match new {
            Some(index) => Some(Node::in_image(self.new, index, &self.new.inode(index)?)?),
            None => None,
        };
        let (found, new) = match (current, new) {
            (Some(found), Some(new)) => (found, new),
            (Some(found), None) => return Ok(found.node.clone()),
            (None, new) => return Ok(new.unwrap_or_else(Node::plain_directory)),
        };
        let old_entry = self.old.filter(|_| has_old).and_then(|old| old.get(&self.path));
        let old_entry = old_entry.filter(|entry| entry.kind == Kind::Dir);
        let new_entry = self.new_record.get(&self.path);
        let entry = Entry::on_disk(found, &[])?;
        let mut equal = |pair| {
            let (one, other) = match pair {
                Pair::CurrentAndOld => (Some(&entry), old_entry),
                Pair::CurrentAndNew => (Some(&entry), new_entry),
                Pair::NewAndOld | Pair::NewAndOldExactly => (new_entry, old_entry),
            };
            one.zip(other).is_some_and(|(one, other)| match pair {
                Pair::NewAndOldExactly => one.is_exactly(other),
                _ => one.is_like(other),
            })
        };
        let old_look = if old_entry.is_some() { Look::Leaf } else { Look::Nothing };
        let verdict = decide(old_look, Look::Leaf, Look::Leaf, &mut equal);
        if matches!(verdict, Verdict::Current | Verdict::CurrentOverNew) {
            self.tell_kept(&found.node, verdict == Verdict::CurrentOverNew);
        }
        Ok(if verdict == Verdict::New { new } else { found.node.clone() })
    }

    /// Leaves a directory in which everything is done.
    fn close(&mut self, frame: Frame) -> Result<()> {
        let Some(outer) = self.stack.last_mut() else { return self.out.finish(&frame.node) };
        if let Some(current) = self.current.as_mut().filter(|_| frame.has_current) {
            current.leave()?;
        }
        if frame.is_optional && !frame.was_used {
            return self.out.leave_none();
        }
        outer.was_used = true;
        self.report.conflicts.extend(frame.conflict);
        self.out.leave(&frame.node)
    }

    fn tell_kept(&mut self, node: &Node, is_over_new: bool) {
        let mut path = shown(&self.path);
        if node.kind == Kind::Dir {
            path.push('/');
        }
        if is_over_new {
            self.report.both_changed.push(path.clone());
        }
        self.report.kept_local.push(path);
    }

    /// Tells that what the user has at this path cannot be read.
    fn lose(&mut self, err: &Error) {
        self.report.lost.push(Left { path: shown(&self.path), why: err.to_string() });
    }
}

/// A name for what has to make place, that nothing has yet.
fn free_name(name: &[u8], taken: &BTreeSet<Vec<u8>>) -> Vec<u8> {
    let mut nth = 1_u64;
    loop {
        let mut suffix = ASIDE.to_vec();
        if nth > 1 {
            suffix.extend_from_slice(format!(".{nth}").as_bytes());
        }
        let mut free = name.to_vec();
        free.truncate(NAME_MAX.saturating_sub(suffix.len()));
        free.extend_from_slice(&suffix);
        if !taken.contains(&free) {
            return free;
        }
        nth = nth.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_place_gets_a_name_of_its_own() {
        let taken = [b"a.ashlar-old".to_vec(), b"a.ashlar-old.2".to_vec()].into();
        assert_eq!(free_name(b"a", &taken), b"a.ashlar-old.3");
        assert_eq!(free_name(b"b", &taken), b"b.ashlar-old");
        let long = free_name(&[b'x'; 255], &taken);
        assert_eq!(long.len(), 255);
        assert!(long.ends_with(b"x.ashlar-old"));
    }
}
