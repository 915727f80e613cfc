//! The end of a campaign: everybody's books, and what has come of it.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use anyhow::Result;

use crate::campaign::crew;
use crate::campaign::guard::{Patience, Wait};
use crate::campaign::judge::{self, Facts};
use crate::campaign::keep::Keep;
use crate::campaign::lead::{End, Leader};
use crate::campaign::publisher::{Published, Say};
use crate::clock::SECOND_NS;
use crate::orders::{Books as Last, Order};
use crate::record::Counts;
use crate::record::kept::{Clock, Summary};
use crate::scenario::{PhaseKind, StreamKind};
use crate::watch::Watch;

/// How long the publisher may take to collect answers and to end rooms; it has bounds of its own
/// that are shorter.
const PUBLISHER_NS: u64 = 150 * SECOND_NS;
/// How long missing messages are waited for while nothing comes. Odd clients are waited for as long
/// in any case.
const DRAIN_NS: u64 = 10 * SECOND_NS;
/// How long they are waited for while something comes.
const DRAIN_NS_MAX: u64 = 60 * SECOND_NS;
/// The same when the run was stopped.
const DRAIN_STOPPED_NS: u64 = 3 * SECOND_NS;
/// How often it is looked whether anything comes.
const DRAIN_LOOK_NS: u64 = SECOND_NS;
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
        let is_lost = matches!(self.end, Some(End::Lost(_)));
        self.collect_books(&published, is_lost)?;
        let unchecked = self.closing.check_totals(&published, self.began_quietly());
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
        // It may have seen that only now. Whoever has stopped the run did not wait for it.
        if published.target_lost && !matches!(self.end, Some(End::Stopped | End::Lost(_))) {
            let why = published.broken.as_deref().unwrap_or("it took no more publishes");
            self.end = Some(End::Lost(format!("the publisher has ended: {why}")));
        }
        let is_ours = !is_lost && !published.target_lost;
        if let Some(why) = published.broken.as_ref().filter(|_| is_ours) {
            let text = format!("publishing ended early: {why}");
            if !self.parts_broken.iter().any(|known| known.contains(why.as_str())) {
                self.parts_broken.push(text);
            }
        }
        Ok(published)
    }

    fn collect_books(&mut self, published: &Published, is_lost: bool) -> Result<()> {
        let mut last_seqs: Vec<u64> = published.rooms.iter().map(|room| room.last_seq).collect();
        last_seqs.resize(self.scenario.rooms.count as usize, 0);
        let bound_ns = match is_lost {
            true => self.cut_drain(&last_seqs, LOST_NS),
            false => self.drain(&last_seqs)?,
        };
        let was_stopped = self.is_stopped();
        let is_over = |this: &Self| this.all_over() || (!was_stopped && this.is_stopped());
        self.hear_until(self.now_ns() + bound_ns, is_over)?;
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

    /// Waits for what is on its way, as long as any of it comes. How long books may take after that
    /// is the answer.
    fn drain(&mut self, last_seqs: &[u64]) -> Result<u64> {
        let (now, was_stopped) = (self.now_ns(), self.is_stopped());
        let (quiet_ns, most_ns) = match was_stopped {
            true => (DRAIN_STOPPED_NS, DRAIN_STOPPED_NS),
            false => (DRAIN_NS, DRAIN_NS_MAX),
        };
        let is_hurried = |this: &Self| !was_stopped && this.is_stopped();
        // Workers hear when to end; that they end by themselves is for a leader that does not say.
        self.order_drain(last_seqs, now + most_ns + BOOKS_NS, now + quiet_ns);
        let mut patience = Patience::new(now, quiet_ns, most_ns);
        loop {
            // Reports come about once a second, too.
            let step_ns = patience.until_ns().min(self.now_ns() + DRAIN_LOOK_NS);
            self.hear_until(step_ns, |this| this.hands_are_over() || is_hurried(this))?;
            if self.hands_are_over() {
                // What is still missing will not come.
                return Ok(quiet_ns + BOOKS_NS);
            }
            let delivered = self.known.iter().map(|known| known.running.delivered).sum();
            let waits = patience.look(self.now_ns(), delivered);
            // Whoever stops a run now does not want to wait for what is missing.
            if waits != Wait::On || is_hurried(self) {
                self.drain_cut = waits == Wait::Cut || self.is_stopped();
                let books_ns = if is_hurried(self) { LOST_NS } else { BOOKS_NS };
                return Ok(self.cut_drain(last_seqs, books_ns));
            }
        }
    }

    /// Lets everybody end now, for which there is so much time: that is the answer.
    fn cut_drain(&self, last_seqs: &[u64], books_ns: u64) -> u64 {
        let now = self.now_ns();
        self.order_drain(last_seqs, now, now);
        books_ns
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Lets workers and odd clients end when all is there, or then.
    fn order_drain(&self, last_seqs: &[u64], until_ns: u64, odd_until_ns: u64) {
        let drain = |until_ns| Order::Drain { last_seqs: last_seqs.to_vec(), until_ns };
        self.crew.order(&drain(until_ns));
        self.crew.order_odd(drain(odd_until_ns));
    }

    fn hands_are_over(&self) -> bool {
        self.known.iter().all(|known| known.is_over)
    }

    /// Whether everybody has left books, or will not any more.
    fn all_over(&self) -> bool {
        let odd_thread = self.crew.threads.get(self.known.len());
        let is_odd_over = self.odd_over.iter().all(|over| *over)
            || odd_thread.is_some_and(JoinHandle::is_finished);
        self.hands_are_over() && is_odd_over
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
            paced: self.books.paced(),
            expected: self.expected(published),
            open_rooms: published.open,
            others: published.others,
            unsure_rooms: published.unsure,
            drain_cut: self.drain_cut,
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
        let all_there = self.began_quietly() && totals.connected == u64::from(self.clients);
        let merges = self.scenario.streams.iter().any(|stream| match stream.kind {
            StreamKind::Gifts { .. } | StreamKind::States { .. } => true,
            StreamKind::Messages { .. } => false,
        });
        let all_books = self.known.iter().all(|known| known.has_books);
        let is_known = all_there
            && !merges
            && all_books
            && self.parts_broken.is_empty()
            && totals.unanswered == 0
            && published.unsure == 0;
        let rooms = published.rooms.iter().zip(&self.members);
        is_known.then(|| rooms.map(|(room, &members)| room.admitted * u64::from(members)).sum())
    }
}

impl Leader<'_> {
    /// Whether everybody who is there was there before the first message.
    fn began_quietly(&self) -> bool {
        let ramps = self.scenario.phases.iter();
        let mut ramps = ramps.filter(|phase| matches!(phase.kind, PhaseKind::Ramp { .. }));
        !self.late_ramp && ramps.all(|ramp| ramp.streams.is_empty())
    }
}

