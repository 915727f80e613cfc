//! The publisher's loop.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError};
use std::time::Duration;

use anyhow::{Context, Result};
use barrage_sys::pin_to_core;

use super::books::{Books, Sent, Word};
use super::door::{Answer, Door, Post};
use super::reporter::Reporter;
use super::schedule::{Act, Plan, Schedule, What};
use super::window::Window;
use super::{Desk, Patience, Published, Say};
use crate::clock::{now_ns, run_promptly, sleep_precisely, until};
use crate::exit::TargetLost;
use crate::orders::Report;
use crate::scenario::layout::Layout;
use crate::scenario::{Rate, Stream, StreamKind};
use crate::shared::read;
use crate::stamp::{STAMP_BYTES, Stamp};

/// Messages queued before the socket is looked after.
const BATCH_MAX: u64 = 64;
/// How long the thread sleeps at most, and so how late it hears the leader.
pub const NAP: Duration = Duration::from_millis(5);
/// The same while a window is full.
const NAP_WINDOW: Duration = Duration::from_micros(100);
/// When the next message is so late at the end of an interval, what is due is counted ahead.
const BEHIND_NS: u64 = 50_000_000;
/// Phases that may have something left at a time; of shorter ones the oldest is given up.
const TAILS_MAX: usize = 8;

/// The publisher.
pub struct Publisher {
    pub(super) desk: Desk,
    layout: Arc<Layout>,
    pub(super) door: Door,
    says: Receiver<Say>,
    /// What was said and is not in force yet: at most one for each phase.
    next: VecDeque<Say>,
    playing: Option<Playing>,
    /// What is left of phases that are over, the oldest first.
    tails: VecDeque<Tail>,
    pub(super) books: Books,
    pub(super) reporter: Reporter,
    pub(super) payload: Vec<u8>,
    /// Whether a message may have been merged, so that it goes out later.
    pub(super) merges: bool,
    /// Whether the leader has gone.
    pub(super) is_alone: bool,
    pub(super) patience: Patience,
}

/// A phase that publishes.
struct Playing {
    /// The phase, by its place in the scenario.
    phase: usize,
    from_ns: u64,
    to_ns: u64,
    schedule: Schedule,
    /// The same schedule further on: what is due but could not be sent yet was counted there.
    ahead: Option<(Schedule, u64)>,
    /// What the schedule has handed out.
    handed: u64,
    window: Window,
}

/// What was due in a phase that is over, and was held back by the target.
struct Tail {
    phase: usize,
    from_ns: u64,
    /// When it is given up: then it was offered and not published.
    until_ns: u64,
    /// What is left of the schedule. All of it is due.
    schedule: Schedule,
}

/// What is to be sent now.
#[derive(Clone, Copy, Debug)]
struct Due {
    act: Act,
    phase: usize,
    measured: bool,
}

impl Publisher {
    /// At its desk.
    pub fn new(
        desk: Desk,
        door: Door,
        says: Receiver<Say>,
        reports: Sender<Report>,
        patience: Patience,
    ) -> Self {
        let scenario = &desk.scenario;
        let sizes = scenario.streams.iter().flat_map(|stream| [stream.size.0, stream.size.1]);
        Self {
            layout: Arc::new(Layout::new(scenario.rooms, scenario.seed)),
            door,
            says,
            next: VecDeque::new(),
            playing: None,
            tails: VecDeque::new(),
            books: Books::new(scenario.rooms.count, scenario.phases.len()),
            reporter: Reporter::new(reports, desk.worker, scenario.phases.len()),
            payload: vec![0; sizes.fold(STAMP_BYTES, usize::max)],
            merges: false,
            is_alone: false,
            patience,
            desk,
        }
    }

    /// Works until it is told to close, or the target goes away.
    pub fn run(mut self) -> Result<Published> {
        let end = self.settle_down().and_then(|()| self.work());
        self.finish(now_ns());
        let end = end.and_then(|()| self.close());
        self.books.settle();
        self.reporter.tell(self.books.phases(), now_ns());
        let error = end.err();
        let target_lost = error.as_ref().is_some_and(|error| error.is::<TargetLost>());
        let broken = error.map(|error| format!("{error:#}"));
        if let Some(why) = &broken {
            self.reporter.broken(why, target_lost);
        }
        Ok(Published { broken, target_lost, ..self.books.close(self.merges) })
    }

    fn settle_down(&self) -> Result<()> {
        if let Some(core) = self.desk.core {
            pin_to_core(core)
                .with_context(|| format!("cannot run on core {core}: see publisher_core"))?;
        }
        let is_window = |stream: &Stream| match stream.kind {
            StreamKind::Messages { rate, .. } => matches!(rate, Rate::Window(_)),
            StreamKind::Gifts { .. } | StreamKind::States { .. } => false,
        };
        sleep_precisely();
        run_promptly(!self.desk.scenario.streams.iter().any(is_window));
        Ok(())
    }

