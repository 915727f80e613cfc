//! `replay`: publishes a capture again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, bail};
use barrage_wire::GatewayFrame;
use barrage_wire::upstream::AckMode;
use clap::Args;
use serde::Serialize;

use crate::capture::file::Reader;
use crate::capture::scan::{Publish, Scan, To};
use crate::clock::{SECOND_NS, now_ns, run_promptly, sleep_precisely, until};
use crate::exit::{Ended, Exit, TargetLost};
use crate::latency::{Latencies, Summary};
use crate::random::mix;
use crate::report::grouped;
use crate::requests::Requests;
use crate::upstream::{Upstream, UpstreamAddress};
use crate::verdict::LAG_P99_US_MAX;

/// Bytes that may wait for the gateway to read.
const UNSENT_BYTES_MAX: usize = 256 * 1024;
/// Publishes that are handed to the socket at once.
const BATCH_MAX: u32 = 64;
/// The longest sleep.
const NAP: Duration = Duration::from_millis(5);
/// How long answers are waited for after the last publish.
const ANSWERS_MAX_NS: u64 = 10 * SECOND_NS;
/// How long it is from the start to the first publish.
const LEAD_NS: u64 = SECOND_NS / 50;

/// `replay`.
///
/// Publishes go out in their order over one connection, each at its time. Request numbers are new.
/// An idempotency key is changed in the same way wherever it stands, so that a repeat in the capture
/// is a repeat again, and yet nothing is taken for a repeat of what was captured. A publish that
/// asked for no answer asks for one now, so that all can be summed up. What else services said
/// (subscriptions, kicks, mutes, bans, uplink replies) is not said again. From a client's capture,
/// the messages that it got are published to their rooms.
#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// The capture.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The gateway's upstream listener, HOST:PORT or unix:PATH.
    #[arg(long, value_name = "ADDR", value_parser = UpstreamAddress::parse)]
    pub upstream: UpstreamAddress,
    /// How fast, against the capture: 1 is as it was, 2 twice as fast, max as fast as the gateway
    /// takes it.
    #[arg(long, value_name = "X", default_value = "1", value_parser = Speed::parse)]
    pub speed: Speed,
    /// Added to every room's id.
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    pub rooms_offset: i64,
    /// The tenant.
    #[arg(long, default_value_t = 1)]
    pub app: u32,
    /// Leaves idempotency keys as they are: what the gateway knows already is answered Duplicate.
    #[arg(long)]
    pub keep_keys: bool,
    /// Missed, with exit code 1, when the answers are not as many of each code as in the capture.
    #[arg(long)]
    pub expect_same: bool,
    /// One JSON object on stdout instead of lines for people.
    #[arg(long)]
    pub json: bool,
}

/// How fast a capture is replayed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Speed {
    /// So many times as fast as it was.
    Times(f64),
    /// As fast as it goes.
    Max,
}

impl Speed {
    fn parse(text: &str) -> Result<Self, String> {
        if text == "max" {
            return Ok(Self::Max);
        }
        let times = text.parse().ok().filter(|times| (0.001..=1000.0).contains(times));
        times.map(Self::Times).ok_or_else(|| "give 0.001 to 1000, or max".to_owned())
    }

    /// When something that was at `at_ns` is to be, when what was at `first_ns` is at `start_ns`.
    fn intended_ns(self, at_ns: u64, first_ns: u64, start_ns: u64) -> Option<u64> {
        match self {
            Self::Times(times) => {
                Some(start_ns + (at_ns.saturating_sub(first_ns) as f64 / times) as u64)
            }
            Self::Max => None,
        }
    }
}

/// What came of a replay.
#[derive(Debug, Default, Serialize)]
struct Outcome {
    command: &'static str,
    file: PathBuf,
    /// Publishes of the capture.
    captured: u64,
    /// Answers in the capture, by code.
    captured_answers: BTreeMap<&'static str, u64>,
    /// Publishes of the capture that asked for no answer.
    captured_silent: u64,
    /// Seconds from its first publish to its last.
    captured_secs: f64,
    /// Records that the capture lacks.
    captured_missed: u64,
    published: u64,
    answers: BTreeMap<&'static str, u64>,
    unanswered: u64,
    secs: f64,
    publishes_per_s: f64,
    send_lag_us: Option<Summary>,
    answer_us: Option<Summary>,
    /// Whether there are as many answers of each code as in the capture; null when it has none.
    same_answers: Option<bool>,
    valid: bool,
    invalid_reasons: Vec<String>,
    #[serde(skip)]
    lost: Option<String>,
}

