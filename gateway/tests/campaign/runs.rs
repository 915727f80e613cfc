//! `run`: each kind of fault gets its class and its exit code, with counts that are exact where the
//! proxy counts, and what is no fault is not taken for one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use barrage_loadgen::exit::Exit;
use barrage_loadgen::faults::Faults;
use barrage_loadgen::faults::mischief::{Dose, Frames};
use barrage_loadgen::faults::weather::Plan;

use crate::common::{SOON, TempDir};
use crate::harness::{Course, Outcome, generator, ns, pause_after, until_counted};

/// Busy threads beside a worker: it gets its turn every few milliseconds.
const RIVALS: usize = 4;
/// Clients of a plain campaign.
const CLIENTS: u32 = 10;
const CHAT: &str = "[streams.chat]\nmessages_per_s = 200\ncategory = 7\nsize = 64\n";
/// A phase of a second.
pub const STEADY: &str = "[[phases]]\nname = \"steady\"\nsecs = 1\n";
/// How busy and how late the generator is on a machine that has other things to do is not what is
/// tested here, but for the tests that are about it.
pub const LENIENT: &str = "[validity]\nbusy_percent = 100\nlag_p99_ms = 600000\nlag_percent = 100\n\
                       published_percent = 0\n";

/// A file with a scenario against a course: `text` is what it has beside target, clients and ramp.
fn scenario(dir: &TempDir, course: &Course, clients: &str, text: &str) -> String {
    let gateway = &course.gateway;
    let scenario = format!(
        "name = \"test\"\n[target]\ntcp = \"{}\"\nws = \"{}\"\nupstream = \"{}\"\nmetrics = \"{}\"\n\
         [clients]\n{clients}\n[[phases]]\nname = \"ramp\"\nkind = \"ramp\"\n{text}",
        course.proxy.address, gateway.ws, gateway.upstream, gateway.http
    );
    dir.file("test.toml", &scenario)
}

/// Runs such a scenario.
pub fn run(course: &Course, clients: &str, text: &str, options: &str) -> Outcome {
    let dir = TempDir::new("campaign");
    let file = scenario(&dir, course, clients, text);
    generator(&format!("run {file} --out none --json --quiet {options}"))
}

fn clients() -> String {
    format!("count = {CLIENTS}")
}

/// The plain campaign with these faults, and an objective.
fn faulty(faults: Faults, slo: &str) -> (Outcome, barrage_loadgen::faults::counts::Counts) {
    let course = Course::new(faults);
    let text = format!("{STEADY}{CHAT}{LENIENT}[slo]\n{slo}\n");
    let outcome = run(&course, &clients(), &text, "");
    (outcome, course.proxy.stop().expect("the proxy ends in order"))
}

fn frames(frames: Frames) -> Faults {
    Faults { frames, ..Faults::default() }
}

fn share(share: f64) -> Dose {
    Dose { share, nth: vec![] }
}

fn nth(nth: &[u64]) -> Dose {
    Dose { share: 0.0, nth: nth.to_vec() }
}

impl Outcome {
    pub fn total(&self, name: &str) -> u64 {
        self.count(&format!("summary.totals.{name}"))
    }

    /// Missing, doubled and late messages.
    pub fn wrong(&self) -> [u64; 3] {
        ["unexplained", "duplicate", "reordered"].map(|name| self.total(name))
    }

    fn assert_latency(&self, name: &str, least_us: f64) {
        let path = format!("summary.measured.{name}");
        assert!(self.number(&path) >= least_us, "{path}: {:#}", self.told["summary"]["measured"]);
    }
}

#[test]
fn a_sound_target_passes_however_its_bytes_are_cut() {
    let (outcome, injected) = faulty(Faults { split: Some(5), ..Faults::default() }, "");
    outcome.assert_exit(Exit::Pass);
    assert_eq!(outcome.wrong(), [0; 3]);
    assert_eq!(outcome.total("delivered"), outcome.total("admitted") * u64::from(CLIENTS));
    assert_eq!(outcome.total("delivered"), injected.numbered);
}

