//! How does the next server look for other copies, when this one is gone? With the same descriptors, for it may find nothing by
//! a path.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
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
    rereads: bool,
    has_direct: bool,
    siblings: Option<(Vec<What>, Rules)>,
    has_kmsg: bool,
    has_sysrq: bool,
    prepare_after: Option<Duration>,
}

/// All that is handed on.
#[derive(Debug, Default)]
pub struct Handed {
    /// What is done with which of them.
    pub plan: Plan,
    /// The descriptors, in the order in which the plan counts them.
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
        let direct = ladder.reread.as_ref().and_then(|reread| reread.0.direct());
        let places = ladder.siblings.as_ref().map(|siblings| siblings.places.as_slice());
        let way_out = last_resort.and_then(LastResort::way_out);
        let kmsg = way_out.and_then(|way_out| way_out.kmsg.as_ref());
        let sysrq = way_out.and_then(|way_out| way_out.sysrq.as_ref());
        let whats = |siblings: &Siblings| {
            siblings.places.iter().map(|place| place.what.clone()).collect::<Vec<_>>()
        };
        let plan = Plan {
            on_corruption,
            url,
            rereads: ladder.reread.is_some(),
            has_direct: direct.is_some(),
            siblings: ladder.siblings.as_ref().map(|siblings| (whats(siblings), siblings.rules)),
            has_kmsg: kmsg.is_some(),
            has_sysrq: sysrq.is_some(),
            prepare_after: ladder.prepare_after,
        };
        let copy = |file: &File| file.try_clone().map(OwnedFd::from);
        let directories = places.unwrap_or_default().iter();
        let descriptors = direct
            .into_iter()
            .map(copy)
            .chain(directories.map(|place| place.directory.try_clone()))
            .chain([kmsg, sysrq].into_iter().flatten().map(copy))
            .collect::<io::Result<Vec<OwnedFd>>>()?;
        Ok(Handed { plan, descriptors })
    }

    /// The same in the next server, with the image that it was handed. What is missing is done without.
    pub fn take_up(self, image: &File) -> (Ladder, Option<LastResort>) {
        let Handed { plan, descriptors } = self;
        let mut descriptors = descriptors.into_iter();
        let mut next = |is_there: bool| is_there.then(|| descriptors.next()).flatten();
        let direct = next(plan.has_direct).map(File::from);
        let file = image.try_clone().ok().filter(|_| plan.rereads);
        let reread = file.map(|file| Reread(Uncached::from_files(file, direct)));
        let siblings = plan.siblings.map(|(whats, rules)| {
            let place = |what| next(true).map(|directory| Place { directory, what });
            Siblings::in_places(whats.into_iter().filter_map(place).collect(), rules)
        });
        let (kmsg, sysrq) =
            (next(plan.has_kmsg).map(File::from), next(plan.has_sysrq).map(File::from));
        let how = plan.on_corruption;
        let last_resort =
            how.ends_machine().then(|| LastResort::ending(how, WayOut::new(kmsg, sysrq)));
        if !how.heals() {
            return (Ladder::default(), last_resort);
        }
        let source = image.try_clone().and_then(|image| image::from_file(image, Method::Pread));
        let parity = super::parity(source);
        let prepare_after = plan.prepare_after;
        (Ladder { reread, siblings, prepare_after, parity, distant: None }, last_resort)
    }
}
