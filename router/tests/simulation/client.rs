//! A client, and what it insists on.

use std::collections::BTreeMap;

use barrage_router::{CatchUp, Cursor, Frame, Joined};
use barrage_wire::ServerFrame;

use crate::model::{Model, decode};

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum State {
    Away,
    Joining,
    Here,
}

/// A client of one room. It may come back through any shard.
pub struct Member {
    pub room: usize,
    pub shard: usize,
    pub state: State,
    /// Tells an answer to this visit from a late answer to an earlier one.
    pub visit: u32,
    pub cursor: Option<Cursor>,
    /// Its cursor was not where it left off, so it has missed what nobody knows of.
    pub lies: bool,
    /// The values that it shows, by category and key.
    values: BTreeMap<(u16, u64), Vec<u8>>,
}

impl Member {
    pub fn new(room: usize) -> Self {
        Self {
            room,
            shard: 0,
            state: State::Away,
            visit: 0,
            cursor: None,
            lies: false,
            values: BTreeMap::new(),
        }
    }

    /// Is told how its join ended.
    pub fn joined(&mut self, model: &Model, joined: &Joined) {
        let head = Cursor { epoch: joined.epoch, seq: joined.head };
        if self.cursor.is_none() || matches!(joined.catch_up, CatchUp::Reset { .. }) {
            self.lies = false;
            self.values.clear();
        }
        joined.snapshot.iter().for_each(|bytes| self.show(bytes));
        match &joined.catch_up {
            CatchUp::Live => {
                assert!(self.cursor.is_none_or(|cursor| cursor == head), "live, but behind");
                self.cursor = Some(head);
            }
            CatchUp::Missed(frames) => {
                frames.iter().for_each(|frame| self.receive(model, joined.epoch, frame));
            }
            CatchUp::Reset { .. } => self.cursor = Some(head),
        }
        assert_eq!(self.cursor, Some(head), "caught up");
        self.state = State::Here;
    }

    /// Gets a frame: the next one of its epoch, with the bytes that everybody else gets.
    pub fn receive(&mut self, model: &Model, epoch: u64, frame: &Frame) {
        let cursor = self.cursor.as_mut().expect("a member that is here has a cursor");
        assert_eq!(epoch, cursor.epoch, "epochs change only with a reset");
        assert_eq!(frame.seq, cursor.seq + 1, "no gap, no repeat");
        assert_eq!(frame.bytes, model.frame(epoch, frame.seq), "replay and live are the same");
        cursor.seq = frame.seq;
        self.show(&frame.bytes);
    }

    /// In the end it shows what the room's keys are, and none that were removed.
    pub fn check_values(&self, model: &Model) {
        for (id, expected) in model.merges.values().filter(|_| !self.lies) {
            let shown = self.values.get(&(id.category, id.key)).map(|payload| &payload[..]);
            assert_eq!(shown, expected.map(|(_, payload)| payload), "{id:?}");
        }
    }

    fn show(&mut self, bytes: &[u8]) {
        match decode(bytes) {
            ServerFrame::State { category, key, payload, .. }
            | ServerFrame::Snapshot { category, key, payload, .. } => {
                match payload.0.is_empty() {
                    true => self.values.remove(&(category, key)),
                    false => self.values.insert((category, key), payload.0.to_vec()),
                };
            }
            ServerFrame::Message { .. } | ServerFrame::Combo { .. } => {}
            other => panic!("a room does not say {other:?}"),
        }
    }
}