#[test]
fn drops_are_unexplained_one_by_one() {
    let drop = frames(Frames { drop: nth(&[10, 70, 71]), ..Frames::default() });
    let (outcome, injected) = faulty(drop, "");
    outcome.assert_exit(Exit::Faulty);
    assert_eq!(injected.dropped, 3 * u64::from(CLIENTS));
    assert_eq!(outcome.wrong(), [injected.dropped, 0, 0]);
}

#[test]
fn drops_duplicates_and_swaps_are_told_apart_in_one_stream() {
    let (outcome, injected) = faulty(
        frames(Frames {
            drop: nth(&[15, 16, 90]),
            duplicate: share(0.05),
            reorder: share(0.05),
            ..Frames::default()
        }),
        "",
    );
    outcome.assert_exit(Exit::Faulty);
    assert!(injected.duplicated > 0 && injected.reordered > 0, "{injected:?}");
    assert_eq!(outcome.wrong(), [injected.dropped, injected.duplicated, injected.reordered]);
}

#[test]
fn a_delay_misses_an_objective_and_is_no_fault() {
    let delay_ns = ns(Duration::from_millis(80));
    let (outcome, _) = faulty(Faults { delay_ns, ..Faults::default() }, "p50_ms = 40");
    outcome.assert_exit(Exit::Missed);
    assert_eq!(outcome.wrong(), [0; 3]);
    outcome.assert_latency("latency_us.p50", 79_000.0);
    outcome.assert_latency("uncorrected_us.p50", 79_000.0);
}

#[test]
fn a_stall_misses_an_objective_and_loses_nothing() {
    let stall_ns = ns(Duration::from_secs(1));
    let weather = Plan { stall_ns, stall_at_ns: stall_ns / 5, ..Plan::default() };
    let (outcome, injected) = faulty(Faults { weather, ..Faults::default() }, "max_ms = 500");
    outcome.assert_exit(Exit::Missed);
    assert_eq!((injected.stalls, outcome.wrong()), (1, [0; 3]));
    assert_eq!(outcome.total("delivered"), outcome.total("admitted") * u64::from(CLIENTS));
    outcome.assert_latency("latency_us.p99", 500_000.0);
    outcome.assert_latency("latency_us.max", 900_000.0);
}

#[test]
fn resets_are_lost_connections_that_miss_nothing_when_they_come_back() {
    let reset_at_ns = Some(ns(Duration::from_millis(300)));
    let weather = Plan { reset_at_ns, ..Plan::default() };
    let (outcome, injected) = faulty(Faults { weather, ..Faults::default() }, "");
    outcome.assert_exit(Exit::Missed);
    assert_eq!(injected.resets, u64::from(CLIENTS));
    assert_eq!(outcome.total("lost"), injected.resets);
    assert_eq!((outcome.total("reconnected"), outcome.wrong()), (injected.resets, [0; 3]));
    let known = ["delivered", "declared_reset"].map(|name| outcome.total(name));
    assert_eq!(known.iter().sum::<u64>(), outcome.total("admitted") * u64::from(CLIENTS));
}

#[test]
fn a_target_that_dies_is_lost() {
    let mut course = Course::new(Faults::default());
    let text = format!("{}{CHAT}{LENIENT}", STEADY.replace("secs = 1", "secs = 60"));
    let dir = TempDir::new("campaign");
    let file = scenario(&dir, &course, &clients(), &text);
    std::thread::scope(|scope| {
        let run = scope.spawn(|| generator(&format!("run {file} --out none --json --quiet")));
        until_counted(&course.gateway, "published_total", 50);
        course.gateway.kill_now();
        run.join().expect("it does not panic").assert_exit(Exit::TargetLost);
    });
}

