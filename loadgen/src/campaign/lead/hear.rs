//! What a leader makes of what it hears, and what it looks at once a second.

use std::sync::atomic::Ordering;

use anyhow::Result;

use super::{End, Known, Leader};
use crate::campaign::judge::{WAITED_PERCENT_MAX, is_own_limit};
use crate::clock::SECOND_NS;
use crate::orders::{Report, What};
use crate::record::{Counts, Interval};
use crate::shared::write;

impl Leader<'_> {
    pub(super) fn hear(&mut self, Report { worker: place, what }: Report) -> Result<()> {
        match what {
            What::Interval(interval) => self.interval(place, &interval)?,
            What::Ramped => self.mark(place, |known| known.ramped = true),
            What::Returned => {
                self.mark(place, |known| known.returned = true);
                self.returned()?;
            }
            What::Finished(books) => {
                // What odd clients saw is theirs.
                if place < self.known.len() {
                    self.closing.add(*books);
                }
                self.mark(place, |known| (known.is_over, known.has_books) = (true, true));
                self.mark_odd(place);
            }
            What::Broken(why) => self.broken(place, &why, false)?,
            What::Lost(why) => self.broken(place, &why, true)?,
        }
        Ok(())
    }

    fn interval(&mut self, place: usize, interval: &Interval) -> Result<()> {
        self.keep.interval(interval)?;
        self.books.add(interval);
        if let (Some(known), Some(hand)) = (self.known.get_mut(place), self.crew.hands.get(place)) {
            known.ready = interval.ready;
            known.running.add(&interval.counts);
            if hand.is_remote {
                write(&hand.shared.delivered, known.running.delivered);
                write(&hand.shared.ready, known.ready);
            }
        }
        let is_odd = place > self.crew.hands.len();
        if !is_odd {
            self.second.add(interval, &mut self.scene);
        }
        Ok(())
    }

    fn mark(&mut self, place: usize, mark: impl FnOnce(&mut Known)) {
        if let Some(known) = self.known.get_mut(place) {
            mark(known);
        }
    }

    /// Odd clients come after the publisher, who comes after the hands.
    fn mark_odd(&mut self, place: usize) {
        let kind = place.checked_sub(self.known.len() + 1);
        if let Some(over) = kind.and_then(|kind| self.odd_over.get_mut(kind)) {
            *over = true;
        }
    }

    /// Whether that was the last one to come back.
    fn returned(&mut self) -> Result<()> {
        let all = self.known.iter().all(|known| known.returned);
        let Some(since_ns) = self.away_since_ns.filter(|_| all) else { return Ok(()) };
        self.away_since_ns = None;
        let seconds = self.now_ns().saturating_sub(since_ns) as f64 / SECOND_NS as f64;
        self.reconnect_s = Some(self.reconnect_s.map_or(seconds, |was| was.max(seconds)));
        self.event("disconnect", format!("all are back after {seconds:.2} s"))
    }

    fn broken(&mut self, place: usize, why: &str, target_lost: bool) -> Result<()> {
        let who = match self.crew.hands.get(place) {
            Some(hand) => hand.source.clone(),
            None if place == self.crew.hands.len() => "publisher".to_owned(),
            None => "odd clients".to_owned(),
        };
        self.mark(place, |known| (known.is_over, known.is_broken) = (true, true));
        self.mark_odd(place);
        let text = format!("{who} has ended: {why}");
        self.event("fault", text.clone())?;
        let end = match self.outside.reach(self.scenario) {
            Err(lost) => End::Lost(format!("{lost} ({text})")),
            // When nobody could get out of here, that says nothing of the target.
            Ok(()) if target_lost && !is_own_limit(why) => End::Lost(text),
            Ok(()) => {
                self.parts_broken.push(text.clone());
                End::Broken(text)
            }
        };
        self.end.get_or_insert(end);
        Ok(())
    }

    pub(super) fn tick(&mut self) -> Result<()> {
        if self.end.is_none() && self.stop.load(Ordering::Relaxed) {
            self.end = Some(End::Stopped);
            self.event("abort", "stopped by a signal".to_owned())?;
        }
        self.see_target()?;
        let now = self.now_ns();
        if !self.second.is_over(now) {
            return Ok(());
        }
        self.scene.ready = self.known.iter().map(|known| known.ready).sum();
        let since_s = |from: u64| now.saturating_sub(from) as f64 / SECOND_NS as f64;
        (self.scene.at_s, self.scene.phase_s) =
            (since_s(self.began_ns), since_s(self.phase_began_ns));
        self.find_silent()?;
        let heard = self.second.end(now, &mut self.scene);
        self.scene.invalid = self.invalid_already();
        self.view.show(&self.scene);
        if self.end.is_none() {
            let latency = self.scene.latency_us.filter(|_| heard.is_fresh);
            self.guard(&heard.counts, latency.map(|latency| latency.p99))?;
        }
        Ok(())
    }

    fn see_target(&mut self) -> Result<()> {
        for sample in self.outside.seen() {
            match sample {
                Some(sample) => {
                    self.keep.target(&sample)?;
                    self.books.samples.push(sample);
                    self.scene.see(sample);
                    self.watchman.silent = 0;
                }
                None => self.watchman.silent += 1,
            }
        }
        Ok(())
    }

    /// Who ends says so before; one that has not will not any more.
    fn find_silent(&mut self) -> Result<()> {
        let is_finished = |place: usize| {
            self.crew.threads.get(place).is_some_and(std::thread::JoinHandle::is_finished)
        };
        let silent =
            (0..self.known.len()).find(|&place| !self.known[place].is_over && is_finished(place));
        if let Some(place) = silent {
            if self.ended_before == Some(place) {
                let why = "it said nothing at its end, which is a bug of barrage-loadgen";
                self.broken(place, why, false)?;
            }
            self.ended_before = Some(place);
        }
        Ok(())
    }

    /// What the last second says of validity; the end decides by all of them.
    fn invalid_already(&self) -> Option<String> {
        let bound = self.scenario.validity.busy_percent;
        let is_worker = |(source, _): &(&String, &f64)| *source != "publisher";
        let mut busy = self.scene.busy.iter().filter(is_worker);
        if let Some((source, busy)) = busy.find(|(_, busy)| **busy * 100.0 > bound) {
            return Some(format!("{source} is {:.0} % busy", busy * 100.0));
        }
        let mut waited = self.scene.waited.iter().filter(is_worker);
        let is_over = |waited: f64| bound < 100.0 && waited * 100.0 > WAITED_PERCENT_MAX;
        let (source, waited) = waited.find(|(_, waited)| is_over(**waited))?;
        Some(format!("{source} waits for a core {:.0} % of the time", waited * 100.0))
    }

    fn guard(&mut self, counts: &Counts, p99_us: Option<u64>) -> Result<()> {
        let nobody = self.scene.ready == 0 && self.books.running.connected > 0;
        let is_suspect = counts.lost + counts.failed > 0
            || self.watchman.silent > 0
            || (nobody && self.away_since_ns.is_none());
        let reached = if is_suspect { self.outside.reach(self.scenario) } else { Ok(()) };
        if let Some(lost) = self.watchman.knocked(reached) {
            self.event("target", lost.clone())?;
            self.end = Some(End::Lost(lost));
            return Ok(());
        }
        if self.is_closing {
            return Ok(());
        }
        let clients = u64::from(self.clients);
        let abort = &self.scenario.abort;
        if let Some(why) = self.watchman.aborts(abort, &self.books.running, clients, p99_us) {
            self.event("abort", why.clone())?;
            self.end = Some(End::Aborted(why));
        }
        Ok(())
    }
}
