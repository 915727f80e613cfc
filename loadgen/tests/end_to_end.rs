//! Whole runs against a stub, and the program as scripts use it.

mod stub;

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use barrage_loadgen::cli::Cli;
use barrage_loadgen::report::Report;
use clap::Parser;
use stub::{CATEGORY_LIMITED, CATEGORY_UNKNOWN, Mischief, ROOM, Stub};

fn run(line: &str) -> Report {
    let words = std::iter::once("barrage-loadgen").chain(line.split_whitespace());
    let command = Cli::try_parse_from(words).expect("a valid line").command;
    let stop = Arc::new(AtomicBool::new(false));
    barrage_loadgen::measure(&command, &stop).expect("a run").0
}

fn room(stub: Stub, transport: &str, rest: &str) -> Report {
    let target = if transport == "ws" { stub.ws } else { stub.tcp };
    let upstream = stub.upstream;
    run(&format!(
        "room --{transport} {target} --upstream {upstream} --room {ROOM} --members 10 --size 64 \
         --warmup 0.1 --quiet {rest}"
    ))
}

/// Delivered, shed, disconnected, unexplained, duplicate, of expected.
fn books(report: &Report) -> [u64; 6] {
    let counts = [
        report.delivered,
        report.declared_shed,
        report.disconnected,
        report.unexplained,
        report.duplicate,
        report.expected,
    ];
    counts.map(|count| count.expect("a room has them all"))
}

#[test]
fn every_message_of_a_paced_run_is_delivered() {
    for transport in ["tcp", "ws"] {
        let report = room(stub::start(Mischief::None), transport, "--rate 200 --secs 0.5");
        assert!((118..=121).contains(&report.offered.unwrap()), "{report:?}");
        assert_eq!(report.published, report.admitted, "{transport}");
        let expected = report.admitted.unwrap() * 10;
        assert_eq!(books(&report), [expected, 0, 0, 0, 0, expected], "{transport}");
        assert!(report.latency_us.is_some() && report.send_lag_us.is_some());
        assert_eq!((report.connected, report.lost), (Some(10), Some(0)));
        assert!(!report.faulty());
    }
}

#[test]
fn an_unpaced_run_is_bounded_by_its_window_and_loses_nothing() {
    let report = room(stub::start(Mischief::None), "tcp", "--rate 0 --secs 0.3 --window 64");
    let [delivered, .., expected] = books(&report);
    assert!(delivered > 1000 && delivered == expected, "{report:?}");
    assert!(report.deliveries_per_s.unwrap() > 1000.0);
}

#[test]
fn what_is_missing_is_found() {
    let third = |report: &Report| report.admitted.unwrap() / 3;
    let report = room(stub::start(Mischief::Skip), "tcp", "--rate 100 --secs 0.2");
    let [_, shed, gone, unexplained, ..] = books(&report);
    // The last messages may be missing too: then only the drain tells.
    assert_eq!([shed, gone, unexplained], [0, 0, third(&report)]);
    assert!(report.faulty());

    let report = room(stub::start(Mischief::Shed), "ws", "--rate 100 --secs 0.2");
    let [_, shed, gone, unexplained, ..] = books(&report);
    assert_eq!([shed, gone, unexplained], [third(&report), 0, 0]);
    assert!(!report.faulty());

    let report = room(stub::start(Mischief::Twice), "tcp", "--rate 100 --secs 0.2");
    let [delivered, .., duplicate, expected] = books(&report);
    assert_eq!((delivered, duplicate), (expected, third(&report)));
    assert!(report.faulty());
}

#[test]
fn who_is_cut_off_is_counted_as_such() {
    let report = room(stub::start(Mischief::HangUp), "tcp", "--rate 100 --secs 0.2");
    let [delivered, _, gone, unexplained, _, expected] = books(&report);
    assert_eq!((report.lost, unexplained), (Some(1), 0));
    assert_eq!(gone, report.admitted.unwrap() - 2, "the third message cuts");
    assert_eq!(delivered + gone, expected);
    assert!(report.invalid_reasons[0].contains("1 connections ended"), "{report:?}");
}

