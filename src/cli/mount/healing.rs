//! Who is asked for what the image does not have any more, and what if nobody has it?

use std::path::Path;

use super::options::MountOptions;
use crate::cli::{Failure, elsewhere};
use crate::heal::Ladder;
use crate::heal::corruption::{LastResort, OnCorruption, last_resort};
use crate::heal::handed::Handed;

/// Whether the options go together, and we may do what they say.
pub(super) fn check(options: &MountOptions) -> Result<(), Failure> {
    let how = options.on_corruption;
    if how.ends_machine() && !rustix::process::geteuid().is_root() {
        let what = format!("on_corruption={how} ends the whole machine: only root may say so");
        return Err(Failure::new(what).hint(
            "mount as root; or say on_corruption=eio or heal, and whoever asks gets an error",
        ));
    }
    let is_healing = !options.heal_from.is_empty() || options.heal_url.is_some();
    if how == OnCorruption::Eio && is_healing {
        return Err(Failure::new(
            "on_corruption=eio looks for no other copy, heal_from and heal_url say where",
        )
        .hint("leave one of the two out"));
    }
    Ok(())
}

/// Who is asked, in their order. From now on nothing of it is found by a path but a server.
pub(super) fn ladder(image: &Path, options: &MountOptions) -> Result<Ladder, Failure> {
    let mut ladder = Ladder::as_wanted(options.on_corruption, image);
    for path in &options.heal_from {
        let wrap = |err| {
            Failure::new(format!("mount option `heal_from={}`: {err}", path.display()))
                .hint("name an image, or a directory of images")
        };
        ladder.add(image, path).map_err(wrap)?;
    }
    if let Some(url) = &options.heal_url {
        ladder.distant = Some(elsewhere::distant(url)?);
    }
    Ok(ladder)
}

/// What the next server needs to heal as this one does.
pub(super) fn handed(
    options: &MountOptions,
    ladder: &Ladder,
    last_resort: Option<&LastResort>,
) -> Result<Handed, Failure> {
    let url = options.heal_url.clone();
    Handed::of(options.on_corruption, ladder, last_resort, url)
        .map_err(|err| Failure::new(format!("cannot keep what is needed to heal: {err}")))
}

/// What is done about bytes that nobody has, besides an error.
pub(super) fn despair(options: &MountOptions) -> Result<Option<LastResort>, Failure> {
    let how = options.on_corruption;
    last_resort(how).map_err(|err| {
        Failure::new(format!("on_corruption={how} cannot be had here: {err}"))
            .hint("the kernel needs CONFIG_MAGIC_SYSRQ for that; on_corruption=heal does without")
    })
}
