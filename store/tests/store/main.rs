//! The store from outside: what comes back, after which accidents.
#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests")]

mod cache;
mod clocks;
mod damage;
mod disk_full;
mod kill;
mod loads;
mod model;
mod reopen;
mod retention;
mod torn;
mod world;
