//! Leads a campaign through its phases.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use anyhow::Result;

use crate::campaign::books::{Books, Closing, Span};
use crate::campaign::crew::Crew;
use crate::campaign::keep::Keep;
use crate::campaign::publisher::Say;
use crate::campaign::scene::{Scene, Second};
use crate::campaign::shares;
use crate::campaign::target::{self, Sampler};
use crate::campaign::view::View;
use crate::clock::{SECOND_NS, now_ns, until};
use crate::orders::{Order, Report, What};
use crate::procfs;
use crate::record::Counts;
use crate::record::kept::Event;
use crate::scenario::layout::Layout;
use crate::scenario::{Abort, PhaseKind, Scenario};
use crate::shared::write;

/// How long after it is said a phase begins: time for everybody to hear it.
const SETTLE_NS: u64 = SECOND_NS / 10;
/// How long the leader sleeps at most.
const NAP: Duration = Duration::from_millis(50);
/// A ramp in which nothing moves for so long is over.
const STALL_NS: u64 = 60 * SECOND_NS;
/// How long after its phase those who were disconnected may take to come back.
const RETURN_NS: u64 = 120 * SECOND_NS;
/// A phase without an end of its own; what is published in it ends with the next.
const ENDLESS_NS: u64 = 7 * 24 * 3600 * SECOND_NS;
/// So many seconds in a row a target has to be away to be taken for lost.
const STRIKES_MAX: u32 = 2;

/// Why a campaign ends before its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// Ctrl-C.
    Stopped,
    /// An abort condition was met.
    Aborted(String),
    /// The target has gone.
    Lost(String),
    /// A part of the generator has ended.
    Broken(String),
}

/// What is known about one who has clients.
#[derive(Clone, Debug, Default)]
pub struct Known {
    pub(super) ready: u64,
    pub(super) running: Counts,
    ramped: bool,
    returned: bool,
    pub(super) is_over: bool,
    pub(super) has_books: bool,
}

/// The leader.
pub struct Leader<'a> {
    pub(super) scenario: &'a Scenario,
    pub(super) crew: Crew,
    pub(super) books: Books,
    pub(super) closing: Closing,
    pub(super) keep: Keep,
    pub(super) known: Vec<Known>,
    pub(super) end: Option<End>,
    pub(super) parts_broken: Vec<String>,
    pub(super) clients: u32,
    pub(super) members: Vec<u32>,
    /// Whether clients connected after something was published: then nobody knows what they missed.
    pub(super) late_ramp: bool,
    pub(super) reconnect_s: Option<f64>,
    pub(super) all_returned: bool,
    pub(super) system_bytes_per_client: Option<f64>,
    view: View,
    sampler: Option<Sampler>,
    stop: Arc<AtomicBool>,
    scene: Scene,
    second: Second,
    watchman: Watchman,
    /// One whose thread had ended a second ago without a last word.
    ended_before: Option<usize>,
    began_ns: u64,
    phase_began_ns: u64,
}

/// Sees when to give up.
#[derive(Clone, Debug, Default)]
struct Watchman {
    slow_intervals: u32,
    strikes: u32,
    silent: u32,
}

impl<'a> Leader<'a> {
    /// With everybody ready to begin.
    pub fn new(
        scenario: &'a Scenario,
        crew: Crew,
        keep: Keep,
        view: View,
        sampler: Option<Sampler>,
        stop: &Arc<AtomicBool>,
    ) -> Self {
        let now = now_ns();
        let is_ramp = |kind| matches!(kind, PhaseKind::Ramp { .. });
        let phases = scenario.phases.iter();
        Self {
            scenario,
            known: vec![Known::default(); crew.hands.len()],
            crew,
            books: Books::new(phases.map(|phase| (phase.name.clone(), is_ramp(phase.kind)))),
            closing: Closing::default(),
            keep,
            end: None,
            parts_broken: Vec::new(),
            clients: 0,
            members: vec![0; scenario.rooms.count as usize],
            late_ramp: false,
            reconnect_s: None,
            all_returned: true,
            system_bytes_per_client: None,
            view,
            sampler,
            stop: Arc::clone(stop),
            scene: Scene { clients: scenario.clients.count.into(), ..Scene::default() },
            second: Second::new(now),
            watchman: Watchman::default(),
            ended_before: None,
            began_ns: now,
            phase_began_ns: now,
        }
    }

