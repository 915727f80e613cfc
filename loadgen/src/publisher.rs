//! The publishing thread: sends by a schedule that does not wait for anybody.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use barrage_sys::pin_to_core;
use barrage_wire::server::Code;
use barrage_wire::upstream::{AckMode, PublishHead, PublishReply};
use barrage_wire::{GatewayFrame, Tail, UpstreamFrame};

use crate::clock::{SECOND_NS, now_ns, run_promptly, sleep_precisely, until};
use crate::latency::Latencies;
use crate::requests::Requests;
use crate::shared::{Shared, Span, read};
use crate::stamp::Stamp;
use crate::upstream::Upstream;

/// Messages queued before the socket is looked after.
const BATCH_MAX: u64 = 64;
/// Bytes that may wait for the gateway to read; more would only age here.
const UNSENT_BYTES_MAX: usize = 256 * 1024;
/// How long the thread sleeps at most.
const NAP: Duration = Duration::from_millis(5);
/// The same while the window is full.
const NAP_WINDOW: Duration = Duration::from_micros(100);
/// How long replies may take after the last publish.
const REPLIES_MAX_NS: u64 = 10 * SECOND_NS;

/// What to publish, and how fast.
#[derive(Clone, Copy, Debug)]
pub struct Publishing {
    /// The first room.
    pub room: u64,
    /// How many rooms there are; messages go to one after the other.
    pub rooms: u32,
    /// The category.
    pub category: u16,
    /// What is to be promised.
    pub ack: AckMode,
    /// Bytes of a payload.
    pub size: usize,
    /// How fast.
    pub pace: Pace,
    /// The core of the thread.
    pub core: Option<usize>,
}

/// How fast to publish.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// So many a second, evenly.
    PerSecond(f64),
    /// As fast as it goes, with so many on their way to members at any time.
    Window(u64),
    /// So many at once.
    Burst(u64),
}

/// What came of publishing.
#[derive(Debug, Default)]
pub struct Published {
    /// Due by the schedule.
    pub offered: u64,
    /// Sent.
    pub published: u64,
    /// Got a sequence number, by room.
    pub admitted_by_room: Vec<u64>,
    /// Refused, by code.
    pub refused: BTreeMap<&'static str, u64>,
    /// Never answered.
    pub unanswered: u64,
    /// The last sequence number given in each room.
    pub last_seqs: Vec<u64>,
    /// Got a sequence number while it was measured.
    pub admitted_measured: u64,
    /// From the intended time of sending to the answer.
    pub answers: Latencies,
    /// When the first message was sent.
    pub first_ns: u64,
    /// How late messages were sent.
    pub lag: Latencies,
    /// Why publishing ended early.
    pub broken: Option<String>,
}

impl Published {
    fn new(rooms: u32) -> Self {
        let none = vec![0; rooms as usize];
        Self { admitted_by_room: none.clone(), last_seqs: none, ..Self::default() }
    }

    /// Got a sequence number.
    pub fn admitted(&self) -> u64 {
        self.admitted_by_room.iter().sum()
    }

    /// How many were refused, whatever the code.
    pub fn refused(&self) -> u64 {
        self.refused.values().sum()
    }

    /// How many were refused because they were more than the policy allows.
    pub fn limited(&self) -> u64 {
        self.refused.get(Code::Limited.name()).copied().unwrap_or(0)
    }

    fn reply(&mut self, reply: PublishReply, sent: Sent, span: Span) {
        if reply.code != Code::Ok {
            *self.refused.entry(reply.code.name()).or_default() += 1;
            return;
        }
        self.admitted_by_room[sent.room] += 1;
        self.last_seqs[sent.room] = self.last_seqs[sent.room].max(reply.seq);
        let now = now_ns();
        if sent.intended_ns >= span.from_ns {
            self.answers.record_ns(now.saturating_sub(sent.intended_ns));
        }
        self.admitted_measured += u64::from((span.from_ns..span.to_ns).contains(&now));
    }
}

/// What the answers in `refused` ask the operator to do, for those that say more than "not now".
pub fn advice(refused: &BTreeMap<&'static str, u64>, categories: &str) -> Vec<String> {
    let known = [
        (
            Code::UnknownCategory,
            format!(
                "the gateway's policy has no category {categories}: give it one of that number, or \
                 name one that it has; --help says which option does"
            ),
        ),
        (
            Code::Unstored,
            format!(
                "category {categories} is not stored: start the gateway with --data, and name a \
                 category that its policy keeps on disk, such as 4, chat"
            ),
        ),
        (
            Code::Merged,
            format!(
                "category {categories} merges messages, so that not each is delivered: `storm` is \
                 for that"
            ),
        ),
    ];
    let said = known.into_iter().filter_map(|(code, what)| {
        let count = refused.get(code.name())?;
        Some(format!("{count} publishes were answered {}: {what}", code.name()))
    });
    said.collect()
}

/// A publish that waits for its answer.
#[derive(Clone, Copy, Debug)]
struct Sent {
    room: usize,
    intended_ns: u64,
}

/// Publishes on a thread of its own during `span`, and then waits for the replies.
pub fn spawn(
    upstream: Upstream,
    publishing: Publishing,
    span: Span,
    shared: Arc<Shared>,
) -> Result<JoinHandle<Result<Published>>> {
    let payload = vec![0; publishing.size];
    let published = Published::new(publishing.rooms);
    let requests = Requests::default();
    let publisher = Publisher { upstream, publishing, span, shared, payload, published, requests };
    std::thread::Builder::new()
        .name("upstream".to_owned())
        .spawn(move || publisher.run())
        .context("cannot start the upstream thread")
}

