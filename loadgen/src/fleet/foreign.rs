//! A client of a target that does not speak Barrage: the publisher's stamp numbers the messages.

use crate::dialect::{Fault, Heard};
use crate::ledger::Membership;
use crate::session::{Client, Phase, ready};
use crate::stamp::Stamp;
use crate::world::World;

/// Such a client while it is served. It has one room.
pub(super) struct Foreign<'a> {
    pub number: usize,
    pub client: &'a mut Client,
    pub memberships: &'a mut [Membership],
    pub world: &'a mut World,
}

/// Nobody tells epochs apart here.
const EPOCH: u32 = 0;

impl Heard for Foreign<'_> {
    /// Nothing tells a subscriber where a room is. If nothing can have been published before, it is
    /// at its beginning; else the next message says it, and what was before that is not this
    /// client's, or was missed by one that was there before.
    fn ready(&mut self) {
        let Some(room) = self.room() else { return };
        let head = self.world.rooms[room].newest;
        let Some(place) = self.memberships.first_mut() else { return };
        self.client.floating = place.known() || head > 0 || self.world.publishing;
        if !self.client.floating {
            place.join_in(alias_of(room), EPOCH, head);
            self.world.first_joined(room, EPOCH, head);
        }
        if self.client.phase != Phase::Ready {
            ready(self.number, self.client, self.world);
        }
    }

    #[inline]
    fn message(&mut self, payload: &[u8]) -> Result<(), Fault> {
        let stamp = Stamp::read(payload);
        let (Some(place), Some(stamp)) = (self.memberships.first_mut(), stamp) else {
            self.world.tally.stray += 1;
            return Ok(());
        };
        let seq = u64::from(stamp.index);
        if seq == 0 {
            self.world.tally.stray += 1;
            return Ok(());
        }
        if self.client.floating {
            self.land(seq);
            return self.message(payload);
        }
        if place.message(seq, &mut self.world.tally) {
            let room = (place.alias() as usize).checked_sub(1);
            if let Some(book) = room.and_then(|room| self.world.rooms.get_mut(room)) {
                book.newest = book.newest.max(seq);
            }
            self.world.record_stamp(stamp);
        }
        Ok(())
    }

    fn say(&mut self, bytes: &[u8]) {
        self.world.say_raw.extend_from_slice(bytes);
    }
}

impl Foreign<'_> {
    fn room(&self) -> Option<usize> {
        let k = self.world.plan.k(self.number);
        self.world.plan.rooms.nth(k, 0).and_then(|place| place.book)
    }

    /// The first message says where the room is.
    #[cold]
    fn land(&mut self, seq: u64) {
        self.client.floating = false;
        let (room, place) = (self.room(), self.memberships.first_mut());
        let (Some(room), Some(place)) = (room, place) else { return };
        if !place.known() {
            place.join_in(alias_of(room), EPOCH, seq - 1);
            self.world.first_joined(room, EPOCH, seq - 1);
            return;
        }
        place.begin_anew(alias_of(room), EPOCH, seq - 1, &mut self.world.tally);
    }
}

/// The name that a room has in memberships: its place among all, from 1.
fn alias_of(room: usize) -> u32 {
    room as u32 + 1
}