#[test]
fn a_target_that_is_not_there_is_lost() {
    let mut course = Course::new(Faults::default());
    course.gateway.kill_now();
    let text = format!("{STEADY}{CHAT}{LENIENT}");
    let options = "--set target.metrics=none";
    run(&course, &clients(), &text, options).assert_exit(Exit::TargetLost);
}

#[test]
fn a_generator_that_cannot_keep_up_says_invalid() {
    let course = Course::new(Faults::default());
    let chat = CHAT.replace("200", "5_000_000");
    let outcome = run(&course, "count = 1", &format!("{STEADY}{chat}"), "");
    assert_eq!(outcome.wrong(), [0; 3]);
    outcome.assert_exit(Exit::Invalid);
    assert!(outcome.total("published") < outcome.total("offered"));
}

#[test]
fn a_generator_that_shares_its_core_says_invalid() {
    let course = Course::new(Faults::default());
    // With two cores or more the worker has the last; with one everybody has it.
    let core = *barrage_sys::cores_online().last().expect("there is one");
    let over = AtomicBool::new(false);
    let outcome = std::thread::scope(|scope| {
        for _ in 0..RIVALS {
            scope.spawn(|| {
                barrage_sys::pin_to_core(core).expect("it is ours");
                // The bound is for a campaign that panics.
                let until = Instant::now() + SOON;
                while !over.load(Ordering::Relaxed) && Instant::now() < until {
                    std::hint::spin_loop();
                }
            });
        }
        let outcome = run(&course, &clients(), &format!("{STEADY}{CHAT}"), "");
        over.store(true, Ordering::Relaxed);
        outcome
    });
    assert_eq!(outcome.wrong(), [0; 3]);
    outcome.assert_exit(Exit::Invalid);
    let reasons = outcome.told["summary"]["verdict"]["invalid_reasons"].to_string();
    assert!(reasons.contains("waited for a core"), "{reasons}");
}

#[test]
fn bounds_of_validity_can_be_set_and_are_kept() {
    let course = Course::new(Faults::default());
    let text = format!("{STEADY}{CHAT}{LENIENT}");
    let outcome = run(&course, &clients(), &text, "--set validity.lag_p99_ms=0");
    outcome.assert_exit(Exit::Invalid);
    let reasons = outcome.told["summary"]["verdict"]["invalid_reasons"].to_string();
    assert!(reasons.contains("late"), "{reasons}");
}

/// A campaign in which the gateway is stopped for a second.
fn paused(messages_per_s: &str, published: u64) -> Outcome {
    let course = Course::new(Faults::default());
    let chat = CHAT.replace("200", messages_per_s);
    // A pause that began in the warm-up would be shorter in what is measured.
    let steady = STEADY.replace("secs = 1", "secs = 3\nwarmup_s = 0");
    let text = format!("{steady}{chat}{LENIENT}[slo]\nmax_ms = 500\n");
    let pause = Duration::from_secs(1);
    std::thread::scope(|scope| {
        scope.spawn(|| pause_after(&course.gateway, published, pause));
        run(&course, "count = 2", &text, "")
    })
}

#[test]
fn a_pause_is_in_the_corrected_latency() {
    let outcome = paused("200", 50);
    outcome.assert_exit(Exit::Missed);
    assert_eq!(outcome.wrong(), [0; 3]);
    // Nobody holds the publisher back at this rate: what was late was late on its way.
    for latency in ["latency_us", "uncorrected_us"] {
        outcome.assert_latency(&format!("{latency}.max"), 900_000.0);
        outcome.assert_latency(&format!("{latency}.p90"), 500_000.0);
    }
}

