//! Where else is a true copy? Once more on the disk, in another image on this machine, in the image's own parity, on a server.
//!
//! Each of these is a [`Healer`]: it offers bytes, and `store` judges them.

pub mod corruption;
pub mod distant;
pub mod handed;
pub mod index;
#[cfg(feature = "fec")]
pub mod parity;
pub mod reread;
pub mod restore;
pub mod siblings;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;

use crate::image::{self, Method, Source};
use crate::store::heal::Healer;
use corruption::OnCorruption;
use distant::Distant;
use reread::Reread;
use siblings::Siblings;

/// Whether an error says nothing of a file, only that there is no memory or no descriptor for it now.
fn is_passing(err: &io::Error) -> bool {
    let errno = Errno::from_io_error(err);
    errno.is_some_and(|errno| [Errno::MFILE, Errno::NFILE, Errno::NOMEM].contains(&errno))
}

/// The parity of an image, in a program that can compute with it.
fn parity<E>(source: Result<Arc<dyn Source>, E>) -> Option<Arc<dyn Healer>> {
    #[cfg(feature = "fec")]
    return source.ok().map(|source| -> Arc<dyn Healer> { Arc::new(parity::Parity::new(source)) });
    #[cfg(not(feature = "fec"))]
    {
        drop(source);
        None
    }
}

/// Who is asked for bytes that an image does not have any more, from the nearest to the farthest.
#[derive(Debug, Default)]
pub struct Ladder {
    /// The image's own place, past the page cache.
    pub reread: Option<Reread>,
    /// Other images on this machine.
    pub siblings: Option<Siblings>,
    /// When their tables are read in idle time, and what the thread does first that does it; never before they are needed where
    /// nothing is said.
    pub prepare_after: Option<(Duration, fn())>,
    /// Forward error correction: the image's own parity.
    pub parity: Option<Arc<dyn Healer>>,
    /// A server.
    pub distant: Option<Distant>,
}

impl Ladder {
    /// The rungs that need nothing but the image's path: its place, and the images beside it. Whatever of them cannot be had is
    /// done without. From then on nothing is found by a path.
    pub fn beside(image: &Path) -> Self {
        let shown = image.display();
        let reread = Reread::open(image).inspect_err(|err| {
            tracing::info!("{shown} cannot be read past the page cache: {err}");
        });
        let siblings = Siblings::beside(image).inspect_err(|err| {
            tracing::info!("nothing is healed from the images beside {shown}: {err}");
        });
        let parity = parity(image::open(image, Method::Pread));
        Ladder { reread: reread.ok(), siblings: siblings.ok(), parity, ..Ladder::default() }
    }

    /// The same where other copies are to be looked for; else nobody is asked.
    pub fn as_wanted(on_corruption: OnCorruption, image: &Path) -> Self {
        if on_corruption.heals() { Ladder::beside(image) } else { Ladder::default() }
    }

    /// Adds an image, or all images in a directory, to those beside `image`.
    pub fn add(&mut self, image: &Path, from: &Path) -> io::Result<()> {
        let siblings = match &mut self.siblings {
            Some(siblings) => siblings,
            none => none.insert(Siblings::new(image)?),
        };
        siblings.add(from)
    }

    /// The rungs in their order.
    pub fn into_healers(self) -> Vec<Arc<dyn Healer>> {
        let Ladder { reread, siblings, prepare_after, parity, distant } = self;
        let mut healers: Vec<Arc<dyn Healer>> = Vec::new();
        if let Some(reread) = reread {
            healers.push(Arc::new(reread));
        }
        if let Some(siblings) = siblings {
            let siblings = Arc::new(siblings);
            if let Some((delay, first)) = prepare_after
                && let Err(err) = siblings.prepare(delay, first)
            {
                tracing::info!("the first heal will take longer: cannot start a thread: {err}");
            }
            healers.push(siblings);
        }
        healers.extend(parity);
        if let Some(distant) = distant {
            healers.push(Arc::new(distant));
        }
        healers
    }
}
