//! A room's members on one shard, and the walk that serves them.
//!
//! The walk is circular: it goes from member to member for as long as somebody may want something,
//! and gives each everything up to the head of that moment. A message is on its way as soon as the
//! walk comes by, not when a pass ends; under load each visit carries more.

use barrage_router::RoomKey;
use barrage_wire::server::CLASSES;

use crate::limits::{FLOOD_BYTES, SEND_BYTES_MAX};
use crate::room_log::{Pieces, RoomLog};

/// A member is the next message that it wants.
#[derive(Clone, Copy, Debug)]
pub struct Member {
    /// The low half of that message's number. Members are never as far behind as it counts.
    next: u32,
    /// The connection's index.
    conn: u32,
}

/// A member that the walk comes to.
#[derive(Clone, Copy, Debug)]
pub struct Visit {
    /// Its index.
    pub member: u32,
    /// Its connection's index.
    pub conn: u32,
    /// What it wants next.
    pub next: u64,
}

/// See the module.
pub struct LocalRoom {
    /// Which room.
    pub key: RoomKey,
    /// Its short name; 0 for an app's room of all its connections.
    pub alias: u32,
    /// Its recent frames.
    pub log: RoomLog,
    members: Vec<Member>,
    /// Members that do not have everything.
    behind: usize,
    /// Where the walk is, and how many members it still has to visit for the newest message of each
    /// class.
    walk: usize,
    left: [u32; CLASSES],
    /// Members visited since the log was trimmed, and the least that any of them wanted.
    visited: usize,
    wanted: u64,
    /// Bytes appended that walks have not carried to every member yet.
    unwalked: usize,
}

const _: () = assert!(size_of::<LocalRoom>() <= 192, "a million quiet rooms hold one each");

impl LocalRoom {
    /// A room without members whose newest message is `head`.
    pub fn new(key: RoomKey, alias: u32, head: u64) -> Self {
        Self {
            key,
            alias,
            log: RoomLog::new(head),
            members: Vec::new(),
            behind: 0,
            walk: 0,
            left: [0; CLASSES],
            visited: 0,
            wanted: u64::MAX,
            unwalked: 0,
        }
    }

    /// How many members it has here.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// A new member that wants what comes next; returns its index.
    pub fn join(&mut self, conn: u32) -> u32 {
        self.members.push(Member { next: (self.log.head() + 1) as u32, conn });
        // The newcomer is at the end of the circle, which the walk may still go over.
        self.left.iter_mut().for_each(|left| *left += u32::from(*left > 0));
        self.members.len() as u32 - 1
    }

    /// Removes a member. The last one takes its index: returns that one's connection.
    pub fn leave(&mut self, member: u32, pieces: &mut Pieces) -> Option<u32> {
        let was_behind = self.wants(member) <= self.log.head();
        self.members.swap_remove(member as usize);
        if was_behind {
            self.one_less_behind(pieces);
        }
        let len = self.members.len();
        self.walk = if self.walk >= len { 0 } else { self.walk };
        self.left.iter_mut().for_each(|left| *left = (*left).min(len as u32));
        self.visited = self.visited.saturating_sub(1);
        let moved = self.members.get(member as usize)?.conn;
        // The walk may have passed the place that the last one had, and not the one it has now; or
        // the other way round.
        let distance = self.distance(member) as u32;
        for left in self.left.iter_mut().filter(|left| **left > 0) {
            *left = (*left).max(distance + 1);
        }
        self.wanted = self.wanted.min(self.wants(member));
        Some(moved)
    }

    /// To be called when the log has grown by a message of this class: everybody is behind now.
    pub fn grown(&mut self, class: usize, bytes: usize) {
        self.unwalked += bytes;
        self.behind = self.members.len();
        self.left[class] = self.members.len() as u32;
    }

    /// What a member wants next.
    pub fn wants(&self, member: u32) -> u64 {
        let end = self.log.head() + 1;
        end - u64::from((end as u32).wrapping_sub(self.members[member as usize].next))
    }

