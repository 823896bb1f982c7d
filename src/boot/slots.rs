//! What does the boot record ask for? The image on trial, as long as it may be tried, and otherwise the default (UPDATE.md,
//! "Boot records"). Each try is on the disk before anything of the image is used: a machine that hangs has counted it.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::cmdline::{self, BootArgs, Wanted};
use super::data::{self, Data};
use crate::format::digest::Digest;
use crate::update::book::Book;
use crate::update::place::Place;
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
    place: Option<Place>,
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
        let mut slots = Slots { place: Place::new(&data.path).ok(), ..Slots::default() };
        slots.is_command_line = args.wanted != Wanted::Any;
        let mut book = Book::read(&data.path);
        if book.is_lost() {
            tracing::error!(
                "both boot records are damaged: the image whose /etc was used last is booted, or the newest"
            );
            slots.order = etc_last(&data.path).into_iter().collect();
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
        let attempt = if args.slot == cmdline::Slot::Current && !slots.is_command_line {
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
            cmdline::Slot::Previous if !slots.is_command_line => slots.state.order(),
            _ => slots.state.order_from(slots.trial),
        };
        slots.book = Some(book);
        slots
    }

    /// Puts the paths of images in the order in which they are tried. What was given up, or is on trial
    /// and not tried now, comes last: even that is better than none.
    pub(super) fn sort(&self, all: Vec<PathBuf>) -> Vec<PathBuf> {
        let Some(place) = &self.place else { return all };
        let mut sorted: Vec<PathBuf> = Vec::new();
        for image in &self.order {
            match place.find(*image) {
                Some(path) if !sorted.contains(&path) => sorted.push(path),
                Some(_) => {}
                None => tracing::error!("image {image} of the boot record is not there"),
            }
        }
        // Nor is anything tried that is not counted.
        let on_trial = self.state.trial.map(|trial| trial.image);
        let bad = self.state.bad.iter().map(|bad| bad.image).chain(on_trial);
        let bad: Vec<PathBuf> = bad.filter_map(|image| place.find(image)).collect();
        let (last, others): (Vec<_>, Vec<_>) = all
            .into_iter()
            .filter(|path| !sorted.contains(path))
            .partition(|path| bad.contains(path));
        sorted.extend(others);
        sorted.extend(last);
        sorted
    }

    /// An image could not be booted. If it is the one on trial, it is given up.
    pub(super) fn refuse(&mut self, path: &Path, data: &Data) {
        let (Some(trial), Some(place), Some(book)) = (self.trial, &self.place, &mut self.book)
        else {
            return;
        };
        if place.find(trial).as_deref() == Some(path) && self.state.refuse(trial, Why::Refused) {
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

/// The image whose `/etc` was used last: it has run here.
fn etc_last(data: &Path) -> Option<Digest> {
    data::read_text(&data.join("state/etc.last")).ok()?.trim().parse().ok()
}
