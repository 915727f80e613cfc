//! When what a room has merged is due, and what has to wait for its category's limit.

use std::collections::BTreeSet;

use crate::frame::MergeId;
use crate::ids::Millis;
use crate::level::Level;
use crate::policy::Policy;
use crate::rate::{Bucket, Rate};
use crate::writer::Writer;

/// What had to pass puts a bucket in debt up to here and no further: a flood that could not be
/// refused silences its category for about this long after it has ended.
pub const LIMIT_DEBT_MAX_MS: u32 = 5_000;

/// Something that sends a frame of its own accord. The order is that in which those that are due at
/// the same moment go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Item {
    State(MergeId),
    Run(MergeId),
}

impl Item {
    fn category(self) -> u16 {
        match self {
            Self::State(id) | Self::Run(id) => id.category,
        }
    }
}

/// Where an item stands in the agenda. The item keeps it, so that its places are found again.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Entry {
    /// When something is to be done about it.
    pub timer: Option<Millis>,
    /// Since when it has waited for its category's limit.
    pub waits: Option<Millis>,
}

/// The circumstances of one call, and where frames go.
pub(crate) struct Turn<'a> {
    pub now: Millis,
    pub rules: &'a Policy,
    pub level: Level,
    pub writer: Writer<'a>,
}

impl Turn<'_> {
    /// What a category admits at present. One that the policy no longer has admits everything:
    /// what is left of it is to go out.
    fn rate(&self, category: u16) -> Rate {
        let category = self.rules.category(category);
        category.map_or(Rate::UNLIMITED, |category| category.limit(self.level))
    }
}

/// What is due when, by moment; and by category, what is due but has to wait.
#[derive(Debug, Default)]
pub(crate) struct Agenda {
    timers: BTreeSet<(Millis, Item)>,
    /// By rising category.
    lanes: Vec<Lane>,
}

/// A category's limit, and who waits for it.
#[derive(Debug)]
struct Lane {
    category: u16,
    bucket: Bucket,
    /// By the moment since which they have waited.
    waiting: BTreeSet<(Millis, Item)>,
    /// When the first of them may stand a chance.
    wake: Millis,
}

impl Agenda {
    /// Moves an item to `to`, wherever it stood.
    pub fn place(&mut self, item: Item, entry: &mut Entry, to: Entry) {
        if entry.timer != to.timer {
            entry.timer.map(|moment| self.timers.remove(&(moment, item)));
            to.timer.map(|moment| self.timers.insert((moment, item)));
        }
        if entry.waits != to.waits {
            let lane = self.lane(item.category());
            entry.waits.map(|since| lane.waiting.remove(&(since, item)));
            to.waits.map(|since| lane.waiting.insert((since, item)));
        }
        *entry = to;
    }

    /// The first timer that has run out. Whoever handles it moves the item.
    pub fn first_due(&self, now: Millis) -> Option<(Millis, Item)> {
        self.timers.first().copied().filter(|&(moment, _)| moment <= now)
    }

    /// How many lanes there are.
    pub fn lanes(&self) -> usize {
        self.lanes.len()
    }

    /// Who is the next of a lane to go, if the limit lets anybody pass now. Whoever sends it moves
    /// the item and takes from the bucket.
    pub fn first_to_pass(&mut self, lane: usize, turn: &Turn<'_>) -> Option<Item> {
        let lane = &mut self.lanes[lane];
        let &(_, item) = lane.waiting.first()?;
        match lane.bucket.check(turn.rate(lane.category), turn.now) {
            Ok(()) => Some(item),
            Err(wait_ms) => {
                lane.wake = turn.now.plus(wait_ms);
                None
            }
        }
    }

    /// Limits have changed: all who wait look again.
    pub fn wake_all(&mut self) {
        self.lanes.iter_mut().for_each(|lane| lane.wake = Millis(0));
    }

    /// One more passes, or is told when to try again.
    pub fn admit(&mut self, category: u16, rate: Rate, now: Millis) -> Result<(), u32> {
        if !rate.is_unlimited() {
            let lane = self.lane(category);
            lane.bucket.check(rate, now)?;
            lane.bucket.take(rate, now);
        }
        Ok(())
    }

    /// One more has passed that could wait no longer, or need not ask.
    pub fn charge(&mut self, category: u16, turn: &Turn<'_>) {
        let rate = turn.rate(category);
        if rate.is_unlimited() {
            return;
        }
        let bucket = &mut self.lane(category).bucket;
        let wait_ms = bucket.check(rate, turn.now).err().unwrap_or(0);
        if wait_ms <= LIMIT_DEBT_MAX_MS {
            bucket.take(rate, turn.now);
        }
    }

    /// When there is something to do.
    pub fn due(&self) -> Option<Millis> {
        let timer = self.timers.first().map(|&(moment, _)| moment);
        let waiting = self.lanes.iter().filter(|lane| !lane.waiting.is_empty());
        waiting.map(|lane| lane.wake).chain(timer).min()
    }

    /// Whether nobody waits for a limit, and none is used up.
    pub fn is_at_rest(&self, now: Millis) -> bool {
        self.lanes.iter().all(|lane| lane.waiting.is_empty() && lane.bucket.is_full(now))
    }

    fn lane(&mut self, category: u16) -> &mut Lane {
        let place = self.lanes.binary_search_by_key(&category, |lane| lane.category);
        let place = place.unwrap_or_else(|place| {
            let (bucket, waiting) = (Bucket::default(), BTreeSet::new());
            self.lanes.insert(place, Lane { category, bucket, waiting, wake: Millis(0) });
            place
        });
        &mut self.lanes[place]
    }
}
