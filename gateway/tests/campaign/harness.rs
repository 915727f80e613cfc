//! The generator in this process, the gateway in another, and a proxy between them.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use barrage_loadgen::cli::Cli;
use barrage_loadgen::exit::{Ended, Exit, TargetLost};
use barrage_loadgen::faults::counts::Counts;
use barrage_loadgen::faults::{self, Config, Faults, Handle};
use clap::Parser;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::common::{Gateway, SOON};

/// One campaign at a time: two that share the cores would spoil each other's figures.
static TURN: Mutex<()> = Mutex::new(());

/// Waits for the turn to use the machine.
pub fn turn() -> MutexGuard<'static, ()> {
    // Whoever panicked in its turn has left nothing behind that matters.
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A gateway with a proxy in front of its TCP listener, and the turn to use the machine.
pub struct Course {
    pub gateway: Gateway,
    pub proxy: Handle,
    _turn: MutexGuard<'static, ()>,
}

impl Course {
    /// With these faults.
    pub fn new(faults: Faults) -> Self {
        Self::with(faults, &[])
    }

    /// The same, on a gateway with options.
    pub fn with(faults: Faults, options: &[&str]) -> Self {
        let turn = turn();
        let gateway = Gateway::start("0", options);
        let listen = "127.0.0.1:0".parse().expect("an address");
        let config = Config { listen, to: gateway.tcp, faults, seed: 1 };
        let proxy = faults::spawn(config).expect("a free port");
        Self { gateway, proxy, _turn: turn }
    }

    /// `room` through the proxy, with `members` and options; what it told, and what was injected.
    pub fn room(self, members: u32, options: &str) -> (Outcome, Counts) {
        let line = format!(
            "room --tcp {} --upstream {} --members {members} --size 64 --warmup 0.1 --json --quiet \
             {options}",
            self.proxy.address, self.gateway.upstream
        );
        let outcome = generator(&line);
        (outcome, self.proxy.stop().expect("the proxy ends in order"))
    }
}

/// What a command has come to.
#[derive(Debug)]
pub struct Outcome {
    pub exit: Exit,
    /// What it said in JSON; null when it ended by an error.
    pub told: Value,
    /// The error that it ended by.
    pub error: String,
}

impl Outcome {
    /// A number, by its path.
    pub fn number(&self, path: &str) -> f64 {
        let value = path.split('.').fold(&self.told, |value, key| &value[key]);
        value.as_f64().unwrap_or_else(|| panic!("{path} is {value} in {self:?}"))
    }

    /// A count, by its path.
    pub fn count(&self, path: &str) -> u64 {
        self.number(path) as u64
    }

    pub fn assert_exit(&self, exit: Exit) {
        assert_eq!(self.exit, exit, "{:#} {}", self.told, self.error);
    }
}

/// Runs a command of the generator in this process.
pub fn generator(line: &str) -> Outcome {
    generator_until(line, &Arc::new(AtomicBool::new(false)))
}

/// The same, until it is told to stop.
pub fn generator_until(line: &str, stop: &Arc<AtomicBool>) -> Outcome {
    let words = std::iter::once("barrage-loadgen").chain(line.split_whitespace());
    let command = Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{line}: {error}"));
    match barrage_loadgen::execute(&command.command, stop) {
        Ok(Ended { text, exit }) => {
            let told = serde_json::from_str(&text).unwrap_or(Value::String(text));
            Outcome { exit, told, error: String::new() }
        }
        Err(error) => {
            let exit = match error.downcast_ref::<TargetLost>() {
                Some(_) => Exit::TargetLost,
                None => Exit::Usage,
            };
            Outcome { exit, told: Value::Null, error: format!("{error:#}") }
        }
    }
}

/// Nanoseconds.
pub fn ns(time: Duration) -> u64 {
    time.as_nanos() as u64
}

/// Stops the gateway's process for a while, as soon as it has published so many messages.
pub fn pause_after(gateway: &Gateway, published: u64, time: Duration) {
    until_counted(gateway, "published_total", published);
    let pid = Pid::from_raw(gateway.pid() as i32).expect("it is a process");
    kill_process(pid, Signal::STOP).expect("the gateway runs");
    // Each thread stops when it comes to hear of it, and the pause is as long as that of the last.
    let until = Instant::now() + SOON;
    while !stopped(gateway.pid()) {
        assert!(Instant::now() < until, "the gateway does not stop");
        std::thread::yield_now();
    }
    std::thread::sleep(time);
    kill_process(pid, Signal::CONT).expect("the gateway is there");
}

/// Waits until the gateway has counted so many of something, over all cores.
pub fn until_counted(gateway: &Gateway, name: &str, least: u64) {
    let until = Instant::now() + SOON;
    let name = format!("barrage_{name}{{");
    loop {
        let page = gateway.page("/metrics").map(|(_, text)| text).unwrap_or_default();
        let lines = page.lines().filter(|line| line.starts_with(&name));
        let counts = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
        let count: u64 = counts.sum();
        if count >= least {
            return;
        }
        assert!(Instant::now() < until, "{name} stays {count}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether every thread of a process is stopped by a signal.
fn stopped(pid: u32) -> bool {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it is there");
    tasks.flatten().all(|task| {
        let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        // The state follows the name, which is in brackets and may have any character in it.
        stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'))
    })
}
