//! The one clock that sender and receivers share: nanoseconds of `CLOCK_MONOTONIC`.

use std::num::NonZeroU64;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds in a second.
pub const SECOND_NS: u64 = 1_000_000_000;

/// Nanoseconds since some moment in the past, the same moment for every thread.
#[inline]
pub fn now_ns() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as u64 * SECOND_NS + time.tv_nsec as u64
}

/// How long it is from now to `at_ns`; zero when that has passed.
pub fn until(at_ns: u64) -> Duration {
    Duration::from_nanos(at_ns.saturating_sub(now_ns()))
}

/// Seconds as nanoseconds.
pub fn seconds_ns(seconds: f64) -> u64 {
    (seconds * SECOND_NS as f64) as u64
}

/// Lets the calling thread's sleeps end on time: the kernel's default is up to 50 µs late, which
/// would be charged to the gateway.
pub fn sleep_precisely() {
    // When it is refused sleeps are a little late, and the send lag says so.
    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
}

/// Lets the calling thread run promptly beside others that are always busy. A sender that waits for
/// a core is late, and its run invalid. One that is `seldom` busy goes before everybody else.
pub fn run_promptly(seldom: bool) {
    if !(seldom && barrage_sys::run_on_time()) {
        // Not everybody may; then the send lag tells how it went.
        let _ = rustix::process::setpriority_process(None, SENDER_NICENESS);
    }
}

const SENDER_NICENESS: i32 = -15;
