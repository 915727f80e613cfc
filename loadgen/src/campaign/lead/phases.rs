//! What a leader does in each kind of phase.

use std::sync::Arc;

use anyhow::Result;

use super::Leader;
use crate::campaign::books::Span;
use crate::campaign::publisher::Say;
use crate::campaign::shares;
use crate::clock::SECOND_NS;
use crate::orders::Order;
use crate::scenario::layout::Layout;
use crate::scenario::{Churn, Disconnect};

/// How long after it is said a phase begins: time for everybody to hear it. For as long after its
/// end deliveries are still timed.
const SETTLE_NS: u64 = SECOND_NS / 10;
/// A ramp in which nothing moves for so long is over.
const STALL_NS: u64 = 60 * SECOND_NS;
/// How long after its phase those who were disconnected may take to come back.
const RETURN_NS: u64 = 120 * SECOND_NS;
/// A phase without an end of its own; what is published in it ends with the next.
const ENDLESS_NS: u64 = 7 * 24 * 3600 * SECOND_NS;

impl Leader<'_> {
    pub(super) fn ramp(&mut self, index: usize, to: u32, per_s: f64) -> Result<()> {
        let now = self.now_ns();
        let earlier = &self.scenario.phases[..index];
        self.late_ramp |= earlier.iter().any(|phase| !phase.streams.is_empty());
        *self.books.span(index) = Span { began_ns: now, ..Span::default() };
        self.order_phase(index, u64::MAX, u64::MAX);
        let before = self.outside.available_bytes();
        let parts: Vec<_> = self.crew.hands.iter().map(|hand| hand.part).collect();
        let counts = shares::connected(to, &parts);
        // The first ramp's rooms are not empty when they are full: rates go by who will be there.
        let layout = Layout::new(self.scenario.rooms, self.scenario.seed);
        self.members = shares::members(&layout, &parts, &counts);
        self.say_phase(index, now, u64::MAX, now + ENDLESS_NS);
        self.known.iter_mut().for_each(|known| known.ramped = known.is_over);
        for (hand, &clients) in self.crew.hands.iter().zip(&counts) {
            let per_s = per_s * f64::from(clients) / f64::from(to.max(1));
            // One that has ended has said why.
            let _ = hand.orders.send(Order::Connect { clients, per_s });
        }
        self.clients = self.clients.max(to);
        let deadline = match self.scenario.phases[index].ns {
            0 => u64::MAX,
            ns => now + ns,
        };
        self.wait_for_ramp(deadline)?;
        let ended_ns = self.now_ns();
        self.books.span(index).ended_ns = ended_ns;
        // Memory is compared with what it was before.
        self.outside.look_at(ended_ns);
        let connected = self.books.running.connected;
        if self.system_bytes_per_client.is_none() && connected > 0 && self.end.is_none() {
            let after = self.outside.available_bytes();
            self.system_bytes_per_client = before
                .zip(after)
                .map(|(before, after)| (before as f64 - after as f64) / connected as f64);
        }
        Ok(())
    }

    /// Waits until everybody is there, or it is too late, or nothing moves any more.
    fn wait_for_ramp(&mut self, deadline: u64) -> Result<()> {
        let (mut moved, mut moved_ns) = (0, self.now_ns());
        loop {
            let bound = deadline.min(moved_ns + STALL_NS);
            let step = bound.min(self.now_ns() + SECOND_NS);
            let all = self.wait(step, |this| this.known.iter().all(|known| known.ramped))?;
            if all || self.end.is_some() {
                return Ok(());
            }
            let running = &self.books.running;
            let now_moved = running.connected + running.failed;
            if now_moved != moved {
                (moved, moved_ns) = (now_moved, self.now_ns());
            }
            if self.now_ns() >= deadline.min(moved_ns + STALL_NS) {
                // Who gets ready from now on has missed nobody knows what.
                self.late_ramp = true;
                let why = "the ramp was ended before everybody was ready".to_owned();
                return self.event("note", why);
            }
        }
    }

    pub(super) fn measure(&mut self, index: usize) -> Result<()> {
        let phase = &self.scenario.phases[index];
        let start_ns = self.now_ns() + SETTLE_NS;
        let (from_ns, to_ns) = (start_ns + phase.warmup_ns, start_ns + phase.ns);
        *self.books.span(index) = Span { began_ns: start_ns, ended_ns: to_ns, from_ns, to_ns };
        self.outside.look_at(from_ns);
        self.outside.look_at(to_ns);
        self.order_phase(index, from_ns, to_ns);
        self.say_phase(index, start_ns, from_ns, to_ns);
        self.wait(start_ns, |_| false)?;
        if let Some(disconnect) = phase.disconnect.filter(|_| self.end.is_none()) {
            self.disconnect(disconnect)?;
        }
        if let Some(churn) = phase.churn.filter(|_| self.end.is_none()) {
            self.churn(churn);
        }
        self.wait(to_ns, |_| false)?;
        if phase.churn.is_some() {
            self.crew.order(&Order::Churn(None));
        }
        if phase.disconnect.is_some() {
            let all_back = |this: &Self| this.away_since_ns.is_none();
            let back = self.wait(to_ns + RETURN_NS, all_back)?;
            if !back && self.end.is_none() {
                self.event("note", "not all came back in time".to_owned())?;
            }
        }
        // What was sent at the end arrives a little later, and is timed as long as the phase lasts.
        self.wait(to_ns + SETTLE_NS, |_| false)?;
        // What was measured of a phase that was cut short ends here.
        let now = self.now_ns();
        if now < to_ns {
            self.outside.look_at(now);
        }
        let span = self.books.span(index);
        span.ended_ns = span.ended_ns.min(now).max(span.began_ns);
        span.to_ns = span.to_ns.min(now).max(span.from_ns);
        Ok(())
    }

    fn disconnect(&mut self, disconnect: Disconnect) -> Result<()> {
        self.event("disconnect", format!("{} % lose their connection", disconnect.percent))?;
        self.known.iter_mut().for_each(|known| known.returned = known.is_over);
        self.away_since_ns = Some(self.now_ns());
        self.crew.order(&Order::Disconnect(disconnect));
        Ok(())
    }

    /// Each has its share of those who come and go.
    fn churn(&self, churn: Churn) {
        let parts: Vec<_> = self.crew.hands.iter().map(|hand| hand.part).collect();
        let clients = f64::from(self.clients.max(1));
        for (hand, share) in self.crew.hands.iter().zip(shares::connected(self.clients, &parts)) {
            let clients_per_s = churn.clients_per_s * f64::from(share) / clients;
            let _ = hand.orders.send(Order::Churn(Some(Churn { clients_per_s, ..churn })));
        }
    }

    fn order_phase(&self, index: usize, from_ns: u64, to_ns: u64) {
        self.crew.order(&Order::Phase { index, from_ns, to_ns });
        self.crew.order_odd(Order::Phase { index, from_ns, to_ns });
    }

    fn say_phase(&self, index: usize, start_ns: u64, from_ns: u64, to_ns: u64) {
        let members = Arc::new(self.members.clone());
        self.crew.say(Say::Phase { index, start_ns, from_ns, to_ns, members });
    }
}
