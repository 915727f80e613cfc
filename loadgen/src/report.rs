//! What a run has found, for machines and for people.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use crate::cli::Reporting;
use crate::exit::{Ended, Exit};
use crate::latency::Summary;
use crate::storm::StormReport;

/// Everything there is to say about a run. What does not apply is null.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// `room`, `connect`, `uplink`, `storm` or `limit`.
    pub command: &'static str,
    /// `tcp` or `ws`.
    pub transport: Option<&'static str>,
    /// Members, clients or connections that were asked for.
    pub members: u64,
    /// Messages or connections a second that were asked for; 0: as fast as it goes.
    pub rate: Option<f64>,
    /// Bytes of a payload.
    pub size: Option<usize>,
    /// Seconds measured or held.
    pub secs: f64,

    /// Messages due by the schedule, warm-up included, as in all counts down to `reordered`.
    pub offered: Option<u64>,
    /// Messages sent.
    pub published: Option<u64>,
    /// Messages that got a sequence number.
    pub admitted: Option<u64>,
    /// Messages that were answered `Limited`: more than the gateway's policy allows.
    pub limited: Option<u64>,
    /// Every message that the gateway refused, by the code of the reply.
    pub refused: Option<BTreeMap<String, u64>>,
    /// Deliveries that there should be.
    pub expected: Option<u64>,
    /// Deliveries.
    pub delivered: Option<u64>,
    /// Left out, and the receiver was told.
    pub declared_shed: Option<u64>,
    /// Left out by a RESET; not said when there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub declared_reset: Option<u64>,
    /// Missed by receivers whose connection had ended.
    pub disconnected: Option<u64>,
    /// Missing without a word.
    pub unexplained: Option<u64>,
    /// Came twice.
    pub duplicate: Option<u64>,
    /// Came after a later one.
    pub reordered: Option<u64>,
    /// Declared as left out and yet not missing.
    pub over_declared: Option<u64>,
    /// RESETs received.
    pub resets: Option<u64>,

    /// Deliveries in a second of the measured time.
    pub deliveries_per_s: Option<f64>,
    /// Sends that the gateway made in a second of it.
    pub sends_per_s: Option<f64>,
    /// From the intended time of sending.
    pub latency_us: Option<Summary>,
    /// From the actual time of sending.
    pub uncorrected_latency_us: Option<Summary>,
    /// Messages that got a sequence number in a second of the measured time.
    pub admitted_per_s: Option<f64>,
    /// From the intended time of sending to the gateway's answer.
    pub answer_us: Option<Summary>,
    /// Actual minus intended time of sending.
    pub send_lag_us: Option<Summary>,
    /// Processor seconds of the gateway in the measured time (for `connect`: in the ramp).
    pub gateway_cpu_s: Option<f64>,
    /// Deliveries per processor second of the gateway.
    pub deliveries_per_gateway_cpu_s: Option<f64>,
    /// Share of its core that the generator's network thread used.
    pub loadgen_cpu_pct: Option<f64>,

    /// Clients that got ready.
    pub connected: Option<u64>,
    /// Clients that did not.
    pub failed: Option<u64>,
    /// Clients whose connection ended later.
    pub lost: Option<u64>,
    /// Why connections ended, or never were.
    pub faults: BTreeMap<String, u64>,
    /// Seconds until every client was ready.
    pub ramp_s: Option<f64>,
    /// Clients that got ready in a second.
    pub connects_per_s: Option<f64>,
    /// Growth of the gateway's resident memory per connection.
    pub rss_bytes_per_conn: Option<f64>,
    /// Loss of available memory per connection: both processes and the kernel, both ends.
    pub system_bytes_per_conn: Option<f64>,
    /// Growth of our own resident memory per connection.
    pub own_rss_bytes_per_conn: Option<f64>,
    /// From the broadcast's sending to its last delivery.
    pub broadcast_ms: Option<f64>,

    /// Rooms that clients have joined after the ramp, each counted once for every client.
    pub rooms_joined: Option<u64>,
    /// Rooms that they have left again.
    pub rooms_left: Option<u64>,
    /// Joins and leaves that were refused or never answered.
    pub rooms_failed: Option<u64>,
    /// Joins in a second.
    pub joins_per_s: Option<f64>,
    /// Growth of the gateway's resident memory per room joined.
    pub rss_bytes_per_room: Option<f64>,

    /// What `storm` has found beside that.
    pub storm: Option<StormReport>,

    /// Whether the figures can be trusted.
    pub valid: bool,
    /// Why not.
    pub invalid_reasons: Vec<String>,
}

