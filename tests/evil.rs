//! What does an image do that was sealed by an enemy? Each of these has a right root digest and breaks one rule; `verify`
//! must name that rule and no other, and reading must end, quickly and without harm.

#[path = "support/cases.rs"]
mod cases;
#[path = "support/image.rs"]
mod image;
#[path = "support/seal.rs"]
mod seal;
#[path = "support/verdict.rs"]
mod verdict;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use ashlarfs::format::defect::{Corrupt, Unsupported, Untrusted};
use ashlarfs::format::index::InodeIndex;
use ashlarfs::format::inode::Kind;

#[test]
fn verify_names_the_rule_that_is_broken() {
    let mut wrong = Vec::new();
    for case in cases::all() {
        let started = Instant::now();
        let found = verdict::of(&case.image, case.root, case.key.as_deref());
        if found != BTreeSet::from([case.expect.clone()]) {
            wrong.push(format!("{}: expected {}, found {found:?}", case.name, case.expect));
        }
        assert!(started.elapsed() < Duration::from_secs(5), "{} took too long", case.name);
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn every_rule_is_broken_by_some_image() {
    let names: BTreeSet<String> =
        cases::all().into_iter().map(|case| format!("{} {}", case.rule(), case.expect)).collect();
    let rules = [
        ("untrusted", Untrusted::RULES),
        ("corrupt", Corrupt::RULES),
        ("unsupported", Unsupported::RULES),
    ];
    for (class, rules) in rules {
        for (rule, name) in rules {
            assert!(
                names.contains(&format!("{rule} {class} {name}")),
                "no image breaks {rule} {name}"
            );
        }
    }
}

/// Reading is not verifying: much of this goes unseen. But it ends, with right bytes or an error.
#[test]
fn reading_ends() {
    for case in cases::all() {
        let started = Instant::now();
        let source = image::Memory::new(case.image.clone());
        let Ok(tree) =
            ashlarfs::open_source(source, &verdict::options(case.root, case.key.as_deref()))
        else {
            continue;
        };
        let mut buf = vec![0; 100_000];
        for (_, visit) in tree.walk(InodeIndex::ROOT) {
            let Ok(visit) = visit else { continue };
            if visit.inode.kind == Kind::File {
                // From the start, and around the end: a hostile size may have no end that is worth waiting for.
                for offset in [0, visit.inode.size.saturating_sub(5000)] {
                    tree.read_at(visit.index, offset, &mut buf).unwrap_or_default();
                }
            }
            tree.read_link(visit.index).unwrap_or_default();
            for name in tree.xattr_names(visit.index).unwrap_or_default() {
                tree.xattr(visit.index, &name).unwrap_or_default();
            }
        }
        assert!(started.elapsed() < Duration::from_secs(5), "{} took too long", case.name);
    }
}
