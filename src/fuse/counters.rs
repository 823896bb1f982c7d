//! How often did the kernel ask? A test holds "never twice" against these.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// The kinds of questions that are counted. Others are answered ENOSYS by the FUSE library, once each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the kernel's names for its questions")]
pub enum Upcall {
    Lookup,
    Forget,
    Getattr,
    Readlink,
    Read,
    Readdir,
    Readdirplus,
    Getxattr,
    Listxattr,
    Statfs,
    Lseek,
    Open,
    Opendir,
    Flush,
    Access,
    Fsync,
    Ioctl,
}

impl Upcall {
    /// All kinds with their names.
    pub const ALL: [(Upcall, &'static str); 17] = [
        (Upcall::Lookup, "lookup"),
        (Upcall::Forget, "forget"),
        (Upcall::Getattr, "getattr"),
        (Upcall::Readlink, "readlink"),
        (Upcall::Read, "read"),
        (Upcall::Readdir, "readdir"),
        (Upcall::Readdirplus, "readdirplus"),
        (Upcall::Getxattr, "getxattr"),
        (Upcall::Listxattr, "listxattr"),
        (Upcall::Statfs, "statfs"),
        (Upcall::Lseek, "lseek"),
        (Upcall::Open, "open"),
        (Upcall::Opendir, "opendir"),
        (Upcall::Flush, "flush"),
        (Upcall::Access, "access"),
        (Upcall::Fsync, "fsync"),
        (Upcall::Ioctl, "ioctl"),
    ];

    /// Its name in reports and messages.
    pub fn name(self) -> &'static str {
        Upcall::ALL.iter().find(|(upcall, _)| *upcall == self).map_or("?", |(_, name)| name)
    }
}

/// One counter for each kind, and one for what failed.
#[derive(Debug, Default)]
pub struct Counters {
    upcalls: [AtomicU64; Upcall::ALL.len()],
    failures: AtomicU64,
}

impl Counters {
    /// Counts a question.
    pub fn count(&self, upcall: Upcall) {
        let of_kind = Upcall::ALL.iter().zip(&self.upcalls).find(|((kind, _), _)| *kind == upcall);
        if let Some((_, counter)) = of_kind {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts an answer that was an error because something is broken.
    pub fn count_failure(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    /// Questions so far, by name.
    pub fn upcalls(&self) -> BTreeMap<String, u64> {
        let named = Upcall::ALL.iter().zip(&self.upcalls);
        named
            .map(|((_, name), count)| ((*name).to_owned(), count.load(Ordering::Relaxed)))
            .collect()
    }

    /// Failures so far.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_its_own_counter() {
        let counters = Counters::default();
        for (nth, (upcall, _)) in Upcall::ALL.into_iter().enumerate() {
            for _ in 0..=nth {
                counters.count(upcall);
            }
        }
        for (nth, (upcall, name)) in Upcall::ALL.into_iter().enumerate() {
            assert_eq!(counters.upcalls()[name], nth as u64 + 1);
            assert_eq!(upcall.name(), name);
        }
    }
}
