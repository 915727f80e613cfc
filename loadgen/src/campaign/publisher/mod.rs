//! The publishing thread of a campaign: says what the [`schedule`] asks for, when it asks for it,
//! and keeps books of what the target answered.

mod books;
mod close;
mod door;
mod reporter;
pub mod schedule;
mod window;
mod work;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::thread::JoinHandle;

use anyhow::{Context, Result, bail};

use crate::clock::SECOND_NS;
use crate::orders::Report;
use crate::record::Counts;
use crate::scenario::Scenario;
use crate::shared::Shared;

use door::Door;
use work::Publisher;

/// After silence for so long nothing that was merged is still to come: gateways bring it out within
/// two seconds, and some more in busy rooms.
const SILENCE_NS: u64 = 6 * SECOND_NS;
/// How long after the end of a phase it is tried to send what was due in it.
const BACKLOG_MAX_NS: u64 = 5 * SECOND_NS;
const PATIENCE: Patience = Patience { silence_ns: SILENCE_NS, backlog_ns: BACKLOG_MAX_NS };

/// What the publisher is told. Moments are of this machine's clock.
#[derive(Clone, Debug)]
pub enum Say {
    /// Publish this phase's streams from one moment to another; what is to be sent from `from_ns`
    /// on is measured. Nothing to publish is a phase, too. A phase that is said before the one in
    /// force is over ends it when it begins itself. What was due before its end and was held back
    /// by the target is sent after it, for some seconds at most.
    Phase {
        /// The phase, by its place in the scenario.
        index: usize,
        /// When to begin.
        start_ns: u64,
        /// When measuring begins.
        from_ns: u64,
        /// When both end.
        to_ns: u64,
        /// Members of each room, for rates in deliveries.
        members: Arc<Vec<u32>>,
    },
    /// Publish nothing more but what is due already and was held back by the target, for some
    /// seconds at most. Collect the answers, wait until merged messages have gone out, end the
    /// rooms' books; then end.
    Close,
}

/// What was let into one room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Let {
    /// The last number that was given in it; 0: none.
    pub last_seq: u64,
    /// Messages that got a number of their own, or that the target is known to have taken; without
    /// the one that ends the room's books.
    pub admitted: u64,
    /// Taps that were answered `Ok` or `Merged`.
    pub taps: u64,
    /// The highest index of a value that was answered so.
    pub last_state: u32,
}

/// What came of publishing.
#[derive(Clone, Debug, Default)]
pub struct Published {
    /// By room.
    pub rooms: Vec<Let>,
    /// Everything that was counted.
    pub counts: Counts,
    /// Refusals, by code; among them those that were more than the target's policy allows.
    pub refused: BTreeMap<String, u64>,
    /// Numbers between ours that others got: somebody else has published in these rooms.
    pub others: u64,
    /// Rooms whose books could not be ended, or are unsure.
    pub open: u64,
    /// Rooms of which it is not known what their members are to have got: another server has
    /// refused a publish when later ones were on their way already, so that its number is missing
    /// to everybody; or an answer leaves open whether members got it. What is missing in them, or
    /// more than was let in, is not proven to be the target's fault.
    pub unsure: u64,
    /// Why publishing ended early.
    pub broken: Option<String>,
    /// Whether that was because the target has closed or reset the connection.
    pub target_lost: bool,
}

/// Where the publisher works.
#[derive(Clone, Debug)]
pub struct Desk {
    /// The campaign.
    pub scenario: Arc<Scenario>,
    /// Its core.
    pub core: Option<usize>,
    /// What the workers know about deliveries, one each.
    pub workers: Vec<Arc<Shared>>,
    /// Its place among all who report, for its intervals.
    pub worker: usize,
}

/// Connects to where messages are published, so that a wrong address is found at once, and starts
/// the thread. It reports an interval about every second and at every change of phase, from the
/// first phase on, and the last one before it ends. What was due in an earlier phase and is sent or
/// answered later is told in intervals of that phase. When the target goes away it reports `Lost`
/// and ends, and after any other error `Broken`.
pub fn spawn(
    desk: Desk,
    says: Receiver<Say>,
    reports: Sender<Report>,
) -> Result<JoinHandle<Result<Published>>> {
    start(desk, says, reports, PATIENCE)
}

/// How long is waited.
#[derive(Clone, Copy, Debug)]
struct Patience {
    /// Until nothing that was merged is still to come.
    silence_ns: u64,
    /// Until what was due in a phase that is over is given up.
    backlog_ns: u64,
}

fn start(
    desk: Desk,
    says: Receiver<Say>,
    reports: Sender<Report>,
    patience: Patience,
) -> Result<JoinHandle<Result<Published>>> {
    if let Some(fault) = schedule::fault(&desk.scenario) {
        bail!("{fault}");
    }
    let door = Door::open(&desk.scenario)?;
    let publisher = Publisher::new(desk, door, says, reports, patience);
    std::thread::Builder::new()
        .name("publisher".to_owned())
        .spawn(move || publisher.run())
        .context("cannot start the publishing thread")
}

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod tests;
