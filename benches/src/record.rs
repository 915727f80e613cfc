//! What one run has found.

use serde_json::{Value, json};

use crate::case::{Case, Set};

/// One run of one case.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// What was run.
    pub set: Set,
    /// Which case of it.
    pub case: &'static str,
    /// Which time, from 1.
    pub repeat: u32,
    /// The load generator's JSON, as it came.
    pub report: Value,
    /// The gateway's share of its core in the middle of the hold.
    pub hold_cpu_pct: Option<f64>,
}

impl Record {
    /// A number of the report; `latency_us/p50` is one of an object in it.
    pub fn number(&self, path: &str) -> Option<f64> {
        self.report.pointer(&format!("/{path}"))?.as_f64()
    }

    /// Messages that are missing without a word, and rooms of a storm with wrong totals.
    pub fn faults(&self) -> u64 {
        let counts = ["unexplained", "storm/totals_wrong", "storm/states_wrong"];
        counts.into_iter().filter_map(|path| self.number(path)).sum::<f64>() as u64
    }

    /// Why the load generator does not trust its own figures; nothing when it does.
    pub fn invalid_reasons(&self) -> Vec<String> {
        if self.report.get("valid").and_then(Value::as_bool) == Some(true) {
            return Vec::new();
        }
        let reasons = self.report.get("invalid_reasons").and_then(Value::as_array);
        let text = |reason: &Value| reason.as_str().map_or(reason.to_string(), str::to_owned);
        match reasons {
            Some(reasons) if !reasons.is_empty() => reasons.iter().map(text).collect(),
            Some(_) | None => vec!["no reason given".to_owned()],
        }
    }

    /// The line of the results file, for a run of `case`.
    pub fn json(&self, case: &Case, time: &str, commit: &str, machine: &Value) -> Value {
        json!({
            "time": time,
            "commit": commit,
            "machine": machine,
            "set": self.set.name(),
            "case": self.case,
            "repeat": self.repeat,
            "gateway_options": case.target.map(|target| target.options),
            "gateway_cores": case.target.map(|target| target.cores),
            "gateway_data": case.target.map(|target| target.data),
            "load": case.load.join(" "),
            "hold_cpu_pct": self.hold_cpu_pct,
            "report": self.report,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(report: Value) -> Record {
        Record { set: Set::Idle, case: "hold", repeat: 1, report, hold_cpu_pct: None }
    }

    #[test]
    fn numbers_are_found_by_path_and_null_is_none() {
        let record = record(json!({"latency_us": {"p50": 900}, "lost": null, "unexplained": 2}));
        assert_eq!(record.number("latency_us/p50"), Some(900.0));
        assert_eq!(record.number("lost"), None);
        assert_eq!(record.number("ramp_s"), None);
        assert_eq!(record.faults(), 2);
    }

    #[test]
    fn wrong_totals_are_faults_like_missing_messages() {
        let storm = json!({"totals_wrong": 1, "states_wrong": 2, "checked": 9});
        assert_eq!(record(json!({"unexplained": 4, "storm": storm})).faults(), 7);
        assert_eq!(record(json!({"storm": null})).faults(), 0);
    }

    #[test]
    fn a_run_is_valid_only_when_it_says_so() {
        let reasons = |report| record(report).invalid_reasons();
        assert!(reasons(json!({"valid": true, "invalid_reasons": []})).is_empty());
        assert_eq!(reasons(json!({"valid": false, "invalid_reasons": ["busy"]})), ["busy"]);
        assert_eq!(reasons(json!({})).len(), 1);
    }
}
