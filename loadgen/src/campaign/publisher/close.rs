//! The end of publishing: answers are collected, and every room's books get an end.

use anyhow::Result;

use super::books::{Sent, Word};
use super::door::Post;
use super::work::{NAP, Publisher};
use crate::clock::{SECOND_NS, now_ns};
use crate::scenario::Ack;
use crate::shared::read;
use crate::stamp::{STAMP_BYTES, Stamp};

/// How long answers may take after the last publish.
const ANSWERS_MAX_NS: u64 = 10 * SECOND_NS;
/// How long rooms may go on speaking after the last publish, in all.
const SETTLE_MAX_NS: u64 = 90 * SECOND_NS;
/// The category of a room's last message: system, which has no limit and is not merged.
const CATEGORY_END: u16 = 0;

impl Publisher {
    /// Collects the answers. If messages were merged, what goes out later has numbers that nobody
    /// is told: when the rooms are silent, one last message in each has the last number.
    pub(super) fn close(&mut self) -> Result<()> {
        if self.is_alone {
            return Ok(());
        }
        self.collect()?;
        if self.merges {
            self.settle()?;
            self.end_rooms()?;
        }
        Ok(())
    }

    fn collect(&mut self) -> Result<()> {
        let until_ns = now_ns() + ANSWERS_MAX_NS;
        self.step()?;
        while !self.door.is_quiet() && now_ns() < until_ns {
            self.door.wait(NAP);
            self.step()?;
        }
        Ok(())
    }

    /// Waits until nobody has been sent anything for a while.
    fn settle(&mut self) -> Result<()> {
        let deadline_ns = now_ns() + SETTLE_MAX_NS;
        let (mut delivered, mut since_ns) = (self.delivered(), now_ns());
        while now_ns() < deadline_ns.min(since_ns + self.patience.silence_ns)
            && !self.reporter.is_unheard
        {
            self.door.wait(NAP);
            self.step()?;
            let now = self.delivered();
            if now != delivered {
                (delivered, since_ns) = (now, now_ns());
            }
        }
        Ok(())
    }

    fn delivered(&self) -> Vec<u64> {
        self.desk.workers.iter().map(|shared| read(&shared.delivered)).collect()
    }

    fn end_rooms(&mut self) -> Result<()> {
        let until_ns = now_ns() + ANSWERS_MAX_NS;
        loop {
            let open = self.books.open();
            if open.is_empty() || now_ns() > until_ns {
                return Ok(());
            }
            for room in open {
                while !self.door.may_send() && now_ns() < until_ns {
                    self.door.wait(NAP);
                    self.step()?;
                }
                self.end(room);
            }
            self.collect()?;
        }
    }

    fn end(&mut self, room: u32) {
        let intended_ns = now_ns();
        let payload = &mut self.payload[..STAMP_BYTES];
        Stamp { intended_ns, index: 0, lag_us: 0 }.write(payload);
        let rooms = &self.desk.scenario.rooms;
        let post = Post {
            sent: Sent { phase: 0, room, index: 0, what: Word::End, intended_ns, measured: false },
            name: rooms.first + u64::from(room),
            rooms: rooms.count,
            stream: 0,
            category: CATEGORY_END,
            ack: Ack::Accepted,
        };
        self.door.publish(&post, payload);
    }
}
