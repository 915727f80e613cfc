//! The publishing thread of a storm: says what the schedule asks for, remembers how it was answered
//! and at last closes every room's books with one message that ends them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use barrage_sys::pin_to_core;
use barrage_wire::server::Code;
use barrage_wire::upstream::{AckMode, PublishHead, PublishReply};
use barrage_wire::{GatewayFrame, Tail, UpstreamFrame};
use serde::Serialize;

use crate::clock::{SECOND_NS, now_ns, run_promptly, sleep_precisely, until};
use crate::latency::Latencies;
use crate::requests::Requests;
use crate::shared::{Shared, Span, read};
use crate::stamp::Stamp;
use crate::storm::schedule::{Act, Schedule, Weather, What};
use crate::upstream::Upstream;
use crate::watch::kind;

/// Messages queued before the socket is looked after.
const BATCH_MAX: u32 = 64;
/// Bytes that may wait for the gateway to read; more would only age here.
const UNSENT_BYTES_MAX: usize = 256 * 1024;
/// How long the thread sleeps at most.
const NAP: Duration = Duration::from_millis(5);
/// How long replies may take after the last publish.
const REPLIES_MAX_NS: u64 = 10 * SECOND_NS;
/// How long rooms may go on speaking after the storm, in all.
const SETTLE_MAX_NS: u64 = 90 * SECOND_NS;
/// The category of the last message of a room: system, which has no limit and is not merged.
const CATEGORY_END: u16 = 0;

/// What to publish, and where.
#[derive(Clone, Copy, Debug)]
pub struct Storming {
    /// The first room.
    pub room: u64,
    /// How the storm is made.
    pub weather: Weather,
    /// The categories of gifts, scores and chat.
    pub categories: [u16; 3],
    /// Bytes of a payload.
    pub size: usize,
    /// After silence for this long, all runs have ended.
    pub settle_ns: u64,
    /// The core of the thread.
    pub core: Option<usize>,
}

/// How one sort of messages was answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Told {
    /// Due by the schedule.
    pub offered: u64,
    /// Sent.
    pub published: u64,
    /// Went out at once.
    pub ok: u64,
    /// Go out with others, or a later one in their place.
    pub merged: u64,
    /// More than the policy allows.
    pub limited: u64,
    /// Refused for another reason.
    pub refused: u64,
}

/// What was let into one room.
#[derive(Clone, Copy, Debug, Default)]
pub struct Let {
    /// Messages that were published there.
    pub published: u64,
    /// Taps that were answered `Ok` or `Merged`.
    pub taps: u64,
    /// The number of the last score that was answered so.
    pub last_state: u32,
    /// Scores so far.
    states: u32,
    /// The number of the message that ends the room; 0: it has none.
    pub last_seq: u64,
}

/// What came of a storm.
#[derive(Debug, Default)]
pub struct Stormed {
    /// Taps, scores and chat.
    pub told: [Told; 3],
    /// By room.
    pub rooms: Vec<Let>,
    /// Every refusal, by code.
    pub refused: BTreeMap<&'static str, u64>,
    /// Never answered.
    pub unanswered: u64,
    /// How late messages were sent.
    pub lag: Latencies,
    /// Why publishing ended early.
    pub broken: Option<String>,
}

impl Stormed {
    /// Taps, scores and chat together.
    pub fn all(&self) -> Told {
        self.told.iter().fold(Told::default(), |sum, told| Told {
            offered: sum.offered + told.offered,
            published: sum.published + told.published,
            ok: sum.ok + told.ok,
            merged: sum.merged + told.merged,
            limited: sum.limited + told.limited,
            refused: sum.refused + told.refused,
        })
    }

    fn reply(&mut self, reply: PublishReply, sent: Sent) {
        let place = &mut self.rooms[sent.room as usize];
        let Some(sort) = sent.sort else {
            // An end that is refused is said again.
            place.last_seq = if reply.code == Code::Ok { reply.seq } else { 0 };
            return;
        };
        let told = &mut self.told[sort];
        match reply.code {
            Code::Ok => told.ok += 1,
            Code::Merged => told.merged += 1,
            Code::Limited => told.limited += 1,
            _ => told.refused += 1,
        }
        if matches!(reply.code, Code::Ok | Code::Merged) {
            place.taps += u64::from(sort == TAPS);
            place.last_state = place.last_state.max(sent.state);
        } else {
            *self.refused.entry(reply.code.name()).or_default() += 1;
        }
    }
}

