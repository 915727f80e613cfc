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
    /// The room.
    pub room: u64,
    /// The category.
    pub category: u16,
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
    /// Got a sequence number.
    pub admitted: u64,
    /// Refused, by code.
    pub refused: BTreeMap<&'static str, u64>,
    /// Never answered.
    pub unanswered: u64,
    /// The last sequence number given.
    pub last_seq: u64,
    /// When the first message was sent.
    pub first_ns: u64,
    /// How late messages were sent.
    pub lag: Latencies,
    /// Why publishing ended early.
    pub broken: Option<String>,
}

impl Published {
    /// How many were refused, whatever the code.
    pub fn limited(&self) -> u64 {
        self.refused.values().sum()
    }

    fn reply(&mut self, reply: PublishReply) {
        self.unanswered = self.unanswered.saturating_sub(1);
        if reply.code == Code::Ok {
            self.admitted += 1;
            self.last_seq = self.last_seq.max(reply.seq);
        } else {
            *self.refused.entry(reply.code.name()).or_default() += 1;
        }
    }
}

/// Publishes on a thread of its own during `span`, and then waits for the replies.
pub fn spawn(
    upstream: Upstream,
    publishing: Publishing,
    span: Span,
    shared: Arc<Shared>,
) -> Result<JoinHandle<Result<Published>>> {
    let payload = vec![0; publishing.size];
    let published = Published::default();
    let publisher = Publisher { upstream, publishing, span, shared, payload, published };
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
                .min(u64::from(self.upstream.credits).saturating_sub(self.published.unanswered))
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
                let away = published - self.published.limited();
                (read(&self.shared.progress).saturating_add(window)).saturating_sub(away)
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
            let head = PublishHead {
                request: index as u32,
                ack: AckMode::Accepted,
                category: self.publishing.category,
                ..PublishHead::default()
            };
            let (room, payload) = (self.publishing.room, Tail(&self.payload));
            self.upstream.say(&UpstreamFrame::PublishRoom { head, room, payload });
            self.published.published += 1;
            self.published.unanswered += 1;
        }
    }

    fn receive(&mut self) -> Result<()> {
        let published = &mut self.published;
        self.upstream.receive(&mut |frame| {
            if let GatewayFrame::Replies { replies, .. } = frame {
                replies.iter().for_each(|reply| published.reply(reply));
            }
            Ok(())
        })
    }

    /// Waits for the replies to what was sent.
    fn collect(&mut self) -> Result<()> {
        let until_ns = now_ns() + REPLIES_MAX_NS;
        while self.published.unanswered > 0 && now_ns() < until_ns {
            self.upstream.flush()?;
            self.upstream.wait(NAP);
            self.receive()?;
        }
        Ok(())
    }
}
