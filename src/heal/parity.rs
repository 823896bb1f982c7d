//! Can the image itself compute what it has lost? With the parity that `mkimage --fec` gave it (SPEC section 10).

use std::sync::{Arc, OnceLock};

use crate::fec::{Look, Repairer};
use crate::image::Source;
use crate::store::heal::{Cure, Healer, Offer, Unknown, Wanted};

/// An image's parity. Whether there is any is looked at when it is needed.
#[derive(Debug)]
pub struct Parity {
    source: Arc<dyn Source>,
    repairer: OnceLock<Repairer>,
}

impl Parity {
    /// Of the image that a source holds.
    pub fn new(source: Arc<dyn Source>) -> Self {
        Parity { source, repairer: OnceLock::new() }
    }

    /// What could not be read may be readable the next time: nothing but success is kept.
    fn repairer(&self) -> Option<&Repairer> {
        if let Some(repairer) = self.repairer.get() {
            return Some(repairer);
        }
        let opened = Repairer::open(Arc::clone(&self.source));
        let opened =
            opened.inspect_err(|err| tracing::debug!("no parity: {err}")).ok().flatten()?;
        Some(self.repairer.get_or_init(|| opened))
    }

    fn copy(&self, wanted: &Wanted) -> Option<Result<(Look, Vec<u8>), Unknown>> {
        let mut bytes = vec![0; wanted.len];
        let repaired = self.repairer()?.repair(wanted.offset, &mut bytes);
        match repaired.inspect_err(|err| tracing::debug!("{} from parity: {err}", wanted.part)) {
            Ok(look) => Some(Ok((look, bytes))),
            Err(err) => err.is_timeout().then_some(Err(Unknown)),
        }
    }
}

impl Healer for Parity {
    fn cure(&self) -> Cure {
        Cure::Fec
    }

    fn copies<'a>(&'a self, wanted: &'a Wanted) -> Box<dyn Iterator<Item = Offer> + 'a> {
        let mut first = None;
        Box::new((0..2).map_while(move |nth| {
            if nth > 0 {
                // The first one was wrong, so more may have been lost since all was looked at.
                self.repairer()?.forget(first?);
            }
            let copy = self.copy(wanted)?;
            first = copy.as_ref().ok().map(|(look, _)| *look);
            Some(copy.map(|(_, bytes)| bytes))
        }))
    }
}