    /// Leads through all phases, or until there is a reason to end.
    pub fn lead(&mut self) -> Result<()> {
        for index in 0..self.scenario.phases.len() {
            let now = now_ns();
            let phase = &self.scenario.phases[index];
            (self.scene.phase, self.phase_began_ns) = (phase.name.clone(), now);
            self.scene.phase_max_s = phase.ns as f64 / SECOND_NS as f64;
            self.event("phase", format!("{} begins", phase.name))?;
            match phase.kind {
                PhaseKind::Ramp { to, per_s } => self.ramp(index, to, per_s)?,
                PhaseKind::Steady | PhaseKind::Storm => self.measure(index)?,
            }
            self.books.span(index).ended_ns = now_ns();
            if self.end.is_some() {
                break;
            }
        }
        Ok(())
    }

    fn ramp(&mut self, index: usize, to: u32, per_s: f64) -> Result<()> {
        let now = now_ns();
        self.late_ramp |= self.books.running.published > 0;
        *self.books.span(index) = Span { began_ns: now, ..Span::default() };
        self.order_phase(index, u64::MAX, u64::MAX);
        let before = procfs::available_bytes().ok();
        let parts: Vec<_> = self.crew.hands.iter().map(|hand| hand.part).collect();
        let counts = shares::connected(to, &parts);
        // The first ramp's rooms are not empty when they are full: rates go by who will be there.
        self.members = shares::members(&self.layout(), &parts, &counts);
        self.say_phase(index, now, u64::MAX, now + ENDLESS_NS);
        for (hand, &clients) in self.crew.hands.iter().zip(&counts) {
            let per_s = per_s * f64::from(clients) / f64::from(to.max(1));
            // One that has ended has said why.
            let _ = hand.orders.send(Order::Connect { clients, per_s });
        }
        self.clients = self.clients.max(to);
        self.known.iter_mut().for_each(|known| known.ramped = known.is_over);
        let deadline = match self.scenario.phases[index].ns {
            0 => u64::MAX,
            ns => now + ns,
        };
        let (mut moved, mut moved_ns) = (0, now);
        loop {
            let left_ns = deadline.min(moved_ns + STALL_NS);
            let step = left_ns.min(now_ns() + SECOND_NS);
            if self.wait(step, |this| this.known.iter().all(|known| known.ramped))? {
                break;
            }
            let running = &self.books.running;
            let now_moved = running.connected + running.failed;
            if now_moved != moved {
                (moved, moved_ns) = (now_moved, now_ns());
            }
            if self.end.is_some() {
                return Ok(());
            }
            if now_ns() >= deadline.min(moved_ns + STALL_NS) {
                self.event("note", "the ramp was ended before everybody was ready".to_owned())?;
                break;
            }
        }
        let connected = self.books.running.connected;
        if self.system_bytes_per_client.is_none() && connected > 0 {
            let after = procfs::available_bytes().ok();
            self.system_bytes_per_client = before
                .zip(after)
                .map(|(before, after)| (before as f64 - after as f64) / connected as f64);
        }
        Ok(())
    }

