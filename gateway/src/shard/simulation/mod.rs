//! Shards on a network that misbehaves, with peers that check every frame they get.
//!
//! A run is a function of its seed. `SEED=n cargo test -p barrage-gateway --lib simulation` runs
//! one seed again and prints what happened in it.

mod bad_input;
mod client;
mod device;
mod directed;
mod fairness;
mod idle;
mod merges;
mod model;
mod orders;
mod races;
mod report;
mod rest;
mod rules;
mod session;
mod stream;
mod upstream;
mod world;

use self::report::Report;
use self::world::World;

/// Seeds that every test run goes through.
const SEEDS: u64 = 400;

/// Runs one seed. A seed that has failed becomes a test by the name of what was wrong.
fn run(seed: u64) -> Report {
    let _name_the_seed = OnPanic(seed);
    World::new(seed).run()
}

/// Says how to see a failure again.
struct OnPanic(u64);

impl Drop for OnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "replay with: SEED={} cargo test -p barrage-gateway --lib simulation",
                self.0
            );
        }
    }
}

#[test]
fn peers_get_what_the_protocol_promises() {
    if let Ok(seed) = std::env::var("SEED") {
        println!("{:#?}", run(seed.parse().expect("SEED is a number")));
        return;
    }
    let mut sum = Report::default();
    (0..SEEDS).for_each(|seed| sum.add(run(seed)));
    println!("{sum:#?}");
    // A simulation in which something never happens says nothing about it.
    assert!(sum.rarest() > SEEDS / 10, "every kind of thing happens often");
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let mut traces: Vec<u64> = (0..40).map(|seed| run(seed).trace).collect();
    for (seed, trace) in (0..).zip(&traces) {
        assert_eq!(run(seed).trace, *trace, "seed {seed}, run again");
    }
    traces.sort_unstable();
    traces.dedup();
    assert_eq!(traces.len(), 40, "different seeds give different traces");
}
