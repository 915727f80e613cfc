//! How late a thread wakes that sleeps until a moment, as publishers do.

use std::thread;

use anyhow::{Result, anyhow};

use crate::clock::{now_ns, run_promptly, sleep_precisely, until};
use crate::record::{Times, no_times};

/// One moment a millisecond.
const EVERY_NS: u64 = 1_000_000;
const MOMENTS: u64 = 500;
const NS_PER_US: u64 = 1000;

/// Sleeps until many moments, on a thread of its own, and times how late it wakes.
pub fn lateness() -> Result<Times> {
    thread::spawn(watch).join().map_err(|_| anyhow!("a thread has panicked; that is a bug"))
}

fn watch() -> Times {
    sleep_precisely();
    run_promptly(true);
    let mut times = no_times();
    let began_ns = now_ns();
    for moment in 1..=MOMENTS {
        let due_ns = began_ns + moment * EVERY_NS;
        thread::sleep(until(due_ns));
        times.saturating_record(now_ns().saturating_sub(due_ns) / NS_PER_US);
    }
    times
}
