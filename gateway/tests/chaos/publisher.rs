//! A service: says more than gets through, and after a lost connection repeats what was not
//! answered.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Barrier;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use barrage_wire::UpstreamFrame;
use barrage_wire::codec::Tail;
use barrage_wire::server::Code;
use barrage_wire::upstream::{AckMode, PublishHead, PublishReply};

use crate::common::{Random, Told, Upstream};
use crate::{Alarm, CHAT, GIFT, LOUD, ROOMS, STATE, STREAM, TAP, World};

/// Publishes that may be unanswered.
const OPEN_MAX: usize = 2_000;
const TICK: Duration = Duration::from_millis(5);
/// In one of so many ticks, a connection is left with whatever it still had to tell.
const LEAVES_ONE_IN: usize = 300;
/// In a tick and room, of 100: how many of each. Three publishers say three times what limits let
/// through.
const ODDS: [(u16, usize); 5] = [(GIFT, 10), (TAP, 20), (CHAT, 60), (STATE, 15), (STREAM, 15)];

/// What was said and answered.
#[derive(Default)]
pub struct Said {
    /// Never-drop messages by their payload: the room, the number that they were answered with, and
    /// the order in which they were sent.
    pub gifts: BTreeMap<Vec<u8>, (u64, u64, u64)>,
    /// By room, sender and gift: how many were answered as stored.
    pub taps: BTreeMap<(u64, u64, u64), u64>,
    /// By room and key: the last value.
    pub states: BTreeMap<(u64, u64), Vec<u8>>,
    pub limited: u64,
    pub repeated: u64,
    pub duplicates: u64,
}

#[derive(Clone, Debug)]
struct Open {
    room: u64,
    category: u16,
    sender: u64,
    merge_key: u64,
    count: u32,
    idempotency_key: u128,
    stored: bool,
    payload: Vec<u8>,
    order: u64,
    is_repeated: bool,
}

struct Publisher<'a> {
    index: u64,
    random: Random,
    world: &'a World,
    upstream: Upstream,
    open: BTreeMap<u32, Open>,
    /// To be sent again.
    again: VecDeque<Open>,
    order: u64,
    said: Said,
}

/// Publishes until it is enough and everything is answered.
pub fn run(index: u64, random: Random, world: &World, gate: &Barrier) -> Said {
    let _alarm = Alarm(world);
    let upstream = world.gateway().upstream();
    let (open, again, said) = (BTreeMap::new(), VecDeque::new(), Said::default());
    let mut publisher = Publisher { index, random, world, upstream, open, again, order: 0, said };
    gate.wait();
    while !world.enough.load(Ordering::Relaxed) {
        world.assert_in_time("it goes on and on");
        publisher.tick();
        if index == 0 && world.deaf.load(Ordering::Relaxed) {
            publisher.until_killed();
        } else if publisher.random.below(LEAVES_ONE_IN) == 0 {
            publisher.reconnect();
        } else {
            publisher.hear_until(Instant::now() + TICK);
        }
    }
    publisher.until_answered();
    for room in 1..=ROOMS {
        for key in 0..2 {
            let state = publisher.state(room, key);
            publisher.send(Open { stored: true, ..state });
        }
    }
    publisher.until_answered();
    publisher.said
}

