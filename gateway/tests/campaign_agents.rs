//! A campaign that a leader has done by two agents, against the real gateway: every delivery is
//! counted once, and each agent's share is known by its name.

#[path = "campaign/harness.rs"]
#[allow(dead_code, reason = "it is shared with the campaigns through a proxy")]
mod harness;

mod common;

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use barrage_loadgen::exit::Exit;
use serde_json::Value;

use common::gateway::free_addresses;
use common::{Gateway, SOON, TempDir};
use harness::{Outcome, generator, generator_until, until_counted};

const CLIENTS: u64 = 60;
const ROOMS: u64 = 3;
const TOKEN: &str = "sesame";

/// An agent on a thread of its own; what it speaks goes over TCP as between machines.
struct Agent {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Outcome>>,
}

impl Agent {
    fn start(name: &str, options: &str) -> Self {
        let [address] = free_addresses();
        let stop = Arc::new(AtomicBool::new(false));
        let line =
            format!("agent --listen {address} --token {TOKEN} --cores 0-1 --name {name} {options}");
        let until_stop = Arc::clone(&stop);
        let thread = std::thread::spawn(move || generator_until(&line, &until_stop));
        let deadline = Instant::now() + SOON;
        while TcpStream::connect(address).is_err() {
            assert!(Instant::now() < deadline && !thread.is_finished(), "no agent at {address}");
            std::thread::sleep(Duration::from_millis(5));
        }
        Self { address, stop, thread: Some(thread) }
    }

