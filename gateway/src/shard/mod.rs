//! One core's part of the gateway: a plain struct over a `Ring`.
//!
//! `step` is everything that a core can do, in this order: hear what the ring says, read mail, look
//! at clocks, answer, fan out, hand requests to the kernel. Nothing here blocks, and nothing else
//! touches this memory.

mod client;
mod core;
mod fanout;
mod guards;
mod history;
mod home;
mod inbox;
mod lifecycle;
mod missed;
mod moderation;
mod pages;
mod publish;
mod said;
#[cfg(test)]
mod simulation;
mod upstream;

use std::sync::Arc;
use std::time::Duration;

use barrage_sys::{KernelRing, Ring};

pub use self::core::{Core, ShardConfig};
pub use self::history::{History, Restored};
use crate::conn::Role;
use crate::limits::{MAIL_BATCH, STEP_WORK_BYTES_MAX, TICK};
use crate::mail::Post;
use crate::metrics::Metrics;
use crate::policy_file::Rules;

/// See the module.
pub struct Shard<R> {
    ring: R,
    core: Core,
    /// What each listener's connections are for, in the order the ring knows them.
    roles: Vec<Role>,
    stopped_accepting: bool,
}

/// What is left to do after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// There is more to do at once.
    Again,
    /// Nothing until something happens, or until this many microseconds have passed.
    Sleep(u64),
}

impl<R: Ring> Shard<R> {
    /// A shard without connections.
    pub fn new(ring: R, roles: Vec<Role>, config: ShardConfig, post: Post) -> Self {
        Self { ring, core: Core::new(config, post), roles, stopped_accepting: false }
    }

    /// One turn. `now_us` is the gateway's clock in microseconds.
    pub fn step(&mut self, now_us: u64) -> Next {
        self.core.clock.set(now_us);
        self.core.local.walks.begin(self.core.clock.us);
        self.core.metrics.steps_total += 1;
        self.ring.set_deaf(self.core.post.any_congested() || self.core.is_flooded());
        let heard = self.hear();
        let mailed = self.read_mail();
        let stored = self.core.hear_history();
        let ticked = self.look_at_clocks();
        self.core.drain_some();
        self.core.write_replies();
        self.core.serve_ready(&mut self.ring);
        let walked = self.core.fan_out(&mut self.ring);
        self.core.close_some(&mut self.ring);
        self.core.post.flush();
        self.ring.submit();
        let busy = heard > 0 || mailed > 0 || stored || ticked || walked || self.core.has_more();
        if busy { Next::Again } else { Next::Sleep(self.core.sleep_us()) }
    }

    fn hear(&mut self) -> usize {
        let Self { ring, core, roles, .. } = self;
        ring.reap(&mut |event| core.event(event, roles))
    }

    fn read_mail(&mut self) -> usize {
        self.core.worked_bytes = 0;
        let mut read = 0;
        for shard in 0..usize::from(self.core.post.shards()) {
            for _ in 0..MAIL_BATCH {
                if self.core.is_flooded() {
                    return read;
                }
                let Some(mail) = self.core.post.take(shard) else { break };
                self.core.mail(mail);
                read += 1;
                if self.core.worked_bytes > STEP_WORK_BYTES_MAX {
                    // The network and other shards have their turn in between.
                    break;
                }
            }
        }
        self.core.metrics.mails_total += read as u64;
        read
    }

    fn look_at_clocks(&mut self) -> bool {
        self.core.tick_rooms();
        self.core.tick_inboxes();
        let ticked = self.core.tick();
        if ticked {
            self.ring.tick();
        }
        ticked
    }

    /// Listens no more, and says goodbye to those that are there and those that wait to be accepted.
    pub fn drain(&mut self) {
        if !self.stopped_accepting {
            self.stopped_accepting = true;
            self.ring.stop_accepting();
            self.core.start_drain();
        }
    }

    /// Whether a drain has nothing left to do.
    pub fn is_drained(&self) -> bool {
        let is_empty = self.core.is_empty() && !self.ring.is_accepting();
        self.core.is_over() && is_empty && self.core.post.is_empty()
    }

    /// Other rules come into force: nothing is dropped for it.
    pub fn set_rules(&mut self, rules: Arc<Rules>) {
        self.core.set_rules(rules);
    }

    /// What was on disk when the gateway started, as far as it is this shard's, and the way there.
    pub fn restore(&mut self, history: History, restored: Restored) {
        self.core.restore(history, restored);
    }

    /// The shard's numbers at this moment.
    pub fn metrics(&self) -> Metrics {
        self.core.snapshot()
    }
}

impl Shard<KernelRing> {
    /// Sleeps until the network, mail or somebody who asks has something, or for `timeout`.
    pub fn sleep(&mut self, timeout: Duration, nobody_asks: impl FnOnce() -> bool) {
        self.core.metrics.sleeps_total += 1;
        let post = &self.core.post;
        self.ring.wait(timeout, || post.is_empty() && nobody_asks());
    }

    /// What the operator should know of the network.
    pub fn take_trouble(&mut self) -> Option<String> {
        self.ring.take_trouble()
    }

    /// Data rings opened so far.
    pub fn rings(&self) -> usize {
        self.ring.rings()
    }
}

/// Microseconds of a tick.
const TICK_US: u64 = TICK.as_micros() as u64;
