//! The latest value of each key: what is in between may be left out, the last one never is.

use std::collections::BTreeMap;

use barrage_wire::ServerFrame;
use barrage_wire::codec::Tail;
use barrage_wire::server::STATE_OVERHEAD_BYTES;
use bytes::Bytes;

use crate::agenda::{Agenda, Entry, Item, Turn};
use crate::frame::MergeId;
use crate::ids::{Alias, Millis};
use crate::room::{Admission, Publish};
use crate::writer::Label;

/// Keys that a room remembers the values of.
pub const STATE_KEYS_MAX: usize = 256;
/// When to try again with one more key than that: only if another is removed meanwhile does it
/// stand a chance, and nobody knows when that will be.
pub const STATE_KEYS_RETRY_MS: u32 = 60_000;

/// The values of a room.
#[derive(Debug, Default)]
pub(crate) struct States {
    values: BTreeMap<MergeId, Value>,
    snapshot: Option<Snapshot>,
}

/// All values, encoded as of a message.
#[derive(Debug)]
struct Snapshot {
    head: u64,
    frames: Vec<Bytes>,
}

#[derive(Debug)]
struct Value {
    label: Label,
    kind: u16,
    /// Empty: the key is removed. It stays until its next value could go out, so that removing a
    /// key is no way around `state_every_ms`.
    payload: Bytes,
    /// Whether it has yet to go out.
    pending: bool,
    /// When the next frame may go.
    next: Millis,
    /// The last frame.
    seq: u64,
    entry: Entry,
}

impl States {
    /// Takes a value in. Whether a frame carries it at once is seen after what is due was sent; see
    /// `carried`. Else the answer is returned.
    pub fn put(
        &mut self,
        id: MergeId,
        message: &Publish<'_>,
        agenda: &mut Agenda,
        turn: &mut Turn<'_>,
    ) -> Option<Admission> {
        let Publish { category, kind, payload, .. } = *message;
        let label = Label::from(category);
        if self.values.len() >= STATE_KEYS_MAX && !self.contains(id) {
            if category.never_drop {
                let seq = turn.writer.state(label, id, kind, payload);
                return Some(Admission::Admitted { seq });
            }
            return Some(Admission::Limited { retry_after_ms: STATE_KEYS_RETRY_MS });
        }
        self.snapshot = None;
        let value = self.values.entry(id).or_insert_with(|| Value {
            label,
            kind,
            payload: Bytes::new(),
            pending: false,
            next: Millis(0),
            seq: 0,
            entry: Entry::default(),
        });
        (value.label, value.kind) = (label, kind);
        value.payload = Bytes::copy_from_slice(payload);
        if !value.pending {
            value.pending = true;
            let timer = Some(value.next.max(turn.now));
            agenda.place(Item::State(id), &mut value.entry, Entry { timer, waits: None });
        }
        if category.never_drop {
            let seq = self.send(id, agenda, turn);
            return Some(Admission::Admitted { seq });
        }
        None
    }

    /// The number of the frame that carries a key's latest value, if one does.
    pub fn carried(&self, id: MergeId) -> Option<u64> {
        self.values.get(&id).filter(|value| !value.pending).map(|value| value.seq)
    }

    /// A key's timer has run out: its value is due, or it was removed long enough ago.
    pub fn fires(&mut self, at: Millis, id: MergeId, agenda: &mut Agenda) {
        let value = self.values.get_mut(&id).expect("only what is there has a timer");
        let waits = value.pending.then_some(at);
        agenda.place(Item::State(id), &mut value.entry, Entry { timer: None, waits });
        if !value.pending {
            self.values.remove(&id);
        }
    }

    /// Sends a key's value.
    pub fn send(&mut self, id: MergeId, agenda: &mut Agenda, turn: &mut Turn<'_>) -> u64 {
        let value = self.values.get_mut(&id).expect("only what is there is sent");
        value.seq = turn.writer.state(value.label, id, value.kind, &value.payload);
        value.pending = false;
        value.next = turn.now.plus(turn.rules.merge.state_every_ms);
        agenda.charge(id.category, turn);
        // A removed key outlives the turn, in which somebody may ask what became of it.
        let gone = value.next.max(turn.now.plus(1u32));
        let timer = value.payload.is_empty().then_some(gone);
        agenda.place(Item::State(id), &mut value.entry, Entry { timer, waits: None });
        value.seq
    }

    /// Sends every value that has yet to go out.
    pub fn close(&mut self, agenda: &mut Agenda, turn: &mut Turn<'_>) {
        let pending = self.values.iter().filter(|(_, value)| value.pending);
        let pending: Vec<MergeId> = pending.map(|(&id, _)| id).collect();
        for id in pending {
            self.send(id, agenda, turn);
        }
    }

    /// Every key's latest value, also one that has yet to go out, as of message `head`. Encoded
    /// once for all who join before the next message.
    pub fn snapshot(&mut self, alias: Alias, head: u64) -> Vec<Bytes> {
        let values = &self.values;
        match &mut self.snapshot {
            Some(snapshot) if snapshot.head == head => snapshot.frames.clone(),
            stale => {
                let frames = encode(values, alias, head);
                stale.insert(Snapshot { head, frames }).frames.clone()
            }
        }
    }

    pub fn contains(&self, id: MergeId) -> bool {
        self.values.contains_key(&id)
    }

    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    pub fn is_pending(&self) -> bool {
        self.values.values().any(|value| value.pending)
    }
}

/// One allocation for all frames; each is a slice of it.
fn encode(values: &BTreeMap<MergeId, Value>, alias: Alias, seq: u64) -> Vec<Bytes> {
    let present = || values.iter().filter(|(_, value)| !value.payload.is_empty());
    let sizes = present().map(|(_, value)| STATE_OVERHEAD_BYTES + value.payload.len());
    let mut bytes = Vec::with_capacity(sizes.clone().sum());
    for (id, value) in present() {
        let (alias, category, kind, key) = (alias.0, id.category, value.kind, id.key);
        let payload = Tail(&value.payload);
        ServerFrame::Snapshot { alias, seq, category, kind, key, payload }.encode(&mut bytes);
    }
    let mut bytes = Bytes::from(bytes);
    sizes.map(|size| bytes.split_to(size)).collect()
}
