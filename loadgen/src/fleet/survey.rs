//! How many messages have arrived, room by room, for whoever sends no more than fits.
//!
//! Rooms differ in members and in messages, so this has to be counted for each. It is too much to be
//! done at each delivery, or at once: a survey walks past a few clients at a time, and says what it
//! has found when it has been everywhere. Until then more may have arrived than it said, never less.

use super::Fleet;
use crate::session::Phase;

/// Clients, or rooms, that are looked at in one step: far less work than what comes between.
const STEP: usize = 512;
/// The parts of a message that members of a large room may have heard it in.
const PARTS: u64 = 1 << 10;

/// A walk past all clients and then all rooms.
pub(super) struct Survey {
    /// What members of each room know together, and how many they are.
    rooms: Vec<(u64, u32)>,
    /// Clients that were asked …
    asked: usize,
    /// … and then rooms that were closed.
    closed: usize,
    /// In parts of a message: what is known of the rooms so far, and the least of one of them.
    known: u64,
    least: u64,
    /// Rooms without a member.
    empty: u64,
}

impl Survey {
    pub(super) fn new(rooms: usize) -> Self {
        let rooms = vec![(0, 0); rooms];
        Self { rooms, asked: 0, closed: 0, known: 0, least: u64::MAX, empty: 0 }
    }

    pub(super) fn bytes(&self) -> usize {
        self.rooms.capacity() * size_of::<(u64, u32)>()
    }

    /// Takes what is known of a room, and forgets it.
    fn close(&mut self, room: usize) {
        let (sum, members) = std::mem::take(&mut self.rooms[room]);
        match sum.saturating_mul(PARTS).checked_div(members.into()) {
            Some(known) => {
                self.known = self.known.saturating_add(known);
                self.least = self.least.min(known);
            }
            None => self.empty += 1,
        }
    }

    /// The whole messages that were found, at the end; begins anew.
    fn end(&mut self) -> u64 {
        let least = if self.least == u64::MAX { 0 } else { self.least };
        let known = self.known.saturating_add(self.empty.saturating_mul(least)) / PARTS;
        *self = Self { rooms: std::mem::take(&mut self.rooms), ..Self::new(0) };
        known
    }
}

impl Fleet {
    /// Goes on with the survey for one step.
    pub fn survey(&mut self) {
        let (begun, rooms) = (self.clients.len(), self.survey.rooms.len());
        // Whoever begins while rooms are closed is asked the next time.
        if self.survey.closed == 0 && self.survey.asked < begun {
            let upto = (self.survey.asked + STEP).min(begun);
            (self.survey.asked..upto).for_each(|number| self.ask(number));
            self.survey.asked = upto;
            return;
        }
        let upto = (self.survey.closed + STEP).min(rooms);
        (self.survey.closed..upto).for_each(|room| self.survey.close(room));
        self.survey.closed = upto;
        if upto == rooms {
            self.world.known = self.survey.end();
        }
    }

    fn ask(&mut self, number: usize) {
        let client = &self.clients[number];
        if client.phase != Phase::Ready || client.floating {
            return;
        }
        let (plan, books) = (&self.world.plan, &self.world.rooms);
        let (rooms, memberships) = (&mut self.survey.rooms, &self.memberships);
        plan.rooms.each(plan.k(number), |place| {
            let member = &memberships[number * self.per_client + place.nth];
            let Some(room) = place.book.filter(|_| member.joined()) else { return };
            let (sum, members) = &mut rooms[room];
            *sum = sum.saturating_add(member.reached().saturating_sub(books[room].head));
            *members += 1;
        });
    }
}
