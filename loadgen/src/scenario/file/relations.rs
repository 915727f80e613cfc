//! What does not go together, though each by itself is fine.

use super::sections::PROTOCOLS;
use super::source::Source;
use crate::campaign::publisher::schedule;
use crate::dialect::Protocol;
use crate::scenario::{Ack, PhaseKind, Rate, Scenario, StreamKind};

pub(super) fn check(source: &mut Source<'_>, scenario: &Scenario) {
    rooms(source, scenario);
    streams(source, scenario);
    order(source, scenario);
    phases(source, scenario);
    // What the publisher cannot do is better known before anything is connected.
    if let Some(says) = schedule::fault(scenario) {
        source.conflict(&["streams", "phases"], says);
    }
    objectives(source, scenario);
    if scenario.target.protocol != Protocol::Barrage {
        other_protocol(source, scenario);
    }
}

fn rooms(source: &mut Source<'_>, scenario: &Scenario) {
    let (rooms, clients) = (&scenario.rooms, scenario.clients.count);
    if rooms.per_client > rooms.count {
        let says = format!("a client joins different rooms, and there are {}", rooms.count);
        source.conflict(&["rooms.per_client", "rooms.count"], says);
    }
    let seats = u64::from(clients) * u64::from(rooms.per_client);
    if u64::from(rooms.count) > seats {
        let says = format!("{} rooms are more than {seats} memberships can fill", rooms.count);
        source.conflict(&["rooms.count", "rooms.per_client", "clients.count"], says);
    }
    if rooms.first.checked_add(rooms.count.into()).is_none() {
        source.conflict(&["rooms.first", "rooms.count"], "it leaves no ids for the others");
    }
}

fn streams(source: &mut Source<'_>, scenario: &Scenario) {
    for stream in &scenario.streams {
        let path = format!("streams.{}", stream.name);
        let merges = match stream.kind {
            StreamKind::Messages { .. } => continue,
            StreamKind::Gifts { givers_per_room, .. } => {
                let least = scenario.clients.count / scenario.rooms.count;
                if givers_per_room > least.max(1) {
                    let says = format!("givers are members, and a room has about {least} of them");
                    let paths = [&format!("{path}.givers_per_room"), "clients.count"];
                    source.conflict(&paths, says);
                }
                "gifts"
            }
            StreamKind::States { .. } => "states",
        };
        let kind = format!("{path}.kind");
        if scenario.rooms.per_client > 1 {
            let says = format!("{merges} are accounted for with rooms.per_client = 1 only");
            source.conflict(&[&kind, "rooms.per_client"], says);
        } else if scenario.rooms.count > scenario.clients.count {
            let says = format!("{merges} need a member in every room");
            source.conflict(&[&kind, "rooms.count", "clients.count"], says);
        }
    }
}

/// Phases have different names, and clients before anything is done with them.
fn order(source: &mut Source<'_>, scenario: &Scenario) {
    let mut connected = 0;
    for (nth, phase) in scenario.phases.iter().enumerate() {
        let path = format!("phases.{}", phase.name);
        if scenario.phases[..nth].iter().any(|other| other.name == phase.name) {
            source.problem(&format!("phases.{}", nth + 1), "another phase has the same name");
        }
        match phase.kind {
            PhaseKind::Ramp { to, .. } => {
                let field = format!("{path}.clients");
                if to > scenario.clients.count {
                    let says = format!("there are only {} clients", scenario.clients.count);
                    source.conflict(&[&field, "clients.count"], says);
                } else if to < connected {
                    let says = format!("{connected} are connected by then, and a ramp only rises");
                    source.conflict(&[&field, "clients.count"], says);
                }
                connected = connected.max(to);
            }
            PhaseKind::Steady | PhaseKind::Storm if connected == 0 => {
                let says = "nobody is connected yet: the first phase is one of kind = \"ramp\"";
                source.problem(&path, says);
                connected = 1;
            }
            PhaseKind::Steady | PhaseKind::Storm => {}
        }
    }
}

