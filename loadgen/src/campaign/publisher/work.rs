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
use super::{Desk, Published, Say};
use crate::clock::{now_ns, run_promptly, sleep_precisely, until};
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

/// The publisher.
pub struct Publisher {
    pub(super) desk: Desk,
    layout: Arc<Layout>,
    pub(super) door: Door,
    says: Receiver<Say>,
    /// What was said and is not in force yet: at most one for each phase.
    next: VecDeque<Say>,
    playing: Option<Playing>,
    pub(super) books: Books,
    pub(super) reporter: Reporter,
    pub(super) payload: Vec<u8>,
    /// Whether a message may have been merged, so that it goes out later.
    pub(super) merges: bool,
    /// Whether the leader has gone.
    pub(super) is_alone: bool,
    /// After silence for so long nothing that was merged is still to come.
    pub(super) silence_ns: u64,
}

/// A phase that publishes.
struct Playing {
    from_ns: u64,
    to_ns: u64,
    schedule: Schedule,
    /// The same schedule further on: what is due but could not be sent yet was counted there.
    ahead: Option<(Schedule, u64)>,
    /// What the schedule has handed out.
    handed: u64,
    /// What was offered before the phase.
    offered: u64,
    window: Window,
}

impl Publisher {
    /// At its desk.
    pub fn new(
        desk: Desk,
        door: Door,
        says: Receiver<Say>,
        reports: Sender<Report>,
        silence_ns: u64,
    ) -> Self {
        let scenario = &desk.scenario;
        let sizes = scenario.streams.iter().flat_map(|stream| [stream.size.0, stream.size.1]);
        Self {
            layout: Arc::new(Layout::new(scenario.rooms, scenario.seed)),
            door,
            says,
            next: VecDeque::new(),
            playing: None,
            books: Books::new(scenario.rooms.count),
            reporter: Reporter::new(reports, desk.worker),
            payload: vec![0; sizes.fold(STAMP_BYTES, usize::max)],
            merges: false,
            is_alone: false,
            silence_ns,
            desk,
        }
    }

    /// Works until it is told to close, or the target goes away.
    pub fn run(mut self) -> Result<Published> {
        let end = self.settle_down().and_then(|()| self.work());
        self.finish(now_ns());
        let end = end.and_then(|()| self.close());
        let broken = end.err().map(|error| format!("{error:#}"));
        self.books.counts.unanswered = self.books.unanswered();
        self.reporter.tell(&self.books.counts, now_ns());
        if let Some(why) = &broken {
            self.reporter.broken(why);
        }
        Ok(self.books.close(self.merges, broken))
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
            self.reporter.tell(&self.books.counts, now_ns());
        }
        Ok(())
    }

    /// Listens to the leader. To close is in force at once, whatever else was said.
    fn hear(&mut self) {
        self.is_alone |= self.reporter.is_unheard;
        loop {
            let say = match self.says.try_recv() {
                Ok(say) => say,
                Err(TryRecvError::Empty) if !self.is_alone => break,
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => {
                    self.is_alone = true;
                    Say::Close
                }
            };
            let is_close = matches!(say, Say::Close);
            if is_close {
                self.next.clear();
            }
            self.next.push_back(say);
            if is_close {
                break;
            }
        }
        if let (Some(Say::Phase { start_ns, .. }), Some(playing)) =
            (self.next.front(), &mut self.playing)
        {
            playing.end_at(*start_ns);
        }
    }

    /// Ends a phase that is over and begins the next one. Whether all is over.
    fn take_turn(&mut self, now: u64) -> bool {
        let stopped = self.desk.workers.iter().any(|shared| shared.stopped());
        let is_over = self.playing.as_ref().is_some_and(|playing| now >= playing.to_ns);
        let is_closed = matches!(self.next.front(), Some(Say::Close));
        if (is_over || is_closed) && !stopped {
            // The last messages came due since we looked: one batch, so that a backlog stays one.
            self.say_due();
        }
        if is_over || stopped {
            self.finish(now);
        }
        match self.next.pop_front() {
            Some(Say::Close) => return true,
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
        self.reporter.turn(phase, &self.books.counts, now);
        let scenario = &self.desk.scenario;
        let plan = Plan { scenario, phase, members, start_ns, to_ns };
        self.playing = Some(Playing {
            from_ns,
            to_ns,
            schedule: Schedule::new(&plan, &self.layout),
            ahead: None,
            handed: 0,
            offered: self.books.counts.offered,
            window: Window::new(self.books.sent(), self.known(), now),
        });
    }

    /// Ends the phase: what was due and could not be sent stays offered.
    fn finish(&mut self, now: u64) {
        let Some(mut playing) = self.playing.take() else { return };
        self.books.counts.offered = playing.offered + playing.handed + playing.schedule.pass(now);
    }

    fn count_offered(&mut self, now: u64) {
        if let Some(playing) = &mut self.playing {
            self.books.counts.offered = playing.offered + playing.due(now);
        }
    }

    /// Sends what is due, as far as the target takes it.
    fn say_due(&mut self) {
        let first = self.on_their_way();
        for on_their_way in first..first + BATCH_MAX {
            let now = now_ns();
            let Some(playing) = self.playing.as_mut().filter(|_| self.door.may_send()) else {
                return;
            };
            let schedule = &mut playing.schedule;
            let act = schedule.due(now).or_else(|| schedule.fill(on_their_way, now));
            let Some(act) = act else { return };
            playing.handed += 1;
            let measured = act.at_ns >= playing.from_ns;
            self.say(&act, measured, now);
        }
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

    fn say(&mut self, act: &Act, measured: bool, now: u64) {
        let Act { at_ns: intended_ns, stream, room, category, size, what } = *act;
        let lag_ns = now.saturating_sub(intended_ns);
        if measured {
            self.reporter.lag(lag_ns);
        }
        self.merges |= !matches!(what, What::Message) && matches!(self.door, Door::Barrage { .. });
        let index = self.books.publish(room);
        let lag_us = u32::try_from(lag_ns / 1000).unwrap_or(u32::MAX);
        let payload = &mut self.payload[..size.max(STAMP_BYTES)];
        Stamp { intended_ns, index, lag_us }.write(payload);
        let sent = Sent { room, index, what: Word::Said(what), intended_ns, measured };
        let scenario = &self.desk.scenario;
        let post = Post {
            sent,
            name: self.layout.id(room),
            rooms: scenario.rooms.count,
            stream,
            category,
            ack: scenario.streams[stream].ack,
        };
        if !self.door.publish(&post, payload) {
            self.books.written(room, index);
        }
    }

    /// Sleeps until something is due.
    fn rest(&self) {
        let Some(playing) = &self.playing else { return self.door.wait(NAP) };
        let nap = if playing.schedule.window().is_some() { NAP_WINDOW } else { NAP };
        let due_ns = playing.schedule.next_ns().unwrap_or(playing.to_ns);
        let left = until(due_ns.min(playing.to_ns));
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
            if sent.measured {
                let now = *now.get_or_insert_with(now_ns);
                reporter.answer(now.saturating_sub(sent.intended_ns));
            }
            match answer {
                Answer::Code(code, seq) => books.reply(&sent, code, seq),
                Answer::Taken => books.written(sent.room, sent.index),
                Answer::Refused(why) => books.refuse(why),
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
