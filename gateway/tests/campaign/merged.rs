//! Gifts that become combos, and what is noticed when one of these is not passed on.

use barrage_loadgen::exit::Exit;
use barrage_loadgen::faults::Faults;
use barrage_loadgen::faults::counts::Counts;
use barrage_loadgen::faults::mischief::{Dose, Frames, Which};

use crate::common::TempDir;
use crate::harness::{Course, Outcome, generator};
use crate::runs::{self, LENIENT};

/// Runs end soon, so that a storm is over soon.
const POLICY: &str =
    "[merge]\ncombo-gap = \"200ms\"\ncombo-every = \"100ms\"\nstate-every = \"100ms\"\n";

fn storm(faults: Faults) -> (Outcome, Counts) {
    let dir = TempDir::new("campaign");
    let policy = dir.file("policy.toml", POLICY);
    let course = Course::with(faults, &["--policy", &policy]);
    let outcome = generator(&format!(
        "storm --tcp {} --upstream {} --rooms 1 --members 3 --senders 3 --taps 8 --secs 1 \
         --burst-secs 0.5 --pause-secs 0.2 --settle-secs 1 --json --quiet",
        course.proxy.address, course.gateway.upstream
    ));
    (outcome, course.proxy.stop().expect("the proxy ends in order"))
}

fn only(which: Which, nth: &[u64]) -> Faults {
    let drop = Dose { share: 0.0, nth: nth.to_vec() };
    Faults { frames: Frames { only: Some(which), drop, ..Frames::default() }, ..Faults::default() }
}

#[test]
fn totals_of_combos_are_those_of_the_taps() {
    let (outcome, _) = storm(Faults::default());
    assert_eq!(outcome.count("storm.checked"), 2);
    assert!(outcome.count("storm.combos_out") > 0 && outcome.count("storm.states_out") > 0);
    assert_eq!(outcome.count("storm.taps_counted"), outcome.count("storm.taps_let_in"));
    let wrong = ["storm.totals_wrong", "storm.states_wrong", "unexplained"];
    assert_eq!(wrong.map(|name| outcome.count(name)), [0; 3]);
    assert_ne!(outcome.exit, Exit::Faulty);
}

#[test]
fn a_combo_that_is_not_passed_on_is_missed() {
    let (outcome, injected) = storm(only(Which::Combo, &[3]));
    // Two rooms of three members.
    assert_eq!(injected.dropped, 6);
    assert_eq!(outcome.count("unexplained"), 6);
    assert!(outcome.count("storm.taps_counted") < outcome.count("storm.taps_let_in"));
    outcome.assert_exit(Exit::Faulty);
}

#[test]
fn a_value_that_is_not_passed_on_is_missed() {
    let (outcome, injected) = storm(only(Which::State, &[2]));
    assert_eq!(injected.dropped, 6);
    assert_eq!(outcome.count("unexplained"), 6);
    outcome.assert_exit(Exit::Faulty);
}

/// `run` with gifts in one room of four.
fn gifts(faults: Faults) -> (Outcome, Counts) {
    let dir = TempDir::new("campaign");
    let policy = dir.file("policy.toml", POLICY);
    let course = Course::with(faults, &["--policy", &policy]);
    let text = "[[phases]]\nname = \"gifts\"\nsecs = 2\n[streams.gifts]\nkind = \"gifts\"\n\
                givers_per_room = 2\ntaps_per_s = 10\nburst_s = 0.5\npause_s = 0.3\n\
                category = 3\n";
    let outcome = runs::run(&course, "count = 4", &format!("{text}{LENIENT}"), "");
    (outcome, course.proxy.stop().expect("the proxy ends in order"))
}

#[test]
fn a_campaign_of_gifts_checks_their_totals() {
    let (outcome, injected) = gifts(Faults::default());
    outcome.assert_exit(Exit::Pass);
    assert!(outcome.total("merged") > 0 && injected.numbered > 0);
    assert_eq!((outcome.wrong(), outcome.total("wrong_totals")), ([0; 3], 0));
}

#[test]
fn a_campaign_misses_a_combo_that_is_not_passed_on() {
    let (outcome, injected) = gifts(only(Which::Combo, &[1]));
    assert_eq!(injected.dropped, 4);
    assert_eq!(outcome.wrong(), [4, 0, 0]);
    outcome.assert_exit(Exit::Faulty);
}
