//! What does the boot record ask for? The image on trial, as long as it may be tried, and otherwise the default (UPDATE.md,
//! "Boot records"). Each try is on the disk before anything of the image is used: a machine that hangs has counted it.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::cmdline::{self, BootArgs, Wanted};
use super::data::{self, Data};
use crate::format::digest::Digest;
use crate::update::book::Book;
use crate::update::place;
use crate::update::state::{Attempt, State, Why};

/// Why an image is booted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// The kernel command line names it.
    CommandLine,
    /// It is on trial.
    Trial,
    /// It is the default.
    Default,
    /// Others failed.
    Fallback,
    /// No record says anything.
    #[default]
    NoRecord,
}

/// Why it was this image, for the report.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Slot {
    /// Why.
    #[serde(rename = "slot")]
    pub reason: Reason,
    /// How often it may be booted after this time, of an image on trial.
    pub tries_left: Option<u8>,
    /// The image that was given up by this boot, because it was booted in vain as often as it might be.
    pub given_up: Option<String>,
}

/// What the record says of this boot.
#[derive(Debug, Default)]
pub struct Slots {
    book: Option<Book>,
    /// As it is on the disk, or should be.
    state: State,
    is_command_line: bool,
    trial: Option<Digest>,
    given_up: Option<Digest>,
    order: Vec<Digest>,
}

impl Slots {
    /// Reads the record and counts this boot, unless the kernel command line says which image is meant.
    pub fn begin(data: &Data, args: &BootArgs) -> Slots {
        let is_command_line = args.wanted != Wanted::Any;
        let mut slots = Slots { is_command_line, ..Slots::default() };
        let mut book = Book::read(&data.path);
        if book.is_lost() {
            tracing::error!(
                "both boot records are damaged: the image whose /etc was used last is booted, or the newest"
            );
            slots.order = place::etc_last(&data.path).into_iter().collect();
            return slots;
        }
        if !book.is_known() {
            return slots;
        }
        if book.is_damaged() {
            tracing::warn!("one of two boot records is damaged, the other one counts");
        }
        slots.state = book.state().clone();
        // Who names an image, or asks for another slot, does not try anything.
        let attempt = if args.slot == cmdline::Slot::Current && !is_command_line {
            slots.state.begin_boot()
        } else {
            Attempt::Default
        };
        match attempt {
            Attempt::Default => {}
            Attempt::GivenUp(image) => {
                tracing::error!(
                    "image {image} was booted as often as it might be, and never blessed: it is given up"
                );
                slots.given_up = Some(image);
                // If that cannot be written, the next boot gives it up again.
                write_or_warn(&mut book, &slots.state, data);
            }
            Attempt::Trial(trial) => {
                if write_or_warn(&mut book, &slots.state, data) {
                    slots.trial = Some(trial.image);
                    let nth = trial.tries_done;
                    tracing::info!(
                        "image {} is on trial, for the {nth}. time; {} are left",
                        trial.image,
                        trial.tries_left
                    );
                } else {
                    tracing::error!(
                        "this cannot be counted, so image {} is not tried",
                        trial.image
                    );
                    slots.state = book.state().clone();
                }
            }
        }
        // Where another slot is asked for, the first of these is the one that is not.
        slots.order = match args.slot {
            cmdline::Slot::Previous if !is_command_line => slots.state.order(),
            _ => slots.state.order_from(slots.trial),
        };
        slots.book = Some(book);
        slots
    }

    /// Puts the paths of images in the order in which they are tried. What was given up, or is on trial
    /// and not tried now, comes last: even that is better than none.
    pub(super) fn sort(&self, all: Vec<PathBuf>) -> Vec<PathBuf> {
        let mut left: Vec<_> = all.into_iter().map(|path| (digest_of(&path), path)).collect();
        let (mut sorted, mut copies) = (Vec::new(), Vec::new());
        for image in &self.order {
            let (mut these, others): (Vec<_>, _) =
                left.into_iter().partition(|(digest, _)| *digest == Some(*image));
            left = others;
            these.sort_by_key(|(_, path)| !is_named(path, *image));
            let mut these = these.into_iter().map(|(_, path)| path);
            let first = these.next();
            if first.is_none() {
                tracing::error!("image {image} of the boot record is not there");
            }
            sorted.extend(first);
            copies.extend(these);
        }
        // Nor is anything tried that is not counted.
        let on_trial = self.state.trial.map(|trial| trial.image);
        let bad: Vec<Digest> = self.state.bad.iter().map(|bad| bad.image).chain(on_trial).collect();
        let (last, others): (Vec<_>, Vec<_>) = left
            .into_iter()
            .partition(|(digest, _)| digest.is_some_and(|digest| bad.contains(&digest)));
        let rest = others.into_iter().chain(last).map(|(_, path)| path);
        sorted.into_iter().chain(copies).chain(rest).collect()
    }

