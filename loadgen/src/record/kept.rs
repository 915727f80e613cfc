//! What is kept of a run beside its intervals, as it stands in the files of a record.

use serde::{Deserialize, Serialize};

use crate::exit::Exit;
use crate::latency::Summary as Percentiles;
use crate::record::Counts;

/// What a run was, known before it begins.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Head {
    /// The scenario's name.
    pub scenario: String,
    /// What it is for.
    pub about: String,
    /// Its file, as it was read.
    pub text: String,
    /// Settings that were given beside it.
    pub settings: Vec<String>,
    /// What it was done to, in a line.
    pub target: String,
    /// The phases' names.
    pub phases: Vec<String>,
    /// When it began: milliseconds since 1970.
    pub began_unix_ms: u64,
    /// The same moment by the monotonic clock that all other moments are told by.
    pub began_ns: u64,
    /// The version of the generator.
    pub version: String,
    /// The machine, in a line.
    pub machine: String,
    /// Machines beside it whose clocks count, with the most that each may be off.
    pub clocks: Vec<Clock>,
}

/// Another machine's clock.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Clock {
    /// Whose.
    pub agent: String,
    /// What was added to its times.
    pub offset_ns: i64,
    /// The most that it may be off after that.
    pub error_ns: u64,
}

/// The target at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TargetSample {
    /// The moment.
    pub at_ns: u64,
    /// Processor seconds so far.
    pub cpu_s: Option<f64>,
    /// Resident bytes.
    pub rss_bytes: Option<u64>,
    /// Connections, as it says.
    pub connections: Option<u64>,
    /// Sends so far, as it says.
    pub sends: Option<f64>,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// When.
    pub at_ns: u64,
    /// What sort: `phase`, `disconnect`, `fault`, `abort`, `target`, `note`.
    pub kind: String,
    /// What, in a line.
    pub text: String,
}

/// One thing that was asked for, and what came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Objective {
    /// As in the scenario: `p99_ms`.
    pub name: String,
    /// What was wanted, with the relation: `<= 20`.
    pub wanted: String,
    /// What was found; none: it could not be measured, and so was not met.
    pub found: Option<f64>,
    /// Whether that is good enough.
    pub met: bool,
}

/// The figures of a phase, or of all that were measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// The phase's name; `measured` for all that were.
    pub name: String,
    /// Its beginning.
    pub from_ns: u64,
    /// Its end.
    pub to_ns: u64,
    /// Everything that was counted.
    pub counts: Counts,
    /// From the intended time of sending, in microseconds.
    pub latency_us: Option<Percentiles>,
    /// From the actual time.
    pub uncorrected_us: Option<Percentiles>,
    /// How late messages were sent.
    pub lag_us: Option<Percentiles>,
    /// From the intended time of sending to the answer.
    pub answer_us: Option<Percentiles>,
    /// From a connection's beginning until its client was ready.
    pub connect_us: Option<Percentiles>,
    /// Deliveries in a second of what was measured.
    pub deliveries_per_s: Option<f64>,
    /// Messages admitted in a second of it.
    pub admitted_per_s: Option<f64>,
    /// Clients that got ready in a second.
    pub connects_per_s: Option<f64>,
    /// Processor seconds of the target.
    pub target_cpu_s: Option<f64>,
    /// Deliveries per processor second of the target.
    pub deliveries_per_target_cpu_s: Option<f64>,
    /// Busiest thread of the generator, share of its core.
    pub busy: f64,
}

/// What has come of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// What the process said.
    pub exit: Exit,
    /// In a line, why.
    pub why: String,
    /// What was asked for.
    pub objectives: Vec<Objective>,
    /// Why the figures cannot be trusted; empty: they can.
    pub invalid_reasons: Vec<String>,
    /// What is wrong with the target's correctness; empty: nothing.
    pub faults: Vec<String>,
    /// Why the run was given up, if it was.
    pub aborted: Option<String>,
}

/// The end of a record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// What has come of it.
    pub verdict: Verdict,
    /// All counts of the whole run, the odd clients' apart.
    pub totals: Counts,
    /// The slow readers' counts, if there are any.
    pub slow: Option<Counts>,
    /// The figures of all measured phases together.
    pub measured: Figures,
    /// Each phase's.
    pub phases: Vec<Figures>,
    /// Why connections ended, and how many.
    pub ended: Vec<(String, u64)>,
    /// Why publishes were refused, and how many.
    pub refused: Vec<(String, u64)>,
    /// Growth of the target's resident memory per connection, over the first ramp.
    pub target_bytes_per_client: Option<f64>,
    /// Loss of the machine's available memory per connection, both ends and kernel, over it.
    pub system_bytes_per_client: Option<f64>,
    /// User memory of the generator per connection.
    pub generator_bytes_per_client: Option<f64>,
    /// How long it took until all who were disconnected were back, the longest.
    pub reconnect_s: Option<f64>,
}
