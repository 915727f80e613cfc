//! `plan`: what a scenario will need. Sends nothing.
//!
//! [`forecast`] is arithmetic: a scenario in, figures out. What is published is counted by the
//! schedule that the publisher itself goes by, so that a run does what the plan says.

mod phase;
mod text;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result};
use clap::Args;
use serde::Serialize;

use crate::exit::{Ended, Exit};
use crate::procfs;
use crate::scenario::layout::Layout;
use crate::scenario::{PhaseKind, Scenario, file};
use crate::sources::Sources;

pub use phase::PhaseForecast;
use phase::published;
use text::{size, text};

/// Memory of a client in the generator: the bound that its own tests hold it to.
const GENERATOR_BYTES: u64 = 200;
/// Memory of a connection in the gateway (benches/RESULTS.md, million).
const GATEWAY_BYTES: u64 = 299;
/// Memory of one end of a connection in the kernel: half of what the million took of the system
/// besides both programs (7,709 B, benches/RESULTS.md, million).
const KERNEL_BYTES: u64 = (7_709 - GATEWAY_BYTES - GENERATOR_BYTES) / 2;
/// Programs without any client.
const PROGRAM_BYTES: u64 = 200 << 20;
/// Connects in a second when nothing bounds them (benches/RESULTS.md, million).
const CONNECTS_PER_S: f64 = 21_937.0;
/// Sends in a second that one core makes, or receives (benches/RESULTS.md, headline) …
const SENDS_PER_CORE_S: f64 = 300_000.0;
/// … and deliveries when each send carries many (benches/RESULTS.md, batched).
const DELIVERIES_PER_CORE_S: f64 = 30_000_000.0;
/// Connections that one source address has ports for, at most.
const PER_SOURCE_MAX: u64 = 20_000;
/// `plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// A scenario of the library (`run --list` names them), or a file.
    pub scenario: String,
    /// Changes the scenario: clients.count=100, phases.steady.secs=20. May be given several times.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub settings: Vec<String>,
    /// One JSON object on stdout instead of a summary for people.
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
pub fn run(args: &PlanArgs, _stop: &Arc<AtomicBool>) -> Result<Ended> {
    let loaded = file::load(&args.scenario, &args.settings)?;
    let forecast = forecast(&loaded.scenario);
    let machine = Machine::this()?;
    let lacks = lacks(&loaded.scenario, &forecast, &machine);
    let text = match args.json {
        true => {
            let plan = Whole { forecast: &forecast, machine: &machine, lacks: &lacks };
            serde_json::to_string(&plan).context("cannot write JSON")? + "\n"
        }
        false => text(&loaded.scenario, &forecast, &machine, &lacks),
    };
    let exit = if lacks.is_empty() { Exit::Pass } else { Exit::DoesNotFit };
    Ok(Ended { text, exit })
}

/// All that is printed as JSON.
#[derive(Serialize)]
struct Whole<'a> {
    forecast: &'a Forecast,
    machine: &'a Machine,
    /// Why the scenario cannot be run from here; empty: it can.
    lacks: &'a [String],
}

/// What a scenario will need.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Forecast {
    /// Clients by TCP, without the odd ones.
    pub clients_tcp: u64,
    /// Clients by WebSocket.
    pub clients_ws: u64,
    /// Slow readers and misbehaving clients.
    pub clients_odd: u64,
    /// Source addresses that so many connections need.
    pub source_addresses: u64,
    /// Memberships of all clients.
    pub memberships: u64,
    /// Members of the biggest room.
    pub members_max: u64,
    /// Memory of the generator.
    pub generator_bytes: u64,
    /// Memory of the kernel for the generator's ends of the connections.
    pub kernel_bytes: u64,
    /// Memory of the target, with the kernel's for its ends.
    pub target_bytes: u64,
    /// Each phase.
    pub phases: Vec<PhaseForecast>,
    /// Messages of all phases.
    pub published: u64,
    /// Deliveries of all phases.
    pub deliveries: u64,
    /// Seconds that everything takes.
    pub secs: f64,
    /// Most deliveries in a second.
    pub deliveries_per_s_max: f64,
    /// Most bits in a second to the clients, without the network's own heads.
    pub bits_per_s_max: f64,
    /// Cores that the generator needs, with one for the publisher.
    pub generator_cores: u64,
    /// Cores that the target needs.
    pub target_cores: u64,
}

