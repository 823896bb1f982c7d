//! Which bytes of the file were looked at?

/// Stretches of the file that were read and held against a digest.
#[derive(Debug, Default)]
pub(super) struct Account {
    /// Start and end of each.
    stretches: Vec<(u64, u64)>,
}

impl Account {
    /// Writes `len` bytes at `offset` down. Joined with the stretch before where it follows it.
    pub(super) fn add(&mut self, offset: u64, len: u64) {
        let end = offset.saturating_add(len);
        match self.stretches.last_mut() {
            Some(last) if last.1 == offset => last.1 = end,
            _ => self.stretches.push((offset, end)),
        }
    }

    /// Takes over what another account holds.
    pub(super) fn join(&mut self, other: Account) {
        self.stretches.extend(other.stretches);
    }

    /// How many different bytes there are: one that was looked at twice counts once.
    pub(super) fn total(mut self) -> u64 {
        self.stretches.sort_unstable();
        let mut total = 0_u64;
        let mut reached = 0;
        for (start, end) in self.stretches {
            let start = start.max(reached);
            total = total.saturating_add(end.saturating_sub(start));
            reached = reached.max(end);
        }
        total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_byte_counts_twice() {
        let mut account = Account::default();
        account.add(100, 10);
        account.add(110, 10);
        assert_eq!(account.stretches.len(), 1);
        account.add(0, 50);
        let mut other = Account::default();
        other.add(40, 20);
        other.add(105, 5);
        account.join(other);
        assert_eq!(account.total(), 60 + 20);
    }
}
