//! Live traffic, written down and said again.
//!
//! [`file`](mod@file) is what a capture looks like on disk. [`record`] makes one: `tap` between
//! services and the gateway, `member` as a client of rooms, both through a [`scribe`] on a thread
//! of its own. `show` tells what is in it, [`replay`] publishes it again.

pub mod file;
pub mod frames;
mod member;
pub mod record;
pub mod replay;
pub mod scan;
pub mod scribe;
mod show;
mod tap;
