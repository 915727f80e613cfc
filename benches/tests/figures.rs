//! The `figures` program from outside: with the real programs where they have been built, and with
//! stand-ins that answer with recorded JSON everywhere.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::Value;

const FIGURES: &str = env!("CARGO_BIN_EXE_figures");

/// Says `ready` and ends well at SIGTERM.
const GATEWAY: &str = "#!/bin/sh\ntrap 'exit 0' TERM\necho ready\nwhile :; do sleep 0.05; done\n";

/// One test at a time: a script that is open for writing anywhere cannot be started, and a child
/// that another test has just forked would hold it open. The machine is small, too.
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
        let path = std::env::temp_dir().join(format!("figures-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self { path, _turn: turn }
    }

    fn program(&self, name: &str, script: &str) {
        let path = self.path.join(name);
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Stand-ins of both programs; the load generator always reports this.
    fn stand_ins(name: &str, report: &str) -> Self {
        let directory = Self::new(name);
        directory.program("barrage-gateway", GATEWAY);
        directory.program("barrage-loadgen", &format!("#!/bin/sh\necho '{report}'\n"));
        directory
    }

    fn figures(&self, arguments: &[&str]) -> Output {
        figures(&self.path, &self.path.join("results.jsonl"), arguments)
    }

    fn results(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.path.join("results.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.path).unwrap();
    }
}

fn figures(programs: &Path, results: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(FIGURES);
    command.args(arguments).arg("--bin-dir").arg(programs).arg("--results").arg(results);
    // Logs that are kept for a look at them go where the test cleans up.
    command.env("TMPDIR", results.parent().unwrap()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn medians_of_recorded_reports_make_a_table_and_lines() {
    let report = r#"{"command":"room","secs":8,"unexplained":0,"gateway_cpu_s":4.0,
        "deliveries_per_gateway_cpu_s":12000000.0,"latency_us":{"p50":5000,"p99":30000},
        "valid":true,"invalid_reasons":[]}"#;
    let directory = Directory::stand_ins("table", &report.replace('\n', " "));
    let output = directory.figures(&["headline", "batched", "--small", "--repeat", "2"]);
    let table = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    for row in [
        "| batched: deliveries per gateway core-second | ≥ 10,000,000 | 12,000,000 | ",
        "| headline: TCP p50 | ≤ 10 ms | 5 ms | 5–5 | yes |",
        "| headline: TCP p99 | ≤ 20 ms | 30 ms | 30–30 | **no** |",
        "| headline: WS / TCP, p50 | ≤ 1.10 | 1 | 1–1 | yes |",
        "| headline: paced gateway CPU | ≤ 60 % | 50 % | 50–50 | yes |",
    ] {
        assert!(table.contains(row), "{row} is not in\n{table}");
    }
    let results = directory.results();
    assert_eq!(results.len(), 2 + 3 * 2);
    assert_eq!((&results[0]["set"], &results[0]["repeat"]), (&"batched".into(), &1.into()));
    assert_eq!(results[7]["case"], "paced");
    assert!(results.iter().all(|line| line["report"]["valid"] == true && line["time"].is_string()));
}

#[test]
fn tables_of_marked_sets_are_replaced() {
    let report = r#"{"storm":{"messages_in":70,"totals_wrong":1,"states_wrong":0},"valid":true}"#;
    let directory = Directory::stand_ins("marked", report);
    let path = directory.path.join("RESULTS.md");
    fs::write(&path, "<!-- figures storm -->\nold\n<!-- end of figures storm -->\nrest\n").unwrap();
    let tables = path.to_str().unwrap();
    let output = directory.figures(&["storm", "batched", "--small", "--tables", tables]);
    assert_eq!(output.status.code(), Some(3), "totals are wrong: {}", text(&output.stderr));
    let results = fs::read_to_string(&path).unwrap();
    assert!(results.contains("| storm: messages in | – | 70 | 70–70 | – |"), "{results}");
    assert!(results.contains("rooms with wrong totals | 0 | 1 | 1–1 | **no** |"), "{results}");
    assert!(results.ends_with("<!-- end of figures storm -->\nrest\n"), "{results}");
    assert!(!results.contains("old") && !results.contains("batched"), "{results}");
}

#[test]
fn missing_messages_are_an_exit_code() {
    let report = r#"{"unexplained":3,"valid":false,"invalid_reasons":["3 are missing"]}"#;
    let output = Directory::stand_ins("missing", report).figures(&["batched", "--small"]);
    assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
    let table = text(&output.stdout);
    assert!(table.contains("| batched: unexplained | 0 | 3 | 3–3 | **no** |"), "{table}");
    assert!(table.contains("- batched room, repeat 1: 3 are missing"), "{table}");
}

#[test]
fn a_run_that_cannot_be_made_is_an_exit_code_and_the_others_are_made() {
    let directory = Directory::stand_ins("broken", r#"{"sends_per_s":1.0,"valid":true}"#);
    directory.program("barrage-gateway", "#!/bin/sh\necho no port >&2\nexit 1\n");
    let output = directory.figures(&["ceiling", "--small"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("no port"), "{}", text(&output.stderr));
    assert_eq!(directory.results().len(), 1, "the bare loop needs no gateway");
}

#[test]
fn a_gateway_that_ends_badly_is_a_failure_and_its_figures_are_kept() {
    let directory = Directory::stand_ins("bad-end", r#"{"unexplained":0,"valid":true}"#);
    directory.program("barrage-gateway", &GATEWAY.replace("exit 0", "exit 7"));
    let output = directory.figures(&["batched", "--small"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("exit status: 7"), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("| batched: unexplained | 0 | 0 | 0–0 | yes |"));
    assert_eq!(directory.results().len(), 1);
}

#[test]
fn programs_that_were_not_built_are_asked_for() {
    let output = Directory::new("empty").figures(&["--small"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("cargo build --release"), "{}", text(&output.stderr));
}

#[test]
fn everything_runs_small_with_the_real_programs() {
    let programs = Path::new(FIGURES).parent().unwrap();
    let built = |name| programs.join(name).is_file();
    if !built("barrage-gateway") || !built("barrage-loadgen") {
        eprintln!("skipped: build the gateway and the load generator for this profile first");
        return;
    }
    let directory = Directory::new("real");
    let results = directory.path.join("results.jsonl");
    let output = figures(programs, &results, &["all", "--small", "--secs", "0.5"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let results = directory.results();
    assert_eq!(results.len(), 21, "one for every case");
    assert!(results.iter().all(|line| line["report"]["command"].is_string()));
}
