//! The `compare` program from outside, with stand-ins for the gateway and the load generator, and
//! with the real brokers where they are installed.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use barrage_benches::compare::install::Installer;
use barrage_benches::compare::server::Server;
use barrage_benches::compare::{Case, Kind, proof};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::{Value, json};

const COMPARE: &str = env!("CARGO_BIN_EXE_compare");

/// Takes connections where the gateway would, and ends at SIGTERM.
const GATEWAY: &str = r#"#!/usr/bin/env python3
import select, socket, sys
if sys.argv[1] == "--version":
    sys.exit()
listeners = []
for option, value in zip(sys.argv[1::2], sys.argv[2::2]):
    if option != "--cores":
        host, port = value.split(":")
        listeners.append(socket.create_server((host, int(port))))
while True:
    for listener in select.select(listeners, [], [])[0]:
        listener.accept()[0].close()
"#;

/// One test at a time: a script that is open for writing anywhere cannot be started, and a child
/// that another test has just forked would hold it open.
static TURN: Mutex<()> = Mutex::new(());

/// A directory of its own, removed at the end.
struct Directory {
    path: PathBuf,
    _turn: MutexGuard<'static, ()>,
}

impl Directory {
    fn new(name: &str) -> Self {
        // A test before this one may have failed; its directory is gone all the same.
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let path = std::env::temp_dir().join(format!("compare-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self { path, _turn: turn }
    }

    /// With a gateway that does nothing, and a load generator that is this script.
    fn stand_ins(name: &str, loadgen: &str) -> Self {
        let directory = Self::new(name);
        for (name, script) in [("barrage-gateway", GATEWAY), ("barrage-loadgen", loadgen)] {
            let path = directory.path.join(name);
            fs::write(&path, script).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        fs::write(directory.path.join("RESULTS.md"), "<!-- compare -->\n<!-- end of compare -->\n")
            .unwrap();
        directory
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(COMPARE);
        command.arg("--bin-dir").arg(&self.path).args(["--no-install", "--servers"]);
        command.args(["barrage,barrage-ws", "--secs", "1"]).args(arguments);
        for (option, name) in
            [("--results", "results.jsonl"), ("--tables", "RESULTS.md"), ("--chart", "chart.svg")]
        {
            command.arg(option).arg(self.path.join(name));
        }
        command
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path.join(name)).unwrap()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.path).unwrap();
    }
}

fn summary(lost: u64) -> Value {
    let exit = if lost == 0 { "pass" } else { "missed" };
    json!({"summary": {
        "verdict": {
            "exit": exit, "why": "as it is", "objectives": [], "invalid_reasons": [],
            "faults": [], "aborted": null,
        },
        "totals": {"delivered": 75, "unexplained": if lost == 0 { 0 } else { 25 }, "lost": lost},
        "slow": null,
        "measured": {
            "name": "measured", "from_ns": 0, "to_ns": 1_000_000_000, "counts": {},
            "latency_us": {"p50": 900, "p90": 1000, "p99": 2000, "p999": 3000, "max": 4000},
            "uncorrected_us": null, "lag_us": null, "answer_us": null, "connect_us": null,
            "deliveries_per_s": 300_000.0, "admitted_per_s": 150.0, "connects_per_s": null,
            "target_cpu_s": 0.2, "deliveries_per_target_cpu_s": 1_500_000.0, "busy": 0.1,
        },
        "phases": [], "ended": [["closed by the server", lost]], "refused": [],
        "target_bytes_per_client": 1000.0, "system_bytes_per_client": null,
        "generator_bytes_per_client": null, "reconnect_s": null,
    }})
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

#[test]
fn every_server_is_put_through_every_campaign_and_what_it_did_is_written_down() {
    let script = format!("#!/bin/sh\necho '{}'\n", summary(0));
    let directory = Directory::stand_ins("all", &script);
    let output = directory.command(&["--repeat", "2"]).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let lines: Vec<Value> =
        directory.read("results.jsonl").lines().map(|x| serde_json::from_str(x).unwrap()).collect();
    assert_eq!(lines.len(), 2 * 2 * Case::ALL.len(), "servers, repeats and campaigns");
    assert!(lines.iter().all(|line| line["set"] == "compare" && line["report"].is_object()));
    let table = directory.read("RESULTS.md");
    assert!(table.contains("| 300k-per-s | p99, ms | 2 | 2 |"), "{table}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("| 300k-per-s | p99, ms | 2 | 2 |"));
    assert!(!table.contains("What went wrong"), "{table}");
    assert!(directory.read("chart.svg").starts_with("<svg"));
}

#[test]
fn a_server_that_loses_messages_is_a_finding_and_no_failure() {
    let script = format!("#!/bin/sh\necho '{}'\nexit 1\n", summary(3));
    let directory = Directory::stand_ins("loses", &script);
    let output = directory.command(&["--repeat", "1"]).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let table = directory.read("RESULTS.md");
    assert!(table.contains("| 300k-per-s | delivered, % | 75 | 75 |"), "{table}");
    assert!(table.contains("3 connections were lost"), "{table}");
    assert!(table.contains("3 × closed by the server"), "{table}");
}

#[test]
fn a_campaign_without_a_report_is_a_failure_with_what_was_said() {
    let script = "#!/bin/sh\necho 'no such thing' >&2\nexit 2\n";
    let directory = Directory::stand_ins("fails", script);
    let output = directory.command(&["--repeat", "1"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(directory.read("RESULTS.md").contains("without a report: no such thing"));
}

#[test]
fn a_signal_ends_it_early_and_leaves_no_server_behind() {
    // It reports what it has when it is interrupted, as the load generator does.
    let script = format!(
        "#!/bin/sh\ntrap 'echo '\\''{}'\\''; exit 4' INT\necho $@ > \"$(dirname \"$0\")/called\"\n\
         while :; do sleep 0.1; done\n",
        summary(0)
    );
    let directory = Directory::stand_ins("signal", &script);
    let mut command = directory.command(&["--repeat", "3"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    let called = || fs::read_to_string(directory.path.join("called")).unwrap_or_default();
    while !called().ends_with('\n') {
        assert!(Instant::now() < deadline, "the load generator is started");
        std::thread::sleep(Duration::from_millis(10));
    }
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(directory.read("RESULTS.md").contains("stopped early"));
    assert!(!directory.path.join("results.jsonl").exists(), "half a run is no result");
    let called = called();
    let (_, pid) = called.split_once("target.pid=").unwrap();
    let pid = pid.split_whitespace().next().unwrap().parse().unwrap();
    assert!(test_kill_process(Pid::from_raw(pid).unwrap()).is_err(), "the server has ended");
}

#[test]
fn a_message_of_every_byte_goes_through_each_broker_that_is_installed() {
    let directory = Directory::new("proof");
    let installer = Installer {
        programs: directory.path.clone(),
        directory: PathBuf::from(COMPARE).parent().unwrap().join("compare-servers"),
        allowed: false,
    };
    for kind in [Kind::Mosquitto, Kind::Nats, Kind::Redis, Kind::Nchan] {
        let Ok(program) = installer.program(kind) else {
            eprintln!("{} is not installed", kind.name());
            continue;
        };
        let server = Server::start(kind, &program, directory.path.join(kind.name())).unwrap();
        proof::prove(&server).unwrap();
        server.end().unwrap();
    }
}

#[test]
fn a_server_that_is_dropped_leaves_no_process_behind() {
    let directory = Directory::new("drop");
    let installer = Installer {
        programs: directory.path.clone(),
        directory: directory.path.clone(),
        allowed: false,
    };
    // The only one that works in a child of the process that was started.
    let Ok(program) = installer.program(Kind::Nchan) else {
        eprintln!("nchan is not installed");
        return;
    };
    let server = Server::start(Kind::Nchan, &program, directory.path.join("nchan")).unwrap();
    let pid = server.pid;
    assert!(!has_ended(pid));
    drop(server);
    let deadline = Instant::now() + Duration::from_secs(20);
    while !has_ended(pid) {
        assert!(Instant::now() < deadline, "process {pid} goes on");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Whether a process is gone, or only waits for somebody to ask how it ended.
fn has_ended(pid: u32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return true };
    // The state follows the name, which is in brackets.
    stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with(['Z', 'X']))
}
