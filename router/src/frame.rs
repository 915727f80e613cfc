//! A sequenced message, ready to be sent.

use bytes::Bytes;

use crate::class::Class;

/// A message that was given its number and encoded, once, for everybody. Clones share the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its place in the room.
    pub seq: u64,
    /// What it gives way to.
    pub class: Class,
    /// Whether it may not be left out for a slow reader.
    pub never_drop: bool,
    /// Where it is shown.
    pub category: u16,
    /// Of a `Combo` or a `State`: whose publishes it carries.
    pub merged: Option<MergeId>,
    /// The whole `ServerFrame`, as it goes over TCP.
    pub bytes: Bytes,
}

/// What publishes have in common that are merged into one frame: they are taps of one run, or
/// values of one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MergeId {
    /// Where it is shown.
    pub category: u16,
    /// Who gives; 0 for a state, which has no sender.
    pub sender: u64,
    /// The gift, or what a state is the value of.
    pub key: u64,
}