fn phases(source: &mut Source<'_>, scenario: &Scenario) {
    for phase in &scenario.phases {
        let path = format!("phases.{}", phase.name);
        let windows = phase.streams.iter().filter(|stream| {
            let kind = scenario.streams[**stream].kind;
            matches!(kind, StreamKind::Messages { rate: Rate::Window(_), .. })
        });
        if windows.count() > 0 && phase.streams.len() > 1 {
            let says = "a stream with a window leaves nothing to others: give it a phase alone";
            source.problem(&format!("{path}.streams"), says);
        }
        if phase.churn.is_some() && phase.disconnect.is_some() {
            let says = "churn and disconnect are for different phases";
            source.problem(&format!("{path}.disconnect"), says);
        }
    }
}

fn objectives(source: &mut Source<'_>, scenario: &Scenario) {
    let slo = &scenario.slo;
    let publishes = scenario.phases.iter().any(|phase| !phase.streams.is_empty());
    if !publishes {
        for (name, given) in [
            ("p50_ms", slo.p50_ms),
            ("p90_ms", slo.p90_ms),
            ("p99_ms", slo.p99_ms),
            ("p999_ms", slo.p999_ms),
            ("max_ms", slo.max_ms),
            ("deliveries_per_s_min", slo.deliveries_per_s_min),
        ] {
            if given.is_some() {
                let says = "no phase publishes anything that could be timed";
                source.conflict(&[&format!("slo.{name}"), "streams", "phases"], says);
            }
        }
    }
    let disconnects = scenario.phases.iter().any(|phase| phase.disconnect.is_some());
    if slo.reconnect_s.is_some() && !disconnects {
        let says = "no phase has a `disconnect` to come back from";
        source.conflict(&["slo.reconnect_s", "phases"], says);
    }
    let measured = scenario.target.metrics.is_some() || scenario.target.pid.is_some();
    for (name, given) in [
        ("target_cpu_percent", slo.target_cpu_percent),
        ("target_bytes_per_client", slo.target_bytes_per_client),
    ] {
        if given.is_some() && !measured {
            let says = "nothing tells it: give target.metrics or target.pid";
            source.conflict(&[&format!("slo.{name}"), "target.metrics", "target.pid"], says);
        }
    }
}

/// What only Barrage can do.
fn other_protocol(source: &mut Source<'_>, scenario: &Scenario) {
    let protocol = scenario.target.protocol;
    let name = PROTOCOLS.iter().find(|(_, other)| *other == protocol).map_or("", |(name, _)| name);
    let mut refuse = |path: &str, what: &str| {
        let says = format!("{what} with protocol = \"{name}\"; only \"barrage\" can");
        source.conflict(&[path, "target.protocol"], says);
    };
    let (target, clients) = (&scenario.target, &scenario.clients);
    if target.ws.is_some() {
        refuse("target.ws", "there is no listener of its own for WebSocket");
    }
    if clients.ws_percent > 0.0 {
        refuse("clients.ws_percent", "transports cannot be mixed");
    }
    if clients.slow.is_some() {
        refuse("clients.slow", "slow readers cannot be accounted for");
    }
    if clients.misbehaving.is_some() {
        refuse("clients.misbehaving", "clients cannot misbehave");
    }
    if scenario.rooms.per_client > 1 {
        refuse("rooms.per_client", "a client cannot join several rooms");
    }
    for stream in &scenario.streams {
        let path = |field: &str| format!("streams.{}.{field}", stream.name);
        match stream.kind {
            StreamKind::Messages { .. } => {}
            StreamKind::Gifts { .. } => refuse(&path("kind"), "gifts cannot be merged"),
            StreamKind::States { .. } => refuse(&path("kind"), "states cannot be merged"),
        }
        if stream.ack == Ack::Stored {
            refuse(&path("ack"), "nothing is known to be stored");
        }
    }
    for phase in &scenario.phases {
        let path = |part: &str| format!("phases.{}.{part}.resume", phase.name);
        if phase.churn.is_some_and(|churn| churn.resume) {
            refuse(&path("churn"), "clients cannot resume");
        }
        if phase.disconnect.is_some_and(|disconnect| disconnect.resume) {
            refuse(&path("disconnect"), "clients cannot resume");
        }
    }
    if protocol == Protocol::WsRaw && scenario.rooms.count > 1 {
        for (path, text) in [
            ("target.subscribe_path", &target.subscribe_path),
            ("target.publish_path", &target.publish_path),
        ] {
            if !text.contains("{room}") {
                let says = "there are several rooms, and no {room} in it to tell them apart";
                source.conflict(&[path, "rooms.count"], says);
            }
        }
    }
}
