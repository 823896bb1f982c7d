//! Which image is next? What a machine remembers of its images, and what each event makes of it: no file, no clock.
//!
//! ```text
//! install -> trial -> (boots, each counted) -> bless -> default, last good
//!            trial -> (no tries left, refused, marked bad) -> bad; the default stays
//! ```

use std::fmt;

use crate::format::digest::Digest;

/// Most images that are remembered as bad; of more, the oldest is forgotten.
pub const BAD_MAX: usize = 6;
/// How often an image is tried until somebody blesses it, where nobody says otherwise (systemd's `tries`, RAUC's `boot-attempts`).
pub const TRIES: u8 = 3;

/// What a machine remembers. The default value is that of a machine which was never updated.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct State {
    /// What is booted when nothing is on trial.
    pub default: Option<Digest>,
    /// What was the default before: a rollback goes there.
    pub previous: Option<Digest>,
    /// What was blessed last.
    pub last_good: Option<Digest>,
    /// What is tried until it is blessed or given up.
    pub trial: Option<Trial>,
    /// What was given up, the last one first.
    pub bad: Vec<Bad>,
    /// No image that says it is older than this is installed: the version of the newest one that was blessed.
    pub version_floor: u64,
}

/// An image on trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trial {
    /// Which.
    pub image: Digest,
    /// How often it may still be booted.
    pub tries_left: u8,
    /// How often it was booted.
    pub tries_done: u8,
}

/// An image that was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bad {
    /// Which.
    pub image: Digest,
    /// Why.
    pub why: Why,
}

/// Why an image was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// It was booted as often as it might be, and nobody blessed it.
    Tries,
    /// It could not be booted: damaged, not authentic, or without what a root needs.
    Refused,
    /// Somebody said so.
    Marked,
    /// A scrub found damage.
    Damaged,
}

impl Why {
    /// All of them.
    pub const ALL: [Why; 4] = [Why::Tries, Why::Refused, Why::Marked, Why::Damaged];

    /// Its number in a record.
    pub fn number(self) -> u8 {
        match self {
            Why::Tries => 1,
            Why::Refused => 2,
            Why::Marked => 3,
            Why::Damaged => 4,
        }
    }

    /// One word, for programs.
    pub fn word(self) -> &'static str {
        match self {
            Why::Tries => "tries",
            Why::Refused => "refused",
            Why::Marked => "marked",
            Why::Damaged => "damaged",
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Why::Tries => "it was booted as often as it might be, and never blessed",
            Why::Refused => "it could not be booted",
            Why::Marked => "it was marked bad",
            Why::Damaged => "it is damaged",
        })
    }
}

/// Why an event is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotPossible {
    /// There is no other image to go to.
    NoOther,
    /// The image is bad.
    IsBad(Why),
    /// The image is neither booted by default nor on trial.
    NotInUse,
}

impl fmt::Display for NotPossible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotPossible::NoOther => f.write_str("there is no other image to go back to"),
            NotPossible::IsBad(why) => write!(f, "the image was given up: {why}"),
            NotPossible::NotInUse => f.write_str("the image is neither the default nor on trial"),
        }
    }
}

impl std::error::Error for NotPossible {}

/// What a boot begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt {
    /// The image on trial is booted; this was counted.
    Trial(Trial),
    /// No tries are left: the image was given up, and the default is booted.
    GivenUp(Digest),
    /// Nothing is on trial.
    Default,
}

impl State {
    /// An image was put in its place: it is tried from the next boot on. What runs now becomes the default if nothing is yet.
    /// An image that is on trial already has no more tries than it had: a timer that installs it again and again must not keep
    /// a machine in a circle.
    pub fn install(&mut self, image: Digest, booted: Option<Digest>, tries: u8) {
        if self.trial.is_some_and(|trial| trial.image == image) {
            return;
        }
        if self.default.is_none() {
            self.default = booted.filter(|booted| *booted != image);
        }
        self.bad.retain(|bad| bad.image != image);
        // What is the default anyhow has nothing to prove.
        self.trial = (self.default != Some(image)).then_some(Trial {
            image,
            tries_left: tries,
            tries_done: 0,
        });
    }

    /// A boot begins.
    pub fn begin_boot(&mut self) -> Attempt {
        match &mut self.trial {
            None => Attempt::Default,
            Some(trial) => {
                if let Some(left) = trial.tries_left.checked_sub(1) {
                    trial.tries_left = left;
                    trial.tries_done = trial.tries_done.saturating_add(1);
                    Attempt::Trial(*trial)
                } else {
                    let image = trial.image;
                    self.give_up(image, Why::Tries);
                    Attempt::GivenUp(image)
                }
            }
        }
    }

