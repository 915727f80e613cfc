//! Whether the load generator sees what is there: campaigns against the real gateway, directly and
//! through a proxy that does a counted number of things wrong.
//!
//! What is asserted of times is only what physics guarantees on the slowest machine: that a delay
//! was at least as long as it was made.

mod captures;
mod harness;
mod merged;
mod pauses;
mod probes;
mod proxied;
mod runs;

#[path = "../common/mod.rs"]
mod common;
