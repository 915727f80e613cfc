//! The room's brain: who is counted where, which message gets which number, what is remembered, and
//! what somebody who comes back has missed.
//!
//! Everything here is a plain function of its arguments. There is no clock, no socket, no thread
//! and no randomly seeded map (`clippy.toml` sees to it), so the same calls give the same answers,
//! and `tests/simulation` can replay any failure from one number.
#![forbid(unsafe_code)]

mod category;
mod class;
mod dedupe;
mod frame;
mod history;
mod ids;
mod level;
mod placement;
mod room;

pub use category::{Aggregation, CATEGORIES_BUILTIN, Category, Policy};
pub use class::Class;
pub use dedupe::{Seen, Target};
pub use frame::Frame;
pub use history::{History, HistoryLimits};
pub use ids::{Alias, AppId, Millis, RoomId, RoomKey, ShardIndex, UserId, UserKey};
pub use level::Level;
pub use placement::{home_of_room, home_of_user};
pub use room::{Admission, CatchUp, Cursor, Joined, Publish, ROOM_IDLE_MS, ROOM_UNUSED_MS, Room};
