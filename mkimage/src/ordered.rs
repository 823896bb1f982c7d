//! What several threads made, one after another: they may race, order may not.

use std::collections::BTreeMap;
use std::sync::mpsc::{self, Receiver, Sender};

/// Takes in numbered things and gives them out in the order of their numbers.
#[derive(Debug)]
pub(crate) struct Ordered<T> {
    from: Receiver<(u64, T)>,
    /// What came before its turn.
    early: BTreeMap<u64, T>,
    due: u64,
}

impl<T> Ordered<T> {
    /// What is sent has numbers from 0 on, each once.
    pub(crate) fn new() -> (Sender<(u64, T)>, Self) {
        let (sender, from) = mpsc::channel();
        (sender, Ordered { from, early: BTreeMap::new(), due: 0 })
    }

    /// Waits for the next one; nothing when nobody is left who could send it.
    pub(crate) fn next(&mut self) -> Option<T> {
        loop {
            if let Some(next) = self.early.remove(&self.due) {
                self.due += 1;
                return Some(next);
            }
            let (number, early) = self.from.recv().ok()?;
            self.early.insert(number, early);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_comes_first_goes_in_order() {
        let (sender, mut ordered) = Ordered::new();
        for number in [2, 0, 1, 4] {
            sender.send((number, number)).unwrap();
        }
        drop(sender);
        let all: Vec<_> = std::iter::from_fn(|| ordered.next()).collect();
        assert_eq!(all, [0, 1, 2], "and 3 is never to come");
    }
}
