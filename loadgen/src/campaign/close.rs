//! The end of a campaign: everybody's books, and what has come of it.

use std::thread::JoinHandle;

use anyhow::Result;

use crate::campaign::crew;
use crate::campaign::judge::{self, Facts};
use crate::campaign::keep::Keep;
use crate::campaign::lead::{End, Leader};
use crate::campaign::publisher::{Published, Say};
use crate::clock::SECOND_NS;
use crate::orders::Order;
use crate::record::kept::{Clock, Summary};
use crate::scenario::{PhaseKind, Rate, StreamKind};

/// How long the publisher may take to collect answers and to end rooms; it has bounds of its own
/// that are shorter.
const PUBLISHER_NS: u64 = 150 * SECOND_NS;
/// How long missing messages are waited for.
const DRAIN_NS: u64 = 10 * SECOND_NS;
/// The same when the run was stopped.
const DRAIN_STOPPED_NS: u64 = 3 * SECOND_NS;
/// How long books may take after that.
const BOOKS_NS: u64 = 20 * SECOND_NS;
/// How long everything may take when the target is lost.
const LOST_NS: u64 = 3 * SECOND_NS;
/// How long the target may take to show its figures once more.
const LOOK_NS: u64 = 2 * SECOND_NS;

impl Leader<'_> {
    /// Ends everything, and judges.
    pub fn close(mut self, clocks: &[Clock]) -> Result<(Summary, Keep)> {
        self.is_closing = true;
        let is_lost = matches!(self.end, Some(End::Lost(_)));
        let published = self.end_publishing(is_lost)?;
        self.collect_books(&published, is_lost)?;
        let unchecked = self.closing.check_totals(&published);
        if unchecked > 0 {
            let text = format!("{unchecked} rooms' totals could not be checked");
            self.event("note", text)?;
        }
        for (known, hand) in self.known.iter().zip(&self.crew.hands) {
            if !known.has_books {
                // What it has said by the way is all that there is.
                self.closing.totals.add(&known.running);
                if !is_lost && !known.is_broken {
                    self.parts_broken.push(format!("{} has left no books", hand.source));
                }
            }
        }
        self.see_the_end()?;
        let facts = self.facts(&published, clocks);
        let verdict = judge::judge(&facts, &self.scenario.slo, &self.scenario.validity);
        let closing = self.closing;
        let summary = Summary {
            verdict,
            totals: facts.totals,
            slow: self.scenario.clients.slow.map(|_| self.books.slow),
            measured: facts.measured,
            phases: (0..self.scenario.phases.len())
                .map(|phase| self.books.figures(phase))
                .filter(|figures| figures.from_ns > 0)
                .collect(),
            ended: facts.ended,
            refused: published.refused.into_iter().collect(),
            target_bytes_per_client: facts.target_bytes_per_client,
            system_bytes_per_client: self.system_bytes_per_client,
            generator_bytes_per_client: (closing.bytes_per_client > 0)
                .then_some(closing.bytes_per_client as f64),
            reconnect_s: facts.reconnect_s,
        };
        Ok((summary, self.keep))
    }

    fn end_publishing(&mut self, is_lost: bool) -> Result<Published> {
        self.crew.say(Say::Close);
        let Some(speaker) = self.crew.publisher.take() else { return Ok(Published::default()) };
        let bound_ns = if is_lost { LOST_NS } else { PUBLISHER_NS };
        self.hear_until(self.now_ns() + bound_ns, |_| speaker.thread.is_finished())?;
        if !speaker.thread.is_finished() {
            self.parts_broken.push("the publisher has left no books".to_owned());
            return Ok(Published { counts: self.books.running, ..Published::default() });
        }
        let published = match crew::join(speaker) {
            Ok(published) => published,
            Err(error) => {
                self.parts_broken.push(format!("{error:#}"));
                return Ok(Published::default());
            }
        };
        if let Some(why) = published.broken.as_ref().filter(|_| !is_lost) {
            let text = format!("publishing ended early: {why}");
            if !self.parts_broken.iter().any(|known| known.contains(why.as_str())) {
                self.parts_broken.push(text);
            }
        }
        Ok(published)
    }

    fn collect_books(&mut self, published: &Published, is_lost: bool) -> Result<()> {
        let now = self.now_ns();
        let drain_ns = match &self.end {
            Some(End::Lost(_)) => 0,
            Some(End::Stopped) => DRAIN_STOPPED_NS,
            Some(End::Aborted(_) | End::Broken(_)) | None => DRAIN_NS,
        };
        let mut last_seqs: Vec<u64> = published.rooms.iter().map(|room| room.last_seq).collect();
        last_seqs.resize(self.scenario.rooms.count as usize, 0);
        let was_ended = self.end.is_some();
        self.order_drain(&last_seqs, now + drain_ns);
        let bound_ns = if is_lost { LOST_NS } else { drain_ns + BOOKS_NS };
        let is_hurried = |this: &Self| !was_ended && this.end == Some(End::Stopped);
        self.hear_until(now + bound_ns, |this| this.all_over() || is_hurried(this))?;
        if is_hurried(self) {
            // Whoever stops a run now does not want to wait for what is missing.
            let now = self.now_ns();
            self.order_drain(&last_seqs, now);
            self.hear_until(now + LOST_NS, Self::all_over)?;
        }
        self.crew.dismiss();
        // What is said between that and the end of the threads.
        self.hear_until(self.now_ns() + LOST_NS, |this| {
            this.all_over() && this.crew.threads.iter().all(JoinHandle::is_finished)
        })?;
        // The publisher's counts are in nobody's books but its own.
        let (counts, totals) = (&published.counts, &mut self.closing.totals);
        totals.offered += counts.offered;
        totals.published += counts.published;
        totals.admitted += counts.admitted;
        totals.merged += counts.merged;
        totals.limited += counts.limited;
        totals.refused += counts.refused;
        totals.unanswered += counts.unanswered;
        Ok(())
    }

    fn order_drain(&self, last_seqs: &[u64], until_ns: u64) {
        let drain = Order::Drain { last_seqs: last_seqs.to_vec(), until_ns };
        self.crew.order(&drain);
        self.crew.order_odd(drain);
    }

    /// Whether everybody has left books, or will not any more.
    fn all_over(&self) -> bool {
        let odd_thread = self.crew.threads.get(self.known.len());
        let is_odd_over = self.odd_over.iter().all(|over| *over)
            || odd_thread.is_some_and(JoinHandle::is_finished);
        self.known.iter().all(|known| known.is_over) && is_odd_over
    }

    /// Waits for what was to be seen of the target at the end of what is measured.
    fn see_the_end(&mut self) -> Result<()> {
        if !self.outside.is_watched() || matches!(self.end, Some(End::Lost(_))) {
            return Ok(());
        }
        let last_ns = self.books.measured_to_ns();
        let is_seen =
            |this: &Self| this.books.samples.last().is_some_and(|sample| sample.at_ns >= last_ns);
        self.hear_until(self.now_ns() + LOOK_NS, is_seen)
    }

    fn facts(&self, published: &Published, clocks: &[Clock]) -> Facts {
        let (mut measured, measured_s) = self.books.measured();
        measured.busy = self.books.busy();
        let measured_streams = || {
            let phases = self.scenario.phases.iter();
            let phases = phases.filter(|phase| !matches!(phase.kind, PhaseKind::Ramp { .. }));
            phases.flat_map(|phase| phase.streams.iter().map(|&at| &self.scenario.streams[at]))
        };
        let is_window = |kind| matches!(kind, StreamKind::Messages { rate: Rate::Window(_), .. });
        let totals = &self.closing.totals;
        let never = u64::from(self.clients).saturating_sub(totals.connected);
        // One that has given up was said to have returned, too.
        let all_came_back = totals.failed <= never;
        let text = |end: &Option<End>, of: fn(&End) -> Option<String>| end.as_ref().and_then(of);
        Facts {
            clients: self.clients.into(),
            totals: self.closing.totals,
            measured,
            measured_s,
            waited: self.books.waited(),
            connects_per_s: self.books.connects_per_s(),
            target_bytes_per_client: self.books.target_bytes_per_client(),
            reconnect_s: self.reconnect_s.filter(|_| self.away_since_ns.is_none() && all_came_back),
            publishes: measured_streams().next().is_some(),
            paced: !measured_streams().any(|stream| is_window(stream.kind)),
            expected: self.expected(published),
            open_rooms: published.open,
            ended: self.closing.ended.clone().into_iter().collect(),
            clocks: clocks.to_vec(),
            stopped: self.end == Some(End::Stopped),
            broken: self.parts_broken.clone(),
            aborted: text(&self.end, |end| match end {
                End::Aborted(why) => Some(why.clone()),
                End::Stopped | End::Lost(_) | End::Broken(_) => None,
            }),
            target_lost: text(&self.end, |end| match end {
                End::Lost(why) => Some(why.clone()),
                End::Stopped | End::Aborted(_) | End::Broken(_) => None,
            }),
        }
    }

    /// How many deliveries there were to be, where that is known: everybody was there before the
    /// first message, every publish was answered, and nothing was merged.
    fn expected(&self, published: &Published) -> Option<u64> {
        let totals = &self.closing.totals;
        let all_there = !self.late_ramp && totals.connected == u64::from(self.clients);
        let ramps = self.scenario.phases.iter();
        let mut ramps = ramps.filter(|phase| matches!(phase.kind, PhaseKind::Ramp { .. }));
        let quiet_ramps = ramps.all(|ramp| ramp.streams.is_empty());
        let merges = self.scenario.streams.iter().any(|stream| match stream.kind {
            StreamKind::Gifts { .. } | StreamKind::States { .. } => true,
            StreamKind::Messages { .. } => false,
        });
        let all_books = self.known.iter().all(|known| known.has_books);
        let is_known = all_there
            && quiet_ramps
            && !merges
            && all_books
            && self.parts_broken.is_empty()
            && totals.unanswered == 0;
        let rooms = published.rooms.iter().zip(&self.members);
        is_known.then(|| rooms.map(|(room, &members)| room.admitted * u64::from(members)).sum())
    }
}
