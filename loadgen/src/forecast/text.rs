//! A forecast for people.

use std::fmt::Write as _;

use super::{Forecast, Machine, PER_SOURCE_MAX};
use crate::scenario::Scenario;

/// What a scenario will need, and what this machine lacks of it.
pub(super) fn text(
    scenario: &Scenario,
    forecast: &Forecast,
    machine: &Machine,
    lacks: &[String],
) -> String {
    let mut text = String::new();
    let mut line = |label: &str, says: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{label:<14}{says}");
    };
    let Forecast { clients_tcp, clients_ws, clients_odd, .. } = *forecast;
    line("scenario", format!("{}: {}", scenario.name, scenario.about));
    line("clients", format!("{clients_tcp} by TCP, {clients_ws} by WebSocket, {clients_odd} odd"));
    let (addresses, ports) = (forecast.source_addresses, PER_SOURCE_MAX);
    line("from", format!("{addresses} source addresses of {ports} ports each, at least"));
    let (rooms, memberships) = (scenario.rooms.count, forecast.memberships);
    let biggest = forecast.members_max;
    line("rooms", format!("{rooms} with {memberships} memberships, {biggest} in the biggest"));
    let [generator, kernel, target] =
        [forecast.generator_bytes, forecast.kernel_bytes, forecast.target_bytes].map(size);
    line("memory", format!("{generator} for the generator and {kernel} of the kernel for it"));
    line("", format!("{target} for the target with its kernel's"));
    for phase in &forecast.phases {
        let says = match (phase.unbounded, phase.published) {
            (true, _) => "as fast as it goes".to_owned(),
            (false, 0) => "nothing is published".to_owned(),
            (false, published) => format!(
                "{published} messages, {} deliveries: {:.0}/s, {:.0} Mbit/s",
                phase.deliveries,
                phase.deliveries_per_s,
                phase.bits_per_s / 1e6
            ),
        };
        line("phase", format!("{}, {:.1} s: {says}", phase.name, phase.secs));
    }
    let (published, deliveries) = (forecast.published, forecast.deliveries);
    line(
        "in all",
        format!("{published} messages, {deliveries} deliveries, {:.0} s", forecast.secs),
    );
    let (generator, target) = (forecast.generator_cores, forecast.target_cores);
    line("cores", format!("{generator} for the generator, {target} for the target"));
    let available = size(machine.available_bytes);
    line("this machine", format!("{} cores, {available} available", machine.cores));
    match lacks {
        [] => line("verdict", "it can be run from here".to_owned()),
        lacks => lacks.iter().for_each(|lack| line("LACKS", lack.clone())),
    }
    text
}

/// Bytes with a unit that makes them short.
pub(super) fn size(bytes: u64) -> String {
    match bytes {
        0..1_000_000_000 => format!("{:.0} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}
