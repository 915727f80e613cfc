//! The load generator: connects clients to a Barrage gateway, publishes to them, accounts for every
//! message at every one of them, and proves that its own figures are valid.
//!
//! One **network thread** ([`network`]) drives all clients on one set of rings: events go to the
//! [`fleet`], which keeps one [`session::Client`] and its [`ledger::Membership`]s per client. One
//! **upstream thread** ([`publisher`], [`storm::publisher`] or [`echo`]) speaks to the gateway's
//! upstream socket. The main thread ([`run`]) leads through ramp, warm-up, measuring and drain, and
//! makes the [`report`]. They share nothing but the numbers in [`shared`].
#![forbid(unsafe_code)]

pub mod cli;
pub mod clock;
pub mod connect;
pub mod echo;
pub mod fleet;
pub mod gateway;
pub mod latency;
pub mod ledger;
pub mod limit;
pub mod network;
pub mod plan;
pub mod procfs;
pub mod progress;
pub mod publisher;
pub mod ramp;
pub mod report;
pub mod requests;
pub mod room;
pub mod run;
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
pub mod world;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Result;

use crate::cli::{Command, Reporting};
use crate::report::Report;

/// Runs a command until it is done or `stop` is set.
pub fn execute(command: &Command, stop: &Arc<AtomicBool>) -> Result<Report> {
    match command {
        Command::Room(args) => room::run(args, stop),
        Command::Connect(args) => connect::run(args, stop),
        Command::Uplink(args) => uplink::run(args, stop),
        Command::Storm(args) => storm::run(args, stop),
        Command::Limit(args) => limit::run(args, stop),
    }
}

impl Command {
    /// How the command is to report.
    pub fn reporting(&self) -> Reporting {
        match self {
            Self::Room(args) => args.reporting,
            Self::Connect(args) => args.reporting,
            Self::Uplink(args) => args.reporting,
            Self::Storm(args) => args.reporting,
            Self::Limit(args) => args.reporting,
        }
    }
}