    /// The most urgent class of what a member wants.
    pub fn urgency_for(&self, member: u32) -> usize {
        self.log.urgency_from(self.wants(member))
    }

    /// A member's connection.
    pub fn conn(&self, member: u32) -> u32 {
        self.members[member as usize].conn
    }

    /// A member has everything before `next`.
    pub fn advance(&mut self, member: u32, next: u64, pieces: &mut Pieces) {
        let head = self.log.head();
        let before = self.wants(member);
        debug_assert!(before <= next && next <= head + 1);
        self.members[member as usize].next = next as u32;
        if before <= head && next > head {
            self.one_less_behind(pieces);
        }
    }

    fn one_less_behind(&mut self, pieces: &mut Pieces) {
        self.behind -= 1;
        if self.behind == 0 {
            self.log.clear(pieces);
            (self.left, self.unwalked) = ([0; CLASSES], 0);
            (self.visited, self.wanted) = (0, u64::MAX);
        }
    }

    /// How many members the walk visits before this one.
    fn distance(&self, member: u32) -> usize {
        let len = self.members.len();
        (member as usize + len - self.walk) % len
    }

    /// Whether somebody does not have everything.
    pub fn is_behind(&self) -> bool {
        self.behind > 0
    }

    /// Whether a member wants something that the walk will not bring.
    pub fn is_late(&self, member: u32) -> bool {
        self.distance(member) >= self.visits_left() && self.wants(member) <= self.log.head()
    }

    /// The next member of the walk.
    pub fn visit(&mut self, pieces: &mut Pieces) -> Option<Visit> {
        if !self.is_walking() {
            return None;
        }
        self.left.iter_mut().for_each(|left| *left = left.saturating_sub(1));
        let index = self.walk;
        let (member, conn) = (index as u32, self.members[index].conn);
        let next = self.wants(member);
        self.walk = if index + 1 == self.members.len() { 0 } else { index + 1 };
        self.wanted = self.wanted.min(next);
        self.visited += 1;
        if self.visited >= self.members.len() {
            self.log.trim(self.wanted, pieces);
            let lacking = self.log.urgency_from(self.wanted);
            (self.visited, self.wanted) = (0, u64::MAX);
            // A walk brings so much to everybody who keeps up; more than that takes another one.
            self.unwalked = self.unwalked.saturating_sub(SEND_BYTES_MAX);
            if self.is_flooded() {
                self.left[lacking.min(CLASSES - 1)] = self.members.len() as u32;
            }
        }
        Some(Visit { member, conn, next })
    }

    /// The most urgent class that the walk brings to somebody, while it has somewhere to go.
    pub fn urgency(&self) -> Option<usize> {
        self.left.iter().position(|&left| left > 0)
    }

    fn is_walking(&self) -> bool {
        self.urgency().is_some()
    }

    fn visits_left(&self) -> usize {
        self.left.iter().copied().max().unwrap_or(0) as usize
    }