#[test]
fn connections_are_held_and_pinged_and_hear_the_broadcast() {
    for transport in ["tcp", "ws"] {
        let Stub { tcp, ws, upstream } = stub::start(Mischief::None);
        let target = if transport == "tcp" { tcp } else { ws };
        let pid = std::process::id();
        // The spread rooms are 5 and 6, so that the one of all clients is 7.
        let report = run(&format!(
            "connect --{transport} {target} --count 100 --rooms 2 --room 5 --hold 2.5 --quiet \
             --then-broadcast --upstream {upstream} --gateway-pid {pid}"
        ));
        assert_eq!((report.connected, report.lost), (Some(100), Some(0)), "{report:?}");
        assert_eq!(report.unexplained, Some(0), "{report:?}");
        assert!(report.delivered == Some(100) && report.broadcast_ms.is_some());
        assert!(report.valid, "{report:?}");
        assert!(report.connects_per_s.unwrap() > 10.0);
        assert!(report.rss_bytes_per_conn.is_some() && report.system_bytes_per_conn.is_some());
    }
}

#[test]
fn what_is_limited_is_counted_and_nothing_is_missing() {
    let options = format!("--rate 200 --secs 0.2 --category {CATEGORY_LIMITED}");
    let report = room(stub::start(Mischief::None), "tcp", &options);
    let (published, limited) = (report.published.unwrap(), report.limited.unwrap());
    assert!(limited > 10 && limited == published / 2, "{report:?}");
    let expected = (published - limited) * 10;
    assert_eq!(books(&report), [expected, 0, 0, 0, 0, expected]);
    assert_eq!(report.refused.as_ref().unwrap()["Limited"], limited);
    assert!(!report.invalid_reasons.iter().any(|reason| reason.contains("refused")), "{report:?}");
}

#[test]
fn a_category_that_is_not_there_is_named() {
    let options = format!("--rate 100 --secs 0.1 --category {CATEGORY_UNKNOWN}");
    let report = room(stub::start(Mischief::None), "tcp", &options);
    assert_eq!((report.limited, report.admitted), (Some(0), Some(0)));
    let said = report.invalid_reasons.join("; ");
    assert!(said.contains("no category 99"), "{said}");
}

#[test]
fn several_rooms_are_accounted_for_each() {
    for options in ["--rate 200 --secs 0.3 --ack stored", "--rate 0 --secs 0.2 --window 64"] {
        let report = room(stub::start(Mischief::None), "tcp", &format!("--rooms 3 {options}"));
        // Ten members in three rooms: four, three and three.
        let [delivered, _, _, unexplained, _, expected] = books(&report);
        let admitted = report.admitted.unwrap();
        assert!(admitted > 50 && delivered == expected && unexplained == 0, "{report:?}");
        assert!((admitted * 3..admitted * 4).contains(&expected), "{report:?}");
        assert!(report.answer_us.is_some() && report.admitted_per_s.unwrap() > 10.0);
    }
}

#[test]
fn clients_join_many_rooms_and_leave_them() {
    for transport in ["tcp", "ws"] {
        let Stub { tcp, ws, .. } = stub::start(Mischief::None);
        let target = if transport == "tcp" { tcp } else { ws };
        let pid = std::process::id();
        let report = run(&format!(
            "connect --{transport} {target} --count 30 --rooms-per-client 7 --hold 0.2 --quiet \
             --gateway-pid {pid}"
        ));
        assert_eq!((report.rooms_joined, report.rooms_left), (Some(210), Some(210)));
        assert_eq!((report.rooms_failed, report.lost), (Some(0), Some(0)), "{report:?}");
        assert!(report.rss_bytes_per_room.is_some() && report.joins_per_s.unwrap() > 10.0);
        assert!(report.valid, "{report:?}");
    }
}

fn storm(mischief: Mischief, rest: &str) -> Report {
    let Stub { tcp, upstream, .. } = stub::start(mischief);
    run(&format!(
        "storm --tcp {tcp} --upstream {upstream} --rooms 2 --members 4 --senders 3 --size 32 \
         --taps 50 --burst-secs 0.2 --pause-secs 0.05 --gifts 2 --bar-rate 20 --chat-rate 20 \
         --secs 0.5 --settle-secs 0.2 --quiet {rest}"
    ))
}