/// Runs the command.
pub fn run(args: &ReplayArgs, stop: &Arc<AtomicBool>) -> Result<Ended> {
    // All of it is read first: a capture that is damaged is not said by half.
    let scan = scan_all(&args.file)?;
    let Some((first_ns, last_ns)) = scan.published_ns else {
        bail!("{}: nothing was published in it", args.file.display());
    };
    let upstream = Upstream::connect(&args.upstream, args.app)
        .map_err(|error| anyhow!(TargetLost(format!("{error:#}"))))?;
    sleep_precisely();
    run_promptly(matches!(args.speed, Speed::Times(_)));
    let replay = Replay {
        args,
        upstream,
        requests: Requests::default(),
        salt: salt(),
        answers: BTreeMap::new(),
        lag: Latencies::default(),
        answer: Latencies::default(),
        published: 0,
        unflushed: 0,
    };
    let mut outcome = replay.run(first_ns, stop)?;
    outcome.command = "replay";
    outcome.file.clone_from(&args.file);
    outcome.captured = scan.publishes;
    outcome.captured_silent = scan.silent;
    outcome.captured_secs = last_ns.saturating_sub(first_ns) as f64 / SECOND_NS as f64;
    outcome.captured_missed = scan.missed;
    outcome.same_answers = same(&scan, &outcome);
    outcome.captured_answers = scan.answers;
    judge(&mut outcome, args.speed, stop.load(Ordering::Relaxed));
    let exit = exit(&outcome, args.expect_same);
    let text = if args.json { json(&outcome) } else { summary(&outcome) };
    Ok(Ended { text, exit })
}

fn scan_all(file: &Path) -> Result<Scan> {
    let mut reader = Reader::open(file)?;
    let mut scan = Scan::default();
    while let Some(record) =
        reader.read().with_context(|| format!("cannot replay {}", file.display()))?
    {
        scan.record(&record);
    }
    Ok(scan)
}

/// A publish that asked for no answer got one now, so it is left out of both sides: there is no
/// knowing which it was. So captures with such ones have nothing to compare.
fn same(scan: &Scan, outcome: &Outcome) -> Option<bool> {
    (!scan.answers.is_empty() && scan.silent == 0).then(|| scan.answers == outcome.answers)
}

fn judge(outcome: &mut Outcome, speed: Speed, stopped: bool) {
    let mut reasons = Vec::new();
    if let Some(why) = &outcome.lost {
        reasons.push(format!("publishing ended early: {why}"));
    }
    if stopped {
        reasons.push("the replay was stopped before its time".to_owned());
    }
    if outcome.unanswered > 0 {
        reasons.push(format!("{} publishes were never answered", outcome.unanswered));
    }
    if let (Speed::Times(_), Some(lag)) = (speed, outcome.send_lag_us)
        && lag.p99 > LAG_P99_US_MAX
    {
        let lag = lag.p99;
        reasons.push(format!(
            "publishes were {lag} us late (p99), over {LAG_P99_US_MAX}: the gateway's credits or \
             this machine cannot keep up with this speed"
        ));
    }
    outcome.valid = reasons.is_empty();
    outcome.invalid_reasons = reasons;
}

fn exit(outcome: &Outcome, expect_same: bool) -> Exit {
    match (outcome.lost.is_some(), outcome.valid, outcome.same_answers) {
        (true, ..) => Exit::TargetLost,
        (_, false, _) => Exit::Invalid,
        (_, _, Some(true)) => Exit::Pass,
        // What cannot be compared is not the same.
        (_, _, Some(false) | None) if expect_same => Exit::Missed,
        (..) => Exit::Pass,
    }
}

struct Replay<'a> {
    args: &'a ReplayArgs,
    upstream: Upstream,
    /// When each publish without an answer was to be sent.
    requests: Requests<u64>,
    salt: u128,
    answers: BTreeMap<&'static str, u64>,
    lag: Latencies,
    answer: Latencies,
    published: u64,
    unflushed: u32,
}

