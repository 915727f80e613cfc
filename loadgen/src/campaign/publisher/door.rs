//! Where messages go in and answers come out: the gateway's upstream socket, or another server.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::{Context, Result};
use barrage_wire::server::Code;
use barrage_wire::upstream::{AckMode, PublishHead};
use barrage_wire::{DecodeError, GatewayFrame, Tail, UpstreamFrame};

use super::books::{Refusal, Sent, Word};
use super::schedule::What;
use crate::dialect::{self, Protocol};
use crate::exit::TargetLost;
use crate::requests::Requests;
use crate::scenario::{Ack, Scenario};
use crate::upstream::Upstream;
use crate::watch::kind;

/// Bytes that may wait for the target to read; more would only age here.
const UNSENT_BYTES_MAX: usize = 256 * 1024;
/// Publishes that may be unanswered where the target does not say how many.
const UNANSWERED_MAX: usize = 16 * 1024;
/// Bits of a merge key that are the gift or the key; those above are the stream.
const STREAM_SHIFT: u32 = 32;

/// Where messages are published.
pub enum Door {
    /// Nothing is ever published.
    Shut,
    /// A gateway. It says how many may be unanswered.
    Barrage {
        /// Its upstream socket.
        upstream: Upstream,
        /// What waits for its answer.
        open: Requests<Sent>,
    },
    /// Another server. If it answers, then in order.
    Foreign {
        /// Its socket.
        upstream: dialect::Upstream,
        /// What waits for its answer; without answers, for being written.
        open: VecDeque<Written>,
        /// Bytes that were written.
        written: u64,
    },
}

/// A publish to another server.
#[derive(Clone, Copy, Debug)]
pub struct Written {
    sent: Sent,
    /// It is on its way when so many bytes were written.
    at: u64,
}

/// One publish.
#[derive(Clone, Copy, Debug)]
pub struct Post {
    /// What is remembered of it.
    pub sent: Sent,
    /// The room's id.
    pub name: u64,
    /// How many rooms there are.
    pub rooms: u32,
    /// The stream it belongs to.
    pub stream: usize,
    /// The category.
    pub category: u16,
    /// When it is to be answered.
    pub ack: Ack,
}

/// How a publish was answered.
#[derive(Clone, Copy, Debug)]
pub enum Answer<'a> {
    /// By a gateway.
    Code(Code, u64),
    /// Another server has taken it.
    Taken,
    /// Its bytes were written, and another server says no more.
    Written,
    /// Another server has not taken it.
    Refused(&'a str, Refusal),
}

impl Door {
    /// Connects, if the scenario publishes anything.
    pub fn open(scenario: &Scenario) -> Result<Self> {
        let target = &scenario.target;
        if scenario.phases.iter().all(|phase| phase.streams.is_empty()) {
            return Ok(Self::Shut);
        }
        if target.protocol != Protocol::Barrage {
            let upstream = dialect::Upstream::connect(target)?;
            return Ok(Self::Foreign { upstream, open: VecDeque::new(), written: 0 });
        }
        let address = target.upstream.as_ref().context(
            "the scenario publishes and does not say where: give target.upstream, the gateway's \
             --upstream address",
        )?;
        let upstream = Upstream::connect(address, target.app)
            .map_err(|error| TargetLost(format!("{error:#}")))?;
        Ok(Self::Barrage { upstream, open: Requests::default() })
    }

    /// Whether the target takes one more.
    pub fn may_send(&self) -> bool {
        match self {
            Self::Shut => false,
            Self::Barrage { upstream, open } => {
                upstream.unsent_bytes() <= UNSENT_BYTES_MAX
                    && open.unanswered() < u64::from(upstream.credits)
            }
            Self::Foreign { upstream, open, .. } => {
                upstream.unsent_bytes() <= UNSENT_BYTES_MAX && open.len() < UNANSWERED_MAX
            }
        }
    }

    /// How many wait for their answer.
    pub fn unanswered(&self) -> u64 {
        match self {
            Self::Shut => 0,
            Self::Barrage { open, .. } => open.unanswered(),
            Self::Foreign { open, .. } => open.len() as u64,
        }
    }

    /// Whether nothing waits for the target to read or to answer.
    pub fn is_quiet(&self) -> bool {
        let unsent = match self {
            Self::Shut => 0,
            Self::Barrage { upstream, .. } => upstream.unsent_bytes(),
            Self::Foreign { upstream, .. } => upstream.unsent_bytes(),
        };
        unsent == 0 && self.unanswered() == 0
    }

    /// Queues a publish. What comes of it is handed out by `receive`.
    pub fn publish(&mut self, post: &Post, payload: &[u8]) {
        match self {
            Self::Shut => {}
            Self::Barrage { upstream, open } => {
                let request = open.open(post.sent);
                upstream.say(&frame(post, request, payload));
            }
            Self::Foreign { upstream, open, written } => {
                upstream.publish(post.name, payload);
                let at = *written + upstream.unsent_bytes() as u64;
                open.push_back(Written { sent: post.sent, at });
            }
        }
    }