/// Places in `Stormed::told`, and of categories.
const TAPS: usize = 0;
const STATES: usize = 1;
const CHATS: usize = 2;

/// A publish that waits for its answer.
#[derive(Clone, Copy, Debug)]
struct Sent {
    room: u32,
    /// None: it ends the room.
    sort: Option<usize>,
    /// The number of the score that it is, else 0.
    state: u32,
}

/// Publishes on a thread of its own during `span`, waits until the rooms are silent, ends them.
pub fn spawn(
    upstream: Upstream,
    storming: Storming,
    span: Span,
    shared: Arc<Shared>,
) -> Result<JoinHandle<Result<Stormed>>> {
    let rooms = vec![Let::default(); storming.weather.rooms as usize];
    let publisher = Publisher {
        upstream,
        storming,
        schedule: Schedule::new(storming.weather, span.start_ns, span.to_ns),
        span,
        shared,
        payload: vec![0; storming.size],
        stormed: Stormed { rooms, ..Stormed::default() },
        requests: Requests::default(),
    };
    std::thread::Builder::new()
        .name("upstream".to_owned())
        .spawn(move || publisher.run())
        .context("cannot start the upstream thread")
}

struct Publisher {
    upstream: Upstream,
    storming: Storming,
    schedule: Schedule,
    span: Span,
    shared: Arc<Shared>,
    payload: Vec<u8>,
    stormed: Stormed,
    requests: Requests<Sent>,
}

impl Publisher {
    fn run(mut self) -> Result<Stormed> {
        if let Some(core) = self.storming.core {
            pin_to_core(core)
                .with_context(|| format!("cannot run on core {core}: see --upstream-core"))?;
        }
        sleep_precisely();
        run_promptly(true);
        let end = self.publish();
        self.offer_rest();
        let end = end.and_then(|()| self.collect()).and_then(|()| self.close_books());
        self.stormed.unanswered = self.requests.unanswered();
        self.stormed.broken = end.err().map(|error| format!("{error:#}"));
        Ok(self.stormed)
    }

    fn publish(&mut self) -> Result<()> {
        loop {
            let now = now_ns();
            if now >= self.span.to_ns || self.shared.stopped() {
                return Ok(());
            }
            let due_ns = self.schedule.next_ns().unwrap_or(self.span.to_ns);
            if due_ns > now || !self.may_send() {
                let nap = if due_ns > now { until(due_ns) } else { NAP };
                self.upstream.wait(nap.min(NAP).min(until(self.span.to_ns)));
            }
            for _ in 0..BATCH_MAX {
                if !self.may_send() {
                    break;
                }
                let Some(act) = self.schedule.due(now_ns()) else { break };
                self.act(act);
            }
            self.upstream.flush()?;
            self.receive()?;
        }
    }

    fn may_send(&self) -> bool {
        self.upstream.unsent_bytes() <= UNSENT_BYTES_MAX
            && self.requests.unanswered() < u64::from(self.upstream.credits)
    }

    /// Counts what was due and could not be sent in time.
    fn offer_rest(&mut self) {
        let now = now_ns();
        while let Some(act) = self.schedule.due(now) {
            self.stormed.told[sort_of(act.what)].offered += 1;
        }
    }

