//! What a phase publishes, and when. Pure: the same seed makes the same schedule, and no time is
//! known but what is asked about. What is kept grows with those who speak, not with what they say.

mod gifts;
mod messages;
mod states;

use std::sync::Arc;

use crate::random::{Random, mix};
use crate::scenario::layout::Layout;
use crate::scenario::{Rate, Scenario, Stream, StreamKind};

use gifts::Gifts;
use messages::Messages;
use states::States;

/// Who may give in one phase, over all rooms: each takes a few bytes.
const GIVERS_MAX: u64 = 1 << 22;

/// One publish that is due.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Act {
    /// When it is to be sent.
    pub at_ns: u64,
    /// The stream, by its place in the scenario.
    pub stream: usize,
    /// The room, from 0.
    pub room: u32,
    /// The category.
    pub category: u16,
    /// Bytes of the payload.
    pub size: usize,
    /// What is said.
    pub what: What,
}

/// What a publish says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Something that goes out as it is.
    Message,
    /// A gift, once.
    Tap {
        /// Who gives, from 0 in each room.
        giver: u32,
        /// Which gift, from 1.
        gift: u32,
    },
    /// A value of a key.
    State {
        /// The key, from 1 in each room.
        key: u32,
    },
}

/// When a phase publishes, and who hears it.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    /// The campaign.
    pub scenario: &'a Scenario,
    /// The phase, by its place in it.
    pub phase: usize,
    /// Members of each room.
    pub members: &'a [u32],
    /// When it begins.
    pub start_ns: u64,
    /// When it ends.
    pub to_ns: u64,
}

/// All streams of a phase, in order of time.
#[derive(Clone, Debug)]
pub struct Schedule {
    layout: Arc<Layout>,
    to_ns: u64,
    voices: Vec<Voice>,
    /// Whose turn it is of those that publish as fast as they may.
    turn: usize,
}

/// One stream.
#[derive(Clone, Debug)]
struct Voice {
    stream: usize,
    /// Each category with the share of those up to it.
    categories: Vec<(u16, f64)>,
    size: (usize, usize),
    /// The chance of when something is said …
    when: Random,
    /// … and that of what it is, apart: what is passed over has no room and no size, and the times
    /// after it are the same all the same.
    which: Random,
    source: Source,
}

#[derive(Clone, Debug)]
enum Source {
    Messages(Messages),
    Gifts(Gifts),
    States(States),
    /// Messages that are due whenever fewer than so many are on their way.
    Window {
        window: u64,
        messages: Messages,
    },
}

/// What of a scenario cannot be published; none: everything can.
pub fn fault(scenario: &Scenario) -> Option<String> {
    for phase in &scenario.phases {
        let streams = || phase.streams.iter().filter_map(|&place| scenario.streams.get(place));
        if let Some(stream) = streams().find(|stream| stream.categories.is_empty()) {
            return Some(format!("stream {} has no category: give it one", stream.name));
        }
        let givers: u64 = streams()
            .map(|stream| match stream.kind {
                StreamKind::Gifts { givers_per_room, .. } => {
                    u64::from(givers_per_room) * u64::from(scenario.rooms.count)
                }
                StreamKind::Messages { .. } | StreamKind::States { .. } => 0,
            })
            .sum();
        if givers > GIVERS_MAX {
            return Some(format!(
                "phase {} has {givers} givers in all its rooms: at most {GIVERS_MAX}, so give \
                 fewer givers_per_room",
                phase.name
            ));
        }
    }
    None
}

impl Schedule {
    /// The schedule of a phase; of a scenario without a `fault`.
    pub fn new(plan: &Plan<'_>, layout: &Arc<Layout>) -> Self {
        let phase = &plan.scenario.phases[plan.phase];
        let voices = phase.streams.iter().map(|&stream| {
            let number = ((plan.phase as u64) << 32) + stream as u64 + 1;
            let random = Random::new(plan.scenario.seed ^ mix(number));
            Voice::new(stream, plan, random)
        });
        Self { layout: layout.clone(), to_ns: plan.to_ns, voices: voices.collect(), turn: 0 }
    }

    /// Nothing is due from then on.
    pub fn end_at(&mut self, to_ns: u64) {
        self.to_ns = self.to_ns.min(to_ns);
    }

    /// When something is due next; none when the phase is over.
    pub fn next_ns(&self) -> Option<u64> {
        self.next().map(|(at_ns, _)| at_ns)
    }

    fn next(&self) -> Option<(u64, usize)> {
        let times = self.voices.iter().enumerate();
        let times = times.filter_map(|(place, voice)| Some((voice.next_ns()?, place)));
        times.min().filter(|(at_ns, _)| *at_ns < self.to_ns)
    }

    /// What is due by now and was not handed out.
    pub fn due(&mut self, now_ns: u64) -> Option<Act> {
        let (_, place) = self.next().filter(|(at_ns, _)| *at_ns <= now_ns)?;
        self.voices[place].take(&self.layout)
    }

    /// Passes over everything that is due by now without saying it: how many that were. It is quick
    /// however many there are of even ones.
    pub fn pass(&mut self, now_ns: u64) -> u64 {
        let end_ns = self.to_ns.min(now_ns.saturating_add(1));
        self.voices.iter_mut().map(|voice| voice.pass(end_ns)).sum()
    }

    /// The widest window of those that publish as fast as they may; none when there is none.
    pub fn window(&self) -> Option<u64> {
        self.voices.iter().filter_map(Voice::window).max()
    }

