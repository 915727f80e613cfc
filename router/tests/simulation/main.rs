//! Rooms, shards and members under delay, full queues and churn, all of it from one number.
//!
//! A run is a function of its seed: it asks the real `Room`s and a naive model the same things and
//! compares every answer. `SEED=n cargo test -p barrage-router --test simulation` runs one seed
//! again and prints what happened in it.

mod client;
mod clock;
mod limits;
mod mail;
mod merges;
mod model;
mod random;
mod report;
mod rules;
mod timing;
mod world;

use report::Report;
use world::World;

/// Seeds that every test run goes through.
const SEEDS: u64 = 4_000;

/// Runs one seed. A seed that has failed becomes a test by the name of what was wrong:
/// `#[test] fn a_resume_at_the_oldest_frame_is_not_a_reset() { run(1234); }`
fn run(seed: u64) -> Report {
    let _name_the_seed = OnPanic(seed);
    World::new(seed).run()
}

/// The seeds to go through, or the one that the environment names.
fn seeds(count: u64) -> std::ops::Range<u64> {
    match std::env::var("SEED") {
        Ok(seed) => {
            let seed = seed.parse().expect("SEED is a number");
            seed..seed + 1
        }
        Err(_) => 0..count,
    }
}

/// Says how to see a failure again.
struct OnPanic(u64);

impl Drop for OnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "replay with: SEED={} cargo test -p barrage-router --test simulation",
                self.0
            );
        }
    }
}

#[test]
fn rooms_do_what_the_model_does() {
    if let Ok(seed) = std::env::var("SEED") {
        println!("{:#?}", run(seed.parse().expect("SEED is a number")));
        return;
    }
    let mut sum = Report::default();
    (0..SEEDS).for_each(|seed| sum.add(&run(seed)));
    println!("{sum:#?}");
    // A simulation in which something never happens says nothing about it.
    assert!(sum.rarest() > SEEDS / 10, "every kind of thing happens often");
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let mut traces: Vec<u64> = (0..100).map(|seed| run(seed).trace).collect();
    for (seed, trace) in (0..).zip(&traces) {
        assert_eq!(run(seed).trace, *trace, "seed {seed}, run again");
    }
    traces.sort_unstable();
    traces.dedup();
    assert_eq!(traces.len(), 100, "different seeds give different traces");
}