impl Report {
    /// Messages that are missing without explanation, came twice or out of order.
    pub fn faulty(&self) -> bool {
        let wrong = self.storm.as_ref().map(StormReport::wrong);
        let counts = [self.unexplained, self.duplicate, self.reordered, wrong];
        counts.into_iter().flatten().any(|n| n > 0)
    }

    /// What the process says when it ends.
    pub fn exit(&self) -> Exit {
        match (self.faulty(), self.valid) {
            (true, _) => Exit::Faulty,
            (false, false) => Exit::Invalid,
            (false, true) => Exit::Pass,
        }
    }

    /// What is printed at the end.
    pub fn ended(&self, reporting: Reporting) -> Ended {
        let text = if reporting.json { self.json() + "\n" } else { self.summary() };
        Ended { text, exit: self.exit() }
    }

    /// One line of JSON.
    pub fn json(&self) -> String {
        serde_json::to_string(self).expect("a report has nothing that JSON cannot say")
    }

    /// Lines for people.
    pub fn summary(&self) -> String {
        let mut lines = Lines::default();
        self.head(&mut lines);
        if let Some(storm) = &self.storm {
            storm.put(&mut lines);
        }
        self.messages(&mut lines);
        self.speed(&mut lines);
        self.connections(&mut lines);
        for (why, count) in &self.faults {
            lines.put("ended", format!("{} × {why}", grouped(*count as f64)));
        }
        match self.valid {
            true => lines.put("valid", "yes".to_owned()),
            false => lines.put("valid", "NO".to_owned()),
        }
        for reason in &self.invalid_reasons {
            lines.put("", format!("- {reason}"));
        }
        lines.0
    }

    fn head(&self, lines: &mut Lines) {
        let mut what = format!("{} clients", grouped(self.members as f64));
        if let Some(transport) = self.transport {
            what += &format!(" over {transport}");
        }
        if let Some(size) = self.size {
            what += &format!(", {size} B");
        }
        match self.rate {
            Some(0.0) => what += ", as fast as it goes",
            Some(rate) => what += &format!(", {}/s", grouped(rate)),
            None => {}
        }
        lines.put(self.command, format!("{what}, {} s", self.secs));
    }

    fn messages(&self, lines: &mut Lines) {
        lines.count("offered", self.offered);
        lines.count("published", self.published);
        lines.count("admitted", self.admitted);
        lines.some("limited", self.limited);
        let refused = self.refused.as_ref().map(|refused| refused.values().sum());
        lines.some("refused", refused);
        for (code, count) in self.refused.iter().flatten() {
            lines.put("", format!("{} × {code}", grouped(*count as f64)));
        }
        lines.count("expected", self.expected);
        lines.count("delivered", self.delivered);
        lines.some("declared shed", self.declared_shed);
        lines.some("declared by reset", self.declared_reset);
        lines.some("disconnected", self.disconnected);
        lines.count("unexplained", self.unexplained);
        lines.some("duplicate", self.duplicate);
        lines.some("reordered", self.reordered);
        lines.some("over-declared", self.over_declared);
        lines.some("resets", self.resets);
    }

    fn speed(&self, lines: &mut Lines) {
        lines.rate("deliveries", self.deliveries_per_s, "/s");
        lines.rate("sends", self.sends_per_s, "/s");
        lines.times("latency", self.latency_us);
        lines.times("uncorrected", self.uncorrected_latency_us);
        lines.times("send lag", self.send_lag_us);
        lines.rate("admitted", self.admitted_per_s, "/s");
        lines.times("answers", self.answer_us);
        let (cpu, per_core) = match self.command {
            "limit" => ("sender CPU", "per sender core"),
            _ => ("gateway CPU", "per gateway core"),
        };
        if let Some(cpu_s) = self.gateway_cpu_s {
            lines.put(cpu, format!("{cpu_s:.2} s"));
        }
        lines.rate(per_core, self.deliveries_per_gateway_cpu_s, " deliveries/s");
        if let Some(percent) = self.loadgen_cpu_pct {
            lines.put("generator CPU", format!("{percent:.1} % of its core"));
        }
    }

    fn connections(&self, lines: &mut Lines) {
        lines.count("connected", self.connected);
        lines.some("failed", self.failed);
        lines.some("lost", self.lost);
        if let Some(ramp_s) = self.ramp_s {
            lines.put("ramp", format!("{ramp_s:.2} s"));
        }
        lines.rate("connects", self.connects_per_s, "/s");
        lines.rate("gateway memory", self.rss_bytes_per_conn, " B per connection");
        lines.rate("system memory", self.system_bytes_per_conn, " B per connection");
        lines.rate("own memory", self.own_rss_bytes_per_conn, " B per connection");
        if let Some(ms) = self.broadcast_ms {
            lines.put("broadcast", format!("{ms:.1} ms to the last delivery"));
        }
        lines.count("rooms joined", self.rooms_joined);
        lines.count("rooms left", self.rooms_left);
        lines.some("rooms failed", self.rooms_failed);
        lines.rate("joins", self.joins_per_s, "/s");
        lines.rate("room memory", self.rss_bytes_per_room, " B per room");
    }
}

