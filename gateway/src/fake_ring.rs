//! A network in memory that misbehaves as a seed says, and checks what is asked of it.
//!
//! What a real ring guarantees, this one does: events of one connection come in order, one send is
//! in flight, nothing but `Closed` follows `close`. Everything else is as inconvenient as can be.
//! Each connection draws from a generator of its own, so that the order in which a shard sends to
//! several connections changes nothing: that order may depend on randomly seeded maps.

use std::collections::VecDeque;

use barrage_sys::{ConnId, Event, Peer, RECEIVES_MAX, Ring, SendSlice};

/// The peer is gone and a send finds out.
pub const EPIPE: i32 = 32;
/// The peer has reset the connection.
pub const ECONNRESET: i32 = 104;

/// Generations have as many bits as the real ring's.
const GENERATION_MASK: u32 = (1 << 24) - 1;
/// Bytes of the largest receive, as of the real ring.
const RECEIVE_BYTES_MAX: usize = crate::limits::RECV_BUFFER_BYTES;

/// A small generator: SplitMix64.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// The next 64 bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// Under `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// True in so many of 100 cases.
    pub fn percent(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// One of them.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

/// How the network misbehaves, in percent of the cases.
#[derive(Clone, Copy, Debug)]
pub struct Faults {
    /// What could be told now is told at another reap.
    pub late: usize,
    /// A send takes only a part.
    pub short: usize,
    /// A receive brings only a part of what has come.
    pub split: usize,
    /// Events of one reap.
    pub events_max: usize,
}

impl Faults {
    /// Everything at once, and whole.
    pub const NONE: Self = Self { late: 0, short: 0, split: 0, events_max: usize::MAX };
}

/// One use of a slot: a connection with the peer's end of it. Kept when it is over, so that a peer
/// can still read what has reached it.
struct Link {
    id: ConnId,
    listener: usize,
    peer: Peer,
    random: Random,
    state: State,
    sending: Option<Sending>,
    /// From the peer, not told yet.
    inbound: VecDeque<u8>,
    /// Nothing more will come from the peer, and why.
    end: Option<i32>,
    ended: bool,
    /// Sends fail with this.
    broken: Option<i32>,
    /// To the peer, which has not read it.
    outbound: Vec<u8>,
    /// Bytes that may wait for the peer.
    socket_bytes: usize,
    finished: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Accepted, and not told yet.
    New,
    Open,
    /// `close` was called.
    Closing,
    Closed,
}

struct Sending {
    slice: SendSlice,
    /// What the slice held when it was handed over.
    copy: Vec<u8>,
    submitted: bool,
}

impl Sending {
    fn check_memory(&self) {
        assert!(self.slice.bytes() == self.copy, "memory in flight was changed");
    }
}

struct Slot {
    index: u32,
    generation: u32,
    free: bool,
}

/// See the module. Peers name their connection by the number that `accept` gives.
pub struct FakeRing {
    random: Random,
    faults: Faults,
    slots: Vec<Slot>,
    links: Vec<Link>,
    /// Links that are not closed.
    open: Vec<usize>,
    accepting: bool,
    deaf: bool,
    /// Receives told in this reaping, of which the real ring tells no more either.
    receives: usize,
    /// Sends that took a part, that failed, and that were in flight at `close`.
    pub short_sends: u64,
    pub failed_sends: u64,
    pub cut_sends: u64,
}

impl FakeRing {
    /// `rings` of so many slots each.
    pub fn new(seed: u64, rings: usize, slots: usize, faults: Faults) -> Self {
        let mut random = Random(seed);
        let indexes = (0..rings).flat_map(|ring| (0..slots).map(move |slot| (ring, slot)));
        let slots = indexes
            .map(|(ring, slot)| Slot {
                index: ConnId::index_of(ring, slot),
                generation: random.pick(&[0, 7, GENERATION_MASK]),
                free: true,
            })
            .collect();
        Self {
            random,
            faults,
            slots,
            links: Vec::new(),
            open: Vec::new(),
            accepting: true,
            deaf: false,
            receives: 0,
            short_sends: 0,
            failed_sends: 0,
            cut_sends: 0,
        }
    }

    /// A peer connects; none when there is no place, or nothing is accepted any more.
    pub fn accept(&mut self, listener: usize, peer: Peer, socket_bytes: usize) -> Option<usize> {
        let free: Vec<usize> = (0..self.slots.len()).filter(|&at| self.slots[at].free).collect();
        if !self.accepting || free.is_empty() {
            return None;
        }
        let slot = &mut self.slots[free[self.random.below(free.len())]];
        slot.free = false;
        let number = self.links.len();
        self.links.push(Link {
            id: ConnId { index: slot.index, generation: slot.generation },
            listener,
            peer,
            random: Random(self.random.next()),
            state: State::New,
            sending: None,
            inbound: VecDeque::new(),
            end: None,
            ended: false,
            broken: None,
            outbound: Vec::new(),
            socket_bytes,
            finished: false,
        });
        self.open.push(number);
        Some(number)
    }

    /// The peer sends.
    pub fn write(&mut self, link: usize, bytes: &[u8]) {
        let link = &mut self.links[link];
        if link.end.is_none() && matches!(link.state, State::New | State::Open) {
            link.inbound.extend(bytes);
        }
    }

    /// The peer reads at most so many bytes.
    pub fn read(&mut self, link: usize, bytes_max: usize) -> Vec<u8> {
        let outbound = &mut self.links[link].outbound;
        let count = outbound.len().min(bytes_max);
        outbound.drain(..count).collect()
    }

    /// The peer goes: in order behind what it has sent (0), or at once (errno).
    pub fn hang_up(&mut self, link: usize, errno: i32) {
        let link = &mut self.links[link];
        link.end = link.end.or(Some(errno));
        if errno != 0 {
            link.inbound.clear();
            link.broken = Some(errno);
        } else if link.random.percent(50) {
            link.broken = Some(EPIPE);
        }
    }

    /// Whether the peer has read everything that will ever come.
    pub fn is_over(&self, link: usize) -> bool {
        let link = &self.links[link];
        let no_more = link.finished || matches!(link.state, State::Closing | State::Closed);
        no_more && link.outbound.is_empty()
    }

    /// Whether the gateway has said that it sends no more, and did not just cut the connection.
    pub fn is_finished(&self, link: usize) -> bool {
        self.links[link].finished
    }

    /// Whether the slot was given back.
    pub fn is_closed(&self, link: usize) -> bool {
        self.links[link].state == State::Closed
    }

    /// Whether nothing is under way: a reap has nothing to tell, and peers have read everything.
    pub fn is_quiet(&self) -> bool {
        self.open.iter().all(|&at| {
            let link = &self.links[at];
            let sendable = link.sending.is_some()
                && (link.broken.is_some() || link.outbound.len() < link.socket_bytes);
            let hearable = !link.inbound.is_empty() || (link.end.is_some() && !link.ended);
            link.state == State::Open && !sendable && !hearable && link.outbound.is_empty()
        })
    }

    /// From now on nothing goes wrong, and sockets are wide.
    pub fn calm(&mut self) {
        self.faults = Faults::NONE;
        for &at in &self.open {
            self.links[at].socket_bytes = usize::MAX;
        }
    }

    /// The link that `conn` names. A shard that uses a name after `close` has a bug, even though a
    /// real ring would put up with it.
    fn link(&mut self, conn: ConnId) -> &mut Link {
        let found = self.open.iter().find(|&&at| self.links[at].id == conn);
        let found = *found.expect("only connections that are there are named");
        let link = &mut self.links[found];
        assert_eq!(link.state, State::Open, "nothing is asked after close");
        link
    }

    /// Tells at most one event of a connection.
    fn tell(&mut self, at: usize, sink: &mut dyn FnMut(Event<'_>)) -> bool {
        let (faults, link) = (self.faults, &mut self.links[at]);
        if link.random.percent(faults.late) {
            return false;
        }
        match link.state {
            State::New => {
                link.state = State::Open;
                let Link { id: conn, listener, peer, .. } = *link;
                sink(Event::Accepted { conn, listener, peer });
                true
            }
            State::Closing => {
                self.close_now(at, sink);
                true
            }
            State::Open => {
                let first = link.random.below(3);
                (first..first + 3).any(|kind| match kind % 3 {
                    0 => self.tell_sent(at, sink),
                    1 => self.tell_received(at, sink),
                    _ => self.tell_ended(at, sink),
                })
            }
            State::Closed => unreachable!("a closed link is not open"),
        }
    }

    fn close_now(&mut self, at: usize, sink: &mut dyn FnMut(Event<'_>)) {
        let link = &mut self.links[at];
        link.state = State::Closed;
        let conn = link.id;
        let slot = self.slots.iter_mut().find(|slot| slot.index == conn.index);
        let slot = slot.expect("a link has a slot");
        (slot.free, slot.generation) = (true, (slot.generation + 1) & GENERATION_MASK);
        self.open.retain(|&other| other != at);
        sink(Event::Closed { conn });
    }

    fn tell_sent(&mut self, at: usize, sink: &mut dyn FnMut(Event<'_>)) -> bool {
        let link = &mut self.links[at];
        let room = link.socket_bytes.saturating_sub(link.outbound.len());
        let can_end = room > 0 || link.broken.is_some();
        let Some(sending) = link.sending.take_if(|sending| sending.submitted && can_end) else {
            return false;
        };
        sending.check_memory();
        let result = match link.broken {
            Some(errno) => Err(errno),
            None => {
                let most = sending.copy.len().min(room);
                let short = link.random.percent(self.faults.short);
                Ok(if short { 1 + link.random.below(most) } else { most })
            }
        };
        match result {
            Ok(count) => {
                self.short_sends += u64::from(count < sending.copy.len());
                link.outbound.extend_from_slice(&sending.copy[..count]);
            }
            Err(_) => self.failed_sends += 1,
        }
        sink(Event::Sent { conn: link.id, slice: sending.slice, result });
        true
    }

    fn tell_received(&mut self, at: usize, sink: &mut dyn FnMut(Event<'_>)) -> bool {
        let link = &mut self.links[at];
        if link.inbound.is_empty() || self.deaf || self.receives == 2 * RECEIVES_MAX {
            return false;
        }
        self.receives += 1;
        let most = link.inbound.len().min(RECEIVE_BYTES_MAX);
        let count = if link.random.percent(self.faults.split) {
            let small = link.random.pick(&[1, 3, 12, most]);
            1 + link.random.below(small.min(most))
        } else {
            most
        };
        let mut bytes: Vec<u8> = link.inbound.drain(..count).collect();
        sink(Event::Received { conn: link.id, bytes: &mut bytes });
        true
    }

    fn tell_ended(&mut self, at: usize, sink: &mut dyn FnMut(Event<'_>)) -> bool {
        let link = &mut self.links[at];
        let Some(errno) = link.end.filter(|_| link.inbound.is_empty() && !link.ended && !self.deaf)
        else {
            return false;
        };
        link.ended = true;
        sink(Event::Ended { conn: link.id, errno });
        true
    }
}

impl Ring for FakeRing {
    fn send(&mut self, conn: ConnId, slice: SendSlice) {
        let link = self.link(conn);
        assert!(link.sending.is_none(), "one send per connection is in flight");
        assert!(!link.finished, "nothing is sent after finish");
        assert!(!slice.is_empty(), "an empty send would look like the end");
        let copy = slice.bytes().to_vec();
        link.sending = Some(Sending { slice, copy, submitted: false });
    }

    fn finish(&mut self, conn: ConnId) {
        let link = self.link(conn);
        assert!(!link.finished, "finished once");
        assert!(link.sending.is_none(), "what is in flight goes out before the end");
        link.finished = true;
    }

    fn close(&mut self, conn: ConnId) {
        let link = self.link(conn);
        link.state = State::Closing;
        let Some(sending) = link.sending.take() else { return };
        sending.check_memory();
        // The kernel may have taken any part of it.
        if link.broken.is_none() {
            let room = link.socket_bytes.saturating_sub(link.outbound.len());
            let count = link.random.below(sending.copy.len().min(room) + 1);
            link.outbound.extend_from_slice(&sending.copy[..count]);
        }
        self.cut_sends += 1;
    }

    fn stop_accepting(&mut self) {
        self.accepting = false;
    }

    fn is_accepting(&self) -> bool {
        self.accepting || self.open.iter().any(|&at| self.links[at].state == State::New)
    }

    fn submit(&mut self) {
        for &at in &self.open {
            if let Some(sending) = &mut self.links[at].sending {
                sending.submitted = true;
            }
        }
    }

    fn reap(&mut self, sink: &mut dyn FnMut(Event<'_>)) -> usize {
        let mut order = self.open.clone();
        for place in (1..order.len()).rev() {
            order.swap(place, self.random.below(place + 1));
        }
        let mut told = 0;
        self.receives = 0;
        for at in order {
            while told < self.faults.events_max
                && self.links[at].state != State::Closed
                && self.tell(at, sink)
            {
                told += 1;
                if self.faults.late > 0 && self.links[at].random.percent(50) {
                    break;
                }
            }
        }
        told
    }

    fn set_deaf(&mut self, deaf: bool) {
        self.deaf = deaf;
    }

    fn tick(&mut self) {}
}
