//! What is done to every server.

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use rustix::process::{Resource, getrlimit};

use super::server::Kind;

/// Connections of the idle campaign, if descriptors allow.
const IDLE_CLIENTS: u64 = 20_000;
/// Descriptors that a server needs beside those of its connections.
const FILES_ASIDE: u64 = 1000;

/// How big everything is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    /// Seconds that each campaign measures.
    pub secs: f64,
    /// Members of the one room.
    pub members: u32,
    /// Connections that hear next to nothing.
    pub idle: u32,
}

impl Scale {
    /// As it is meant.
    pub fn full() -> Self {
        let files = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
        let idle = IDLE_CLIENTS.min(files.saturating_sub(FILES_ASIDE));
        Self { secs: 8.0, members: 2000, idle: u32::try_from(idle).unwrap_or(1) }
    }

    /// So small that it takes seconds: to see that it works. The server's processor time is looked
    /// at once a second, so that less than two seconds would tell nothing of it.
    pub fn quick() -> Self {
        Self { secs: 3.0, members: 100, idle: 500 }
    }
}

/// A campaign that every server is put through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum)]
pub enum Case {
    /// One room, as fast as it goes.
    #[value(name = "as-fast-as-it-goes")]
    Flood,
    /// One room, 150 messages a second.
    #[value(name = "300k-per-s")]
    Paced,
    /// Rooms of one member, as fast as they go.
    RoomsOfOne,
    /// Rooms of 20, as fast as they go.
    #[value(name = "rooms-of-20")]
    RoomsOf20,
    /// Connections that hear next to nothing.
    Idle,
}

impl Case {
    /// All, in order.
    pub const ALL: [Self; 5] =
        [Self::Flood, Self::Paced, Self::RoomsOfOne, Self::RoomsOf20, Self::Idle];

    /// Its name, which is its file's.
    pub fn name(self) -> &'static str {
        match self {
            Self::Flood => "as-fast-as-it-goes",
            Self::Paced => "300k-per-s",
            Self::RoomsOfOne => "rooms-of-one",
            Self::RoomsOf20 => "rooms-of-20",
            Self::Idle => "idle",
        }
    }

    /// Its scenario.
    pub fn file(self) -> PathBuf {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("compare");
        directory.join(format!("{}.toml", self.name()))
    }

    /// What of the scenario depends on the scale, and on the server.
    pub fn settings(self, scale: &Scale, kind: Kind) -> Vec<String> {
        /// Seconds of each measured phase before measuring begins, as the files say.
        const WARMUP_S: f64 = 1.0;
        /// Members of a room where connections hear next to nothing.
        const IDLE_ROOM: u32 = 50;
        const MEMBERS_OF_SMALL_ROOM: u32 = 20;
        let secs = |phase: &str| format!("phases.{phase}.secs={}", scale.secs + WARMUP_S);
        let clients = |count: u32| format!("clients.count={count}");
        match self {
            Self::Flood => {
                let window = format!("streams.flood.window={}", kind.window());
                vec![clients(scale.members), secs("full"), window]
            }
            Self::Paced => vec![clients(scale.members), secs("steady")],
            Self::RoomsOfOne | Self::RoomsOf20 => {
                let members = if self == Self::RoomsOfOne { 1 } else { MEMBERS_OF_SMALL_ROOM };
                // Half of the large room's members, each in a room of its own; or all of them.
                let count = if members == 1 { scale.members / 2 } else { scale.members };
                vec![clients(count), format!("rooms.count={}", count / members), secs("full")]
            }
            Self::Idle => {
                let rooms = (scale.idle / IDLE_ROOM).max(1);
                vec![clients(scale.idle), format!("rooms.count={rooms}"), secs("hold")]
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::server::Addresses;

    #[test]
    fn every_scenario_loads_for_every_server_at_every_scale() {
        let at = |port| std::net::SocketAddr::from(([127, 0, 0, 1], port));
        let addresses = Addresses { tcp: at(1), ws: at(2), upstream: at(3), http: at(4) };
        for (case, kind) in
            Case::ALL.into_iter().flat_map(|case| Kind::ALL.map(|kind| (case, kind)))
        {
            for scale in [Scale::full(), Scale::quick()] {
                let mut settings = case.settings(&scale, kind);
                settings.extend(kind.settings(&addresses, 1));
                let file = case.file();
                let path = file.to_str().expect("the name is text");
                let loaded = barrage_loadgen::scenario::file::load(path, &settings);
                let scenario = loaded.unwrap_or_else(|error| panic!("{error:#}")).scenario;
                assert_eq!(scenario.name, case.name());
                assert_eq!(scenario.target.protocol, kind.protocol());
                let measured = scenario.phases.last().expect("there are phases");
                assert_eq!(measured.ns - measured.warmup_ns, (scale.secs * 1e9) as u64);
            }
        }
    }
}
