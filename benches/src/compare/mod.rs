//! Barrage side by side with public brokers: the same campaigns, on the same core, in turns.
//!
//! A [`server::Kind`] is found or installed by [`install`], started by [`server`], tried out by
//! [`proof`], and driven by the load generator in [`campaign`]. What that reports is a [`Run`];
//! runs come to a [`table`] and a [`chart`].

pub mod campaign;
pub mod case;
pub mod chart;
pub mod install;
pub mod proof;
pub mod run;
pub mod server;
pub mod table;

pub use case::Case;
pub use run::Run;
pub use server::Kind;