    fn measure(&mut self, index: usize) -> Result<()> {
        let phase = &self.scenario.phases[index];
        let start_ns = now_ns() + SETTLE_NS;
        let (from_ns, to_ns) = (start_ns + phase.warmup_ns, start_ns + phase.ns);
        *self.books.span(index) = Span { began_ns: start_ns, ended_ns: to_ns, from_ns, to_ns };
        self.order_phase(index, from_ns, to_ns);
        self.say_phase(index, start_ns, from_ns, to_ns);
        self.wait(start_ns, |_| false)?;
        if let Some(disconnect) = phase.disconnect.filter(|_| self.end.is_none()) {
            self.event("disconnect", format!("{} % lose their connection", disconnect.percent))?;
            self.known.iter_mut().for_each(|known| known.returned = known.is_over);
            self.all_returned = false;
            self.crew.order(&Order::Disconnect(disconnect));
        }
        if let Some(churn) = phase.churn {
            let clients = f64::from(self.clients.max(1));
            for (hand, share) in self.crew.hands.iter().zip(self.connected()) {
                let clients_per_s = churn.clients_per_s * f64::from(share) / clients;
                let churn = crate::scenario::Churn { clients_per_s, ..churn };
                let _ = hand.orders.send(Order::Churn(Some(churn)));
            }
        }
        if !self.all_returned {
            let deadline = to_ns + RETURN_NS;
            self.wait(deadline, |this| this.known.iter().all(|known| known.returned))?;
            self.all_returned = self.known.iter().all(|known| known.returned) && self.end.is_none();
            if self.all_returned {
                let seconds = (now_ns() - start_ns) as f64 / SECOND_NS as f64;
                self.reconnect_s = Some(self.reconnect_s.map_or(seconds, |was| was.max(seconds)));
                self.event("disconnect", format!("all are back after {seconds:.2} s"))?;
            }
        }
        self.wait(to_ns, |_| false)?;
        if phase.churn.is_some() {
            self.crew.order(&Order::Churn(None));
        }
        // What was measured of a phase that was cut short ends here.
        let span = self.books.span(index);
        span.to_ns = span.to_ns.min(now_ns()).max(span.from_ns);
        Ok(())
    }

    fn connected(&self) -> Vec<u32> {
        let parts: Vec<_> = self.crew.hands.iter().map(|hand| hand.part).collect();
        shares::connected(self.clients, &parts)
    }

    fn layout(&self) -> Layout {
        Layout::new(self.scenario.rooms, self.scenario.seed)
    }

    fn order_phase(&self, index: usize, from_ns: u64, to_ns: u64) {
        self.crew.order(&Order::Phase { index, from_ns, to_ns });
        self.crew.order_odd(Order::Phase { index, from_ns, to_ns });
    }

    fn say_phase(&self, index: usize, start_ns: u64, from_ns: u64, to_ns: u64) {
        let members = Arc::new(self.members.clone());
        self.crew.say(Say::Phase { index, start_ns, from_ns, to_ns, members });
    }

    /// Writes down what has happened.
    pub(super) fn event(&mut self, kind: &str, text: String) -> Result<()> {
        let at_ns = now_ns();
        let seconds = at_ns.saturating_sub(self.began_ns) as f64 / SECOND_NS as f64;
        self.scene.tell(format!("{seconds:.1} s {text}"));
        self.keep.event(&Event { at_ns, kind: kind.to_owned(), text })
    }

    /// Hears everybody until that moment, or until `done` (which is the answer), or until there is
    /// a reason to end.
    fn wait(&mut self, until_ns: u64, done: impl Fn(&Self) -> bool) -> Result<bool> {
        self.hear_until(until_ns, |this| this.end.is_some() || done(this))?;
        Ok(self.end.is_none() && done(self))
    }

    /// Hears everybody until that moment or until `done`.
    pub(super) fn hear_until(&mut self, until_ns: u64, done: impl Fn(&Self) -> bool) -> Result<()> {
        while !done(self) && now_ns() < until_ns {
            match self.crew.reports.recv_timeout(until(until_ns).min(NAP)) {
                Ok(report) => self.hear(report)?,
                Err(RecvTimeoutError::Timeout) => {}
                // Everybody has gone, and said why; then time passes only.
                Err(RecvTimeoutError::Disconnected) => std::thread::sleep(NAP),
            }
            self.tick()?;
        }
        Ok(())
    }

