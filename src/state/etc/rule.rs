//! Whose version of a path counts? One answer for each way in which the old image, what the user made of it, and the new
//! image can stand to each other. These are ostree's rules, and where ostree gives up, ours.

/// What there is at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    Nothing,
    /// A file or anything else that is no directory.
    Leaf,
    Dir,
}

/// Two of the three that are compared. Only leaves are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pair {
    CurrentAndOld,
    NewAndOld,
    /// And their times, too.
    NewAndOldExactly,
    CurrentAndNew,
}

/// What comes of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing: the image no longer has it, and nobody changed it.
    Nothing,
    /// Nothing: the user removed it.
    Removed,
    /// What the image has, with everything below it.
    New,
    /// What there is, with everything below it: it is the image's in every respect.
    Same,
    /// What there is, with everything below it: the user made it so.
    Current,
    /// The same, but the image changed it as well.
    CurrentOverNew,
    /// A directory that both have, each path in it as it deserves.
    Both,
    /// A directory that the image no longer has, with what the user changed or added in it.
    Remnants,
    /// What the image has. What the user changed has no place there and goes beside it.
    Aside,
}

/// Decides about one path. `equal` is only asked about pairs that are both leaves.
#[expect(clippy::match_same_arms, reason = "the order in which a person asks")]
pub(super) fn decide(
    old: Look,
    current: Look,
    new: Look,
    equal: &mut dyn FnMut(Pair) -> bool,
) -> Verdict {
    use Look::{Dir, Leaf, Nothing};
    match (old, current, new) {
        (_, Nothing, Nothing) => Verdict::Nothing,
        (Nothing, Nothing, _) => Verdict::New,
        (_, Nothing, _) => Verdict::Removed,

        (Leaf, Leaf, Nothing) if equal(Pair::CurrentAndOld) => Verdict::Nothing,
        (Dir, Dir, Nothing) => Verdict::Remnants,
        (_, _, Nothing) => Verdict::Current,

        (_, Dir, Dir) => Verdict::Both,
        (Leaf, Leaf, Leaf) => match (equal(Pair::CurrentAndOld), equal(Pair::NewAndOld)) {
            (true, true) if equal(Pair::NewAndOldExactly) => Verdict::Same,
            (true, _) => Verdict::New,
            (false, true) => Verdict::Current,
            (false, false) if equal(Pair::CurrentAndNew) => Verdict::New,
            (false, false) => Verdict::CurrentOverNew,
        },
        (_, Leaf, Leaf) if equal(Pair::CurrentAndNew) => Verdict::New,
        (_, Leaf, Leaf) => Verdict::CurrentOverNew,

        // From here on one of the two is a directory and the other is not. If the image's always was what it is, it was the
        // user who put something else there, and that stays, as a changed file does.
        (Leaf, Dir, Leaf) | (Dir, Leaf, Dir) => Verdict::Current,
        (Leaf, Leaf, Dir) if equal(Pair::CurrentAndOld) => Verdict::New,
        (_, Dir, Leaf) | (_, Leaf, Dir) => Verdict::Aside,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All there are, with letters for the three: `-` nothing, `a`, `b`, `c` leaves of that content, `d` a directory.
    const TABLE: &[(&str, Verdict)] = &[
        ("---", Verdict::Nothing),
        ("--a", Verdict::New),
        ("--d", Verdict::New),
        ("-a-", Verdict::Current),
        ("-aa", Verdict::New),
        ("-ab", Verdict::CurrentOverNew),
        ("-ad", Verdict::Aside),
        ("-d-", Verdict::Current),
        ("-da", Verdict::Aside),
        ("-dd", Verdict::Both),
        ("a--", Verdict::Nothing),
        ("a-a", Verdict::Removed),
        ("a-b", Verdict::Removed),
        ("a-d", Verdict::Removed),
        ("aa-", Verdict::Nothing),
        ("ab-", Verdict::Current),
        ("aaa", Verdict::Same),
        ("aab", Verdict::New),
        ("aad", Verdict::New),
        ("aba", Verdict::Current),
        ("abb", Verdict::New),
        ("abc", Verdict::CurrentOverNew),
        ("abd", Verdict::Aside),
        ("ad-", Verdict::Current),
        ("ada", Verdict::Current),
        ("adb", Verdict::Current),
        ("add", Verdict::Both),
        ("d--", Verdict::Nothing),
        ("d-a", Verdict::Removed),
        ("d-d", Verdict::Removed),
        ("da-", Verdict::Current),
        ("daa", Verdict::New),
        ("dab", Verdict::CurrentOverNew),
        ("dad", Verdict::Current),
        ("dd-", Verdict::Remnants),
        ("dda", Verdict::Aside),
        ("ddd", Verdict::Both),
    ];

    #[test]
    fn every_case_has_its_verdict() {
        let look = |letter| match letter {
            b'-' => Look::Nothing,
            b'd' => Look::Dir,
            _ => Look::Leaf,
        };
        for (case, verdict) in TABLE {
            let &[old, current, new] = case.as_bytes() else { panic!("{case}") };
            let mut equal = |pair| {
                let (one, other) = match pair {
                    Pair::CurrentAndOld => (current, old),
                    Pair::NewAndOld | Pair::NewAndOldExactly => (new, old),
                    Pair::CurrentAndNew => (current, new),
                };
                assert!(![one, other].contains(&b'-') && ![one, other].contains(&b'd'), "{case}");
                one == other
            };
            let found = decide(look(old), look(current), look(new), &mut equal);
            assert_eq!(found, *verdict, "{case}");
        }
        // Of three letters each; what differs only by names of contents stands once.
        let canonical =
            TABLE.iter().map(|(case, _)| *case).collect::<std::collections::HashSet<_>>();
        assert_eq!(canonical.len(), TABLE.len());
    }
}
