//! The gateway: one shard per core holds connections and rooms and shares no memory with any other.
//!
//! Start at `shard`: its `step` is everything that a core can do. `ARCHITECTURE.md` has the
//! picture.
#![forbid(unsafe_code)]
#![allow(missing_docs, reason = "a program's parts, not a library for others")]

mod asks;
pub mod auth;
mod clock;
pub mod config;
mod conn;
mod control;
mod directory;
#[cfg(test)]
mod fake_ring;
pub mod filter;
mod host;
pub mod limits;
mod local_room;
mod mail;
mod metrics;
mod note;
mod past;
pub mod policy_file;
mod refusal;
mod room_log;
mod rules;
pub mod server;
mod shard;
mod startup;
mod stored;
mod tickets;
mod uplink;
mod walks;
mod wheel;
