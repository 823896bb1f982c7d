//! What if no copy is on this machine? An image somewhere else may have it, which takes as long as it takes: it is asked last, and
//! not again for a while when it does not answer.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::index::{BLOCKS_MAX, Index, copy_at_place, copy_of_table, open_unknown};
use crate::error::{Error, Result};
use crate::image::Source;
use crate::store::heal::{Cure, Healer, Offer, Part, Unknown, Wanted};
use crate::store::{Store, lock};

/// How long nobody asks again after there was no answer.
const REST: Duration = Duration::from_secs(30);

/// Variables of the environment that may say how a server is reached, as [`Opener`]s understand them: who heals in our place needs
/// them, too.
pub const ENVIRONMENT: [&str; 8] = [
    "http_proxy",
    "HTTP_PROXY",
    "https_proxy",
    "HTTPS_PROXY",
    "all_proxy",
    "ALL_PROXY",
    "no_proxy",
    "NO_PROXY",
];

/// Opens the image. It must give up in time: somebody waits.
pub type Opener = Box<dyn Fn() -> io::Result<Arc<dyn Source>> + Send + Sync>;

/// An image somewhere else: the same one, or one that shares blocks with it.
pub struct Distant {
    shown: String,
    open: Opener,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    opened: Option<Arc<Opened>>,
    /// When there was no answer.
    failed: Option<Instant>,
}

struct Opened {
    image: Store,
    /// Of an image that is not the same one.
    index: Mutex<Option<Arc<Index>>>,
}

impl fmt::Debug for Distant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Distant").field(&self.shown).finish()
    }
}

impl Distant {
    /// One that is called `shown` and not opened before it is needed.
    pub fn new(shown: String, open: Opener) -> Self {
        Distant { shown, open, state: Mutex::default() }
    }

    fn opened(&self) -> Result<Arc<Opened>, Unknown> {
        // Who comes meanwhile waits: it would have to ask the same.
        let mut state = lock(&self.state);
        if let Some(opened) = &state.opened {
            return Ok(Arc::clone(opened));
        }
        if state.failed.is_some_and(|failed| failed.elapsed() < REST) {
            return Err(Unknown);
        }
        let opened = (self.open)()
            .map_err(|err| Error::io("cannot open it", err))
            .and_then(open_unknown)
            .map(|image| Arc::new(Opened { image, index: Mutex::default() }));
        match opened {
            Ok(opened) => {
                *state = State { opened: Some(Arc::clone(&opened)), failed: None };
                Ok(opened)
            }
            Err(err) => {
                tracing::warn!("nothing is healed from {}: {err}", self.shown);
                state.failed = Some(Instant::now());
                Err(Unknown)
            }
        }
    }

    fn copy(&self, wanted: &Wanted) -> Result<Option<Vec<u8>>, Unknown> {
        self.opened()?.copy(wanted).or_else(|err| {
            tracing::warn!("{} is not healed from {}: {err}", wanted.part, self.shown);
            // What is damaged is damaged; what did not come, or is another file now, is opened anew later.
            if err.is_damage() {
                return Ok(None);
            }
            *lock(&self.state) = State { opened: None, failed: Some(Instant::now()) };
            Err(Unknown)
        })
    }
}

impl Opened {
    fn copy(&self, wanted: &Wanted) -> Result<Option<Vec<u8>>> {
        let image = &self.image;
        let Part::Block(block, _) = wanted.part else {
            return copy_of_table(image, wanted).transpose();
        };
        if let Some(copy) = copy_at_place(image, block, wanted.digest) {
            return copy.map(Some);
        }
        if image.superblock().block_count > BLOCKS_MAX {
            return Ok(None);
        }
        // Who comes meanwhile waits: it would have to fetch the same.
        let mut index = lock(&self.index);
        let index = match &mut *index {
            Some(index) => Arc::clone(index),
            none => Arc::clone(none.insert(Arc::new(Index::of(image, |err| !err.is_damage())?))),
        };
        index.copies(image, wanted.digest).next().transpose()
    }
}

impl Healer for Distant {
    fn cure(&self) -> Cure {
        Cure::Server
    }

    fn copies<'a>(&'a self, wanted: &'a Wanted) -> Box<dyn Iterator<Item = Offer> + 'a> {
        Box::new(std::iter::once_with(|| self.copy(wanted).transpose()).flatten())
    }
}
