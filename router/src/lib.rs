//! The room's brain: who is counted where, which message gets which number, what is remembered, and
//! what somebody who comes back has missed.
//!
//! Everything here is a plain function of its arguments. There is no clock, no socket, no thread
//! and no randomly seeded map (`clippy.toml` sees to it), so the same calls give the same answers,
//! and `tests/simulation` can replay any failure from one number.
#![forbid(unsafe_code)]

mod agenda;
mod category;
mod class;
mod combo;
mod dedupe;
mod devices;
mod egress;
mod flow;
mod frame;
mod history;
mod ids;
mod inbox;
mod level;
mod moderation;
mod placement;
mod policy;
mod quota;
mod rate;
mod room;
mod states;
mod writer;

pub use agenda::LIMIT_DEBT_MAX_MS;
pub use category::{Aggregation, Category, Keep, Retention};
pub use class::Class;
pub use combo::{COMBO_HOLD_MAX_MS, COMBOS_MAX};
pub use dedupe::{Seen, Target};
pub use devices::{Device, Surplus, replaced};
pub use egress::{EGRESS_DEBT_MS, Egress, shares};
pub use flow::FLOW_BYTES_MAX;
pub use frame::{Frame, MergeId};
pub use history::{History, HistoryLimits};
pub use ids::{Alias, AppId, Millis, RoomId, RoomKey, ShardIndex, UserId, UserKey};
pub use inbox::{
    DEVICES_MAX, Gone, INBOX_WINDOW, INBOX_WINDOW_BYTES_MAX, Inbox, InboxDevice, InboxMessage,
    InboxOutput, InboxPush, Pushed,
};
pub use level::Level;
pub use moderation::{Moderation, ORDERS_MAX, Order, Refused, UNTIL_FOREVER};
pub use placement::{home_of_room, home_of_user};
pub use policy::{
    CATEGORIES_BUILTIN, CATEGORIES_MAX, InboxRules, LevelRules, MergeRules, PLATFORMS, Policy,
    Quotas,
};
pub use quota::QuotaTable;
pub use rate::{Bucket, Rate};
pub use room::{Admission, CatchUp, Cursor, Joined, Publish, ROOM_IDLE_MS, ROOM_UNUSED_MS, Room};
pub use states::{STATE_KEYS_MAX, STATE_KEYS_RETRY_MS};