impl Replay<'_> {
    fn run(mut self, first_ns: u64, stop: &AtomicBool) -> Result<Outcome> {
        let start_ns = match self.args.speed {
            Speed::Times(_) => now_ns() + LEAD_NS,
            Speed::Max => now_ns(),
        };
        let mut reader = Reader::open(&self.args.file)?;
        let mut scan = Scan::default();
        let mut lost = None;
        while let Some(record) = reader.read()? {
            let Some(publish) = scan.record(&record) else { continue };
            let intended_ns = self.args.speed.intended_ns(publish.at_ns, first_ns, start_ns);
            match self.wait(intended_ns, stop) {
                Ok(true) => self.say(publish, intended_ns)?,
                Ok(false) => break,
                Err(error) => {
                    lost = Some(format!("{error:#}"));
                    break;
                }
            }
        }
        let sent_ns = now_ns();
        if lost.is_none() {
            lost = self.collect(stop).err().map(|error| format!("{error:#}"));
        }
        // As fast as it goes is as fast as the gateway answers.
        let last_ns = match self.args.speed {
            Speed::Times(_) => sent_ns,
            Speed::Max => now_ns(),
        };
        let secs = last_ns.saturating_sub(start_ns).max(1) as f64 / SECOND_NS as f64;
        Ok(Outcome {
            published: self.published,
            unanswered: self.requests.unanswered(),
            answers: self.answers,
            secs,
            publishes_per_s: self.published as f64 / secs,
            send_lag_us: self.lag.summary(),
            answer_us: self.answer.summary(),
            lost,
            ..Outcome::default()
        })
    }

    /// Waits until a publish is due and the gateway takes it; says whether to go on.
    fn wait(&mut self, intended_ns: Option<u64>, stop: &AtomicBool) -> Result<bool> {
        loop {
            if stop.load(Ordering::Relaxed) {
                return Ok(false);
            }
            let left = intended_ns.map_or(Duration::ZERO, until);
            let held = self.requests.unanswered() >= u64::from(self.upstream.credits)
                || self.upstream.unsent_bytes() > UNSENT_BYTES_MAX;
            if left.is_zero() && !held && self.unflushed < BATCH_MAX {
                return Ok(true);
            }
            // Nobody may have said anything for an hour of the capture.
            self.upstream.keep_alive(now_ns());
            self.upstream.flush()?;
            if !left.is_zero() || held {
                self.upstream.wait(if held { NAP } else { left.min(NAP) });
            }
            self.unflushed = 0;
            self.receive()?;
        }
    }

    fn say(&mut self, mut publish: Publish, intended_ns: Option<u64>) -> Result<()> {
        let now_ns = now_ns();
        if let Some(intended_ns) = intended_ns {
            self.lag.record_ns(now_ns.saturating_sub(intended_ns));
        }
        let intended_ns = intended_ns.unwrap_or(now_ns);
        let mut head = publish.head;
        head.request = self.requests.open(intended_ns);
        if head.ack == AckMode::None {
            head.ack = AckMode::Accepted;
        }
        if head.idempotency_key != 0 && !self.args.keep_keys {
            head.idempotency_key = fresh_key(head.idempotency_key, self.salt);
        }
        if let To::Room(room) | To::From(room, ..) = &mut publish.to {
            let moved = room.checked_add_signed(self.args.rooms_offset);
            *room = moved.with_context(|| {
                format!("--rooms-offset {} leaves no id for room {room}", self.args.rooms_offset)
            })?;
        }
        let mut bytes = Vec::new();
        publish.encode(head, &mut bytes);
        self.upstream.say_encoded(&mut bytes);
        self.published += 1;
        self.unflushed += 1;
        Ok(())
    }

    fn receive(&mut self) -> Result<()> {
        let Self { requests, answers, answer, .. } = self;
        let now_ns = now_ns();
        self.upstream.receive(&mut |frame| {
            if let GatewayFrame::Replies { replies, .. } = frame {
                for reply in replies.iter() {
                    if let Some(intended_ns) = requests.close(reply.request) {
                        answer.record_ns(now_ns.saturating_sub(intended_ns));
                        *answers.entry(reply.code.name()).or_default() += 1;
                    }
                }
            }
            Ok(())
        })
    }

    fn collect(&mut self, stop: &AtomicBool) -> Result<()> {
        let until_ns = now_ns() + ANSWERS_MAX_NS;
        loop {
            self.upstream.flush()?;
            if self.requests.unanswered() == 0
                || now_ns() >= until_ns
                || stop.load(Ordering::Relaxed)
            {
                return Ok(());
            }
            self.upstream.wait(NAP);
            self.receive()?;
        }
    }
}

/// Another one for every replay.
fn salt() -> u128 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
    let pid = u64::from(std::process::id());
    (u128::from(mix(now)) << 64) | u128::from(mix(now ^ mix(pid)))
}

/// The same for the same key and salt, another for another, and never 0, which means none.
fn fresh_key(key: u128, salt: u128) -> u128 {
    match key ^ salt {
        0 => salt,
        fresh => fresh,
    }
}

