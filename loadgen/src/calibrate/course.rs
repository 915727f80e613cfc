//! The scenario of a calibration: clients of one room at the built-in sink.

use std::net::SocketAddr;

use crate::dialect::Protocol;
use crate::scenario::{
    Abort, Clients, Generator, Phase, PhaseKind, Rooms, Scenario, Slo, Spread, Target, Validity,
};

/// Busiest that a thread of the generator may be in a valid run, in percent of its core.
const BUSY_PERCENT: f64 = 90.0;
/// Latest that one message in a hundred may be sent in a valid run, in milliseconds.
const LAG_P99_MS: f64 = 2.0;
/// Least of the due messages that must be sent in time in a valid run, in percent.
const PUBLISHED_PERCENT: f64 = 99.0;

/// Clients of one room of the sink at `tcp`: a ramp, a phase in which they listen,
/// and one in which nothing is timed.
pub fn scenario(tcp: SocketAddr, clients: u32) -> Scenario {
    Scenario {
        name: "calibrate".to_owned(),
        about: "What this machine's generator can prove, against a built-in sink.".to_owned(),
        seed: 1,
        target: target(tcp),
        clients: Clients {
            count: clients,
            ws_percent: 0.0,
            sources: Vec::new(),
            token: "open:{user}".to_owned(),
            slow: None,
            misbehaving: None,
        },
        rooms: Rooms { first: 1, count: 1, per_client: 1, spread: Spread::Even, hot_percent: 0.0 },
        streams: Vec::new(),
        phases: vec![
            phase("ramp", PhaseKind::Ramp { to: clients, per_s: 0.0 }),
            phase("listen", PhaseKind::Steady),
            phase("rest", PhaseKind::Steady),
        ],
        slo: Slo::default(),
        validity: validity(),
        abort: Abort { lost_percent: None, p99_ms: None, intervals: 1, unexplained: None },
        generator: Generator::default(),
    }
}

/// When a figure counts.
pub fn validity() -> Validity {
    Validity {
        busy_percent: BUSY_PERCENT,
        lag_p99_ms: LAG_P99_MS,
        lag_percent: 25.0,
        published_percent: PUBLISHED_PERCENT,
        clock_percent: 25.0,
    }
}

fn target(tcp: SocketAddr) -> Target {
    Target {
        protocol: Protocol::Barrage,
        tcp: Some(tcp),
        ws: None,
        upstream: None,
        metrics: None,
        pid: None,
        app: 1,
        subscribe_path: String::new(),
        publish_path: String::new(),
    }
}

fn phase(name: &str, kind: PhaseKind) -> Phase {
    Phase {
        name: name.to_owned(),
        kind,
        ns: 0,
        warmup_ns: 0,
        streams: Vec::new(),
        rate_factor: 1.0,
        churn: None,
        disconnect: None,
    }
}