    fn work(&mut self) -> Result<()> {
        loop {
            self.hear();
            if self.take_turn(now_ns()) {
                return Ok(());
            }
            self.say_due();
            self.rest();
            self.step()?;
        }
    }

    /// Sends, receives, and tells what was counted.
    pub(super) fn step(&mut self) -> Result<()> {
        let now = now_ns();
        self.door.flush(now)?;
        self.receive()?;
        if self.reporter.is_due(now) {
            self.count_offered(now);
            self.reporter.tell(self.books.phases(), now_ns());
        }
        Ok(())
    }

    /// Listens to the leader. To close is in force at once, whatever else was said, and is the last
    /// word.
    fn hear(&mut self) {
        self.is_alone |= self.reporter.is_unheard;
        while !self.is_closing() {
            match self.says.try_recv() {
                Ok(Say::Close) => self.next = VecDeque::from([Say::Close]),
                Ok(say) => self.next.push_back(say),
                Err(TryRecvError::Empty) if !self.is_alone => break,
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => {
                    self.is_alone = true;
                    self.next = VecDeque::from([Say::Close]);
                }
            }
        }
        let end_ns = match self.next.front() {
            Some(Say::Phase { start_ns, .. }) => *start_ns,
            Some(Say::Close) => now_ns(),
            None => return,
        };
        if let Some(playing) = &mut self.playing {
            playing.end_at(end_ns);
        }
    }

    fn is_closing(&self) -> bool {
        matches!(self.next.front(), Some(Say::Close))
    }

    /// Ends a phase that is over and begins the next one. Whether all is over.
    fn take_turn(&mut self, now: u64) -> bool {
        let stopped = self.is_alone || self.desk.workers.iter().any(|shared| shared.stopped());
        if stopped {
            self.finish(now);
            self.tails.clear();
        }
        if self.playing.as_ref().is_some_and(|playing| now >= playing.to_ns) {
            // The last messages came due since we looked: they are no backlog yet.
            self.say_due();
            self.hold_over(now);
        }
        self.tails.retain(|tail| now < tail.until_ns);
        match self.next.pop_front() {
            Some(Say::Close) if self.tails.is_empty() => return true,
            Some(Say::Close) => self.next.push_front(Say::Close),
            Some(say) if self.playing.is_some() => self.next.push_front(say),
            Some(Say::Phase { index, start_ns, from_ns, to_ns, members }) => {
                // A run that is stopped goes on with its phases, but says nothing in them.
                let (start_ns, to_ns) = if stopped { (now, now) } else { (start_ns, to_ns) };
                self.begin(index, [start_ns, from_ns, to_ns], &members);
            }
            None => {}
        }
        false
    }

    fn begin(&mut self, phase: usize, [start_ns, from_ns, to_ns]: [u64; 3], members: &[u32]) {
        let now = now_ns();
        self.reporter.turn(phase, self.books.phases(), now);
        let scenario = &self.desk.scenario;
        let plan = Plan { scenario, phase, members, start_ns, to_ns };
        self.playing = Some(Playing {
            phase,
            from_ns,
            to_ns,
            schedule: Schedule::new(&plan, &self.layout),
            ahead: None,
            handed: 0,
            window: Window::new(self.books.sent(), self.known(), now),
        });
    }

    /// Ends the phase now: what was due and could not be sent stays offered.
    fn finish(&mut self, now: u64) {
        let Some(mut playing) = self.playing.take() else { return };
        self.books.offer(playing.phase, playing.handed + playing.schedule.pass(now));
    }

    /// Ends the phase. What was due in it and is held back by the target is still to be sent: it
    /// would have the worst latencies of all.
    fn hold_over(&mut self, now: u64) {
        let Some(playing) = self.playing.take() else { return };
        let Playing { phase, from_ns, schedule, handed, .. } = playing;
        if schedule.next_ns().is_none() {
            return self.books.offer(phase, handed);
        }
        self.books.offer(phase, handed + schedule.clone().pass(now));
        if self.tails.len() == TAILS_MAX {
            self.tails.pop_front();
        }
        let until_ns = now + self.patience.backlog_ns;
        self.tails.push_back(Tail { phase, from_ns, until_ns, schedule });
    }

    fn count_offered(&mut self, now: u64) {
        if let Some(playing) = &mut self.playing {
            self.books.offer(playing.phase, playing.due(now));
        }
    }

    /// Sends what is due, as far as the target takes it.
    fn say_due(&mut self) {
        let first = self.on_their_way();
        for on_their_way in first..first + BATCH_MAX {
            if !self.door.may_send() {
                return;
            }
            let now = now_ns();
            let Some(due) = self.next_due(on_their_way, now) else { return };
            self.say(&due, now);
        }
    }