    /// What is said now by one that may have more on their way than there are; in turn.
    pub fn fill(&mut self, on_their_way: u64, now_ns: u64) -> Option<Act> {
        if now_ns >= self.to_ns {
            return None;
        }
        let count = self.voices.len();
        let mut places = (self.turn..self.turn + count).map(|place| place % count.max(1));
        let place = places.find(|&place| {
            self.voices[place].window().is_some_and(|window| window > on_their_way)
        })?;
        self.turn = (place + 1) % count;
        self.voices[place].fill(&self.layout, now_ns)
    }
}

impl Voice {
    fn new(stream: usize, plan: &Plan<'_>, mut random: Random) -> Self {
        let scenario = plan.scenario;
        let Stream { kind, categories, size, .. } = &scenario.streams[stream];
        let factor = scenario.phases[plan.phase].rate_factor;
        let rooms = scenario.rooms.count;
        let source = match *kind {
            StreamKind::Messages { rate, arrival, to } => {
                let per_s = match rate {
                    Rate::Messages(per_s) => per_s,
                    Rate::Deliveries(per_s) => {
                        messages::per_s(per_s, &scenario.rooms, to, plan.members)
                    }
                    Rate::Window(_) => 0.0,
                };
                let per_s = per_s * factor;
                let messages = Messages::new(plan.start_ns, per_s, arrival, to, &mut random);
                match rate {
                    Rate::Window(window) => Source::Window { window, messages },
                    Rate::Messages(_) | Rate::Deliveries(_) => Source::Messages(messages),
                }
            }
            StreamKind::Gifts { givers_per_room, taps_per_s, burst_ns, pause_ns, gifts } => {
                let taps_per_s = taps_per_s * factor;
                let giving =
                    gifts::Giving { givers_per_room, taps_per_s, burst_ns, pause_ns, gifts };
                Source::Gifts(Gifts::new(giving, rooms, plan.start_ns, &mut random))
            }
            StreamKind::States { per_s, keys } => {
                Source::States(States::new(plan.start_ns, per_s * factor, rooms, keys))
            }
        };
        let (which, when) = (Random::new(random.next()), random);
        Self { stream, categories: shares(categories), size: *size, when, which, source }
    }

    fn next_ns(&self) -> Option<u64> {
        match &self.source {
            Source::Messages(messages) => messages.next_ns(),
            Source::Gifts(gifts) => gifts.next_ns(),
            Source::States(states) => states.next_ns(),
            Source::Window { .. } => None,
        }
    }

    fn window(&self) -> Option<u64> {
        match &self.source {
            Source::Window { window, .. } => Some(*window),
            Source::Messages(_) | Source::Gifts(_) | Source::States(_) => None,
        }
    }

    fn take(&mut self, layout: &Layout) -> Option<Act> {
        let at_ns = self.next_ns()?;
        let (room, what) = match &mut self.source {
            Source::Messages(messages) => {
                let room = messages.take(layout, &mut self.when, &mut self.which);
                (room, What::Message)
            }
            Source::Gifts(gifts) => gifts.take(&mut self.when)?,
            Source::States(states) => states.take(),
            Source::Window { .. } => return None,
        };
        Some(self.act(at_ns, room, what))
    }

    fn pass(&mut self, end_ns: u64) -> u64 {
        match &mut self.source {
            Source::Messages(messages) => messages.pass(end_ns, &mut self.when),
            Source::Gifts(gifts) => gifts.pass(end_ns, &mut self.when),
            Source::States(states) => states.pass(end_ns),
            Source::Window { .. } => 0,
        }
    }

    fn fill(&mut self, layout: &Layout, at_ns: u64) -> Option<Act> {
        let Source::Window { messages, .. } = &mut self.source else { return None };
        let room = messages.take(layout, &mut self.when, &mut self.which);
        Some(self.act(at_ns, room, What::Message))
    }

    fn act(&mut self, at_ns: u64, room: u32, what: What) -> Act {
        let category = self.category();
        let (least, most) = self.size;
        let size = match most > least {
            true => least + self.which.below((most - least) as u64 + 1) as usize,
            false => least,
        };
        Act { at_ns, stream: self.stream, room, category, size, what }
    }

    fn category(&mut self) -> u16 {
        let last = self.categories.len() - 1;
        let place = match last {
            0 => 0,
            _ => {
                let share = self.which.share();
                self.categories.partition_point(|&(_, upto)| upto <= share).min(last)
            }
        };
        self.categories[place].0
    }
}

/// How many even moments, `gap_ns` apart, there are from one moment to before another.
fn even_count(gap_ns: f64, start_ns: u64, end_ns: u64) -> u64 {
    let Some(elapsed_ns) = end_ns.checked_sub(start_ns) else { return 0 };
    let at_ns = |n: u64| (n as f64 * gap_ns) as u64;
    // The quotient may be off by one or two moments, as they are rounded.
    let mut count = (elapsed_ns as f64 / gap_ns) as u64;
    while count > 0 && at_ns(count - 1) >= elapsed_ns {
        count -= 1;
    }
    while at_ns(count) < elapsed_ns {
        count += 1;
    }
    count
}

/// Each category with the share of those up to it.
fn shares(weights: &[(u16, f64)]) -> Vec<(u16, f64)> {
    let sum: f64 = weights.iter().map(|(_, weight)| weight).sum();
    let mut upto = 0.0;
    let shares = weights.iter().map(|&(category, weight)| {
        upto += weight / sum;
        (category, upto)
    });
    shares.collect()
}

#[cfg(test)]
mod tests;
