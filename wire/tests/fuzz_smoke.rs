//! A short seeded run of the fuzz bodies, on noise and on mutations of the golden vectors.
//!
//! A failure prints its seed; `SEED=n cargo test -p barrage-wire --test fuzz_smoke` runs just that.
#![allow(clippy::unwrap_used, reason = "a test stops at its first surprise")]

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use barrage_wire::fuzz;
use serde_json::Value;

const RUNS: u64 = 80_000;

/// SplitMix64: every seed gives a good sequence, and the same one everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}

/// The bytes of every entry of the golden vectors, good and bad.
fn corpus() -> Vec<Vec<u8>> {
    let text = include_str!("../vectors/v1.json");
    let document: Value = serde_json::from_str(text).expect("the vectors are JSON");
    let entries = document.as_object().expect("an object").values().filter_map(Value::as_array);
    let mut corpus = Vec::new();
    for entry in entries.flatten() {
        let digits = entry["hex"].as_str().unwrap_or_default().as_bytes().chunks(2);
        let byte =
            |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        corpus.push(digits.map(byte).collect());
        for name in ["request", "response"] {
            corpus.push(entry[name].as_str().unwrap_or_default().as_bytes().to_vec());
        }
    }
    corpus.retain(|bytes| !bytes.is_empty());
    corpus
}

/// One to three entries, one after the other, with a few bytes changed; at times only noise.
fn input(random: &mut Random, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    if random.below(4) == 0 {
        bytes.extend((0..random.below(400)).map(|_| random.next() as u8));
        return bytes;
    }
    for _ in 0..1 + random.below(3) {
        bytes.extend_from_slice(&corpus[random.below(corpus.len())]);
    }
    for _ in 0..random.below(4) {
        let at = random.below(bytes.len());
        match random.below(5) {
            0 => bytes[at] = random.next() as u8,
            1 => bytes[at] ^= 1 << random.below(8),
            2 => bytes[at] = [0, 1, 0x7d, 0x7e, 0x7f, 0x80, 0xfe, 0xff][random.below(8)],
            3 => bytes.insert(at, random.next() as u8),
            _ => bytes.truncate(at + 1),
        }
    }
    bytes
}

fn run(seed: u64, corpus: &[Vec<u8>]) {
    let mut random = Random(seed);
    let data = input(&mut random, corpus);
    fuzz::frames(&data);
    fuzz::handshake(&data);
    for role in 0..2 {
        fuzz::websocket(&[&[role, random.next() as u8], &data[..]].concat());
    }
    // A session is long, so it gets noise of its own, and not every time.
    if seed.is_multiple_of(16) {
        let noise: Vec<u8> = (0..random.below(2000)).map(|_| random.next() as u8).collect();
        fuzz::operations(&noise);
    }
}

#[test]
fn no_seed_breaks_a_promise() {
    let corpus = corpus();
    if let Ok(seed) = std::env::var("SEED") {
        return run(seed.parse().expect("SEED is a number"), &corpus);
    }
    for seed in 0..RUNS {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(seed, &corpus))) {
            eprintln!("SEED={seed} cargo test -p barrage-wire --test fuzz_smoke");
            resume_unwind(panic);
        }
    }
}
