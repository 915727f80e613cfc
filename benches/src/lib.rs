//! What Barrage promises, measured on the real programs, and its hot functions, measured alone.
//!
//! The `figures` binary runs a [`campaign`] over [`case`]s: it starts a gateway, points the load
//! generator at it, and turns what that reports into [`figure`]s and a [`table`]. The bodies of the
//! micro benchmarks are in [`micro`] and [`admit`], so that plain tests run them too.
//! The `compare` binary puts public brokers beside the gateway: see [`compare`].
#![forbid(unsafe_code)]

pub mod admit;
pub mod campaign;
pub mod case;
pub mod compare;
pub mod figure;
pub mod gateway;
pub mod loadgen;
pub mod micro;
pub mod record;
pub mod table;

pub use barrage_loadgen::machine;
