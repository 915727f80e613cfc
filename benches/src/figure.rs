//! The promised figures: where each is found in the records, and what it should be.

use crate::case::Set;
use crate::record::Record;

/// What a figure should be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    /// This or more, by the median.
    AtLeast(f64),
    /// This or less, by the median.
    AtMost(f64),
    /// This or less in every single repeat.
    Never(f64),
    /// It is of interest, and nothing was promised.
    Open,
}

/// How one record gives a number; none when the record lacks it.
type Extract = fn(&Record) -> Option<f64>;

/// A figure of a set.
#[derive(Clone, Copy, Debug)]
pub struct Figure {
    /// The set that it comes from.
    pub set: Set,
    /// For people.
    pub name: &'static str,
    /// Behind the number.
    pub unit: &'static str,
    /// What it should be.
    pub bound: Bound,
    case: &'static str,
    value: Extract,
    /// What the value is divided by: the same repeat of another case.
    over: Option<(&'static str, Extract)>,
}

impl Figure {
    /// One value for every repeat that has it.
    pub fn values(&self, records: &[Record]) -> Vec<f64> {
        let of_case = |name| {
            records.iter().filter(move |record| record.set == self.set && record.case == name)
        };
        let value = |record: &Record| {
            let value = (self.value)(record)?;
            let Some((case, divisor)) = self.over else { return Some(value) };
            let same_repeat = of_case(case).find(|other| other.repeat == record.repeat)?;
            divisor(same_repeat).filter(|&divisor| divisor > 0.0).map(|divisor| value / divisor)
        };
        of_case(self.case).filter_map(value).filter(|value| value.is_finite()).collect()
    }
}

/// The figures of a set, in the order of the table.
pub fn figures(set: Set) -> Vec<Figure> {
    match set {
        Set::Ceiling => ceiling(),
        Set::Batched => batched(),
        Set::Headline => headline(),
        Set::Policy => policy(),
        Set::Storm => storm(),
        Set::Million => million(),
        Set::Rooms => rooms(),
        Set::Idle => idle(),
        Set::Uplink => uplink(),
        Set::History => history(),
        Set::All => Vec::new(),
    }
}

fn ceiling() -> Vec<Figure> {
    let figure = |name, case, unit, bound, value: Extract, over| Figure {
        set: Set::Ceiling,
        name,
        unit,
        bound,
        case,
        value,
        over,
    };
    vec![
        figure("bare loop, sends per core-second", "limit", "", Bound::Open, per_cpu_s, None),
        figure("gateway, sends per core-second", "gateway", "", Bound::Open, sends_per_cpu_s, None),
        figure(
            "gateway / bare loop, sends per core-second",
            "gateway",
            "",
            Bound::AtLeast(0.90),
            sends_per_cpu_s,
            Some(("limit", per_cpu_s as Extract)),
        ),
        figure(
            "gateway / bare loop, sends per second",
            "gateway",
            "",
            Bound::Open,
            sends_per_s,
            Some(("limit", sends_per_s as Extract)),
        ),
        figure("gateway, unexplained", "gateway", "", Bound::Never(0.0), unexplained, None),
    ]
}

fn batched() -> Vec<Figure> {
    let figure = plain(Set::Batched, "room");
    vec![
        figure("deliveries per gateway core-second", "", Bound::AtLeast(10e6), per_cpu_s),
        figure("deliveries per second", "", Bound::Open, deliveries_per_s),
        figure("p50 of a full window", " ms", Bound::Open, p50_ms),
        figure("unexplained", "", Bound::Never(0.0), unexplained),
    ]
}

fn headline() -> Vec<Figure> {
    let tcp = plain(Set::Headline, "tcp");
    let ws = plain(Set::Headline, "ws");
    let paced = plain(Set::Headline, "paced");
    let ws_over_tcp = |name, value: Extract| Figure {
        over: Some(("tcp", value)),
        ..ws(name, "", Bound::AtMost(1.10), value)
    };
    vec![
        tcp("TCP p50", " ms", Bound::AtMost(10.0), p50_ms),
        tcp("TCP p99", " ms", Bound::AtMost(20.0), p99_ms),
        tcp("TCP gateway CPU", " %", Bound::Open, cpu_pct),
        tcp("TCP unexplained", "", Bound::Never(0.0), unexplained),
        ws("WS p50", " ms", Bound::AtMost(10.0), p50_ms),
        ws("WS p99", " ms", Bound::AtMost(20.0), p99_ms),
        ws("WS gateway CPU", " %", Bound::Open, cpu_pct),
        ws("WS unexplained", "", Bound::Never(0.0), unexplained),
        ws_over_tcp("WS / TCP, p50", p50_ms),
        ws_over_tcp("WS / TCP, p99", p99_ms),
        ws_over_tcp("WS / TCP, gateway CPU", cpu_pct),
        paced("paced p50", " ms", Bound::Open, p50_ms),
        paced("paced p99", " ms", Bound::AtMost(40.0), p99_ms),
        paced("paced gateway CPU", " %", Bound::AtMost(60.0), cpu_pct),
        paced("paced unexplained", "", Bound::Never(0.0), unexplained),
    ]
}

fn policy() -> Vec<Figure> {
    let stream = plain(Set::Policy, "stream");
    let chat = plain(Set::Policy, "chat");
    let all = plain(Set::Policy, "all");
    let over_stream = |figure: Figure| Figure { over: Some(("stream", figure.value)), ..figure };
    let most = Bound::AtMost(1.10);
    vec![
        stream("no limit, p50", " ms", Bound::Open, p50_ms),
        stream("no limit, p99", " ms", Bound::Open, p99_ms),
        stream("no limit, gateway CPU", " %", Bound::Open, cpu_pct),
        chat("built-in limits, p50", " ms", Bound::Open, p50_ms),
        chat("built-in limits, p99", " ms", Bound::Open, p99_ms),
        chat("built-in limits, gateway CPU", " %", Bound::Open, cpu_pct),
        all("everything on, p50", " ms", Bound::Open, p50_ms),
        all("everything on, p99", " ms", Bound::Open, p99_ms),
        all("everything on, gateway CPU", " %", Bound::Open, cpu_pct),
        over_stream(chat("built-in limits / no limit, p50", "", most, p50_ms)),
        over_stream(chat("built-in limits / no limit, p99", "", most, p99_ms)),
        over_stream(chat("built-in limits / no limit, gateway CPU", "", most, cpu_pct)),
        over_stream(all("everything on / no limit, p50", "", most, p50_ms)),
        over_stream(all("everything on / no limit, p99", "", most, p99_ms)),
        over_stream(all("everything on / no limit, gateway CPU", "", most, cpu_pct)),
        chat("built-in limits, limited", "", Bound::Never(0.0), |record| record.number("limited")),
        all("everything on, limited", "", Bound::Never(0.0), |record| record.number("limited")),
        stream("no limit, unexplained", "", Bound::Never(0.0), unexplained),
        chat("built-in limits, unexplained", "", Bound::Never(0.0), unexplained),
        all("everything on, unexplained", "", Bound::Never(0.0), unexplained),
    ]
}

fn storm() -> Vec<Figure> {
    let merged = plain(Set::Storm, "merged");
    let plain = plain(Set::Storm, "plain");
    let over_plain = |name, value: Extract| Figure {
        over: Some(("plain", value)),
        ..merged(name, "", Bound::Open, value)
    };
    let frames: Extract = |record| record.number("storm/frames_out");
    let bytes: Extract = |record| record.number("storm/bytes_out");
    let in_per_out: Extract = |record| record.number("storm/in_per_out");
    let wrong: Extract =
        |record| Some(record.number("storm/totals_wrong")? + record.number("storm/states_wrong")?);
    vec![
        merged("messages in", "", Bound::Open, |record| record.number("storm/messages_in")),
        merged("taps in", "", Bound::Open, |record| record.number("storm/taps/published")),
        merged("policy, taps merged", "", Bound::Open, |record| record.number("storm/taps/merged")),
        merged("policy, limited", "", Bound::Open, |record| record.number("limited")),
        plain("as they are, frames out", "", Bound::Open, frames),
        merged("policy, frames out", "", Bound::Open, frames),
        merged("policy, messages in / frames out", "", Bound::Open, in_per_out),
        over_plain("policy / as they are, frames out", frames),
        over_plain("policy / as they are, bytes out", bytes),
        over_plain("policy / as they are, gateway CPU", cpu_pct),
        plain("as they are, gateway CPU", " %", Bound::Open, cpu_pct),
        merged("policy, gateway CPU", " %", Bound::Open, cpu_pct),
        plain("as they are, chat p50", " ms", Bound::Open, p50_ms),
        plain("as they are, chat p99", " ms", Bound::Open, p99_ms),
        merged("policy, chat p50", " ms", Bound::Open, p50_ms),
        merged("policy, chat p99", " ms", Bound::Open, p99_ms),
        merged("policy, rooms checked", "", Bound::Open, |record| record.number("storm/checked")),
        merged("policy, rooms with wrong totals", "", Bound::Never(0.0), wrong),
        plain("as they are, rooms with wrong totals", "", Bound::Never(0.0), wrong),
        merged("policy, unexplained", "", Bound::Never(0.0), unexplained),
        plain("as they are, unexplained", "", Bound::Never(0.0), unexplained),
    ]
}

fn rooms() -> Vec<Figure> {
    let figure = plain(Set::Rooms, "join");
    vec![
        figure("rooms joined", "", Bound::Open, |record| record.number("rooms_joined")),
        figure("rooms left", "", Bound::Open, |record| record.number("rooms_left")),
        figure("failed", "", Bound::Never(0.0), |record| record.number("rooms_failed")),
        figure("lost", "", Bound::Never(0.0), |record| record.number("lost")),
        figure("joins per second", "", Bound::Open, |record| record.number("joins_per_s")),
        figure("gateway memory per room", " B", Bound::Open, |record| {
            record.number("rss_bytes_per_room")
        }),
    ]
}

fn history() -> Vec<Figure> {
    let case = |name| plain(Set::History, name);
    let (accepted, stored) = (case("accepted"), case("stored"));
    let (accepted_rooms, stored_rooms) = (case("accepted-rooms"), case("stored-rooms"));
    let (accepted_paced, stored_paced) = (case("accepted-paced"), case("stored-paced"));
    let (open, never) = (Bound::Open, Bound::Never(0.0));
    let over = |case, figure: Figure| Figure { over: Some((case, figure.value)), ..figure };
    vec![
        accepted("one room, accepted, publishes", "/s", open, admitted_per_s),
        stored("one room, stored, publishes", "/s", open, admitted_per_s),
        over("accepted", stored("one room, stored / accepted", "", open, admitted_per_s)),
        accepted("one room, accepted, p50 of answers", " ms", open, answer_p50_ms),
        accepted("one room, accepted, p99 of answers", " ms", open, answer_p99_ms),
        stored("one room, stored, p50 of answers", " ms", open, answer_p50_ms),
        stored("one room, stored, p99 of answers", " ms", open, answer_p99_ms),
        accepted_rooms("many rooms, accepted, publishes", "/s", open, admitted_per_s),
        stored_rooms("many rooms, stored, publishes", "/s", open, admitted_per_s),
        over(
            "accepted-rooms",
            stored_rooms("many rooms, stored / accepted", "", open, admitted_per_s),
        ),
        accepted_rooms("many rooms, accepted, p50 of answers", " ms", open, answer_p50_ms),
        accepted_rooms("many rooms, accepted, p99 of answers", " ms", open, answer_p99_ms),
        stored_rooms("many rooms, stored, p50 of answers", " ms", open, answer_p50_ms),
        stored_rooms("many rooms, stored, p99 of answers", " ms", open, answer_p99_ms),
        accepted_paced("one room at 1,000/s, accepted, p50 of answers", " ms", open, answer_p50_ms),
        accepted_paced("one room at 1,000/s, accepted, p99 of answers", " ms", open, answer_p99_ms),
        stored_paced("one room at 1,000/s, stored, p50 of answers", " ms", open, answer_p50_ms),
        stored_paced("one room at 1,000/s, stored, p99 of answers", " ms", open, answer_p99_ms),
        stored("one room, stored, unexplained", "", never, unexplained),
        stored_rooms("many rooms, stored, unexplained", "", never, unexplained),
    ]
}

fn million() -> Vec<Figure> {
    let figure = plain(Set::Million, "connect");
    vec![
        figure("connected", "", Bound::Open, |record| record.number("connected")),
        figure("connects per second", "", Bound::Open, |record| record.number("connects_per_s")),
        figure("ramp", " s", Bound::AtMost(90.0), |record| record.number("ramp_s")),
        figure("failed", "", Bound::Never(0.0), |record| record.number("failed")),
        figure("lost", "", Bound::Never(0.0), |record| record.number("lost")),
        figure("gateway memory per connection", " B", Bound::AtMost(300.0), |record| {
            record.number("rss_bytes_per_conn")
        }),
        figure("system memory per connection", " B", Bound::AtMost(9216.0), |record| {
            record.number("system_bytes_per_conn")
        }),
        figure("broadcast to all", " ms", Bound::Open, |record| record.number("broadcast_ms")),
        figure("unexplained", "", Bound::Never(0.0), unexplained),
    ]
}

fn idle() -> Vec<Figure> {
    let figure = plain(Set::Idle, "hold");
    vec![
        figure("gateway CPU in the hold", " %", Bound::AtMost(1.0), |record| record.hold_cpu_pct),
        figure("connected", "", Bound::Open, |record| record.number("connected")),
        figure("lost", "", Bound::Never(0.0), |record| record.number("lost")),
    ]
}

fn uplink() -> Vec<Figure> {
    let figure = plain(Set::Uplink, "uplink");
    vec![
        figure("round trips per second", "", Bound::Open, deliveries_per_s),
        figure("round trips per gateway core-second", "", Bound::Open, per_cpu_s),
        figure("p50", " ms", Bound::Open, p50_ms),
        figure("p99", " ms", Bound::Open, p99_ms),
        figure("unexplained", "", Bound::Never(0.0), unexplained),
    ]
}

/// Makes figures that are one number of one case.
fn plain(
    set: Set,
    case: &'static str,
) -> impl Fn(&'static str, &'static str, Bound, Extract) -> Figure {
    move |name, unit, bound, value| Figure { set, name, unit, bound, case, value, over: None }
}

fn deliveries_per_s(record: &Record) -> Option<f64> {
    record.number("deliveries_per_s")
}

fn sends_per_s(record: &Record) -> Option<f64> {
    record.number("sends_per_s")
}

/// For `limit`, the sender is what the report calls the gateway.
fn per_cpu_s(record: &Record) -> Option<f64> {
    record.number("deliveries_per_gateway_cpu_s")
}

fn sends_per_cpu_s(record: &Record) -> Option<f64> {
    let cpu_s = record.number("gateway_cpu_s").filter(|&cpu_s| cpu_s > 0.0)?;
    Some(record.number("sends_per_s")? * record.number("secs")? / cpu_s)
}

fn cpu_pct(record: &Record) -> Option<f64> {
    let secs = record.number("secs").filter(|&secs| secs > 0.0)?;
    Some(record.number("gateway_cpu_s")? / secs * 100.0)
}

fn p50_ms(record: &Record) -> Option<f64> {
    Some(record.number("latency_us/p50")? / 1e3)
}

fn p99_ms(record: &Record) -> Option<f64> {
    Some(record.number("latency_us/p99")? / 1e3)
}

fn admitted_per_s(record: &Record) -> Option<f64> {
    record.number("admitted_per_s")
}

fn answer_p50_ms(record: &Record) -> Option<f64> {
    Some(record.number("answer_us/p50")? / 1e3)
}

fn answer_p99_ms(record: &Record) -> Option<f64> {
    Some(record.number("answer_us/p99")? / 1e3)
}

fn unexplained(record: &Record) -> Option<f64> {
    record.number("unexplained")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::case::{Scale, cases};

    fn record(case: &'static str, repeat: u32, report: Value) -> Record {
        Record { set: Set::Ceiling, case, repeat, report, hold_cpu_pct: None }
    }

    #[test]
    fn every_figure_comes_from_a_case_that_is_run() {
        for set in Set::EACH {
            let cases: Vec<_> = cases(set, &Scale::FULL).iter().map(|case| case.name).collect();
            assert!(!figures(set).is_empty());
            for figure in figures(set) {
                assert_eq!(figure.set, set, "{}", figure.name);
                assert!(cases.contains(&figure.case), "{}", figure.name);
                if let Some((case, _)) = figure.over {
                    assert!(cases.contains(&case), "{}", figure.name);
                }
            }
        }
    }

    #[test]
    fn a_ratio_is_taken_within_a_repeat() {
        let limit =
            |per_s: f64| json!({"sends_per_s": per_s, "deliveries_per_gateway_cpu_s": 200.0});
        let gateway = json!({"sends_per_s": 90.0, "secs": 8.0, "gateway_cpu_s": 4.0});
        let records = [
            record("limit", 1, limit(100.0)),
            record("gateway", 1, gateway.clone()),
            record("gateway", 2, gateway),
            record("limit", 3, limit(100.0)),
        ];
        let values = |name| {
            let all = figures(Set::Ceiling);
            let figure = all.iter().find(|figure| figure.name.contains(name)).expect("a figure");
            figure.values(&records)
        };
        assert_eq!(values("bare loop, sends per core-second"), [200.0, 200.0]);
        assert_eq!(values("gateway / bare loop, sends per core-second"), [0.9]);
        assert_eq!(values("gateway / bare loop, sends per second"), [0.9]);
        assert!(values("unexplained").is_empty(), "what is not told is not zero");
    }
}
