//! What a detour costs, as the probe tells it.

use std::time::Duration;

use barrage_loadgen::exit::Exit;
use barrage_loadgen::faults::Faults;

use crate::common::gateway::free_addresses;
use crate::harness::{Course, generator, ns};

#[test]
fn a_detour_is_as_long_as_it_was_made() {
    let delay_ns = ns(Duration::from_millis(10));
    let course = Course::new(Faults { delay_ns, ..Faults::default() });
    let (tcp, upstream) = (course.gateway.tcp, course.gateway.upstream);
    let via = course.proxy.address;
    let line = format!("probe --direct {tcp} --via {via} --upstream {upstream} --count 20 --json");
    let outcome = generator(&line);
    outcome.assert_exit(Exit::Pass);
    let lines = outcome.told["lines"].as_array().expect("a list");
    // Until JOINED there are two answers to wait for.
    for (what, delays) in [("until WELCOME", 1.0), ("until JOINED", 2.0), ("push", 1.0)] {
        let line = lines.iter().find(|line| line["what"] == what).expect("it was timed");
        let least = line["via_us"]["min"].as_f64().expect("a number");
        assert!(least >= delays * 10_000.0, "{line:#}");
        assert_eq!(line["direct_us"]["samples"], 20);
    }
}

#[test]
fn a_way_that_leads_nowhere_is_a_lost_target() {
    let course = Course::new(Faults::default());
    let [nobody] = free_addresses();
    let line = format!("probe --direct {} --via {nobody} --count 1", course.gateway.tcp);
    generator(&line).assert_exit(Exit::TargetLost);
}