    /// An image cannot be booted, or must not be. Of images that were blessed this says nothing: a disk may recover, and they
    /// are tried again at the next boot. Returns whether anything changed.
    pub fn refuse(&mut self, image: Digest, why: Why) -> bool {
        let is_trial = self.trial.is_some_and(|trial| trial.image == image);
        if is_trial {
            self.give_up(image, why);
        }
        is_trial
    }

    /// The image that runs is found healthy: it becomes the default. Returns whether anything changed.
    pub fn bless(&mut self, booted: Digest, version: u64) -> Result<bool, NotPossible> {
        let before = self.clone();
        if let Some(bad) = self.bad.iter().find(|bad| bad.image == booted) {
            return Err(NotPossible::IsBad(bad.why));
        }
        let is_trial = self.trial.is_some_and(|trial| trial.image == booted);
        if self.default.is_none() || is_trial {
            self.make_default(booted);
        } else if self.default != Some(booted) {
            // What runs is what the machine fell back to: healthy, and still not what should run.
            return Ok(false);
        }
        if is_trial {
            self.trial = None;
        }
        self.last_good = Some(booted);
        self.version_floor = self.version_floor.max(version);
        Ok(*self != before)
    }

    /// Goes back to the image that was the default before, or to `to`; an image on trial is given up by that, if it was
    /// booted, and forgotten if it was not. Returns where it goes.
    pub fn roll_back(&mut self, to: Option<Digest>) -> Result<Digest, NotPossible> {
        let target = match (to, self.trial) {
            (Some(to), _) => to,
            (None, Some(trial)) => {
                let others = [self.default, self.last_good, self.previous];
                let other = others.into_iter().flatten().find(|other| *other != trial.image);
                other.ok_or(NotPossible::NoOther)?
            }
            (None, None) => {
                let others = [self.previous, self.last_good];
                let other = others.into_iter().flatten().find(|other| Some(*other) != self.default);
                other.ok_or(NotPossible::NoOther)?
            }
        };
        if let Some(trial) = self.trial.take()
            && trial.tries_done > 0
            && trial.image != target
        {
            self.give_up(trial.image, Why::Marked);
        }
        self.bad.retain(|bad| bad.image != target);
        self.make_default(target);
        self.last_good = Some(target);
        Ok(target)
    }

    /// An image is not to be booted any more. Returns what is booted instead.
    pub fn mark_bad(&mut self, image: Digest, why: Why) -> Result<Option<Digest>, NotPossible> {
        if self.trial.is_some_and(|trial| trial.image == image) {
            self.give_up(image, why);
            return Ok(self.default);
        }
        if self.default != Some(image) {
            return Err(NotPossible::NotInUse);
        }
        let others = [self.previous, self.last_good];
        let is_bad = |image: &Digest| self.bad.iter().any(|bad| bad.image == *image);
        let other = others.into_iter().flatten().find(|other| *other != image && !is_bad(other));
        let other = other.ok_or(NotPossible::NoOther)?;
        self.give_up(image, why);
        self.trial = self.trial.filter(|trial| trial.image != other);
        self.default = Some(other);
        self.last_good = Some(other);
        self.previous = None;
        Ok(Some(other))
    }

    /// Images in the order in which they are booted, as long as nothing fails.
    pub fn order(&self) -> Vec<Digest> {
        let trial = self.trial.filter(|trial| trial.tries_left > 0).map(|trial| trial.image);
        self.order_from(trial)
    }

    /// The same, when `first` is what this boot tries.
    pub fn order_from(&self, first: Option<Digest>) -> Vec<Digest> {
        let mut order: Vec<Digest> = Vec::new();
        for image in [first, self.default, self.last_good, self.previous].into_iter().flatten() {
            if !order.contains(&image) {
                order.push(image);
            }
        }
        order
    }

    /// Images that must stay on the disk.
    pub fn kept(&self) -> Vec<Digest> {
        self.order_from(self.trial.map(|trial| trial.image))
    }

    fn make_default(&mut self, image: Digest) {
        if self.default != Some(image) {
            self.previous = self.default.or(self.previous).filter(|previous| *previous != image);
            self.default = Some(image);
        }
    }

    fn give_up(&mut self, image: Digest, why: Why) {
        if self.trial.is_some_and(|trial| trial.image == image) {
            self.trial = None;
        }
        for place in [&mut self.previous, &mut self.last_good] {
            if *place == Some(image) {
                *place = None;
            }
        }
        self.bad.retain(|bad| bad.image != image);
        self.bad.insert(0, Bad { image, why });
        self.bad.truncate(BAD_MAX);
    }
}

#[cfg(test)]
mod tests;
