//! Leads a campaign through its phases.

mod hear;
pub mod outside;
mod phases;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Result;

use crate::campaign::books::{Books, Sort};
use crate::campaign::close::Closing;
use crate::campaign::crew::Crew;
use crate::campaign::guard::Watchman;
use crate::campaign::keep::Keep;
use crate::campaign::scene::{Scene, Second};
use crate::campaign::view::View;
use crate::clock::SECOND_NS;
use crate::record::Counts;
use crate::record::kept::Event;
use crate::scenario::{Phase, PhaseKind, Rate, Scenario, StreamKind};

use outside::Outside;

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
    pub(super) is_broken: bool,
}

/// The leader.
pub struct Leader<'a> {
    pub(super) scenario: &'a Scenario,
    pub(super) crew: Crew,
    pub(super) books: Books,
    pub(super) closing: Closing,
    pub(super) keep: Keep,
    pub(super) known: Vec<Known>,
    /// Which kinds of odd clients have left their books.
    pub(super) odd_over: Vec<bool>,
    pub(super) end: Option<End>,
    /// Everything was done; only the target can still be lost.
    pub(super) is_closing: bool,
    pub(super) parts_broken: Vec<String>,
    pub(super) clients: u32,
    pub(super) members: Vec<u32>,
    /// Whether clients connected after something was published: then nobody knows what they missed.
    pub(super) late_ramp: bool,
    /// Whether the end was not waited for, so that what is missing may have been on its way.
    pub(super) drain_cut: bool,
    pub(super) reconnect_s: Option<f64>,
    /// When those lost their connection who are not all back yet.
    pub(super) away_since_ns: Option<u64>,
    pub(super) system_bytes_per_client: Option<f64>,
    pub(super) outside: Box<dyn Outside + 'a>,
    view: View,
    pub(super) stop: Arc<AtomicBool>,
    scene: Scene,
    second: Second,
    watchman: Watchman,
    /// One whose thread had ended a second ago without a last word.
    ended_before: Option<usize>,
    began_ns: u64,
    phase_began_ns: u64,
}

/// The two kinds of odd clients report one by one.
const ODD_KINDS: usize = 2;

impl<'a> Leader<'a> {
    /// With everybody ready to begin.
    pub fn new(
        scenario: &'a Scenario,
        crew: Crew,
        keep: Keep,
        view: View,
        outside: Box<dyn Outside + 'a>,
        stop: &Arc<AtomicBool>,
    ) -> Self {
        let now = outside.now_ns();
        let phases = scenario.phases.iter();
        let phases = phases.map(|phase| (phase.name.clone(), sort(scenario, phase)));
        Self {
            scenario,
            known: vec![Known::default(); crew.hands.len()],
            odd_over: vec![false; if crew.odd.is_some() { ODD_KINDS } else { 0 }],
            crew,
            books: Books::new(phases, is_all_timed(scenario)),
            closing: Closing::default(),
            keep,
            end: None,
            is_closing: false,
            parts_broken: Vec::new(),
            clients: 0,
            members: vec![0; scenario.rooms.count as usize],
            late_ramp: false,
            drain_cut: false,
            reconnect_s: None,
            away_since_ns: None,
            system_bytes_per_client: None,
            outside,
            view,
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
        for (index, phase) in self.scenario.phases.iter().enumerate() {
            (self.scene.phase, self.phase_began_ns) = (phase.name.clone(), self.now_ns());
            self.scene.phase_max_s = phase.ns as f64 / SECOND_NS as f64;
            self.event("phase", format!("{} begins", phase.name))?;
            match phase.kind {
                PhaseKind::Ramp { to, per_s } => self.ramp(index, to, per_s)?,
                PhaseKind::Steady | PhaseKind::Storm => self.measure(index)?,
            }
            if self.end.is_some() {
                break;
            }
        }
        Ok(())
    }

    pub(super) fn now_ns(&self) -> u64 {
        self.outside.now_ns()
    }

    /// Writes down what has happened.
    pub(super) fn event(&mut self, kind: &str, text: String) -> Result<()> {
        let at_ns = self.now_ns();
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
        while !done(self) && self.now_ns() < until_ns {
            if let Some(report) = self.outside.hear(&self.crew.reports, until_ns) {
                self.hear(report)?;
            }
            self.tick()?;
        }
        Ok(())
    }
}

/// What a phase is there for.
fn sort(scenario: &Scenario, phase: &Phase) -> Sort {
    let is_window = |&at: &usize| match scenario.streams[at].kind {
        StreamKind::Messages { rate, .. } => matches!(rate, Rate::Window(_)),
        StreamKind::Gifts { .. } | StreamKind::States { .. } => false,
    };
    match phase.kind {
        PhaseKind::Ramp { .. } => Sort::Ramp,
        PhaseKind::Steady | PhaseKind::Storm if phase.streams.is_empty() => Sort::Quiet,
        PhaseKind::Steady | PhaseKind::Storm => {
            Sort::Publishing { paced: !phase.streams.iter().any(is_window) }
        }
    }
}

/// Whether every delivery is timed: beside what is merged, which waits on purpose, only chat is.
fn is_all_timed(scenario: &Scenario) -> bool {
    scenario.streams.iter().all(|stream| match stream.kind {
        StreamKind::Messages { .. } => true,
        StreamKind::Gifts { .. } | StreamKind::States { .. } => false,
    })
}