    /// An image could not be booted. If it is the one on trial, it is given up.
    pub(super) fn refuse(&mut self, path: &Path, data: &Data) {
        let (Some(trial), Some(book)) = (self.trial, &mut self.book) else { return };
        if digest_of(path) == Some(trial) && self.state.refuse(trial, Why::Refused) {
            self.trial = None;
            write_or_warn(book, &self.state, data);
        }
    }

    /// Why an image was booted; `is_first` when none failed before it.
    pub(super) fn slot_of(&self, root_digest: &str, is_first: bool) -> Slot {
        let is = |image: Option<Digest>| image.is_some_and(|it| it.to_string() == root_digest);
        let reason = if self.is_command_line && is_first {
            Reason::CommandLine
        } else if is(self.trial) {
            Reason::Trial
        } else if is(self.state.default) && !self.is_command_line {
            Reason::Default
        } else if self.book.is_some() || !is_first {
            Reason::Fallback
        } else {
            Reason::NoRecord
        };
        let tries_left = self.state.trial.map(|trial| trial.tries_left);
        Slot {
            reason,
            tries_left: tries_left.filter(|_| reason == Reason::Trial),
            given_up: self.given_up.map(|image| image.to_string()),
        }
    }
}

/// Writes the record; the data partition is made writable for it, and then as it was. Says whether it is on the disk.
fn write_or_warn(book: &mut Book, state: &State, data: &Data) -> bool {
    let was_read_only = data::is_read_only(&data.path);
    let written = (|| -> Result<(), super::Failed> {
        if was_read_only {
            data.make_writable()?;
        }
        Ok(book.write(state)?)
    })();
    if was_read_only
        && !data::is_read_only(&data.path)
        && let Err(failed) = data.make_read_only()
    {
        tracing::warn!("{failed}");
    }
    written.inspect_err(|failed| tracing::error!("{failed}")).is_ok()
}

/// Which image a file is: by its superblock, or by its name where that is damaged and the backup may serve.
fn digest_of(path: &Path) -> Option<Digest> {
    let by_name = || path.file_stem()?.to_str()?.parse().ok();
    place::look(path).map(|image| image.root_digest).or_else(by_name)
}

fn is_named(path: &Path, image: Digest) -> bool {
    path.file_stem().is_some_and(|stem| stem == image.to_string().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::update::state::{Bad, Trial};

    /// Images whose superblocks are damaged: their names tell which they are.
    fn path(image: u8) -> PathBuf {
        PathBuf::from(format!("images/{}.img", Digest([image; 32])))
    }

    #[test]
    fn the_record_comes_first_and_what_was_given_up_last() {
        let digest = |image| Digest([image; 32]);
        let mut slots = Slots::default();
        let all: Vec<PathBuf> = (1..=5).rev().map(path).collect();
        assert_eq!(slots.sort(all.clone()), all, "without a record nothing changes");
        slots.state.bad.push(Bad { image: digest(5), why: Why::Marked });
        slots.state.trial = Some(Trial { image: digest(4), tries_left: 2, tries_done: 1 });
        slots.order = vec![digest(9), digest(2), digest(1)];
        let expected = [2, 1, 3, 5, 4].map(path);
        assert_eq!(slots.sort(all.clone()), expected, "a trial that is not counted is not tried");
        slots.trial = Some(digest(4));
        slots.order.insert(0, digest(4));
        assert_eq!(slots.sort(all), [4, 2, 1, 3, 5].map(path));
    }
}
