use proptest::prelude::*;

use super::{Attempt, Bad, NotPossible, State, Trial, Why};
use crate::format::digest::Digest;
use crate::update::record::{LEN, Record, newer};

const A: Digest = Digest([1; 32]);
const B: Digest = Digest([2; 32]);
const C: Digest = Digest([3; 32]);

/// A machine that runs A, blessed, with B on trial.
fn on_trial() -> State {
    let mut state = State::default();
    assert!(state.bless(A, 1).unwrap());
    state.install(B, Some(A), 2);
    state
}

#[test]
fn a_healthy_image_becomes_the_default() {
    let mut state = on_trial();
    assert_eq!(state.order(), [B, A]);
    let trial = Trial { image: B, tries_left: 1, tries_done: 1 };
    assert_eq!(state.begin_boot(), Attempt::Trial(trial));
    assert!(state.bless(B, 2).unwrap());
    let expected = State {
        default: Some(B),
        previous: Some(A),
        last_good: Some(B),
        version_floor: 2,
        ..State::default()
    };
    assert_eq!(state, expected);
    assert!(!state.bless(B, 2).unwrap(), "nothing to write a second time");
    assert_eq!(state.begin_boot(), Attempt::Default);
}

#[test]
fn an_image_that_nobody_blesses_is_given_up() {
    let mut state = on_trial();
    assert!(matches!(state.begin_boot(), Attempt::Trial(_)));
    assert!(matches!(state.begin_boot(), Attempt::Trial(_)));
    assert_eq!(state.order(), [A], "after the last try nothing but the default is tried");
    assert_eq!(state.begin_boot(), Attempt::GivenUp(B));
    assert_eq!((state.default, state.trial), (Some(A), None));
    assert_eq!(state.bad, [Bad { image: B, why: Why::Tries }]);
    assert_eq!(state.bless(B, 2), Err(NotPossible::IsBad(Why::Tries)), "too late");
    state.install(B, Some(A), 1);
    assert!(state.bad.is_empty(), "who installs it again wants it");
}

#[test]
fn a_refused_trial_is_given_up_in_the_same_boot_and_a_refused_default_is_not() {
    let mut state = on_trial();
    state.begin_boot();
    assert!(state.refuse(B, Why::Refused));
    assert_eq!((state.order(), state.begin_boot()), (vec![A], Attempt::Default));
    assert!(!state.refuse(A, Why::Refused));
    assert_eq!(state.default, Some(A));
}

#[test]
fn rolling_back_goes_there_and_back_again() {
    let mut state = on_trial();
    state.begin_boot();
    state.bless(B, 2).unwrap();
    assert_eq!(state.roll_back(None), Ok(A));
    assert_eq!((state.default, state.previous, state.last_good), (Some(A), Some(B), Some(A)));
    assert_eq!(state.version_floor, 2, "what may be installed does not go back");
    assert_eq!(state.roll_back(None), Ok(B));
    assert_eq!(State::default().roll_back(None), Err(NotPossible::NoOther));
    assert_eq!(state.roll_back(Some(C)), Ok(C));
    assert_eq!((state.default, state.previous), (Some(C), Some(B)));
}

#[test]
fn rolling_back_ends_a_trial() {
    let mut state = on_trial();
    assert_eq!(state.roll_back(None), Ok(A));
    assert_eq!((state.trial, state.default), (None, Some(A)));
    assert!(state.bad.is_empty(), "it was never booted: nothing is known of it");
    let mut state = on_trial();
    state.begin_boot();
    assert_eq!(state.roll_back(None), Ok(A));
    assert_eq!(state.bad, [Bad { image: B, why: Why::Marked }]);
}

#[test]
fn a_bad_default_gives_way_to_the_one_before() {
    let mut state = on_trial();
    state.begin_boot();
    state.bless(B, 2).unwrap();
    assert_eq!(state.mark_bad(B, Why::Marked), Ok(Some(A)));
    assert_eq!((state.default, state.last_good, state.previous), (Some(A), Some(A), None));
    assert_eq!(state.mark_bad(A, Why::Marked), Err(NotPossible::NoOther), "the last one stays");
    assert_eq!(state.mark_bad(C, Why::Marked), Err(NotPossible::NotInUse));
    let mut state = on_trial();
    assert_eq!(state.mark_bad(B, Why::Damaged), Ok(Some(A)));
    assert_eq!(state.trial, None);
}

#[test]
fn what_the_machine_fell_back_to_is_not_blessed_into_the_default() {
    let mut state = on_trial();
    state.begin_boot();
    state.bless(B, 2).unwrap();
    assert!(!state.bless(A, 1).unwrap());
    assert_eq!((state.default, state.last_good), (Some(B), Some(B)));
}

#[test]
fn a_machine_that_was_never_updated_keeps_what_it_runs() {
    let mut state = State::default();
    assert_eq!((state.order(), state.begin_boot()), (vec![], Attempt::Default));
    state.install(B, Some(A), 3);
    assert_eq!((state.default, state.order()), (Some(A), vec![B, A]));
    assert_eq!(state.kept(), [B, A]);
    let mut state = State::default();
    state.install(A, Some(A), 3);
    assert_eq!(state.order(), [A]);
}

