//! What campaigns leave behind: intervals of counts and times, kept losslessly and written in forms
//! that others read, too.
//!
//! A record is a directory. `run.json` says what the run was and, when it has ended, what came of
//! it. `intervals.jsonl` has a line for each interval of each source, `target.jsonl` and
//! `events.jsonl` the target and what happened. A source's times are in an HdrHistogram interval
//! log, `SOURCE.hlog`, in microseconds, with a tag for each kind.

pub mod compare;
pub mod hlog;
pub mod kept;
pub mod merge;
pub mod page;
pub mod reader;
#[cfg(test)]
mod samples;
pub mod totals;
pub mod writer;

pub use reader::Record;
pub use totals::Merged;
pub use writer::Writer;

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::latency;

macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What was counted in some time.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default)]
        pub struct Counts {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counts {
            /// The names of all counts, in order.
            pub const NAMES: &[&str] = &[$(stringify!($name)),*];

            /// All counts, in the order of their names.
            pub fn values(&self) -> Vec<u64> {
                vec![$(self.$name),*]
            }

            /// Adds others.
            pub fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)*
            }

            /// What has come since `earlier`, when both count from the beginning. A count that went
            /// back, as one does when what was missing turns out to be late, is 0.
            pub fn since(&self, earlier: &Self) -> Self {
                Self { $($name: self.$name.saturating_sub(earlier.$name),)* }
            }
        }
    };
}

counts! {
    /// Connections that got ready for the first time.
    connected,
    /// Connections that got ready again.
    reconnected,
    /// Clients that could not get ready.
    failed,
    /// Connections that ended although nobody had asked for it.
    lost,
    /// Connections that were ended on purpose, by churn or a disconnect.
    dropped,
    /// Messages that arrived for the first time.
    delivered,
    /// Left out, and the receiver was told.
    declared_shed,
    /// Left out by a RESET, which says that a resume cannot be exact.
    declared_reset,
    /// Missed by receivers who were not connected and did not come back for them.
    disconnected,
    /// Missing without a word.
    unexplained,
    /// Arrived again.
    duplicate,
    /// Arrived after a later one.
    reordered,
    /// Declared as left out, and yet not missing.
    over_declared,
    /// RESETs.
    resets,
    /// For a room that the receiver is not a member of.
    stray,
    /// Combos' taps, or last values of states, that are not what was admitted.
    wrong_totals,
    /// Bytes from the target.
    received_bytes,
    /// Messages that were due.
    offered,
    /// Messages sent.
    published,
    /// Publishes that were answered with a number, or that the target is known to have taken.
    admitted,
    /// Publishes that go out merged with others.
    merged,
    /// Publishes that were more than the target's policy allows.
    limited,
    /// Publishes refused for another reason.
    refused,
    /// Publishes that were never answered.
    unanswered,
    /// Microseconds that the source's thread was ready to run and waited for a core.
    waited_us,
}

/// Times of many events, each from 1 µs to ten minutes, exact to three digits, in microseconds.
pub type Times = Histogram<u64>;

/// No times yet, with the bounds that all of them have, so that they can be added up losslessly.
pub fn no_times() -> Times {
    latency::empty()
}

/// What was timed in some time. In JSON it is a map of those times that there are to histograms in
/// the compressed V2 encoding, in base64, as in an interval log.
#[derive(Clone, Debug, PartialEq)]
pub struct Timings {
    /// Deliveries, from the intended time of sending.
    pub corrected: Times,
    /// Deliveries, from the actual time of sending.
    pub uncorrected: Times,
    /// Actual minus intended time of sending.
    pub lag: Times,
    /// From the intended time of sending to the target's answer.
    pub answer: Times,
    /// From the beginning of a connection until its client was ready.
    pub connect: Times,
}

impl Default for Timings {
    fn default() -> Self {
        let [corrected, uncorrected, lag, answer, connect] = [(); 5].map(|()| no_times());
        Self { corrected, uncorrected, lag, answer, connect }
    }
}

impl Timings {
    /// Each with its name.
    pub fn named(&self) -> [(&'static str, &Times); 5] {
        [
            ("corrected", &self.corrected),
            ("uncorrected", &self.uncorrected),
            ("lag", &self.lag),
            ("answer", &self.answer),
            ("connect", &self.connect),
        ]
    }

    /// Each with its name, to be changed.
    pub fn named_mut(&mut self) -> [(&'static str, &mut Times); 5] {
        [
            ("corrected", &mut self.corrected),
            ("uncorrected", &mut self.uncorrected),
            ("lag", &mut self.lag),
            ("answer", &mut self.answer),
            ("connect", &mut self.connect),
        ]
    }

    /// Adds others, without loss.
    pub fn add(&mut self, other: &Self) {
        for ((_, mine), (_, theirs)) in self.named_mut().into_iter().zip(other.named()) {
            mine.add(theirs).expect("all have the same bounds");
        }
    }
}

impl Serialize for Timings {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let full = self.named().into_iter().filter(|(_, times)| !times.is_empty());
        serializer.collect_map(full.map(|(name, times)| (name, hlog::encode(times))))
    }
}

impl<'de> Deserialize<'de> for Timings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut timings = Self::default();
        for (name, text) in BTreeMap::<String, String>::deserialize(deserializer)? {
            let place = timings.named_mut().into_iter().find(|(known, _)| *known == name);
            let unknown = || D::Error::custom(format!("there are no times {name:?}"));
            let times = hlog::decode(&text).map_err(D::Error::custom)?;
            *place.ok_or_else(unknown)?.1 = times;
        }
        Ok(timings)
    }
}

/// What one source has counted and timed between two moments, in one phase.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Who: `worker-0`, `publisher`, `slow`, `misbehaving`, and with agents their name before it.
    pub source: String,
    /// The phase, by its place in the scenario.
    pub phase: usize,
    /// The beginning, by this machine's monotonic clock.
    pub from_ns: u64,
    /// The end.
    pub to_ns: u64,
    /// Clients that were ready at the end.
    pub ready: u64,
    /// Share of its core that the source's thread used.
    pub busy: f64,
    /// What was counted, of everything that happened.
    pub counts: Counts,
    /// What was timed, of messages that are measured.
    pub timings: Timings,
}

impl Interval {
    /// Share of the time that the source's thread was ready to run and waited for a core, because
    /// something else ran there.
    pub fn waited(&self) -> f64 {
        let ns = self.to_ns.saturating_sub(self.from_ns).max(1);
        self.counts.waited_us as f64 * 1e3 / ns as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_the_same_after_json() {
        let mut timings = Timings::default();
        for us in [1, 17, 1_000, 599_999_999] {
            timings.corrected.saturating_record(us);
            timings.connect.saturating_record(us * 3);
        }
        let counts = Counts { delivered: u64::MAX, lost: 3, ..Counts::default() };
        let source = "worker-0".to_owned();
        let (from_ns, to_ns) = (5, 1_000_000_005);
        let interval =
            Interval { source, phase: 2, from_ns, to_ns, ready: 9, busy: 0.1, counts, timings };
        let text = serde_json::to_string(&interval).expect("it can be written");
        assert!(!text.contains("lag"), "empty times take no room: {text}");
        let read: Interval = serde_json::from_str(&text).expect("and read");
        assert_eq!(read, interval);
        let other = text.replace("\"connect\"", "\"other\"");
        let error = serde_json::from_str::<Interval>(&other).expect_err("unknown times");
        assert!(error.to_string().contains("there are no times \"other\""), "{error}");
    }
}
