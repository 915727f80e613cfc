//! A gateway that does nothing for a second: whoever measures from when a message should have been
//! sent cannot miss it.

use std::time::Duration;

use barrage_loadgen::faults::Faults;

use crate::harness::{Course, Outcome, generator, pause_after};

const PAUSE: Duration = Duration::from_secs(1);

/// `room` at a rate while the gateway is paused for a second.
fn room(rate: u32) -> Outcome {
    let course = Course::new(Faults::default());
    let line = format!(
        "room --tcp {} --upstream {} --members 4 --size 64 --rate {rate} --warmup 0 --secs 3 \
         --json --quiet",
        course.gateway.tcp, course.gateway.upstream
    );
    std::thread::scope(|scope| {
        scope.spawn(|| pause_after(&course.gateway, u64::from(rate) / 4, PAUSE));
        generator(&line)
    })
}

#[test]
fn a_pause_is_in_both_latencies_while_the_publisher_is_not_held_back() {
    let outcome = room(200);
    assert_eq!(outcome.count("delivered"), outcome.count("expected"));
    for latency in ["latency_us", "uncorrected_latency_us"] {
        assert!(outcome.number(&format!("{latency}.max")) >= 900_000.0, "{:#}", outcome.told);
        // A second of three is a third of all messages, and half of them waited for half of it.
        assert!(outcome.number(&format!("{latency}.p90")) >= 500_000.0, "{:#}", outcome.told);
    }
}
