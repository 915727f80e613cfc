//! Durable history: what rooms have said, on disk, and small notes beside it.
//!
//! One thread writes and one reads; a shard has a `Client`, hands in commands and fetches answers,
//! and never waits for a disk. What `Stored` and `floor` promise is in `README.md`.
#![forbid(unsafe_code)]

mod answers;
mod book;
mod cache;
mod client;
mod clock;
mod dir;
mod engine;
mod error;
mod journal;
mod keeper;
mod keys;
mod limits;
mod manifest;
mod outage;
mod reader;
mod record;
mod recovery;
mod retention;
mod stats;
mod witness;
mod writer;

pub use answers::Wake;
pub use client::{Client, Done, Full};
pub use clock::{Redate, UnixClock};
pub use error::Error;
pub use keeper::{Keeper, open};
pub use limits::{KEYS_MAX, NOTE_KEY_BYTES_MAX, NOTE_VALUE_BYTES_MAX};
pub use record::{Found, From, Load, Lost, Options, Page, Position, Record, Retention};
pub use stats::{Damage, State, Stats};
