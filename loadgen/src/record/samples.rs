//! Records of runs that never were, for tests.

use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use crate::exit::Exit;
use crate::random::Random;
use crate::record::kept::{Event, Figures, Head, Objective, Summary, TargetSample, Verdict};
use crate::record::{Counts, Interval, Merged, Timings, Writer};

pub const BEGAN_NS: u64 = 5_000_000_000;
const S: u64 = 1_000_000_000;

/// A run to be made up.
#[derive(Clone, Debug)]
pub struct Made {
    pub seed: u64,
    /// What all latencies are multiplied by.
    pub slower: f64,
    /// Seconds of each of its two measured phases.
    pub seconds: u64,
    /// Members that hear each of a hundred messages a second.
    pub members: u64,
    pub scenario: &'static str,
    pub exit: Exit,
    /// Seconds after the usual moment at which it began.
    pub later_s: u64,
    pub sources: &'static [&'static str],
}

impl Default for Made {
    fn default() -> Self {
        let (seed, slower, seconds, members) = (1, 1.0, 20, 50);
        let sources = &["worker-0", "worker-1"];
        let (scenario, exit) = ("made-up", Exit::Pass);
        Self { seed, slower, seconds, members, scenario, exit, later_s: 0, sources }
    }
}

/// A place for a test's files, which goes when the test does.
pub struct Place(PathBuf);

/// A fresh place; nothing is there yet.
pub fn place(test: &str) -> Place {
    let place = std::env::temp_dir().join(format!("barrage-record-{}-{test}", std::process::id()));
    let _ = fs::remove_dir_all(&place);
    Place(place)
}

impl Deref for Place {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Made {
    pub fn head(&self) -> Head {
        Head {
            scenario: self.scenario.to_owned(),
            about: "Shows what <a record> looks like & reads.".to_owned(),
            text: "name = \"made-up\"\n[clients]\ncount = 100 # <b>\n".to_owned(),
            settings: vec!["clients.count=100".to_owned()],
            target: "barrage at 127.0.0.1:7000".to_owned(),
            phases: ["ramp", "steady", "storm"].map(str::to_owned).to_vec(),
            began_unix_ms: 1_760_000_000_123 + 1000 * self.later_s,
            began_ns: BEGAN_NS,
            version: "0.1.0".to_owned(),
            machine: "a processor, 2 cores".to_owned(),
            clocks: Vec::new(),
        }
    }

    /// All intervals, in the order of their reports.
    pub fn intervals(&self) -> Vec<Interval> {
        let mut random = Random::new(self.seed);
        let mut all = Vec::new();
        for second in 0..2 * self.seconds + 3 {
            let phase = match second {
                0..3 => 0,
                _ if second < 3 + self.seconds => 1,
                _ => 2,
            };
            for source in self.sources {
                all.push(self.worker(source, phase, second, &mut random));
            }
            if phase > 0 {
                all.push(self.publisher(phase, second, &mut random));
            }
        }
        all
    }

    fn worker(&self, source: &str, phase: usize, second: u64, random: &mut Random) -> Interval {
        let mut timings = Timings::default();
        let mut counts = Counts::default();
        let stalled = phase == 2 && second % 9 == 5;
        if phase == 0 {
            counts.connected = self.members / 3;
            (0..counts.connected)
                .for_each(|_| timings.connect.saturating_record(200 + random.below(3000)));
        } else {
            counts.delivered = 100 * self.members + random.below(200);
            counts.received_bytes = counts.delivered * 160;
        }
        for _ in 0..counts.delivered {
            let tail = if random.below(300) == 0 { 8.0 } else { 1.0 };
            let us = 400.0 * self.slower * tail * (1.0 + random.exponential(0.5));
            let waited = if stalled { random.share() * 400_000.0 } else { 0.0 };
            timings.corrected.saturating_record((us + waited) as u64);
            timings.uncorrected.saturating_record(us as u64);
        }
        Interval {
            source: source.to_owned(),
            phase,
            from_ns: BEGAN_NS + second * S,
            to_ns: BEGAN_NS + (second + 1) * S,
            ready: (second + 1).min(3) * (self.members / 3),
            busy: (300 + random.below(100)) as f64 / 1000.0,
            counts,
            timings,
        }
    }

