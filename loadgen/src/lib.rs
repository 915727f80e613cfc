//! The load generator: connects clients to a Barrage gateway, publishes to them, accounts for every
//! message at every one of them, and proves that its own figures are valid.
//!
//! One **network thread** ([`network`]) drives all clients on one set of rings: events go to the
//! [`fleet`], which keeps one [`session::Client`] and its [`ledger::Membership`]s per client. One
//! **upstream thread** ([`publisher`], [`storm::publisher`] or [`echo`]) speaks to the gateway's
//! upstream socket. The main thread ([`run`]) leads through ramp, warm-up, measuring and drain, and
//! makes the [`report`]. They share nothing but the numbers in [`shared`].
#![forbid(unsafe_code)]

pub mod agent;
pub mod calibrate;
pub mod campaign;
pub mod capture;
pub mod cli;
pub mod clock;
pub mod connect;
pub mod dialect;
pub mod doctor;
pub mod echo;
pub mod exit;
pub mod faults;
pub mod fleet;
pub mod forecast;
pub mod gateway;
pub mod latency;
pub mod ledger;
pub mod limit;
pub mod machine;
pub mod network;
pub mod odd;
pub mod orders;
pub mod plan;
pub mod probe;
pub mod procfs;
pub mod progress;
pub mod publisher;
pub mod ramp;
pub mod random;
pub mod record;
pub mod report;
pub mod requests;
pub mod room;
pub mod run;
pub mod scenario;
pub mod search;
pub mod session;
pub mod shared;
pub mod sources;
pub mod stamp;
pub mod storm;
pub mod stream;
pub mod uplink;
pub mod upstream;
pub mod verdict;
pub mod watch;
pub mod worker;
pub mod world;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Result, bail};

use crate::cli::{Command, Reporting};
use crate::exit::Ended;
use crate::record::{compare, merge, page};
use crate::report::Report;

/// Runs a command until it is done or `stop` is set.
pub fn execute(command: &Command, stop: &Arc<AtomicBool>) -> Result<Ended> {
    match command {
        Command::Room(_)
        | Command::Connect(_)
        | Command::Uplink(_)
        | Command::Storm(_)
        | Command::Limit(_) => {
            let (report, reporting) = measure(command, stop)?;
            Ok(report.ended(reporting))
        }
        Command::Run(args) => campaign::run(args, stop),
        Command::Plan(args) => forecast::run(args, stop),
        Command::Doctor(args) => doctor::run(args, stop),
        Command::Calibrate(args) => calibrate::run(args, stop),
        Command::Search(args) => search::run(args, stop),
        Command::Agent(args) => agent::run(args, stop),
        Command::Report(args) => page::run(args, stop),
        Command::Merge(args) => merge::run(args, stop),
        Command::Compare(args) => compare::run(args, stop),
        Command::Capture(args) => capture::record::run(args, stop),
        Command::Replay(args) => capture::replay::run(args, stop),
        Command::Probe(args) => probe::run(args, stop),
        Command::Faults(args) => faults::run(args, stop),
    }
}

/// Runs one of the commands that measure one thing; says how it is to be reported.
pub fn measure(command: &Command, stop: &Arc<AtomicBool>) -> Result<(Report, Reporting)> {
    match command {
        Command::Room(args) => Ok((room::run(args, stop)?, args.reporting)),
        Command::Connect(args) => Ok((connect::run(args, stop)?, args.reporting)),
        Command::Uplink(args) => Ok((uplink::run(args, stop)?, args.reporting)),
        Command::Storm(args) => Ok((storm::run(args, stop)?, args.reporting)),
        Command::Limit(args) => Ok((limit::run(args, stop)?, args.reporting)),
        other => bail!("{other:?} is not a measurement"),
    }
}
