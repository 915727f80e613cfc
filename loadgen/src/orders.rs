//! What the leader of a campaign and those who work for it say to each other: orders one way,
//! reports the other. Workers are threads here or agents on other machines; the words are the same.

use serde::{Deserialize, Serialize};

use crate::record::{Counts, Interval};
use crate::scenario::{Churn, Disconnect};
use crate::watch::Watch;

/// What a worker is told. Moments are of the clock of the machine that it runs on, and rates are its
/// own part: whoever passes an order on to several, or to another machine, sees to that.
#[derive(Clone, Debug)]
pub enum Order {
    /// Connect until so many of the worker's own clients are there, at most so many a second (0: as
    /// fast as it goes). Answered by `Ramped`.
    Connect {
        /// How many of its own.
        clients: u32,
        /// How many in a second.
        per_s: f64,
    },
    /// From now on intervals belong to this phase. Of its deliveries those are timed whose message
    /// was to be sent in `from_ns..to_ns`.
    Phase {
        /// The phase, by its place in the scenario.
        index: usize,
        /// The beginning of what is timed; `u64::MAX`: nothing is.
        from_ns: u64,
        /// The end.
        to_ns: u64,
    },
    /// Let clients go and come back, or let that be.
    Churn(Option<Churn>),
    /// Let clients lose their connection now. Answered by `Returned`.
    Disconnect(Disconnect),
    /// Nothing more is published: wait until everything up to these numbers is there, by room, or
    /// until that moment; then end and report `Finished`.
    Drain {
        /// The last number of each room; 0: nothing was published there.
        last_seqs: Vec<u64>,
        /// The latest moment.
        until_ns: u64,
    },
    /// End now; still report `Finished`.
    Stop,
}

/// What a worker says.
#[derive(Debug)]
pub struct Report {
    /// Which worker, by its place among all.
    pub worker: usize,
    /// What it says.
    pub what: What,
}

/// What a worker says.
#[derive(Debug)]
pub enum What {
    /// What was seen since the last one: about every second, and at every change of phase.
    Interval(Box<Interval>),
    /// All that were to connect are ready or have failed.
    Ramped,
    /// All that were to come back are ready and know what they have missed, or have failed.
    Returned,
    /// The last word, but for agents that break.
    Finished(Box<Books>),
    /// The worker has ended because of an error.
    Broken(String),
    /// The worker has ended because the target has gone, or was never there.
    Lost(String),
}

/// A worker's books at the end.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Books {
    /// All counts since the beginning, now exact: what was missing for a while and came late is not
    /// unexplained any more.
    pub counts: Counts,
    /// Why connections ended, and how many.
    pub faults: Vec<(String, u64)>,
    /// What the first client of each room has seen, if somebody counts totals: by room.
    pub watches: Vec<(u32, Watch)>,
    /// Bytes of user memory of one client, with all that is kept for it.
    pub bytes_per_client: u64,
}