/// The codes of replies as a report has them.
pub fn by_code(refused: &BTreeMap<&'static str, u64>) -> BTreeMap<String, u64> {
    refused.iter().map(|(code, count)| ((*code).to_owned(), *count)).collect()
}

/// Aligned lines.
#[derive(Default)]
pub struct Lines(String);

impl Lines {
    /// A name and what is known about it.
    pub fn put(&mut self, name: &str, value: String) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "{name:<18}{value}");
    }

    fn count(&mut self, name: &str, count: Option<u64>) {
        if let Some(count) = count {
            self.put(name, grouped(count as f64));
        }
    }

    /// A count that is of interest when it is not zero.
    fn some(&mut self, name: &str, count: Option<u64>) {
        self.count(name, count.filter(|&count| count > 0));
    }

    fn rate(&mut self, name: &str, rate: Option<f64>, unit: &str) {
        if let Some(rate) = rate {
            self.put(name, format!("{}{unit}", grouped(rate)));
        }
    }

    fn times(&mut self, name: &str, times: Option<Summary>) {
        if let Some(Summary { p50, p90, p99, p999, max }) = times {
            let all = [("p50", p50), ("p90", p90), ("p99", p99), ("p99.9", p999), ("max", max)];
            let all = all.map(|(name, us)| format!("{name} {}", duration(us)));
            self.put(name, all.join("  "));
        }
    }
}

fn duration(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..10_000 => format!("{:.2} ms", us as f64 / 1e3),
        10_000..1_000_000 => format!("{:.1} ms", us as f64 / 1e3),
        1_000_000.. => format!("{:.2} s", us as f64 / 1e6),
    }
}

/// A number with its thousands apart.
pub fn grouped(number: f64) -> String {
    let digits = format!("{:.0}", number.abs());
    let mut text = if number <= -0.5 { "-".to_owned() } else { String::new() };
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_every_key_that_scripts_rely_on() {
        let value: serde_json::Value =
            serde_json::from_str(&Report::default().json()).expect("JSON");
        let keys = "offered published expected delivered declared_shed disconnected unexplained \
                    duplicate reordered deliveries_per_s sends_per_s latency_us gateway_cpu_s \
                    deliveries_per_gateway_cpu_s loadgen_cpu_pct connects_per_s \
                    rss_bytes_per_conn system_bytes_per_conn valid invalid_reasons command \
                    members rate size secs transport send_lag_us limited uncorrected_latency_us \
                    broadcast_ms connected lost refused answer_us admitted_per_s rooms_joined \
                    rss_bytes_per_room storm";
        for key in keys.split_whitespace() {
            assert!(value.get(key).is_some(), "{key} is missing");
        }
        assert!(value["latency_us"].is_null(), "what does not apply is null");
        let with = Report { latency_us: Some(Summary::default()), ..Report::default() };
        let value: serde_json::Value = serde_json::from_str(&with.json()).expect("JSON");
        for key in ["p50", "p90", "p99", "p999", "max"] {
            assert!(value["latency_us"][key].is_u64(), "{key} is missing");
        }
    }

    #[test]
    fn the_exit_code_tells_faults_from_invalid_runs() {
        let code = |unexplained, reordered, valid| {
            let report = Report {
                unexplained: Some(unexplained),
                reordered: Some(reordered),
                valid,
                ..Report::default()
            };
            report.exit().code()
        };
        assert_eq!(code(0, 0, true), 0);
        assert_eq!(code(0, 0, false), 4);
        assert_eq!(code(1, 0, false), 3);
        assert_eq!(code(0, 1, true), 3);
    }

    #[test]
    fn numbers_are_readable() {
        let all = [0.0, 999.4, 1000.0, 1_234_567.0, -1500.0].map(grouped);
        assert_eq!(all, ["0", "999", "1,000", "1,234,567", "-1,500"]);
        assert_eq!(
            [999, 1500, 20_000, 3_000_000].map(duration),
            ["999 µs", "1.50 ms", "20.0 ms", "3.00 s"]
        );
    }

    #[test]
    fn a_summary_is_aligned_and_says_what_is_wrong() {
        let report = Report {
            command: "room",
            members: 2000,
            unexplained: Some(0),
            invalid_reasons: vec!["because".to_owned()],
            ..Report::default()
        };
        let summary = report.summary();
        assert!(summary.starts_with("room              2,000 clients, 0 s\n"), "{summary}");
        assert!(summary.ends_with("valid             NO\n                  - because\n"));
    }
}
