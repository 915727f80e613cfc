//! `room` through the proxy: what was found is what was injected.

use std::time::Duration;

use barrage_loadgen::exit::Exit;
use barrage_loadgen::faults::Faults;
use barrage_loadgen::faults::mischief::{Dose, Frames};
use barrage_loadgen::faults::weather::Plan;

use crate::harness::{Course, Outcome, ns};

const MEMBERS: u32 = 8;
const STEADY: &str = "--rate 200 --secs 0.5";

fn frames(frames: Frames) -> Faults {
    Faults { frames, ..Faults::default() }
}

fn nth(nth: &[u64]) -> Dose {
    Dose { share: 0.0, nth: nth.to_vec() }
}

fn share(share: f64) -> Dose {
    Dose { share, nth: vec![] }
}

/// What was found beside what was delivered: unexplained, duplicate, reordered.
fn found(outcome: &Outcome) -> [u64; 3] {
    ["unexplained", "duplicate", "reordered"].map(|name| outcome.count(name))
}

#[test]
fn without_faults_a_proxy_changes_nothing() {
    let (outcome, injected) = Course::new(Faults::default()).room(MEMBERS, STEADY);
    assert_eq!(found(&outcome), [0; 3]);
    assert_eq!(outcome.count("delivered"), outcome.count("expected"));
    assert_eq!(outcome.count("delivered"), injected.numbered);
    assert_ne!(outcome.exit, Exit::Faulty);
}

#[test]
fn dropped_messages_are_missing_without_explanation() {
    let faults = frames(Frames { drop: nth(&[20, 50, 51]), ..Frames::default() });
    let (outcome, injected) = Course::new(faults).room(MEMBERS, STEADY);
    assert_eq!(injected.dropped, 3 * u64::from(MEMBERS));
    assert_eq!(found(&outcome), [injected.dropped, 0, 0]);
    assert_eq!(outcome.count("delivered"), outcome.count("expected") - injected.dropped);
    outcome.assert_exit(Exit::Faulty);
}

#[test]
fn duplicates_are_counted_one_by_one() {
    let faults = frames(Frames { duplicate: share(0.05), ..Frames::default() });
    let (outcome, injected) = Course::new(faults).room(MEMBERS, STEADY);
    assert!(injected.duplicated > 0, "{injected:?}");
    assert_eq!(found(&outcome), [0, injected.duplicated, 0]);
    outcome.assert_exit(Exit::Faulty);
}

#[test]
fn messages_out_of_order_are_told_from_missing_ones() {
    let faults = frames(Frames { reorder: share(0.05), ..Frames::default() });
    let (outcome, injected) = Course::new(faults).room(MEMBERS, STEADY);
    assert!(injected.reordered > 0, "{injected:?}");
    assert_eq!(found(&outcome), [0, 0, injected.reordered]);
    assert_eq!(outcome.count("delivered"), outcome.count("expected"));
    outcome.assert_exit(Exit::Faulty);
}

#[test]
fn a_corrupted_frame_is_noticed() {
    let faults = frames(Frames { corrupt: nth(&[30]), ..Frames::default() });
    let (outcome, injected) = Course::new(faults).room(MEMBERS, STEADY);
    assert!(injected.corrupted > 0);
    let noticed = found(&outcome).iter().sum::<u64>() + outcome.count("lost");
    assert!(noticed >= injected.corrupted, "{noticed} of {injected:?}");
    outcome.assert_exit(Exit::Faulty);
}

#[test]
fn split_writes_change_nothing() {
    let faults = Faults { split: Some(7), ..Faults::default() };
    let (outcome, _) = Course::new(faults).room(MEMBERS, STEADY);
    assert_eq!(found(&outcome), [0; 3]);
    assert_eq!(outcome.count("delivered"), outcome.count("expected"));
}

#[test]
fn a_delay_is_in_every_latency() {
    let delay = Duration::from_millis(80);
    let faults = Faults { delay_ns: ns(delay), ..Faults::default() };
    let (outcome, _) = Course::new(faults).room(MEMBERS, STEADY);
    assert_eq!(found(&outcome), [0; 3]);
    assert!(outcome.number("latency_us.p50") >= 79_000.0, "{:#}", outcome.told);
    assert!(outcome.number("uncorrected_latency_us.p50") >= 79_000.0, "{:#}", outcome.told);
}

#[test]
fn a_stall_is_in_the_longest_latencies_and_loses_nothing() {
    let weather = Plan { stall_ns: ns(Duration::from_secs(1)), ..Plan::default() };
    let weather = Plan { stall_at_ns: ns(Duration::from_millis(500)), ..weather };
    let faults = Faults { weather, ..Faults::default() };
    let (outcome, injected) = Course::new(faults).room(MEMBERS, "--rate 200 --secs 2");
    assert_eq!(injected.stalls, 1);
    assert_eq!(found(&outcome), [0; 3]);
    assert_eq!(outcome.count("delivered"), outcome.count("expected"));
    assert!(outcome.number("latency_us.max") >= 900_000.0, "{:#}", outcome.told);
    // A second of two is a good tenth of all messages.
    assert!(outcome.number("latency_us.p90") >= 500_000.0, "{:#}", outcome.told);
}

#[test]
fn resets_are_lost_connections_and_what_they_miss_is_no_fault_of_order() {
    let weather = Plan { reset_at_ns: Some(ns(Duration::from_millis(300))), ..Plan::default() };
    let faults = Faults { weather, ..Faults::default() };
    let (outcome, injected) = Course::new(faults).room(MEMBERS, STEADY);
    assert_eq!(injected.resets, u64::from(MEMBERS));
    assert_eq!(found(&outcome), [0; 3]);
    assert_eq!(outcome.count("lost"), injected.resets);
    let known = outcome.count("delivered") + outcome.count("disconnected");
    assert_eq!(known, outcome.count("expected"));
    assert_ne!(outcome.exit, Exit::Pass);
}