fn json(outcome: &Outcome) -> String {
    serde_json::to_string(outcome).expect("an outcome has nothing that JSON cannot say") + "\n"
}

fn summary(outcome: &Outcome) -> String {
    let mut text = String::new();
    let mut put = |name: &str, value: String| text += &format!("{name:<18}{value}\n");
    let number = |count: u64| grouped(count as f64);
    put("replay", outcome.file.display().to_string());
    let captured = format!("{} in {:.3} s", number(outcome.captured), outcome.captured_secs);
    put("captured", captured);
    if outcome.captured_missed > 0 {
        put("", format!("- {} records are missing in it", number(outcome.captured_missed)));
    }
    let rate = format!("{}/s", grouped(outcome.publishes_per_s));
    put("published", format!("{} in {:.3} s, {rate}", number(outcome.published), outcome.secs));
    let mut codes: Vec<&str> = outcome.answers.keys().copied().collect();
    codes.extend(outcome.captured_answers.keys().filter(|c| !outcome.answers.contains_key(*c)));
    for code in codes {
        let of = |answers: &BTreeMap<&str, u64>| number(answers.get(code).copied().unwrap_or(0));
        let (now, then) = (of(&outcome.answers), of(&outcome.captured_answers));
        put("answered", format!("{now} × {code}, {then} in the capture"));
    }
    let times = |times: Summary| {
        format!("p50 {} µs  p99 {} µs  max {} µs", times.p50, times.p99, times.max)
    };
    if let Some(lag) = outcome.send_lag_us {
        put("send lag", times(lag));
    }
    if let Some(answer) = outcome.answer_us {
        put("answers", times(answer));
    }
    match outcome.same_answers {
        Some(true) => put("compared", "as in the capture".to_owned()),
        Some(false) => put("compared", "NOT as in the capture".to_owned()),
        None => put("compared", "nothing to compare answers with".to_owned()),
    }
    put("valid", if outcome.valid { "yes".to_owned() } else { "NO".to_owned() });
    for reason in &outcome.invalid_reasons {
        put("", format!("- {reason}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_scaled_from_the_first_publish_on() {
        let at = |speed: Speed| speed.intended_ns(3_000, 1_000, 50_000);
        assert_eq!(at(Speed::Times(1.0)), Some(52_000));
        assert_eq!(at(Speed::Times(4.0)), Some(50_500));
        assert_eq!(at(Speed::Times(0.5)), Some(54_000));
        assert_eq!(at(Speed::Max), None);
        assert_eq!(Speed::Times(1.0).intended_ns(500, 1_000, 50_000), Some(50_000));
    }

    #[test]
    fn speeds_are_numbers_or_max() {
        assert_eq!(Speed::parse("max"), Ok(Speed::Max));
        assert_eq!(Speed::parse("2.5"), Ok(Speed::Times(2.5)));
        for wrong in ["0", "-1", "NaN", "fast", "1001"] {
            assert!(Speed::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_key_is_as_new_as_its_salt_and_the_same_for_repeats() {
        assert_eq!(fresh_key(5, 9), fresh_key(5, 9));
        assert_ne!(fresh_key(5, 9), fresh_key(6, 9));
        assert_ne!(fresh_key(5, 9), fresh_key(5, 10));
        assert_ne!(fresh_key(9, 9), 0);
        assert_ne!(salt(), 0);
    }

    #[test]
    fn what_a_replay_says_when_it_ends() {
        let check = |change: &dyn Fn(&mut Outcome), expect_same, code: u8| {
            let same_answers = Some(true);
            let mut outcome = Outcome { valid: true, same_answers, ..Outcome::default() };
            change(&mut outcome);
            judge(&mut outcome, Speed::Times(1.0), false);
            assert_eq!(exit(&outcome, expect_same).code(), code, "{outcome:?}");
        };
        let late = Some(Summary { p99: LAG_P99_US_MAX + 1, ..Summary::default() });
        check(&|_| {}, true, 0);
        check(&|outcome| outcome.same_answers = Some(false), false, 0);
        check(&|outcome| outcome.same_answers = Some(false), true, 1);
        check(&|outcome| outcome.same_answers = None, true, 1);
        check(&|outcome| outcome.unanswered = 1, true, 4);
        check(&|outcome| outcome.send_lag_us = late, false, 4);
        check(&|outcome| outcome.lost = Some("gone".to_owned()), true, 6);
    }
}