/// The machine that the generator runs on.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Machine {
    /// Memory that it can still give.
    pub available_bytes: u64,
    /// Ports of one source address.
    pub local_ports: u32,
    /// Cores.
    pub cores: u64,
}

impl Machine {
    fn this() -> Result<Self> {
        Ok(Self {
            available_bytes: procfs::available_bytes()?,
            local_ports: procfs::local_ports()?,
            cores: std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64),
        })
    }
}

/// What this scenario will need.
pub fn forecast(scenario: &Scenario) -> Forecast {
    let clients = &scenario.clients;
    let count = u64::from(clients.count);
    let clients_ws = (count as f64 * clients.ws_percent / 100.0).round() as u64;
    let slow = clients.slow.map_or(0, |slow| slow.count);
    let misbehaving = clients.misbehaving.as_ref().map_or(0, |misbehaving| misbehaving.count);
    let clients_odd = u64::from(slow) + u64::from(misbehaving);
    let layout = Arc::new(Layout::new(scenario.rooms, scenario.seed));
    let mut connected = 0;
    let mut members = vec![0; scenario.rooms.count as usize];
    let mut phases = Vec::with_capacity(scenario.phases.len());
    for (place, phase) in scenario.phases.iter().enumerate() {
        phases.push(match phase.kind {
            PhaseKind::Ramp { to, per_s } => {
                let per_s = if per_s > 0.0 { per_s.min(CONNECTS_PER_S) } else { CONNECTS_PER_S };
                let secs = f64::from(to.saturating_sub(connected)) / per_s;
                connected = connected.max(to);
                members = layout.members(connected);
                PhaseForecast { name: phase.name.clone(), secs, ..PhaseForecast::default() }
            }
            PhaseKind::Steady | PhaseKind::Storm => published(scenario, place, &members, &layout),
        });
        if let Some(phase) = phases.last_mut() {
            phase.clients = connected;
        }
    }
    let most = |of: &dyn Fn(&PhaseForecast) -> f64| phases.iter().map(of).fold(0.0, f64::max);
    let deliveries_per_s_max = most(&|phase| phase.deliveries_per_s);
    let busy = most(&|phase| phase.sends_per_s) / SENDS_PER_CORE_S;
    let busy = busy.max(deliveries_per_s_max / DELIVERIES_PER_CORE_S);
    let busy_cores = (busy.ceil() as u64).max(1);
    let all = count + clients_odd;
    Forecast {
        clients_tcp: count - clients_ws.min(count),
        clients_ws,
        clients_odd,
        source_addresses: all.div_ceil(PER_SOURCE_MAX),
        memberships: members.iter().copied().map(u64::from).sum(),
        members_max: members.iter().copied().max().unwrap_or(0).into(),
        generator_bytes: PROGRAM_BYTES + all * GENERATOR_BYTES,
        kernel_bytes: all * KERNEL_BYTES,
        target_bytes: PROGRAM_BYTES + all * (GATEWAY_BYTES + KERNEL_BYTES),
        published: phases.iter().map(|phase| phase.published).sum(),
        deliveries: phases.iter().map(|phase| phase.deliveries).sum(),
        secs: phases.iter().map(|phase| phase.secs).sum(),
        deliveries_per_s_max,
        bits_per_s_max: most(&|phase| phase.bits_per_s),
        generator_cores: busy_cores + 1,
        target_cores: busy_cores,
        phases,
    }
}

