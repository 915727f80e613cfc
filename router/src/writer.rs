//! Where a message gets its number, its wire form and its place in the history.

use barrage_wire::ServerFrame;
use barrage_wire::codec::Tail;
use barrage_wire::server::{COMBO_OVERHEAD_BYTES, MESSAGE_OVERHEAD_BYTES, STATE_OVERHEAD_BYTES};
use bytes::Bytes;

use crate::category::Category;
use crate::class::Class;
use crate::frame::{Frame, MergeId};
use crate::history::History;
use crate::ids::Alias;

/// What a frame has of its category. What waits keeps it, since the policy may change meanwhile.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Label {
    pub category: u16,
    pub class: Class,
    pub never_drop: bool,
}

impl From<&Category> for Label {
    fn from(category: &Category) -> Self {
        Self { category: category.id, class: category.class, never_drop: category.never_drop }
    }
}

/// What a `Combo` frame says beside its payload.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tally {
    pub flags: u8,
    pub count: u32,
    pub total: u64,
}

/// The one way by which a room says something.
pub(crate) struct Writer<'a> {
    pub alias: Alias,
    pub head: &'a mut u64,
    pub history: &'a mut History,
    pub out: &'a mut Vec<Frame>,
}

impl Writer<'_> {
    /// A message that goes out as it is. Returns its number, like the others.
    pub fn message(&mut self, label: Label, kind: u16, payload: &[u8]) -> u64 {
        let (alias, category, bytes) = (self.alias.0, label.category, payload.len());
        self.push(label, None, MESSAGE_OVERHEAD_BYTES + bytes, |seq| {
            let payload = Tail(payload);
            ServerFrame::Message { alias, seq, category, kind, payload }
        })
    }

    /// A part of a run.
    pub fn combo(
        &mut self,
        label: Label,
        id: MergeId,
        kind: u16,
        tally: Tally,
        payload: &[u8],
    ) -> u64 {
        let (alias, category, bytes) = (self.alias.0, label.category, payload.len());
        let (MergeId { sender, key, .. }, Tally { flags, count, total }) = (id, tally);
        self.push(label, Some(id), COMBO_OVERHEAD_BYTES + bytes, |seq| {
            let payload = Tail(payload);
            #[rustfmt::skip]
            let combo = ServerFrame::Combo {
                alias, seq, category, kind, flags, sender, key, count, total, payload,
            };
            combo
        })
    }

    /// The latest value of a key.
    pub fn state(&mut self, label: Label, id: MergeId, kind: u16, payload: &[u8]) -> u64 {
        let (alias, category, bytes) = (self.alias.0, label.category, payload.len());
        let key = id.key;
        self.push(label, Some(id), STATE_OVERHEAD_BYTES + bytes, |seq| {
            let payload = Tail(payload);
            ServerFrame::State { alias, seq, category, kind, key, payload }
        })
    }

    /// The vector is as long as the frame, so becoming `Bytes` moves it instead of copying it.
    fn push<'p>(
        &mut self,
        label: Label,
        merged: Option<MergeId>,
        frame_bytes: usize,
        frame: impl FnOnce(u64) -> ServerFrame<'p>,
    ) -> u64 {
        *self.head += 1;
        let seq = *self.head;
        let mut bytes = Vec::with_capacity(frame_bytes);
        frame(seq).encode(&mut bytes);
        debug_assert_eq!(bytes.len(), frame_bytes, "the wire crate states the overhead");
        let (Label { category, class, never_drop }, bytes) = (label, Bytes::from(bytes));
        let frame = Frame { seq, class, never_drop, category, merged, bytes };
        self.history.push(frame.clone());
        self.out.push(frame);
        seq
    }
}
