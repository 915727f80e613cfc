//! Flow control end to end: what is refused, what is merged, and what is never either.

mod budgets;
mod combos;
mod limits;
mod states;

#[path = "../common/mod.rs"]
mod common;

use barrage_wire::upstream::{AckMode, PublishHead};

use common::{Gateway, TempDir, Upstream};

const ROOM: u64 = 7;
/// Categories of the built-in policy that merge.
const GIFT_SMALL: u16 = 3;
const STATE: u16 = 6;

/// Runs a test with a policy on a gateway with one shard, and again on one with two.
fn with_policy(policy: &str, body: impl Fn(&Gateway)) {
    let dir = TempDir::new("flow");
    let policy = dir.file("policy.toml", policy);
    for cores in ["0", "0-1"] {
        eprintln!("with --cores {cores}");
        body(&Gateway::start(cores, &["--policy", &policy]));
    }
}

/// About a message of this category and key.
fn head(upstream: &mut Upstream, category: u16, merge_key: u64, ack: AckMode) -> PublishHead {
    PublishHead { request: upstream.next_request(), ack, category, merge_key, ..Default::default() }
}