    /// Whether so much was appended in one walk that members who keep up might be passed by.
    pub fn is_flooded(&self) -> bool {
        self.unwalked > FLOOD_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use barrage_router::{AppId, Class, Frame, RoomId};
    use bytes::Bytes;

    use crate::room_log::Transport;

    fn room(members: u32) -> (LocalRoom, Pieces) {
        let mut room = LocalRoom::new(RoomKey { app: AppId(1), room: RoomId(1) }, 1, 0);
        room.log.serve(Transport::Tcp);
        (0..members).for_each(|conn| assert_eq!(room.join(conn), conn));
        (room, Pieces::default())
    }

    fn grow(room: &mut LocalRoom, pieces: &mut Pieces) {
        grow_by(room, pieces, Class::P3);
    }

    fn grow_by(room: &mut LocalRoom, pieces: &mut Pieces, class: Class) {
        let bytes = Bytes::from_static(b"message");
        let frame = Frame {
            seq: room.log.head() + 1,
            class,
            never_drop: false,
            category: 4,
            merged: None,
            bytes,
        };
        room.log.append(&frame, pieces);
        room.grown(class.index(), 7);
    }

    #[test]
    fn a_message_in_the_middle_of_a_walk_takes_it_once_around() {
        let (mut room, mut pieces) = room(4);
        grow(&mut room, &mut pieces);
        let mut visits = Vec::new();
        for _ in 0..2 {
            visits.extend(room.visit(&mut pieces).map(|visit| visit.member));
        }
        grow(&mut room, &mut pieces);
        while let Some(visit) = room.visit(&mut pieces) {
            visits.push(visit.member);
            room.advance(visit.member, room.log.head() + 1, &mut pieces);
            assert_eq!(visit.conn, visit.member);
        }
        assert_eq!(visits, [0, 1, 2, 3, 0, 1]);
        assert_eq!(pieces.in_use(), 0, "everybody has everything");
    }

    #[test]
    fn who_joins_during_a_walk_takes_nobodys_visit() {
        let (mut room, mut pieces) = room(4);
        grow(&mut room, &mut pieces);
        for _ in 0..2 {
            let visit = room.visit(&mut pieces).expect("a member");
            room.advance(visit.member, 2, &mut pieces);
        }
        grow(&mut room, &mut pieces);
        room.join(4);
        while let Some(visit) = room.visit(&mut pieces) {
            room.advance(visit.member, 3, &mut pieces);
        }
        assert!(!room.is_behind(), "the walk goes over the end, where the newcomer is");
    }

    #[test]
    fn leaves_do_not_keep_a_walk_from_ending() {
        let (mut room, mut pieces) = room(100);
        let mut visits = 0;
        for _ in 0..50 {
            grow(&mut room, &mut pieces);
            for _ in 0..30 {
                visits += usize::from(room.visit(&mut pieces).is_some());
            }
            room.leave(0, &mut pieces);
        }
        assert!(visits > 1000, "the walk goes on");
        assert!(room.unwalked < 50 * 7, "rounds are counted to their end");
    }

    #[test]
    fn who_takes_a_leavers_place_is_not_passed_over() {
        let (mut room, mut pieces) = room(4);
        grow(&mut room, &mut pieces);
        for _ in 0..2 {
            let visit = room.visit(&mut pieces).expect("a member");
            room.advance(visit.member, 2, &mut pieces);
        }
        assert_eq!(room.leave(0, &mut pieces), Some(3), "the last one moves to place 0");
        let mut served = Vec::new();
        while let Some(visit) = room.visit(&mut pieces) {
            if visit.next == 1 {
                served.push(visit.conn);
                room.advance(visit.member, 2, &mut pieces);
            }
        }
        served.sort_unstable();
        assert_eq!(served, [2, 3]);
        assert!(!room.is_walking());
    }

    #[test]
    fn a_member_that_the_walk_has_passed_is_late() {
        let (mut room, mut pieces) = room(3);
        grow(&mut room, &mut pieces);
        room.visit(&mut pieces);
        assert!(room.is_late(0), "the walk has been there");
        assert!(!room.is_late(1) && !room.is_late(2), "the walk comes by");
        room.advance(0, 2, &mut pieces);
        assert!(!room.is_late(0), "it has everything");
    }

    #[test]
    fn a_walk_is_as_urgent_as_what_somebody_lacks() {
        let (mut room, mut pieces) = room(4);
        grow(&mut room, &mut pieces);
        assert_eq!(room.urgency(), Some(3));
        room.visit(&mut pieces);
        grow_by(&mut room, &mut pieces, Class::P1);
        for _ in 0..4 {
            // Chat as dense as it may be does not keep the room urgent.
            grow(&mut room, &mut pieces);
            assert_eq!(room.urgency(), Some(1));
            room.visit(&mut pieces);
        }
        assert_eq!(room.urgency(), Some(3), "everybody was offered the gift");
    }
}