    fn hear(&mut self, Report { worker, what }: Report) -> Result<()> {
        let place = worker;
        match what {
            What::Interval(interval) => {
                self.keep.interval(&interval)?;
                self.books.add(&interval);
                if let (Some(known), Some(hand)) =
                    (self.known.get_mut(place), self.crew.hands.get(place))
                {
                    known.ready = interval.ready;
                    known.running.add(&interval.counts);
                    if hand.is_remote {
                        write(&hand.shared.delivered, known.running.delivered);
                        write(&hand.shared.ready, known.ready);
                    }
                }
                let is_odd = place > self.crew.hands.len();
                if !is_odd {
                    self.second.add(&interval, &mut self.scene);
                }
            }
            What::Ramped => self.mark(place, |known| known.ramped = true),
            What::Returned => self.mark(place, |known| known.returned = true),
            What::Finished(books) => {
                // What odd clients saw is theirs.
                if place < self.known.len() {
                    self.closing.add(*books);
                }
                self.mark(place, |known| (known.is_over, known.has_books) = (true, true));
            }
            What::Broken(why) | What::Lost(why) => self.broken(place, &why)?,
        }
        Ok(())
    }

    fn mark(&mut self, place: usize, mark: impl FnOnce(&mut Known)) {
        if let Some(known) = self.known.get_mut(place) {
            mark(known);
        }
    }

    fn broken(&mut self, place: usize, why: &str) -> Result<()> {
        let who = match self.crew.hands.get(place) {
            Some(hand) => hand.source.clone(),
            None if place == self.crew.hands.len() => "publisher".to_owned(),
            None => "odd clients".to_owned(),
        };
        self.mark(place, |known| {
            (known.ramped, known.returned, known.is_over) = (true, true, true);
        });
        let text = format!("{who} has ended: {why}");
        self.event("fault", text.clone())?;
        let nobody = self.books.running.connected == 0 && self.clients > 0;
        let end = match target::reach(self.scenario) {
            Err(lost) => End::Lost(format!("{lost} ({text})")),
            Ok(()) if nobody && place < self.known.len() => End::Lost(text),
            Ok(()) => {
                self.parts_broken.push(text.clone());
                End::Broken(text)
            }
        };
        self.end.get_or_insert(end);
        Ok(())
    }