/// The last words of all workers and of the publisher.
#[derive(Default)]
pub struct Closing {
    /// All counts.
    pub totals: Counts,
    /// Why connections ended.
    pub ended: BTreeMap<String, u64>,
    /// What first clients have seen.
    pub watches: Vec<(u32, Watch)>,
    /// User memory of the generator per client, the most.
    pub bytes_per_client: u64,
}

impl Closing {
    /// A worker's last word.
    pub fn add(&mut self, books: Last) {
        self.totals.add(&books.counts);
        for (why, count) in books.faults {
            *self.ended.entry(why).or_default() += count;
        }
        self.watches.extend(books.watches);
        self.bytes_per_client = self.bytes_per_client.max(books.bytes_per_client);
    }

    /// Counts the rooms whose totals are not what was let in, as far as their first client has
    /// missed nothing; what is more than was let in is wrong in any case. One that may have joined
    /// when something was published already knows only a part, and where it is unsure what was let
    /// in, nothing can be held against it. How many could not be checked is the answer.
    pub fn check_totals(&mut self, published: &Published, began_quietly: bool) -> u64 {
        let totals = &self.totals;
        let missed =
            totals.declared_shed + totals.declared_reset + totals.disconnected + totals.unexplained;
        let is_sure = published.unsure == 0;
        let (mut wrong, mut unchecked) = (0, 0);
        for (room, watch) in &self.watches {
            let Some(admitted) = published.rooms.get(*room as usize) else { continue };
            // What a room had before the campaign is in nobody's books.
            let is_first = began_quietly || watch.joined_head == Some(0);
            let is_whole = missed == 0 || watch.frames() == admitted.last_seq;
            let is_complete = is_sure && is_first && watch.ended && is_whole;
            let is_more = watch.taps > admitted.taps || watch.last_state > admitted.last_state;
            let differs = watch.taps != admitted.taps || watch.last_state != admitted.last_state;
            wrong += u64::from((is_sure && is_more) || (is_complete && differs));
            unchecked += u64::from(!is_complete && admitted.last_seq > 0);
        }
        self.totals.wrong_totals += wrong;
        unchecked
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::campaign::publisher::Let;

    /// A room's first client that has seen this, where 5 taps were let in and 4 was the last value.
    fn check(
        change: impl FnOnce(&mut Watch, &mut Counts, &mut Published) -> bool,
        expected: (u64, u64),
    ) {
        let mut watch = Watch { taps: 5, last_state: 4, combos: 3, ..Watch::default() };
        (watch.ended, watch.joined_head) = (true, Some(0));
        let room = Let { last_seq: 9, admitted: 3, taps: 5, last_state: 4 };
        let mut published = Published { rooms: vec![room], ..Published::default() };
        let mut closing = Closing::default();
        let began_quietly = change(&mut watch, &mut closing.totals, &mut published);
        closing.watches = vec![(0, watch)];
        let unchecked = closing.check_totals(&published, began_quietly);
        assert_eq!((closing.totals.wrong_totals, unchecked), expected, "{watch:?}");
    }

    #[test]
    fn totals_are_wrong_when_nothing_was_missed_and_they_differ() {
        let seen = |taps, last_state, ended, shed, expected| {
            let change = |watch: &mut Watch, totals: &mut Counts, _: &mut Published| {
                (watch.taps, watch.last_state, watch.ended) = (taps, last_state, ended);
                totals.declared_shed = shed;
                true
            };
            check(change, expected);
        };
        seen(5, 4, true, 0, (0, 0));
        seen(4, 4, true, 0, (1, 0));
        seen(5, 3, true, 0, (1, 0));
        seen(4, 4, true, 1, (0, 1));
        seen(6, 4, false, 1, (1, 1));
    }

    #[test]
    fn who_joined_late_or_knows_not_what_was_let_in_accuses_nobody() {
        let seen = |taps, joined_head, began_quietly, unsure, expected| {
            let change = |watch: &mut Watch, _: &mut Counts, published: &mut Published| {
                (watch.taps, watch.joined_head, published.unsure) = (taps, joined_head, unsure);
                began_quietly
            };
            check(change, expected);
        };
        seen(4, Some(2), false, 0, (0, 1));
        seen(4, None, false, 0, (0, 1));
        seen(4, Some(0), false, 0, (1, 0));
        seen(4, Some(2), true, 0, (1, 0));
        seen(6, Some(2), false, 0, (1, 1));
        seen(6, Some(0), true, 1, (0, 1));
        seen(4, Some(0), true, 1, (0, 1));
    }
}
