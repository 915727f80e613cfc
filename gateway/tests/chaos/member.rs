//! A member: reads, goes and comes back with its cursors.

use std::sync::Barrier;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use barrage_wire::ClientFrame;
use barrage_wire::server::{CloseReason, Code};

use crate::common::client::from_now;
use crate::common::{Client, Random, Said, Socket, Via};
use crate::follower::{Follower, Numbered};
use crate::{Alarm, LOUD, Place, ROOMS, SLOW_EVERY, World};

/// Who it was, and what it has of each room.
pub struct Member {
    pub is_slow: bool,
    pub rooms: Vec<Follower>,
    pub connections: u32,
    /// How often the gateway has closed because it did not read.
    pub refused: u32,
}

/// Frames that a slow one reads before it rests.
const SLOW_FRAMES: usize = 3;
const SLOW_REST: Duration = Duration::from_millis(250);
/// How long anybody waits for a frame before looking around.
const GLANCE: Duration = Duration::from_millis(20);

/// Lives until everything that was to be said is there.
pub fn run(index: u64, mut random: Random, world: &World, gate: &Barrier) -> Member {
    let _alarm = Alarm(world);
    let is_slow = index % SLOW_EVERY == SLOW_EVERY - 1;
    // Some of the others are in the loud room as well, and half are in two.
    let first = if is_slow || index.is_multiple_of(6) { LOUD } else { 2 + index % 2 };
    let rooms = (0..1 + index / 2 % 2).map(|nth| match first + nth {
        room if room > ROOMS => 2,
        room => room,
    });
    let name = |room| format!("member {index} in room {room}");
    let rooms = rooms.map(|room| Follower::new(name(room), room)).collect();
    let mut member = Member { is_slow, rooms, connections: 0, refused: 0 };
    let via = Via::BOTH[index as usize / 3 % 2];
    let mut client = member.connect(via, index, world);
    member.hear_joined(&mut client);
    gate.wait();
    loop {
        let goes = match random.below(3) {
            _ if is_slow => None,
            0 => None,
            _ => Some(Instant::now() + Duration::from_millis(200 + random.below(3000) as u64)),
        };
        if member.follow(&mut client, goes, world) {
            member.ask_for_gaps(&mut client);
            return member;
        }
        drop(client);
        member.rooms.iter_mut().for_each(Follower::disconnected);
        std::thread::sleep(Duration::from_millis(random.below(700) as u64));
        client = member.connect(via, index, world);
    }
}

impl Member {
    fn connect(&mut self, via: Via, user: u64, world: &World) -> Client {
        let gateway = world.gateway();
        self.connections += 1;
        let socket = if self.is_slow { Socket::tcp_narrow } else { Socket::tcp };
        let mut client = Client::on(socket(gateway.address(via)), via);
        let cursor = |room: &Follower| match room.cursor() {
            cursor if cursor.epoch == 0 => from_now(room.room),
            cursor => cursor,
        };
        let cursors: Vec<_> = self.rooms.iter().map(cursor).collect();
        client.hello(user + 1, &cursors);
        client
    }

    /// Before anybody says anything, so that all is owed.
    fn hear_joined(&mut self, client: &mut Client) {
        for _ in 0..self.rooms.len() {
            self.hear(&client.hear());
        }
    }

    /// Reads until the connection ends, or it is time to go. True: everything is there.
    fn follow(&mut self, client: &mut Client, goes: Option<Instant>, world: &World) -> bool {
        let mut heard = 0;
        let generation = world.generation.load(Ordering::Relaxed);
        loop {
            world.assert_in_time("it goes on and on");
            let ending = world.targets.get();
            if let Some(targets) = ending {
                let there = |room: &Follower| room.place() >= Some(targets[&room.room]);
                if self.rooms.iter().all(there) {
                    return true;
                }
                let at: Vec<_> = self.rooms.iter().map(|it| (&it.name, it.place())).collect();
                world.assert_in_time(&format!("not there: {at:?} of {targets:?}"));
            } else if goes.is_some_and(|goes| Instant::now() >= goes) {
                return false;
            }
            match client.hear_until(Instant::now() + GLANCE) {
                Some(Said::Close { reason: CloseReason::SlowReader, .. }) if self.is_slow => {
                    self.refused += 1;
                    return false;
                }
                Some(said) => self.hear(&said),
                None if client.has_ended() => return false,
                None => {}
            }
            let is_gone = world.generation.load(Ordering::Relaxed) != generation;
            if self.is_slow && is_gone {
                // The kernel has much of what it said, and nobody waits for it.
                return false;
            }
            heard += 1;
            if self.is_slow && ending.is_none() && heard % SLOW_FRAMES == 0 {
                std::thread::sleep(SLOW_REST);
            }
        }
    }

    fn hear(&mut self, said: &Said) {
        let taken = self.rooms.iter_mut().any(|room| room.hear(said));
        assert!(taken, "{}: nobody's frame: {said:?}", self.rooms[0].name);
    }

    /// Asks for what resets have passed over.
    fn ask_for_gaps(&mut self, client: &mut Client) {
        for index in 0..self.rooms.len() {
            for (after, until) in self.rooms[index].gaps.clone() {
                let (mut epoch, mut from) = (after.0, after.1 + 1);
                while epoch != 0 && (epoch, from) <= until {
                    (epoch, from) = self.ask_for_page(index, client, (epoch, from), until);
                }
            }
        }
    }

    fn ask_for_page(
        &mut self,
        index: usize,
        client: &mut Client,
        (epoch, from): Place,
        until: Place,
    ) -> Place {
        let (request, room) = (client.next_request(), self.rooms[index].room);
        let count = u16::MAX;
        client.send(&ClientFrame::History { request, room, epoch, from, since_ms: 0, count });
        loop {
            match client.hear() {
                Said::Past {
                    epoch,
                    seq,
                    frame,
                    category,
                    flags,
                    sender,
                    key,
                    count,
                    total,
                    payload,
                    ..
                } if (epoch, seq) <= until => {
                    let numbered =
                        Numbered { frame, category, flags, sender, key, count, total, payload };
                    self.rooms[index].fill((epoch, seq), numbered);
                }
                Said::Past { .. } => {}
                Said::PastEnd { code, next_epoch, next, .. } => {
                    assert_eq!(code, Code::Ok, "{}", self.rooms[index].name);
                    return (next_epoch, next);
                }
                said => self.hear(&said),
            }
        }
    }
}
