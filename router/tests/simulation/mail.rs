//! The mail between shards and homes.

use std::collections::VecDeque;

use barrage_router::{Cursor, Frame, Joined};

/// From here on nobody begins anything that pushes more. Small, so that queues are full often.
pub const QUEUE_MAX: usize = 6;

/// From a shard to a room's home.
pub enum Ask {
    Join { member: usize, visit: u32, cursor: Option<Cursor> },
    Leave,
    Publish { category: u16, kind: u16, payload: Vec<u8>, sender: u64, key: u64, count: u32 },
}

/// From a room's home to a shard.
pub enum Tell {
    Joined { member: usize, visit: u32, joined: Joined },
    Frame { epoch: u64, frame: Frame },
}

/// Bounded queues from each shard to each, in order within a pair and in no order between pairs;
/// every item is about a room.
///
/// Asks and tells do not share queues: two homes would wait for each other's answers to be taken
/// before they took each other's asks.
pub struct Queues<T> {
    shards: usize,
    queues: Vec<VecDeque<(usize, T)>>,
}

impl<T> Queues<T> {
    pub fn new(shards: usize) -> Self {
        Self { shards, queues: (0..shards * shards).map(|_| VecDeque::new()).collect() }
    }

    pub fn is_full(&self, from: usize, to: usize) -> bool {
        self.queues[from * self.shards + to].len() >= QUEUE_MAX
    }

    pub fn push(&mut self, from: usize, to: usize, room: usize, item: T) {
        self.queues[from * self.shards + to].push_back((room, item));
    }

    pub fn front(&self, from: usize, to: usize) -> Option<&(usize, T)> {
        self.queues[from * self.shards + to].front()
    }

    pub fn pop(&mut self, from: usize, to: usize) -> Option<(usize, T)> {
        self.queues[from * self.shards + to].pop_front()
    }
}
