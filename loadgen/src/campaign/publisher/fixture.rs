//! A small scenario for tests.

use crate::clock::SECOND_NS;
use crate::dialect::Protocol;
use crate::scenario::{
    Abort, Ack, Arrival, Clients, Generator, Phase, PhaseKind, Rate, Rooms, Scenario, Slo, Spread,
    Stream, StreamKind, Target, To, Validity,
};
use crate::upstream::UpstreamAddress;

/// A scenario of so many rooms, each of whose streams publishes in each of its two phases.
pub fn scenario(rooms: u32, streams: Vec<Stream>) -> Scenario {
    let phase = |name: &str, streams| Phase {
        name: name.to_owned(),
        kind: PhaseKind::Steady,
        ns: SECOND_NS,
        warmup_ns: 0,
        streams,
        rate_factor: 1.0,
        churn: None,
        disconnect: None,
    };
    let all: Vec<usize> = (0..streams.len()).collect();
    let target = Target {
        protocol: Protocol::Barrage,
        tcp: None,
        ws: None,
        upstream: None,
        metrics: None,
        pid: None,
        app: 1,
        subscribe_path: String::new(),
        publish_path: String::new(),
    };
    let clients = Clients {
        count: 0,
        ws_percent: 0.0,
        sources: Vec::new(),
        token: String::new(),
        slow: None,
        misbehaving: None,
    };
    let (count, spread) = (rooms, Spread::Even);
    let validity = Validity {
        busy_percent: 90.0,
        lag_p99_ms: 10.0,
        lag_percent: 10.0,
        published_percent: 99.0,
        clock_percent: 10.0,
    };
    Scenario {
        name: "test".to_owned(),
        about: String::new(),
        seed: 7,
        target,
        clients,
        rooms: Rooms { first: 100, count, per_client: 1, spread, hot_percent: 0.0 },
        streams,
        phases: vec![phase("one", all.clone()), phase("two", all)],
        slo: Slo::default(),
        validity,
        abort: Abort { lost_percent: None, p99_ms: None, intervals: 1, unexplained: None },
        generator: Generator::default(),
    }
}

/// The same, to be published at an address.
pub fn scenario_at(address: std::net::SocketAddr, rooms: u32, streams: Vec<Stream>) -> Scenario {
    let mut scenario = scenario(rooms, streams);
    scenario.target.upstream = Some(UpstreamAddress::Tcp(address));
    scenario
}

/// A stream of one category and size.
pub fn stream(kind: StreamKind) -> Stream {
    let name = "said".to_owned();
    Stream { name, kind, categories: vec![(4, 1.0)], size: (32, 32), ack: Ack::Accepted }
}

/// Messages to one room after the other.
pub fn messages(rate: Rate, arrival: Arrival) -> Stream {
    stream(StreamKind::Messages { rate, arrival, to: To::Even })
}

/// Gifts of two in each room.
pub fn gifts() -> Stream {
    stream(StreamKind::Gifts {
        givers_per_room: 2,
        taps_per_s: 6.0,
        burst_ns: 4 * SECOND_NS,
        pause_ns: 2 * SECOND_NS,
        gifts: 5,
    })
}

/// Values of two keys in each room.
pub fn states() -> Stream {
    stream(StreamKind::States { per_s: 5.0, keys: 2 })
}