impl Publisher<'_> {
    fn tick(&mut self) {
        for room in 1..=ROOMS {
            for (category, odds) in ODDS {
                if self.open.len() < OPEN_MAX && self.random.below(100) < odds {
                    let open = self.make(room, category);
                    self.send(open);
                }
            }
        }
    }

    fn make(&mut self, room: u64, category: u16) -> Open {
        let number = self.order;
        // A key for each message of each publisher.
        let idempotency_key = u128::from(self.index + 1) << 64 | u128::from(number + 1);
        let plain = Open {
            room,
            category,
            sender: 0,
            merge_key: 0,
            count: 1,
            idempotency_key: 0,
            stored: false,
            payload: Vec::new(),
            order: number,
            is_repeated: false,
        };
        let large = if room == LOUD { 16_000 } else { 500 };
        match category {
            GIFT => {
                let frills = "*".repeat(self.random.below(large / self.world.plain));
                let index = self.index;
                let payload = format!("{frills} gift {number} of {index} in {room}").into_bytes();
                Open { idempotency_key, stored: true, payload, ..plain }
            }
            TAP => {
                let sender = 1 + self.random.below(6) as u64;
                let (merge_key, count) =
                    (1 + self.random.below(2) as u64, 1 + self.random.below(9) as u32);
                let payload = format!("tap {number}").into_bytes();
                let stored = true;
                Open { sender, merge_key, count, idempotency_key, stored, payload, ..plain }
            }
            STATE => {
                let key = self.random.below(2) as u64;
                self.state(room, key)
            }
            _ => {
                let bytes = 20 + self.random.below(large);
                Open { payload: self.random.bytes(bytes), ..plain }
            }
        }
    }

    /// The next value of a key that is this publisher's own.
    fn state(&mut self, room: u64, key: u64) -> Open {
        let (order, merge_key) = (self.order, self.index * 10 + key);
        let payload = format!("value {order}").into_bytes();
        self.said.states.insert((room, merge_key), payload.clone());
        Open {
            room,
            category: STATE,
            sender: 0,
            merge_key,
            count: 1,
            idempotency_key: 0,
            stored: false,
            payload,
            order,
            is_repeated: false,
        }
    }

    fn send(&mut self, mut open: Open) {
        self.order += 1;
        if !open.is_repeated {
            open.order = self.order;
        }
        let head = PublishHead {
            ack: if open.stored { AckMode::Stored } else { AckMode::Accepted },
            category: open.category,
            merge_key: open.merge_key,
            idempotency_key: open.idempotency_key,
            ..self.upstream.head()
        };
        let Open { room, sender, count, .. } = open;
        let payload = Tail(&open.payload);
        let frame = match sender {
            0 => UpstreamFrame::PublishRoom { head, room, payload },
            _ => UpstreamFrame::PublishFrom { head, room, sender, count, payload },
        };
        // A connection that is gone is noticed where it is read.
        let _ = self.upstream.socket.try_write(&frame.to_vec());
        self.open.insert(head.request, open);
    }

    fn until_answered(&mut self) {
        while !self.open.is_empty() || !self.again.is_empty() {
            let open = self.open.values().next();
            self.world.assert_in_time(&format!("not answered: {open:?}"));
            self.hear_until(Instant::now() + TICK);
        }
    }

    fn hear_until(&mut self, until: Instant) {
        while let Some(told) = self.upstream.hear_until(until) {
            let Told::Replies { replies, .. } = told else { panic!("not replies: {told:?}") };
            for reply in replies {
                let open = self.open.remove(&reply.request).expect("one reply to each request");
                self.answered(open, reply);
            }
        }
        if self.upstream.has_ended() {
            self.reconnect();
        }
        for _ in 0..self.again.len() {
            let open = self.again.pop_front().expect("so many wait");
            self.send(open);
        }
    }

    /// Goes on without hearing a word until there is another gateway, so that there are answers
    /// that it never got.
    fn until_killed(&mut self) {
        let generation = self.world.generation.load(Ordering::Relaxed);
        while self.world.generation.load(Ordering::Relaxed) == generation {
            self.world.assert_in_time("nobody kills the gateway");
            self.tick();
            std::thread::sleep(TICK);
        }
        self.reconnect();
    }

    /// Leaves what was not heard, and says again what was not answered.
    fn reconnect(&mut self) {
        self.upstream = self.world.gateway().upstream();
        // In the order in which they were sent. A key says that it may be said again, and the last
        // values are there to be stored.
        for mut open in std::mem::take(&mut self.open).into_values() {
            if open.idempotency_key != 0 {
                open.is_repeated = true;
                self.said.repeated += 1;
                self.send(open);
            } else if open.stored {
                self.send(open);
            }
        }
    }

    fn answered(&mut self, open: Open, reply: PublishReply) {
        let PublishReply { code, seq, .. } = reply;
        self.world.answered.fetch_add(1, Ordering::Relaxed);
        if code == Code::Overloaded {
            // A repeat of what is on its way to the disk keeps its place.
            if open.stored {
                self.again.push_back(open);
            }
            return;
        }
        self.said.limited += u64::from(code == Code::Limited);
        self.said.duplicates += u64::from(code == Code::Duplicate);
        let repeat = code == Code::Duplicate && open.is_repeated;
        match open.category {
            GIFT => {
                assert!(code == Code::Ok || repeat, "{code:?} to {open:?}");
                let before = self.said.gifts.insert(open.payload, (open.room, seq, open.order));
                assert_eq!(before, None, "it is answered once");
            }
            TAP => {
                let given = matches!(code, Code::Ok | Code::Merged) || repeat;
                assert!(given || code == Code::Limited, "{code:?} to {open:?}");
                let sum = self.said.taps.entry((open.room, open.sender, open.merge_key));
                *sum.or_default() += if given { u64::from(open.count) } else { 0 };
            }
            _ => {
                let fine = matches!(code, Code::Ok | Code::Merged | Code::Limited);
                assert!(fine, "{code:?} to {open:?}");
            }
        }
    }
}