#[test]
fn every_gift_of_a_storm_counts_whether_it_is_merged_or_not() {
    for (options, merged) in [("", true), ("--no-merge", false)] {
        let report = storm(Mischief::None, options);
        let storm = report.storm.as_ref().unwrap();
        assert_eq!((storm.rooms.len(), storm.checked, storm.wrong()), (4, 4, 0), "{storm:?}");
        assert!(storm.taps_counted > 50 && storm.taps_counted == storm.taps_let_in, "{storm:?}");
        assert_eq!(storm.taps.ok + storm.taps.merged, storm.taps_let_in);
        assert_eq!(storm.taps.merged > 0, merged);
        assert_eq!((storm.combos_out > 0, storm.states_out > 0), (merged, merged));
        assert_eq!(storm.messages_out + storm.combos_out + storm.states_out, storm.frames_out);
        assert_eq!(storm.frames_out < storm.messages_in, merged);
        assert!(storm.bytes_out > 1000, "{storm:?}");
        // One more message of each room ends its books.
        assert_eq!(report.expected, Some((storm.frames_out + 4) * 4));
        assert_eq!((report.delivered, report.unexplained), (report.expected, Some(0)));
        assert!(!report.faulty() && report.latency_us.is_some());
    }
}

#[test]
fn a_storm_that_is_told_wrong_is_a_fault() {
    let report = storm(Mischief::Miscount, "");
    let counted = report.storm.as_ref().unwrap();
    assert_eq!((counted.totals_wrong, counted.states_wrong), (4, 0), "{counted:?}");
    assert!(report.faulty());
    let report = storm(Mischief::Stale, "");
    let counted = report.storm.as_ref().unwrap();
    assert_eq!((counted.totals_wrong, counted.states_wrong), (0, 4), "{counted:?}");
    assert!(report.faulty());
    // What was shed, and said to be, says nothing about totals.
    let report = storm(Mischief::Shed, "");
    let counted = report.storm.as_ref().unwrap();
    assert_eq!((counted.checked, counted.wrong()), (0, 0), "{counted:?}");
    assert!(!report.faulty() && report.declared_shed > Some(0));
}

#[test]
fn uplinks_come_back() {
    let Stub { tcp, upstream, .. } = stub::start(Mischief::None);
    let report = run(&format!(
        "uplink --tcp {tcp} --upstream {upstream} --clients 5 --size 32 --secs 0.3 --warmup 0.1 \
         --window 3 --quiet"
    ));
    assert!(report.delivered.unwrap() > 50, "{report:?}");
    assert_eq!(report.delivered, report.expected);
    assert_eq!(report.unexplained, Some(0));
    assert!(report.latency_us.is_some());
}

#[test]
fn limit_counts_what_it_sends() {
    let report = run("limit --members 20 --size 128 --secs 0.2 --quiet");
    assert!(report.delivered.unwrap() > 1000, "{report:?}");
    assert_eq!((report.delivered, report.unexplained), (report.expected, Some(0)));
    assert!(report.deliveries_per_gateway_cpu_s.unwrap() > 10_000.0);
}

fn program(line: &str) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_barrage-loadgen"))
        .args(line.split_whitespace())
        .output()
        .expect("the program runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn the_program_says_how_it_went() {
    let Stub { tcp, upstream, .. } = stub::start(Mischief::Skip);
    let target = format!("--tcp {tcp} --upstream {upstream} --room {ROOM}");
    let load = "--members 2 --rate 50 --size 16 --secs 0.1 --warmup 0 --json --quiet";
    let (code, stdout, stderr) = program(&format!("room {target} {load}"));
    assert_eq!((code, stderr.as_str()), (Some(3), ""));
    assert_eq!(stdout.lines().count(), 1, "exactly one JSON object");
    let value: serde_json::Value = serde_json::from_str(&stdout).expect("JSON");
    assert!(value["unexplained"].as_u64() > Some(0), "{stdout}");

    let (code, _, stderr) =
        program(&format!("room --tcp 127.0.0.1:1 --upstream {upstream} {load}"));
    assert_eq!(code, Some(6));
    assert!(stderr.contains("Is the gateway running on 127.0.0.1:1?"), "{stderr}");

    let (code, _, stderr) = program(&format!("room --tcp {tcp} --upstream 127.0.0.1:1 {load}"));
    assert_eq!(code, Some(6));
    assert!(stderr.contains("is the gateway running on 127.0.0.1:1?"), "{stderr}");

    let (code, _, stderr) = program("limit --members 9999999 --size 16 --secs 1");
    assert_eq!((code, stderr.contains("--members")), (Some(2), true), "{stderr}");
}