struct Publisher {
    upstream: Upstream,
    publishing: Publishing,
    span: Span,
    shared: Arc<Shared>,
    payload: Vec<u8>,
    published: Published,
    requests: Requests<Sent>,
}

impl Publisher {
    fn run(mut self) -> Result<Published> {
        if let Some(core) = self.publishing.core {
            pin_to_core(core)
                .with_context(|| format!("cannot run on core {core}: see --upstream-core"))?;
        }
        sleep_precisely();
        run_promptly(matches!(self.publishing.pace, Pace::PerSecond(_)));
        // What was published before a break still has to be accounted for.
        let end = self.publish();
        self.published.offered = self.offered();
        let end = end.and_then(|()| self.collect());
        self.published.unanswered = self.requests.unanswered();
        self.published.broken = end.err().map(|error| format!("{error:#}"));
        Ok(self.published)
    }

    fn publish(&mut self) -> Result<()> {
        loop {
            let now = now_ns();
            if now >= self.span.to_ns || self.shared.stopped() {
                break;
            }
            let due = self.due(now);
            let count = due
                .min(u64::from(self.upstream.credits).saturating_sub(self.requests.unanswered()))
                .min(BATCH_MAX);
            let held = self.upstream.unsent_bytes() > UNSENT_BYTES_MAX;
            if held || count == 0 {
                let nap = if due > 0 { NAP } else { self.nap() };
                self.upstream.wait(nap.min(until(self.span.to_ns)));
            } else {
                self.send(count);
            }
            self.upstream.flush()?;
            self.receive()?;
        }
        Ok(())
    }

    /// How many messages were due in the time there was.
    fn offered(&self) -> u64 {
        let due = match self.publishing.pace {
            Pace::PerSecond(rate) => {
                let elapsed_ns = now_ns().min(self.span.to_ns).saturating_sub(self.span.start_ns);
                (elapsed_ns as f64 / SECOND_NS as f64 * rate) as u64
            }
            Pace::Window(_) => 0,
            Pace::Burst(count) => count,
        };
        due.max(self.published.published)
    }

    /// How many messages are due and were not sent yet.
    fn due(&self, now: u64) -> u64 {
        if now < self.span.start_ns {
            return 0;
        }
        let published = self.published.published;
        match self.publishing.pace {
            Pace::PerSecond(rate) => {
                let elapsed_s = (now - self.span.start_ns) as f64 / SECOND_NS as f64;
                ((elapsed_s * rate) as u64 + 1).saturating_sub(published)
            }
            Pace::Window(window) => {
                // What was refused is on its way to nobody.
                let away = published - self.published.refused();
                let known = read(&self.shared.progress);
                let unanswered = window.saturating_sub(self.requests.unanswered());
                known.saturating_add(window).saturating_sub(away).min(unanswered)
            }
            Pace::Burst(count) => count.saturating_sub(published),
        }
    }

    /// How long it is until more is due.
    fn nap(&self) -> Duration {
        let next_ns = match self.publishing.pace {
            _ if now_ns() < self.span.start_ns => self.span.start_ns,
            Pace::PerSecond(_) => self.intended_ns(self.published.published),
            Pace::Window(_) => return NAP_WINDOW,
            Pace::Burst(_) => return NAP,
        };
        until(next_ns).min(NAP)
    }

    /// When message `index` was to be sent; only a rate has a schedule.
    fn intended_ns(&self, index: u64) -> u64 {
        match self.publishing.pace {
            Pace::PerSecond(rate) => {
                self.span.start_ns + (index as f64 / rate * SECOND_NS as f64) as u64
            }
            Pace::Window(_) | Pace::Burst(_) => now_ns(),
        }
    }

    fn send(&mut self, count: u64) {
        for _ in 0..count {
            let index = self.published.published;
            let intended_ns = self.intended_ns(index);
            let lag_ns = now_ns().saturating_sub(intended_ns);
            if intended_ns >= self.span.from_ns {
                self.published.lag.record_ns(lag_ns);
            }
            if index == 0 {
                self.published.first_ns = intended_ns;
            }
            let lag_us = u32::try_from(lag_ns / 1000).unwrap_or(u32::MAX);
            Stamp { intended_ns, index: index as u32, lag_us }.write(&mut self.payload);
            let room = index % u64::from(self.publishing.rooms);
            let sent = Sent { room: room as usize, intended_ns };
            let head = PublishHead {
                request: self.requests.open(sent),
                ack: self.publishing.ack,
                category: self.publishing.category,
                ..PublishHead::default()
            };
            let (room, payload) = (self.publishing.room + room, Tail(&self.payload));
            self.upstream.say(&UpstreamFrame::PublishRoom { head, room, payload });
            self.published.published += 1;
        }
    }

    fn receive(&mut self) -> Result<()> {
        let Self { published, requests, span, .. } = self;
        self.upstream.receive(&mut |frame| {
            if let GatewayFrame::Replies { replies, .. } = frame {
                for reply in replies.iter() {
                    if let Some(sent) = requests.close(reply.request) {
                        published.reply(reply, sent, *span);
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_category_that_is_not_there_is_named_with_what_to_do() {
        let check = |codes: &[Code], parts: &[&str]| {
            let refused = codes.iter().map(|code| (code.name(), 3)).collect();
            let said = advice(&refused, "7");
            assert_eq!(said.len(), parts.len(), "{said:?}");
            for (said, part) in said.iter().zip(parts) {
                assert!(said.contains(part), "{said}");
            }
        };
        check(&[Code::Limited, Code::Overloaded], &[]);
        check(&[Code::UnknownCategory], &["3 publishes were answered UnknownCategory"]);
        check(&[Code::UnknownCategory, Code::Unstored], &["no category 7", "--data"]);
        check(&[Code::Merged], &["category 7 merges"]);
    }
}
