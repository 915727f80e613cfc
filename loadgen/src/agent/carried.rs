//! An interval as it goes from an agent to its leader: every count and every time, none lost.

use anyhow::{Context, Result, anyhow, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::serialization::{Deserializer, Serializer, V2Serializer};
use serde::{Deserialize, Serialize};

use crate::agent::greet::check_source;
use crate::record::{Counts, Interval, Times, Timings, no_times};

/// An interval.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Carried {
    source: String,
    phase: usize,
    from_ns: u64,
    to_ns: u64,
    ready: u64,
    busy: f64,
    counts: Counts,
    /// Histograms that are not empty, in the V2 encoding, each with its name.
    timings: Vec<(String, String)>,
}

impl Carried {
    /// Takes it up.
    pub fn new(interval: &Interval) -> Self {
        let named = interval.timings.named();
        let full = named.into_iter().filter(|(_, times)| !times.is_empty());
        Self {
            source: interval.source.clone(),
            phase: interval.phase,
            from_ns: interval.from_ns,
            to_ns: interval.to_ns,
            ready: interval.ready,
            busy: interval.busy,
            counts: interval.counts,
            timings: full.map(|(name, times)| (name.to_owned(), encode(times))).collect(),
        }
    }

    /// Puts it down; an error says why it cannot be an interval of `phases` phases.
    pub fn interval(self, phases: usize) -> Result<Interval> {
        check_source(&self.source).context("an interval's source")?;
        if self.phase >= phases || self.to_ns < self.from_ns || !self.busy.is_finite() {
            let Self { phase, from_ns, to_ns, busy, .. } = self;
            bail!("an interval of phase {phase}, {from_ns} to {to_ns}, busy {busy}, cannot be");
        }
        let mut timings = Timings::default();
        for (name, text) in self.timings {
            let times = decode(&text).with_context(|| format!("times of {name:?}"))?;
            let mut all = timings.named_mut().into_iter();
            let place = all.find(|(known, _)| *known == name);
            *place.ok_or_else(|| anyhow!("there are no times {name:?}"))?.1 = times;
        }
        Ok(Interval {
            source: self.source,
            phase: self.phase,
            from_ns: self.from_ns,
            to_ns: self.to_ns,
            ready: self.ready,
            busy: self.busy,
            counts: self.counts,
            timings,
        })
    }
}

fn encode(times: &Times) -> String {
    let mut bytes = Vec::new();
    let written = V2Serializer::new().serialize(times, &mut bytes);
    written.expect("a histogram of our bounds fits, and a Vec takes what is written");
    STANDARD.encode(bytes)
}

fn decode(text: &str) -> Result<Times> {
    let bytes = STANDARD.decode(text).context("not base64")?;
    let read: Times = Deserializer::new()
        .deserialize(&mut bytes.as_slice())
        .map_err(|error| anyhow!("not a histogram: {error}"))?;
    let mut times = no_times();
    // One with other bounds may hold what does not fit in.
    if (read.low(), read.high(), read.sigfig()) != (times.low(), times.high(), times.sigfig()) {
        bail!("a histogram with other bounds");
    }
    times.add(&read).map_err(|error| anyhow!("a histogram that does not fit: {error}"))?;
    Ok(times)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interval() -> Interval {
        let mut timings = Timings::default();
        for us in [1, 17, 1_000, 599_999_999] {
            timings.corrected.saturating_record(us);
            timings.connect.saturating_record(us * 3);
        }
        let counts = Counts { delivered: u64::MAX, lost: 3, ..Counts::default() };
        let source = "box-worker-0".to_owned();
        let (from_ns, to_ns) = (5, 1_000_000_005);
        Interval { source, phase: 2, from_ns, to_ns, ready: 9, busy: 0.625, counts, timings }
    }

    #[test]
    fn an_interval_arrives_without_loss() {
        let interval = interval();
        let text = serde_json::to_string(&Carried::new(&interval)).expect("it can be written");
        let read: Carried = serde_json::from_str(&text).expect("and read");
        let read = read.interval(3).expect("it is one");
        let facts = |of: &Interval| (of.source.clone(), of.phase, of.from_ns, of.to_ns, of.ready);
        assert_eq!(facts(&read), facts(&interval));
        assert_eq!((read.busy, read.counts), (interval.busy, interval.counts));
        for ((name, before), (_, after)) in
            interval.timings.named().into_iter().zip(read.timings.named())
        {
            assert_eq!(before, after, "{name}");
        }
    }

    #[test]
    fn what_cannot_be_an_interval_is_refused() {
        let good = Carried::new(&interval());
        let check = |change: &dyn Fn(&mut Carried), part: &str| {
            let mut bad = good.clone();
            change(&mut bad);
            let error = format!("{:#}", bad.interval(3).expect_err(part));
            assert!(error.contains(part), "{error}");
        };
        check(&|bad| bad.source = "../x".to_owned(), "no name");
        check(&|bad| bad.phase = 3, "phase 3");
        check(&|bad| bad.to_ns = 4, "cannot be");
        check(&|bad| bad.timings[0].0 = "other".to_owned(), "no times \"other\"");
        check(&|bad| bad.timings[0].1 = "?".to_owned(), "not base64");
        check(&|bad| bad.timings[0].1 = "AAAA".to_owned(), "not a histogram");
        let narrow = Times::new_with_bounds(1, 1000, 3).expect("the bounds are good");
        check(&|bad| bad.timings[0].1 = encode(&narrow), "other bounds");
    }
}