    /// Tells it to end, if it has not by itself, and waits for that.
    fn end(mut self) -> Exit {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("it is ended once");
        thread.join().expect("it does not panic").exit
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// How busy and how late the generator is on a machine that has other things to do is not what is
/// tested here.
const LENIENT: &str = "[validity]\nbusy_percent = 100\nlag_p99_ms = 600000\nlag_percent = 100\n\
                       published_percent = 0\nclock_percent = 100\n";

fn scenario(gateway: &Gateway, seconds: u32) -> String {
    let Gateway { tcp, ws, upstream, http, .. } = gateway;
    format!(
        "name = \"test\"\n[target]\ntcp = \"{tcp}\"\nws = \"{ws}\"\nupstream = \"{upstream}\"\n\
         metrics = \"{http}\"\n[clients]\ncount = {CLIENTS}\nws_percent = 20\n\
         [rooms]\ncount = {ROOMS}\n[[phases]]\nname = \"ramp\"\nkind = \"ramp\"\n\
         [[phases]]\nname = \"steady\"\nsecs = {seconds}\n\
         [streams.chat]\nmessages_per_s = 200\ncategory = 7\nsize = 64\n{LENIENT}"
    )
}

fn run(file: &str, agents: &[&Agent], token: &str, options: &str) -> Outcome {
    let agents: String = agents.iter().map(|agent| format!(" --agent {}", agent.address)).collect();
    generator(&format!("run {file}{agents} --token {token} --json --quiet {options}"))
}

/// Everything is as it should be, but that a busy machine may not tell what time it is as well as a
/// latency of this kind wants.
fn assert_sound(outcome: &Outcome) {
    let verdict = &outcome.told["summary"]["verdict"];
    let reasons = verdict["invalid_reasons"].as_array().expect("a list");
    let about_clocks =
        |reason: &Value| reason.as_str().is_some_and(|text| text.contains("the clock of"));
    let is_sound = match outcome.exit {
        Exit::Pass => true,
        Exit::Invalid => reasons.iter().all(about_clocks),
        Exit::Missed
        | Exit::Usage
        | Exit::Faulty
        | Exit::Regression
        | Exit::TargetLost
        | Exit::DoesNotFit => false,
    };
    assert!(is_sound, "{:?} {:#} {}", outcome.exit, outcome.told, outcome.error);
}

fn total(outcome: &Outcome, name: &str) -> u64 {
    outcome.count(&format!("summary.totals.{name}"))
}

/// What the intervals of a record say was delivered and connected, by who said it.
fn by_source(record: &str) -> BTreeMap<String, [u64; 2]> {
    let text = std::fs::read_to_string(format!("{record}/intervals.jsonl")).expect("it was kept");
    let mut sums: BTreeMap<String, [u64; 2]> = BTreeMap::new();
    for line in text.lines() {
        let interval: Value = serde_json::from_str(line).expect("a line is an object");
        let sum = sums.entry(interval["source"].as_str().expect("a name").to_owned()).or_default();
        for (sum, name) in sum.iter_mut().zip(["connected", "delivered"]) {
            *sum += interval["counts"][name].as_u64().expect("a count");
        }
    }
    sums
}

#[test]
fn two_agents_count_every_delivery_once() {
    let gateway = Gateway::start("0", &[]);
    let dir = TempDir::new("agents");
    let file = dir.file("test.toml", &scenario(&gateway, 1));
    let [east, west] = ["east", "west"].map(|name| Agent::start(name, "--once"));
    let record = format!("{}/record", dir.text());
    let outcome = run(&file, &[&east, &west], TOKEN, &format!("--out {record}"));
    assert_sound(&outcome);

    let delivered = total(&outcome, "admitted") * CLIENTS / ROOMS;
    assert!(delivered > 0, "{:#}", outcome.told);
    assert_eq!(
        ["connected", "delivered", "unexplained", "duplicate", "reordered", "stray"]
            .map(|name| total(&outcome, name)),
        [CLIENTS, delivered, 0, 0, 0, 0]
    );
    let sums = by_source(&record);
    for agent in ["east", "west"] {
        let workers = [0, 1].map(|worker| sums[&format!("{agent}-worker-{worker}")]);
        let [connected, delivered_there] = [0, 1].map(|at| workers[0][at] + workers[1][at]);
        assert_eq!([connected, delivered_there], [CLIENTS / 2, delivered / 2], "{sums:?}");
    }
    let head: Value = serde_json::from_str(
        &std::fs::read_to_string(format!("{record}/run.json")).expect("it was kept"),
    )
    .expect("it is an object");
    let clocks = head["head"]["clocks"].as_array().expect("a list");
    let names: Vec<_> = clocks.iter().map(|clock| clock["agent"].as_str()).collect();
    assert_eq!(names, [Some("east"), Some("west")]);
    for clock in clocks {
        let offset_ns = clock["offset_ns"].as_i64().expect("a number").unsigned_abs();
        let error_ns = clock["error_ns"].as_u64().expect("a number");
        assert!(offset_ns <= error_ns, "it is the same clock: {clock}");
    }
    assert_eq!([east.end(), west.end()], [Exit::Pass; 2]);
}

#[test]
fn an_agent_that_goes_away_makes_the_run_invalid_and_the_other_stays() {
    let gateway = Gateway::start("0", &[]);
    let dir = TempDir::new("agents");
    let file = dir.file("test.toml", &scenario(&gateway, 60));
    let [stays, goes] = ["stays", "goes"].map(|name| Agent::start(name, ""));
    let outcome = std::thread::scope(|scope| {
        let leader = scope.spawn(|| run(&file, &[&stays, &goes], TOKEN, "--out none"));
        until_counted(&gateway, "published_total", 50);
        goes.stop.store(true, Ordering::Relaxed);
        leader.join().expect("it does not panic")
    });
    outcome.assert_exit(Exit::Invalid);
    let why = outcome.told["summary"]["verdict"]["why"].to_string();
    assert!(why.contains("goes") && why.contains(&goes.address.to_string()), "{why}");

    // The other one is ready for the next leader, if that knows the token.
    run(&file, &[&stays], "open", "--out none").assert_exit(Exit::Usage);
    let next = run(&file, &[&stays], TOKEN, "--out none --set phases.steady.secs=1");
    assert_sound(&next);
    assert_eq!(total(&next, "delivered"), total(&next, "admitted") * CLIENTS / ROOMS);
    assert_eq!([stays.end(), goes.end()], [Exit::Pass; 2]);
}