    fn publisher(&self, phase: usize, second: u64, random: &mut Random) -> Interval {
        let mut timings = Timings::default();
        for _ in 0..100 {
            timings.lag.saturating_record(5 + random.below(40));
            timings.answer.saturating_record(150 + random.below(300));
        }
        let counts = Counts { offered: 100, published: 100, admitted: 100, ..Counts::default() };
        Interval {
            source: "publisher".to_owned(),
            phase,
            from_ns: BEGAN_NS + second * S,
            to_ns: BEGAN_NS + (second + 1) * S,
            ready: 0,
            busy: 0.1,
            counts,
            timings,
        }
    }

    pub fn summary(&self, intervals: &[Interval]) -> Summary {
        let mut merged = Merged::default();
        intervals.iter().for_each(|interval| merged.add(interval));
        let names = self.head().phases;
        let phases = merged.phases().iter().zip(&names).map(|(all, name)| all.figures(name));
        let phases: Vec<Figures> = phases.collect();
        let mut measured = Merged::default();
        intervals.iter().filter(|one| one.phase > 0).for_each(|one| measured.add(one));
        let mut measured = measured.all().figures("measured");
        measured.target_cpu_s = Some(measured.counts.delivered as f64 / 100_000.0 * self.slower);
        let cpu_s = measured.target_cpu_s.unwrap_or(1.0);
        measured.deliveries_per_target_cpu_s = Some(measured.counts.delivered as f64 / cpu_s);
        let found = measured.latency_us.map(|us| us.p99 as f64 / 1000.0);
        let verdict = Verdict {
            exit: self.exit,
            why: "every objective was met".to_owned(),
            objectives: vec![
                Objective {
                    name: "p99_ms".to_owned(),
                    wanted: "<= 500".to_owned(),
                    found,
                    met: true,
                },
                Objective {
                    name: "target_cpu_percent".to_owned(),
                    wanted: "<= 100".to_owned(),
                    found: None,
                    met: false,
                },
            ],
            invalid_reasons: Vec::new(),
            faults: vec!["3 messages are missing <unexplained>".to_owned()],
            aborted: None,
        };
        Summary {
            verdict,
            totals: merged.all().counts,
            slow: None,
            measured,
            phases,
            ended: vec![("closed by the peer".to_owned(), 2)],
            refused: vec![("rate".to_owned(), 7)],
            target_bytes_per_client: Some(1800.0),
            system_bytes_per_client: Some(9000.0),
            generator_bytes_per_client: Some(180.0),
            reconnect_s: None,
        }
    }

    /// Writes the record, all of it or without an end.
    pub fn write(&self, dir: &Path, finished: bool) {
        let mut writer = Writer::create(dir, &self.head()).expect("it can be created");
        let intervals = self.intervals();
        for interval in &intervals {
            writer.interval(interval).expect("it can be written");
        }
        for second in 0..2 * self.seconds + 3 {
            let sample = TargetSample {
                at_ns: BEGAN_NS + second * S,
                cpu_s: Some(second as f64 * 0.1 * self.slower),
                rss_bytes: Some(80_000_000 + second * 100_000),
                connections: Some(self.members),
                sends: Some(second as f64 * 10_000.0),
            };
            writer.target(&sample).expect("it can be written");
        }
        for (second, kind, text) in [
            (3, "phase", "steady"),
            (3 + self.seconds, "phase", "storm"),
            (8, "fault", "a <stall>"),
        ] {
            let at_ns = BEGAN_NS + second * S;
            let event = Event { at_ns, kind: kind.to_owned(), text: text.to_owned() };
            writer.event(&event).expect("it can be written");
        }
        if finished {
            writer.finish(&self.summary(&intervals)).expect("it can be finished");
        }
    }
}