    /// What is due, in order of time: what is left of earlier phases comes first.
    fn next_due(&mut self, on_their_way: u64, now: u64) -> Option<Due> {
        while let Some(tail) = self.tails.front_mut() {
            if let Some(act) = tail.schedule.due(now) {
                return Some(Due { act, phase: tail.phase, measured: act.at_ns >= tail.from_ns });
            }
            self.tails.pop_front();
        }
        let playing = self.playing.as_mut()?;
        let schedule = &mut playing.schedule;
        let act = schedule.due(now).or_else(|| schedule.fill(on_their_way, now))?;
        playing.handed += 1;
        Some(Due { act, phase: playing.phase, measured: act.at_ns >= playing.from_ns })
    }

    /// How many messages are on their way to members; only windows want to know.
    fn on_their_way(&mut self) -> u64 {
        let known = self.known();
        match &mut self.playing {
            Some(playing) if playing.schedule.window().is_some() => {
                let away = playing.window.on_their_way(self.books.sent(), known, now_ns());
                away.max(self.door.unanswered())
            }
            Some(_) | None => 0,
        }
    }

    fn say(&mut self, due: &Due, now: u64) {
        let Due { act, phase, measured } = *due;
        let Act { at_ns: intended_ns, stream, room, category, size, what } = act;
        let lag_ns = now.saturating_sub(intended_ns);
        if measured {
            self.reporter.lag(phase, lag_ns);
        }
        self.merges |= !matches!(what, What::Message) && matches!(self.door, Door::Barrage { .. });
        let index = self.books.publish(phase, room);
        let lag_us = u32::try_from(lag_ns / 1000).unwrap_or(u32::MAX);
        let payload = &mut self.payload[..size.max(STAMP_BYTES)];
        Stamp { intended_ns, index, lag_us }.write(payload);
        let scenario = &self.desk.scenario;
        let post = Post {
            sent: Sent { phase, room, index, what: Word::Said(what), intended_ns, measured },
            name: self.layout.id(room),
            rooms: scenario.rooms.count,
            stream,
            category,
            ack: scenario.streams[stream].ack,
        };
        self.door.publish(&post, payload);
    }

    /// Sleeps until something is due.
    fn rest(&self) {
        let (due_ns, is_window) = match &self.playing {
            Some(playing) => {
                let due_ns = playing.schedule.next_ns().unwrap_or(playing.to_ns);
                (due_ns.min(playing.to_ns), playing.schedule.window().is_some())
            }
            None => (u64::MAX, false),
        };
        let due_ns = if self.tails.is_empty() { due_ns } else { 0 };
        let nap = if is_window { NAP_WINDOW } else { NAP };
        let left = until(due_ns);
        if left.is_zero() && self.door.may_send() {
            return;
        }
        // When the target takes no more, it wakes us as soon as it does.
        let left = if left.is_zero() { NAP } else { left };
        self.door.wait(left.min(nap));
    }

    fn receive(&mut self) -> Result<()> {
        let Self { door, books, reporter, .. } = self;
        let mut now = None;
        door.receive(&mut |sent, answer| {
            if sent.measured && !matches!(answer, Answer::Written) {
                let now = *now.get_or_insert_with(now_ns);
                reporter.answer(sent.phase, now.saturating_sub(sent.intended_ns));
            }
            match answer {
                Answer::Code(code, seq) => books.reply(&sent, code, seq),
                Answer::Taken | Answer::Written => books.taken(&sent),
                Answer::Refused(why, refusal) => books.refuse(&sent, why, refusal),
            }
        })
    }

    /// Messages whose fate the slowest worker knows.
    fn known(&self) -> u64 {
        let workers = self.desk.workers.iter().filter(|shared| read(&shared.ready) > 0);
        workers.map(|shared| read(&shared.progress)).min().unwrap_or(0)
    }
}

impl Playing {
    fn end_at(&mut self, to_ns: u64) {
        if to_ns < self.to_ns {
            self.to_ns = to_ns;
            self.schedule.end_at(to_ns);
            // What was counted ahead may never come.
            self.ahead = None;
        }
    }

    /// How many were due by now, sent or not.
    fn due(&mut self, now: u64) -> u64 {
        let is_behind =
            self.schedule.next_ns().is_some_and(|at_ns| at_ns.saturating_add(BEHIND_NS) <= now);
        if !is_behind {
            self.ahead = None;
            return self.handed;
        }
        let (ahead, handed) =
            self.ahead.get_or_insert_with(|| (self.schedule.clone(), self.handed));
        *handed += ahead.pass(now);
        *handed
    }
}