    fn tick(&mut self) -> Result<()> {
        if self.end.is_none() && self.stop.load(Ordering::Relaxed) {
            self.end = Some(End::Stopped);
            self.event("abort", "stopped by a signal".to_owned())?;
        }
        let now = now_ns();
        if !self.second.is_over(now) {
            return Ok(());
        }
        let seen: Vec<_> = self.sampler.iter().flat_map(Sampler::seen).collect();
        for sample in seen {
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
        self.scene.ready = self.known.iter().map(|known| known.ready).sum();
        let since_s = |from: u64| now.saturating_sub(from) as f64 / SECOND_NS as f64;
        (self.scene.at_s, self.scene.phase_s) =
            (since_s(self.began_ns), since_s(self.phase_began_ns));
        // Who ends says so before; one that has not will not any more.
        let silent = (0..self.known.len())
            .find(|&place| !self.known[place].is_over && self.crew.threads[place].is_finished());
        if let Some(place) = silent {
            if self.ended_before == Some(place) {
                self.broken(place, "it has panicked; that is a bug of barrage-loadgen")?;
            }
            self.ended_before = Some(place);
        }
        let counts = self.second.end(now, &mut self.scene);
        self.scene.invalid = self.invalid_already();
        self.view.show(&self.scene);
        if self.end.is_none() {
            self.guard(&counts)?;
        }
        Ok(())
    }

    /// What the last second says of validity; the end decides by all of them.
    fn invalid_already(&self) -> Option<String> {
        let bound = self.scenario.validity.busy_percent;
        let mut busy = self.scene.busy.iter().filter(|(source, _)| *source != "publisher");
        let busy = busy.find(|(_, busy)| **busy * 100.0 > bound);
        busy.map(|(source, busy)| format!("{source} is {:.0} % busy", busy * 100.0))
    }

    fn guard(&mut self, counts: &Counts) -> Result<()> {
        let is_suspect = counts.lost + counts.failed > 0
            || self.watchman.silent > 0
            || (self.scene.ready == 0 && self.books.running.connected > 0 && self.all_returned);
        let reached = if is_suspect { target::reach(self.scenario) } else { Ok(()) };
        match reached {
            Ok(()) => self.watchman.strikes = 0,
            Err(lost) => {
                self.watchman.strikes += 1;
                if self.watchman.strikes >= STRIKES_MAX {
                    self.event("target", lost.to_string())?;
                    self.end = Some(End::Lost(lost.to_string()));
                    return Ok(());
                }
            }
        }
        let p99_us = self.scene.latency_us.map(|latency| latency.p99);
        let clients = u64::from(self.clients);
        let Watchman { slow_intervals, .. } = &mut self.watchman;
        let abort = &self.scenario.abort;
        if let Some(why) = aborts(abort, &self.books.running, clients, p99_us, slow_intervals) {
            self.event("abort", why.clone())?;
            self.end = Some(End::Aborted(why));
        }
        Ok(())
    }
}

/// Whether to give up, and why. Pure.
fn aborts(
    abort: &Abort,
    counts: &Counts,
    clients: u64,
    p99_us: Option<u64>,
    slow_intervals: &mut u32,
) -> Option<String> {
    let gone = (counts.failed + counts.lost) as f64 * 100.0 / clients.max(1) as f64;
    if abort.lost_percent.is_some_and(|most| gone > most) {
        return Some(format!("{gone:.1} % of the clients have failed or are lost"));
    }
    if abort.unexplained.is_some_and(|most| counts.unexplained >= most) {
        return Some(format!("{} messages are missing unexplained", counts.unexplained));
    }
    let is_slow = abort.p99_ms.zip(p99_us).is_some_and(|(most, us)| us as f64 / 1e3 > most);
    *slow_intervals = if is_slow { *slow_intervals + 1 } else { 0 };
    let is_over = is_slow && *slow_intervals >= abort.intervals.max(1);
    is_over.then(|| {
        let ms = p99_us.unwrap_or_default() as f64 / 1e3;
        format!("the p99 was {ms:.0} ms, the last of {slow_intervals} intervals over the bound")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_abort_condition_ends_a_run_and_no_sooner() {
        let abort = Abort {
            lost_percent: Some(10.0),
            p99_ms: Some(50.0),
            intervals: 3,
            unexplained: Some(5),
        };
        let check = |failed, lost, unexplained, p99s: &[u64], why: Option<&str>| {
            let counts = Counts { failed, lost, unexplained, ..Counts::default() };
            let (mut slow, mut last) = (0, None);
            for &p99 in p99s {
                last = aborts(&abort, &counts, 100, Some(p99), &mut slow);
            }
            match (why, &last) {
                (None, None) => {}
                (Some(why), Some(text)) => assert!(text.contains(why), "{text}"),
                _ => panic!("{why:?} {last:?}"),
            }
        };
        check(5, 5, 4, &[50_000], None);
        check(5, 6, 0, &[0], Some("11.0 %"));
        check(0, 0, 5, &[0], Some("5 messages are missing"));
        check(0, 0, 0, &[60_000, 60_000], None);
        check(0, 0, 0, &[60_000, 60_000, 40_000, 60_000], None);
        check(0, 0, 0, &[60_000, 60_000, 60_000], Some("3 intervals"));
    }
}