#[test]
fn a_pause_that_holds_the_publisher_back_is_in_the_corrected_latency() {
    // 16,384 publishes may be unanswered: less than half a second of these. The others are sent late,
    // which the uncorrected latency does not know of.
    let outcome = paused("40_000", 500);
    assert_eq!(outcome.wrong(), [0; 3]);
    assert_ne!(outcome.exit, Exit::Pass);
    outcome.assert_latency("latency_us.max", 900_000.0);
    outcome.assert_latency("lag_us.max", 300_000.0);
    let p50 = |name| outcome.number(&format!("summary.measured.{name}.p50"));
    assert!(p50("latency_us") >= p50("uncorrected_us"), "{:#}", outcome.told);
}

#[test]
fn what_slow_readers_miss_is_accounted_for_and_no_fault() {
    let course = Course::new(Faults::default());
    let slow = format!("{}\n[clients.slow]\ncount = 2\nbytes_per_s = 2000", clients());
    // More than twice as much as socket buffers and the room's window hold together; the proxy's own
    // would hold the rest.
    let direct = format!("--set target.tcp={}", course.gateway.tcp);
    let chat = CHAT.replace("200", "3000").replace("size = 64", "size = 2048");
    let steady = STEADY.replace("secs = 1", "secs = 2");
    let outcome = run(&course, &slow, &format!("{steady}{chat}{LENIENT}"), &direct);
    outcome.assert_exit(Exit::Pass);
    assert_eq!(outcome.wrong(), [0; 3]);
    let slow = |name: &str| outcome.count(&format!("summary.slow.{name}"));
    assert_eq!(slow("unexplained") + slow("duplicate") + slow("reordered"), 0);
    let known = ["delivered", "declared_shed", "declared_reset", "disconnected"].map(slow);
    assert_eq!(known.iter().sum::<u64>(), 2 * outcome.total("admitted"));
    assert!(slow("declared_shed") > 0, "{:#}", outcome.told["summary"]["slow"]);
}

#[test]
fn who_comes_and_goes_with_resume_misses_nothing() {
    let course = Course::new(Faults::default());
    let churn = "[phases.churn]\nclients_per_s = 15\naway_s = 0.2\nresume = true\n\
                 abrupt_percent = 50\n";
    let steady = STEADY.replace("secs = 1", "secs = 2");
    let outcome = run(&course, &clients(), &format!("{steady}{churn}{CHAT}{LENIENT}"), "");
    outcome.assert_exit(Exit::Pass);
    assert!(outcome.total("dropped") > 0 && outcome.total("reconnected") > 0);
    assert_eq!((outcome.wrong(), outcome.total("lost")), ([0; 3], 0));
    let known = ["delivered", "declared_reset"].map(|name| outcome.total(name));
    assert_eq!(known.iter().sum::<u64>(), outcome.total("admitted") * u64::from(CLIENTS));
}

#[test]
fn everybody_can_lose_the_connection_at_once() {
    let course = Course::new(Faults::default());
    let flash = "[[phases]]\nname = \"flash\"\nkind = \"storm\"\nsecs = 1\n\
                 [phases.disconnect]\npercent = 100\naway_s = 0.2\nresume = true\n";
    let outcome = run(&course, &clients(), &format!("{flash}{CHAT}{LENIENT}"), "");
    outcome.assert_exit(Exit::Pass);
    assert_eq!(outcome.total("dropped"), u64::from(CLIENTS));
    assert_eq!(outcome.total("reconnected"), u64::from(CLIENTS));
    assert_eq!(outcome.wrong(), [0; 3]);
    assert!(outcome.number("summary.reconnect_s") >= 0.2);
}

#[test]
fn clients_who_misbehave_harm_nobody() {
    let course = Course::new(Faults::default());
    let odd = format!("{}\n[clients.misbehaving]\ncount = 16\nacts_per_s = 5", clients());
    let outcome = run(&course, &odd, &format!("{STEADY}{CHAT}{LENIENT}"), "");
    outcome.assert_exit(Exit::Pass);
    assert_eq!(outcome.wrong(), [0; 3]);
    assert_eq!(outcome.total("delivered"), outcome.total("admitted") * u64::from(CLIENTS));
}