    /// Sends what is queued, as far as the target takes it, and says something if nothing was said
    /// for long.
    pub fn flush(&mut self, now_ns: u64) -> Result<()> {
        match self {
            Self::Shut => Ok(()),
            Self::Barrage { upstream, .. } => {
                upstream.keep_alive(now_ns);
                upstream.flush().map_err(lost)
            }
            Self::Foreign { upstream, written, .. } => {
                let before = upstream.unsent_bytes();
                let flushed = upstream.flush();
                *written += (before - upstream.unsent_bytes()) as u64;
                flushed
            }
        }
    }

    /// Sleeps until the target has said something, takes more, or for `timeout`.
    pub fn wait(&self, timeout: Duration) {
        match self {
            Self::Shut => std::thread::sleep(timeout),
            Self::Barrage { upstream, .. } => upstream.wait(timeout),
            Self::Foreign { upstream, .. } => upstream.wait(timeout),
        }
    }

    /// Hands out the answers that have come, or what was written where there are none. Fails when
    /// the connection has ended.
    pub fn receive(&mut self, sink: &mut dyn FnMut(Sent, Answer<'_>)) -> Result<()> {
        match self {
            Self::Shut => Ok(()),
            Self::Barrage { upstream, open } => {
                let received = upstream.receive(&mut |frame| {
                    if let GatewayFrame::Replies { replies, .. } = frame {
                        for reply in replies.iter() {
                            if let Some(sent) = open.close(reply.request) {
                                sink(sent, Answer::Code(reply.code, reply.seq));
                            }
                        }
                    }
                    Ok(())
                });
                received.map_err(lost)
            }
            Self::Foreign { upstream, open, written } if !upstream.answers() => {
                while let Some(first) = open.pop_front_if(|first| first.at <= *written) {
                    sink(first.sent, Answer::Written);
                }
                upstream.receive(&mut |_| {})
            }
            Self::Foreign { upstream, open, .. } => upstream.receive(&mut |answer| {
                // Nobody asked for an answer to nothing.
                let Some(Written { sent, .. }) = open.pop_front() else { return };
                match answer {
                    dialect::Answer::Taken => sink(sent, Answer::Taken),
                    dialect::Answer::Refused(why) => {
                        sink(sent, Answer::Refused(why, refusal(why)));
                    }
                }
            }),
        }
    }
}

/// A gateway that has closed or reset the connection has gone; one whose bytes are not the protocol
/// is still there.
fn lost(error: anyhow::Error) -> anyhow::Error {
    match error.downcast_ref::<DecodeError>() {
        Some(_) => error,
        None => TargetLost(format!("{error:#}")).into(),
    }
}

/// What a refusal says about members. Redis refuses what it does not do, and a web server a request
/// that it does not like (4xx); a server that fails (5xx) may have passed it on before.
fn refusal(why: &str) -> Refusal {
    let status = why.strip_prefix("HTTP/").and_then(|line| line.split(' ').nth(1));
    match status {
        Some(status) if !status.starts_with('4') => Refusal::Unsure,
        Some(_) | None => Refusal::Sure,
    }
}

fn frame<'a>(post: &Post, request: u32, payload: &'a [u8]) -> UpstreamFrame<'a> {
    let ack = match post.ack {
        Ack::Accepted => AckMode::Accepted,
        Ack::Stored => AckMode::Stored,
    };
    let (room, payload) = (post.name, Tail(payload));
    let head = PublishHead { request, ack, category: post.category, ..PublishHead::default() };
    // Streams that say the same gift or key in one category are not to be merged with each other.
    let merge_key = |key: u32| (post.stream as u64) << STREAM_SHIFT | u64::from(key);
    match post.sent.what {
        Word::Said(What::Message) => {
            let head = PublishHead { kind: kind::CHAT, ..head };
            UpstreamFrame::PublishRoom { head, room, payload }
        }
        Word::Said(What::Tap { giver, gift }) => {
            let head = PublishHead { kind: kind::TAP, merge_key: merge_key(gift), ..head };
            let sender = 1 + u64::from(post.sent.room) + u64::from(giver) * u64::from(post.rooms);
            UpstreamFrame::PublishFrom { head, room, sender, count: 1, payload }
        }
        Word::Said(What::State { key }) => {
            let head = PublishHead { kind: kind::STATE, merge_key: merge_key(key), ..head };
            UpstreamFrame::PublishRoom { head, room, payload }
        }
        Word::End => {
            let head = PublishHead { kind: kind::END, ..head };
            UpstreamFrame::PublishRoom { head, room, payload }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_that_closes_is_lost_and_one_that_speaks_otherwise_is_not() {
        let is_lost = |error| lost(error).is::<TargetLost>();
        assert!(is_lost(anyhow::anyhow!("closed")));
        let reset = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        assert!(is_lost(anyhow::Error::from(reset).context("broke")));
        assert!(!is_lost(DecodeError::FrameTooLong { bytes: 2, max: 1 }.into()));
    }

    #[test]
    fn only_a_server_that_fails_may_have_passed_it_on() {
        let check = |why, expected| assert_eq!(refusal(why), expected, "{why}");
        check("OOM command not allowed", Refusal::Sure);
        check("HTTP/1.1 403 Forbidden", Refusal::Sure);
        check("HTTP/1.1 413", Refusal::Sure);
        check("HTTP/1.1 502 Bad Gateway", Refusal::Unsure);
        check("HTTP/1.1 302 Found", Refusal::Unsure);
    }
}
