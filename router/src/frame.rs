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
    /// The whole `ServerFrame::Message`, as it goes over TCP.
    pub bytes: Bytes,
}
