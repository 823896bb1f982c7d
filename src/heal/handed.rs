//! How does the next server look for other copies, when this one is gone? With the same descriptors, for it may find nothing by
//! a path.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Ladder;
use super::corruption::{LastResort, OnCorruption, WayOut};
use super::reread::Reread;
use super::siblings::{Place, Rules, Siblings, What};
use crate::image::uncached::Uncached;
use crate::image::{self, Method};

/// What is handed from one server to the next, but for the descriptors.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Plan {
    /// What is done about bytes that are not what was sealed.
    pub on_corruption: OnCorruption,
    /// An image on a server, which is asked last.
    pub url: Option<String>,
    siblings: Option<Rules>,
    prepare_after: Option<Duration>,
    /// What each of the descriptors is.
    kinds: Vec<Kind>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
enum Kind {
    /// The image, past the page cache.
    Direct,
    /// A directory of other images.
    Directory(What),
    /// The kernel's log.
    Kmsg,
    /// Where a panic or a restart is asked for.
    Sysrq,
}

/// All that is handed on.
#[derive(Debug, Default)]
pub struct Handed {
    /// What is done with which of them.
    pub plan: Plan,
    /// The descriptors.
    pub descriptors: Vec<OwnedFd>,
}

impl Handed {
    /// What a server has that heals with this ladder.
    pub fn of(
        on_corruption: OnCorruption,
        ladder: &Ladder,
        last_resort: Option<&LastResort>,
        url: Option<String>,
    ) -> io::Result<Self> {
        let mut plan = Plan { on_corruption, url, ..Plan::default() };
        let mut descriptors = Vec::new();
        let mut add = |kind, descriptor: BorrowedFd<'_>| -> io::Result<()> {
            plan.kinds.push(kind);
            descriptors.push(descriptor.try_clone_to_owned()?);
            Ok(())
        };
        if let Some(direct) = ladder.reread.as_ref().and_then(|reread| reread.0.direct()) {
            add(Kind::Direct, direct.as_fd())?;
        }
        for place in ladder.siblings.iter().flat_map(|siblings| &siblings.places) {
            add(Kind::Directory(place.what.clone()), place.directory.as_fd())?;
        }
        if let Some(way_out) = last_resort.and_then(LastResort::way_out) {
            for (kind, file) in [(Kind::Kmsg, &way_out.kmsg), (Kind::Sysrq, &way_out.sysrq)] {
                if let Some(file) = file {
                    add(kind, file.as_fd())?;
                }
            }
        }
        plan.siblings = ladder.siblings.as_ref().map(|siblings| siblings.rules);
        plan.prepare_after = ladder.prepare_after.map(|(delay, _)| delay);
        Ok(Handed { plan, descriptors })
    }

    /// The same in the next server, with the image that it was handed. What is missing is done without.
    pub fn take_up(self, image: &File) -> (Ladder, Option<LastResort>) {
        let Handed { plan, descriptors } = self;
        let (mut direct, mut kmsg, mut sysrq) = (None, None, None);
        let mut places = Vec::new();
        for (kind, descriptor) in plan.kinds.into_iter().zip(descriptors) {
            match kind {
                Kind::Direct => direct = Some(File::from(descriptor)),
                Kind::Directory(what) => places.push(Place { directory: descriptor, what }),
                Kind::Kmsg => kmsg = Some(File::from(descriptor)),
                Kind::Sysrq => sysrq = Some(File::from(descriptor)),
            }
        }
        let how = plan.on_corruption;
        let way_out = || LastResort::ending(how, WayOut::new(kmsg, sysrq));
        let last_resort = how.ends_machine().then(way_out);
        if !how.heals() {
            return (Ladder::default(), last_resort);
        }
        let file = image.try_clone().ok();
        let reread = file.map(|file| Reread(Uncached::from_files(file, direct)));
        let siblings = plan.siblings.map(|rules| Siblings::in_places(places, rules));
        let source = image.try_clone().and_then(|image| image::from_file(image, Method::Pread));
        // Its threads have had nothing from their start that they could give up.
        let nothing: fn() = || {};
        let prepare_after = plan.prepare_after.map(|delay| (delay, nothing));
        let parity = super::parity(source);
        (Ladder { reread, siblings, prepare_after, parity, distant: None }, last_resort)
    }
}