    fn act(&mut self, act: Act) {
        let Act { at_ns, room, what } = act;
        let lag_ns = now_ns().saturating_sub(at_ns);
        self.stormed.lag.record_ns(lag_ns);
        let sort = sort_of(what);
        let place = &mut self.stormed.rooms[room as usize];
        place.published += 1;
        place.states += u32::from(what == What::Score);
        let state = if what == What::Score { place.states } else { 0 };
        let lag_us = u32::try_from(lag_ns / 1000).unwrap_or(u32::MAX);
        Stamp { intended_ns: at_ns, index: state, lag_us }.write(&mut self.payload);
        let head = PublishHead {
            request: self.requests.open(Sent { room, sort: Some(sort), state }),
            ack: AckMode::Accepted,
            category: self.storming.categories[sort],
            ..PublishHead::default()
        };
        let payload = Tail(&self.payload);
        let rooms = u64::from(self.storming.weather.rooms);
        let name = self.storming.room + u64::from(room);
        self.upstream.say(&match what {
            What::Tap { sender, gift } => UpstreamFrame::PublishFrom {
                head: PublishHead { kind: kind::TAP, merge_key: gift, ..head },
                room: name,
                // As the load generator's clients are spread over rooms, this is one in the room.
                sender: 1 + u64::from(room) + u64::from(sender) * rooms,
                count: 1,
                payload,
            },
            What::Score => {
                let merge_key = 1 + u64::from(room / 2);
                let head = PublishHead { kind: kind::STATE, merge_key, ..head };
                UpstreamFrame::PublishRoom { head, room: name, payload }
            }
            What::Chat => {
                let head = PublishHead { kind: kind::CHAT, ..head };
                UpstreamFrame::PublishRoom { head, room: name, payload }
            }
        });
        let told = &mut self.stormed.told[sort];
        told.offered += 1;
        told.published += 1;
    }

    fn receive(&mut self) -> Result<()> {
        let Self { stormed, requests, .. } = self;
        self.upstream.receive(&mut |frame| {
            if let GatewayFrame::Replies { replies, .. } = frame {
                for reply in replies.iter() {
                    if let Some(sent) = requests.close(reply.request) {
                        stormed.reply(reply, sent);
                    }
                }
            }
            Ok(())
        })
    }

    /// Waits for the replies to what was sent.
    fn collect(&mut self) -> Result<()> {
        let until_ns = now_ns() + REPLIES_MAX_NS;
        while self.requests.unanswered() > 0 && now_ns() < until_ns {
            self.upstream.flush()?;
            self.upstream.wait(NAP);
            self.receive()?;
        }
        Ok(())
    }

    /// When the rooms are silent, says one last thing in each: its number ends the room's books.
    fn close_books(&mut self) -> Result<()> {
        self.settle()?;
        let until_ns = now_ns() + REPLIES_MAX_NS;
        loop {
            let open = self.stormed.rooms.iter().enumerate();
            let open: Vec<usize> =
                open.filter(|(_, place)| place.last_seq == 0).map(|(room, _)| room).collect();
            if open.is_empty() || now_ns() > until_ns {
                return Ok(());
            }
            for room in open {
                while !self.may_send() && now_ns() < until_ns {
                    self.upstream.wait(NAP);
                    self.upstream.flush()?;
                    self.receive()?;
                }
                self.end(room as u32);
            }
            self.collect()?;
        }
    }

    fn end(&mut self, room: u32) {
        Stamp { intended_ns: now_ns(), index: 0, lag_us: 0 }.write(&mut self.payload);
        let head = PublishHead {
            request: self.requests.open(Sent { room, sort: None, state: 0 }),
            ack: AckMode::Accepted,
            category: CATEGORY_END,
            kind: kind::END,
            ..PublishHead::default()
        };
        let (name, payload) = (self.storming.room + u64::from(room), Tail(&self.payload));
        self.upstream.say(&UpstreamFrame::PublishRoom { head, room: name, payload });
    }

    /// Waits until nobody has been sent anything for a while.
    fn settle(&mut self) -> Result<()> {
        let deadline_ns = now_ns() + SETTLE_MAX_NS;
        let (mut delivered, mut since_ns) = (read(&self.shared.delivered), now_ns());
        while now_ns() < deadline_ns.min(since_ns + self.storming.settle_ns)
            && !self.shared.stopped()
        {
            self.upstream.wait(NAP);
            self.receive()?;
            let now = read(&self.shared.delivered);
            if now != delivered {
                (delivered, since_ns) = (now, now_ns());
            }
        }
        Ok(())
    }
}

fn sort_of(what: What) -> usize {
    match what {
        What::Tap { .. } => TAPS,
        What::Score => STATES,
        What::Chat => CHATS,
    }
}