/// What may happen to a machine.
#[derive(Debug, Clone, Copy)]
enum Event {
    Install(Digest),
    Boot { is_refused: bool, is_healthy: bool },
    RollBack,
    MarkBad,
}

fn event() -> impl Strategy<Value = Event> {
    let image = (1_u8..6).prop_map(|byte| Digest([byte; 32]));
    prop_oneof![
        2 => image.prop_map(Event::Install),
        6 => (prop::bool::weighted(0.1), any::<bool>())
            .prop_map(|(is_refused, is_healthy)| Event::Boot { is_refused, is_healthy }),
        1 => Just(Event::RollBack),
        1 => Just(Event::MarkBad),
    ]
}

/// What becomes of one write when the power may fail.
#[derive(Debug, Clone, Copy)]
enum Cut {
    /// The power stays.
    None,
    /// Nothing is written.
    Before,
    /// So many bytes are, and the disk is no disk of whole sectors.
    Torn(usize),
    /// All is, and nothing comes after it.
    After,
}

fn cut() -> impl Strategy<Value = Cut> {
    prop_oneof![
        12 => Just(Cut::None),
        1 => Just(Cut::Before),
        2 => (0..LEN).prop_map(Cut::Torn),
        1 => Just(Cut::After),
    ]
}

/// Two files of a record each, as a book has them.
#[derive(Debug)]
struct Disk {
    files: [[u8; LEN]; 2],
}

impl Disk {
    fn read(&self) -> Record {
        let records = [0, 1].map(|at| Record::decode(&self.files[at]));
        newer(&records).and_then(|at| records[at].clone()).unwrap_or_default()
    }

    /// Writes a state, over the older of the two records; says whether the power stayed.
    fn write(&mut self, state: State, cut: Cut) -> bool {
        let last = self.read();
        let records = [0, 1].map(|at| Record::decode(&self.files[at]));
        let other = usize::from(newer(&records) == Some(0));
        let raw = Record { sequence: last.sequence + 1, state }.encode();
        let len = match cut {
            Cut::Before => 0,
            Cut::Torn(len) => len,
            Cut::None | Cut::After => LEN,
        };
        self.files[other][..len].copy_from_slice(&raw[..len]);
        matches!(cut, Cut::None)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever happens, and wherever the power fails: what is remembered is what was before or what came after; a trial is
    /// booted no more often than it may be; what was given up is not booted unless somebody asks for it again; and there is
    /// always an image that was blessed.
    #[test]
    fn no_sequence_of_events_and_power_cuts_loses_the_machine(
        events in prop::collection::vec((event(), cut()), 1..60),
    ) {
        let tries = 3;
        let mut disk = Disk { files: [[0; LEN]; 2] };
        let mut first = State::default();
        first.bless(A, 0).unwrap();
        disk.write(first, Cut::None);
        let mut blessed = vec![A];
        let mut running = A;
        let mut boots_of_trial = 0_u32;
        for (event, cut) in events {
            let before = disk.read().state;
            let mut state = before.clone();
            match event {
                Event::Install(image) => {
                    state.install(image, Some(running), tries);
                    if state.trial != before.trial {
                        disk.write(state.clone(), cut);
                        if disk.read().state == state {
                            boots_of_trial = 0;
                        }
                    }
                }
                Event::Boot { is_refused, is_healthy } => {
                    let attempt = state.begin_boot();
                    let written = attempt == Attempt::Default || disk.write(state.clone(), cut);
                    if !written {
                        // It starts again from what is on the disk.
                        continue;
                    }
                    let trial = match attempt {
                        Attempt::Trial(trial) => Some(trial.image),
                        _ => None,
                    };
                    let order = state.order_from(trial);
                    prop_assert!(!order.is_empty());
                    prop_assert!(!order.iter().all(|image| state.bad.iter().any(|bad| bad.image == *image)));
                    running = order[0];
                    if trial.is_some() {
                        boots_of_trial += 1;
                        prop_assert!(boots_of_trial <= u32::from(tries), "{boots_of_trial} boots");
                        if is_refused && state.refuse(running, Why::Refused) {
                            disk.write(state.clone(), cut);
                            running = order.get(1).copied().unwrap_or(running);
                        }
                    } else {
                        prop_assert!(blessed.contains(&running), "{running} was never blessed");
                    }
                    if is_healthy && state.bless(running, 0).unwrap_or(false) {
                        blessed.push(running);
                        disk.write(state.clone(), cut);
                    }
                }
                Event::RollBack => {
                    if state.roll_back(None).is_ok() {
                        disk.write(state.clone(), cut);
                    }
                }
                Event::MarkBad => {
                    if state.mark_bad(running, Why::Marked).is_ok() {
                        disk.write(state.clone(), cut);
                    }
                }
            }
            let now = disk.read().state;
            let is_boot = matches!(event, Event::Boot { .. });
            prop_assert!(now == before || now == state || is_boot);
            prop_assert!(now.default.is_some());
        }
    }
}
