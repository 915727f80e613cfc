//! What the end-to-end tests share: the real gateway as a child process, and peers that talk to it
//! over real sockets. Nothing here sleeps in place of a condition; every wait has a deadline.
#![allow(dead_code, unused_imports, reason = "each test program uses its part")]
#![allow(missing_docs, reason = "tests, not a library for others")]

pub mod client;
pub mod dir;
pub mod gateway;
pub mod receiver;
pub mod socket;
pub mod upstream;

use std::time::Duration;

pub use client::{Client, Said, Via};
pub use dir::TempDir;
pub use gateway::{Gateway, on_one_and_two_shards};
pub use receiver::Receiver;
pub use socket::Socket;
pub use upstream::{Told, Upstream};

/// How long anything that should happen at once may take on a busy machine.
pub const SOON: Duration = Duration::from_secs(10);

/// The app that tests are in.
pub const APP: u32 = 1;

/// Categories of the built-in policy.
pub const SYSTEM: u16 = 0;
pub const GIFT_LARGE: u16 = 1;
pub const CHAT: u16 = 4;

/// Numbers from a seed (SplitMix64), so that what fails once fails again.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next() as u8).collect()
    }
}
