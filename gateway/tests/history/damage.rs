//! A history of which something is gone, though it was stored: nothing of that is silent.

use std::fs;
use std::path::PathBuf;

use crate::common::gateway::run;
use crate::common::{Gateway, TempDir, Via};
use crate::{Brief, OLDEST, Reader, cursor, on_one_and_two, say_numbers};

const ROOM: u64 = 7;
const SAID: u64 = 500;

#[test]
fn a_log_that_was_cut_begins_another_epoch_and_says_what_it_cost() {
    on_one_and_two(|cores| {
        let (data, mut brief) = (TempDir::new("cut"), Brief::default());
        let epoch = say(&data, cores);
        brief.epoch(epoch);
        let log = fs::read(newest_log(&data)).expect("it is there");
        let used = log.iter().rposition(|&byte| byte != 0).expect("something was written");
        fs::write(newest_log(&data), &log[..used / 2]).expect("there is space for less");

        let gateway = Gateway::start_in(&data, cores, &[]);
        let mut upstream = gateway.upstream();
        let (all, end) = upstream.walk(ROOM, OLDEST);
        let left = all.len() as u64;
        assert!((1..SAID).contains(&left), "{left} are left");
        assert!(end.epoch > epoch, "no number is used again");
        let (status, health) = gateway.page("/healthz").expect("it serves");
        assert!(status == 200 && health.contains("damaged"), "{status} {health}");
        let lost = SAID - left;
        assert!(health.contains(&format!("{lost} messages")), "{health}, and {left} are left");
        assert_eq!(gateway.metric("history_lost_messages"), lost);

        say_numbers(&mut upstream, ROOM, 1..=201);
        let mut client = gateway.client(Via::Tcp, 1);
        client.ask_to_join(cursor(ROOM, epoch, SAID - 100));
        brief.check(&mut client, &["joined b at 201", "reset to b from 1 at 201"]);
        let mut client = gateway.client(Via::Tcp, 2);
        client.ask_to_join(cursor(ROOM, end.epoch, 200));
        brief.check(&mut client, &["joined b at 201", "201 201"]);
        gateway.end();

        let gateway = Gateway::start_in(&data, cores, &[]);
        assert_eq!(gateway.page("/healthz").expect("it serves").1, "ok\n", "that was then");
        assert_eq!(gateway.upstream().walk(ROOM, OLDEST).1.epoch, end.epoch);
    });
}

#[test]
fn a_history_that_is_gone_stops_the_start_until_the_operator_has_said_so() {
    let empty: fn(PathBuf) = |log| fs::write(log, "").expect("it is ours");
    let remove: fn(PathBuf) = |log| fs::remove_file(log).expect("it is ours");
    let flip: fn(PathBuf) = |log| {
        let mut bytes = fs::read(&log).expect("it is there");
        bytes[40] ^= 1;
        fs::write(log, bytes).expect("there is space for as much");
    };
    let remove_all: fn(PathBuf) = |log| {
        let engine = log.parent().expect("a log is in a directory");
        fs::remove_dir_all(engine).expect("it is ours");
    };
    for damage in [empty, remove, flip, remove_all] {
        let data = TempDir::new("gone");
        let epoch = say(&data, "0");
        damage(newest_log(&data));
        for _ in 0..2 {
            let (status, _, log) = run(&["--data", data.text(), "--cores", "0"]);
            assert_eq!(status.code(), Some(1), "{log}");
            let says = |word| assert!(log.contains(word), "no {word:?} in {log}");
            says(data.text());
            says("500 messages");
            says("--accept-lost-history");
        }
        let gateway = Gateway::start_in(&data, "0", &["--accept-lost-history"]);
        let (status, health) = gateway.page("/healthz").expect("it serves");
        assert!(status == 200 && health.contains("500 messages"), "{status} {health}");
        assert_eq!(gateway.metric("history_lost_messages"), SAID);
        let mut upstream = gateway.upstream();
        say_numbers(&mut upstream, ROOM, 1..=2);
        let (all, end) = upstream.walk(ROOM, OLDEST);
        assert!(all.len() == 2 && end.epoch > epoch);
        gateway.end();
        assert_eq!(Gateway::start_in(&data, "0", &[]).page("/healthz").expect("ok").1, "ok\n");
    }
}

/// Says so many messages, each answered when it was stored, and ends in order. The room's epoch.
fn say(data: &TempDir, cores: &str) -> u64 {
    let gateway = Gateway::start_in(data, cores, &[]);
    let mut upstream = gateway.upstream();
    for first in (1..=SAID).step_by(10) {
        say_numbers(&mut upstream, ROOM, first..=first + 9);
    }
    let (all, end) = upstream.walk(ROOM, OLDEST);
    assert_eq!(all.len() as u64, SAID);
    gateway.end();
    end.epoch
}

fn newest_log(data: &TempDir) -> PathBuf {
    let entries = fs::read_dir(data.path().join("fjall")).expect("an engine is there");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let logs = paths.filter(|path| path.extension().is_some_and(|end| end == "jnl"));
    logs.max().expect("a log is there")
}