/// What a machine has not got that the scenario needs, each with what to do.
pub fn lacks(scenario: &Scenario, forecast: &Forecast, machine: &Machine) -> Vec<String> {
    let mut lacks = Vec::new();
    let here = scenario.target.tcp.is_some_and(|target| target.ip().is_loopback());
    let mut bytes = forecast.generator_bytes + forecast.kernel_bytes;
    let mut cores = forecast.generator_cores;
    if here {
        bytes += forecast.target_bytes;
        // The publisher sleeps most of the time and needs no core for itself beside the target.
        cores = forecast.generator_cores - 1 + forecast.target_cores;
    }
    if bytes > machine.available_bytes {
        let (needed, there) = (size(bytes), size(machine.available_bytes));
        lacks.push(format!(
            "memory: {needed} are needed and {there} are available; run it with agents on several \
             machines, or lower clients.count"
        ));
    }
    if cores > machine.cores {
        lacks.push(format!(
            "cores: {cores} are needed and there are {}; lower the rates or clients.count, or use \
             agents",
            machine.cores
        ));
    }
    if let Some(target) = scenario.target.tcp {
        let all = forecast.clients_tcp + forecast.clients_ws + forecast.clients_odd;
        let given = &scenario.clients.sources;
        let all = u32::try_from(all).unwrap_or(u32::MAX);
        if let Err(error) = Sources::plan(given, target, all, machine.local_ports) {
            let says = error.to_string().replace("--source", "clients.source");
            lacks.push(format!("source addresses: {says}"));
        }
    }
    lacks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(name: &str, settings: &[&str]) -> (Scenario, Forecast) {
        let settings: Vec<String> = settings.iter().map(|&setting| setting.to_owned()).collect();
        let scenario = file::load(name, &settings).unwrap().scenario;
        let forecast = forecast(&scenario);
        (scenario, forecast)
    }

    fn machine(gigabytes: u64, cores: u64) -> Machine {
        Machine { available_bytes: gigabytes * 1_000_000_000, local_ports: 28_232, cores }
    }

    #[test]
    fn the_headline_is_what_its_name_says() {
        let (scenario, forecast) = planned("headline-300k", &[]);
        assert_eq!((forecast.published, forecast.deliveries), (3000, 6_000_000));
        assert_eq!(forecast.deliveries_per_s_max, 300_000.0);
        assert_eq!(forecast.bits_per_s_max, 300_000.0 * 8.0 * (128.0 + 24.0));
        assert_eq!((forecast.members_max, forecast.source_addresses), (2000, 1));
        assert_eq!(lacks(&scenario, &forecast, &machine(4, 2)), [""; 0]);
        let lacks = lacks(&scenario, &forecast, &machine(4, 1));
        assert!(lacks.len() == 1 && lacks[0].starts_with("cores: 2 are needed"), "{lacks:?}");
    }

    #[test]
    fn a_million_needs_its_memory_and_addresses() {
        let (scenario, forecast) = planned("million-idle", &[]);
        assert_eq!((forecast.clients_tcp, forecast.source_addresses), (1_000_000, 50));
        assert_eq!(forecast.deliveries, 400 * 20 * 50);
        let bytes = forecast.generator_bytes + forecast.kernel_bytes + forecast.target_bytes;
        assert!((7_500_000_000..8_500_000_000).contains(&bytes), "{bytes}");
        assert_eq!(lacks(&scenario, &forecast, &machine(12, 2)), [""; 0]);
        let elsewhere = ["target.tcp=192.0.2.1:7400", "clients.source=10.0.0.0/30"];
        let (scenario, forecast) = planned("million-idle", &elsewhere);
        let lacks = lacks(&scenario, &forecast, &machine(2, 2));
        assert_eq!(lacks.len(), 2, "{lacks:?}");
        assert!(lacks[0].starts_with("memory: 4.0 GB are needed"), "{lacks:?}");
        assert!(lacks[1].contains("clients.source gives 2"), "{lacks:?}");
    }

    #[test]
    fn a_plan_that_does_not_fit_is_no_invalid_run() {
        let exit = |scenario: &str, settings: &[&str]| {
            let settings = settings.iter().map(|&setting| setting.to_owned()).collect();
            let args = PlanArgs { scenario: scenario.to_owned(), settings, json: false };
            run(&args, &Arc::default()).unwrap().exit
        };
        // One address has no ports for a million connections, whatever the machine.
        assert_eq!(exit("million-idle", &["clients.source=127.0.0.2/32"]), Exit::DoesNotFit);
        assert_eq!(exit("headline-300k", &["clients.count=10"]), Exit::Pass);
    }

    #[test]
    fn limits_of_the_policy_are_reckoned_with() {
        let small = ["clients.count=2000", "phases.storm.streams=[\"chat\"]"];
        let (_, forecast) = planned("olympics-storm", &small);
        let storm = &forecast.phases[2];
        assert_eq!(storm.deliveries_per_s, 400.0 * 2000.0, "a room of the second level");
        assert!((230_000..250_000).contains(&storm.published), "{storm:?}");
    }

    #[test]
    fn messages_that_go_out_together_cost_a_send() {
        let (_, one) = planned("headline-300k", &[]);
        assert_eq!((one.phases[1].sends_per_s, one.generator_cores), (2000.0 * 50.0, 2));
        let fast = ["streams.chat.messages_per_s=1000", "slo.p99_ms=2", "slo.p50_ms=1"];
        let (_, fast) = planned("headline-300k", &fast);
        assert_eq!((fast.phases[1].sends_per_s, fast.target_cores), (2000.0 * 500.0, 4));
    }

    #[test]
    fn what_is_merged_is_heard_as_often_as_the_policy_says() {
        let bar = ["phases.pk.streams=[\"bar\"]", "phases.last-minute.streams=[\"bar\"]"];
        let (_, forecast) = planned("pk-night", &bar);
        let pk = &forecast.phases[1];
        assert_eq!((pk.published, pk.deliveries), (30 * 5 * 6, 15 * 3000));
    }

    #[test]
    fn streams_of_one_category_are_merged_each_and_limited_together() {
        let state = "{ kind = \"states\", updates_per_s = 5 }";
        let both = [
            "clients.count=2000",
            &format!("streams.chat={state}"),
            &format!("streams={{ chat = {state}, other = {state} }}"),
            "slo={}",
        ];
        let (_, forecast) = planned("headline-300k", &both);
        assert_eq!(forecast.phases[1].deliveries_per_s, 2.0 * 0.5 * 2000.0);
        let chat = "{ messages_per_s = 300, category = 4 }";
        let streams = format!("streams={{ chat = {chat}, other = {chat} }}");
        let (_, forecast) = planned("headline-300k", &["clients.count=2000", &streams, "slo={}"]);
        let heard = forecast.phases[1].deliveries_per_s;
        assert!((heard / (400.0 * 2000.0) - 1.0).abs() < 1e-9, "{heard}");
    }

    #[test]
    fn a_long_phase_goes_on_as_it_began() {
        let long = ["phases.steady.secs=1000000"];
        let (_, forecast) = planned("headline-300k", &long);
        let error = forecast.published as f64 / 150e6 - 1.0;
        assert!(error.abs() < 1e-5, "{error}");
        assert!((forecast.phases[1].deliveries_per_s / 300_000.0 - 1.0).abs() < 1e-5);
    }

    #[test]
    fn a_window_cannot_be_foretold() {
        let (_, forecast) = planned("headline-300k", &["streams.chat={ window = 50 }", "slo={}"]);
        assert!(forecast.phases[1].unbounded && forecast.published == 0);
    }

    #[test]
    fn every_scenario_can_be_planned() {
        for ready in crate::scenario::library::READY {
            let (scenario, forecast) = planned(ready.name, &[]);
            let machine = machine(1, 1);
            let lacks = lacks(&scenario, &forecast, &machine);
            let text = text(&scenario, &forecast, &machine, &lacks);
            assert!(text.lines().count() > 10 && text.contains("LACKS"), "{text}");
            assert!(forecast.deliveries > 0, "{text}");
        }
    }
}
