//! One campaign against one server, and what it has found.

use barrage_loadgen::exit::Exit;
use barrage_loadgen::record::kept::Summary;
use serde_json::{Value, json};

use super::case::{Case, Scale};
use super::server::Kind;

/// One campaign against one server.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// Which server.
    pub kind: Kind,
    /// Which campaign.
    pub case: Case,
    /// Which time, from 1.
    pub repeat: u32,
    /// What the load generator has found.
    pub summary: Summary,
    /// How much more memory the server had at some moment than before it.
    pub rss_growth_bytes: Option<u64>,
    /// The most memory that it had.
    pub rss_most_bytes: Option<u64>,
    /// What happened to the server meanwhile that should not have.
    pub server_fault: Option<String>,
}

/// Reads what `barrage-loadgen run --json` has said.
pub fn summary(said: &Value) -> serde_json::Result<Summary> {
    let found = said.get("summary").unwrap_or(said);
    serde_json::from_value(found.clone())
}

impl Run {
    /// Of the deliveries that there should have been, how many there were, in percent.
    pub fn delivered_percent(&self) -> Option<f64> {
        let counts = &self.summary.totals;
        let missing =
            counts.unexplained + counts.declared_shed + counts.declared_reset + counts.disconnected;
        let expected = counts.delivered + missing;
        (expected > 0).then(|| counts.delivered as f64 / expected as f64 * 100.0)
    }

    /// Growth of the server's memory per connection.
    pub fn bytes_per_connection(&self) -> Option<f64> {
        let connected = self.summary.totals.connected;
        Some(self.rss_growth_bytes? as f64 / connected as f64).filter(|_| connected > 0)
    }

    /// The server's share of its core while it was measured, in percent.
    pub fn cpu_percent(&self) -> Option<f64> {
        let measured = &self.summary.measured;
        Some(measured.deliveries_per_s? / measured.deliveries_per_target_cpu_s? * 100.0)
    }

    /// Whether its figures say more about the load generator than about the server.
    pub fn is_invalid(&self) -> bool {
        self.summary.verdict.exit == Exit::Invalid
    }

    /// What the reader of a table has to know about this run; nothing when all was well.
    pub fn doubts(&self) -> Vec<String> {
        let Summary { verdict, totals, ended, .. } = &self.summary;
        let mut doubts = Vec::new();
        if verdict.exit != Exit::Pass {
            doubts.push(verdict.why.clone());
        }
        for (count, what) in [
            (totals.failed, "connections could not be made"),
            (totals.lost, "connections were lost"),
            (totals.unexplained, "deliveries are missing"),
            (totals.duplicate, "deliveries came twice"),
            (totals.reordered, "deliveries came out of order"),
        ] {
            if count > 0 {
                doubts.push(format!("{count} {what}"));
            }
        }
        if totals.lost > 0 {
            doubts.extend(ended.iter().map(|(why, count)| format!("{count} × {why}")));
        }
        doubts.extend(self.server_fault.clone());
        doubts
    }

    /// The line of the results file.
    pub fn json(&self, about: &About, scale: &Scale) -> Value {
        let version = about.version(self.kind);
        json!({
            "time": about.time,
            "commit": about.commit,
            "machine": about.machine,
            "set": "compare",
            "case": self.case.name(),
            "server": self.kind.name(),
            "version": version,
            "repeat": self.repeat,
            "settings": self.case.settings(scale, self.kind),
            "rss_growth_bytes": self.rss_growth_bytes,
            "rss_most_bytes": self.rss_most_bytes,
            "server_fault": self.server_fault,
            "report": self.summary,
        })
    }
}

/// What is the same for all runs.
#[derive(Clone, Debug)]
pub struct About {
    /// When the first of them began.
    pub time: String,
    /// The commit that is measured.
    pub commit: String,
    /// The machine, for files.
    pub machine: Value,
    /// The machine, for people.
    pub machine_line: String,
    /// The servers' versions.
    pub versions: Vec<(Kind, String)>,
}

impl About {
    /// The version of a server.
    pub fn version(&self, kind: Kind) -> &str {
        let found = self.versions.iter().find(|(other, _)| *other == kind);
        found.map_or("of unknown version", |(_, version)| version)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use barrage_loadgen::record::Counts;
    use barrage_loadgen::record::kept::{Figures, Verdict};

    /// A run that has found these figures.
    pub fn run(kind: Kind, case: Case, repeat: u32, measured: Figures, totals: Counts) -> Run {
        let verdict = Verdict {
            exit: Exit::Pass,
            why: "all is well".to_owned(),
            objectives: Vec::new(),
            invalid_reasons: Vec::new(),
            faults: Vec::new(),
            aborted: None,
        };
        let summary = Summary {
            verdict,
            totals,
            slow: None,
            measured,
            phases: Vec::new(),
            ended: Vec::new(),
            refused: Vec::new(),
            target_bytes_per_client: None,
            system_bytes_per_client: None,
            generator_bytes_per_client: None,
            reconnect_s: None,
        };
        Run {
            kind,
            case,
            repeat,
            summary,
            rss_growth_bytes: None,
            rss_most_bytes: None,
            server_fault: None,
        }
    }

    #[test]
    fn what_is_missing_for_whatever_reason_was_not_delivered() {
        let share = |totals| {
            run(Kind::Redis, Case::Paced, 1, Figures::default(), totals).delivered_percent()
        };
        assert_eq!(share(Counts::default()), None);
        assert_eq!(share(Counts { delivered: 9, ..Counts::default() }), Some(100.0));
        let some = Counts {
            delivered: 6,
            unexplained: 1,
            declared_shed: 1,
            declared_reset: 1,
            disconnected: 1,
            ..Counts::default()
        };
        assert_eq!(share(some), Some(60.0));
    }

    #[test]
    fn shares_are_of_what_was_measured_and_of_who_was_there() {
        let measured = Figures {
            deliveries_per_s: Some(300_000.0),
            deliveries_per_target_cpu_s: Some(1_200_000.0),
            ..Figures::default()
        };
        let totals = Counts { connected: 100, ..Counts::default() };
        let mut some = run(Kind::Nats, Case::Idle, 1, measured, totals);
        assert_eq!((some.cpu_percent(), some.bytes_per_connection()), (Some(25.0), None));
        some.rss_growth_bytes = Some(40_000);
        assert_eq!(some.bytes_per_connection(), Some(400.0));
        some.summary.totals.connected = 0;
        some.summary.measured = Figures::default();
        assert_eq!((some.cpu_percent(), some.bytes_per_connection()), (None, None));
    }

    #[test]
    fn a_collapse_is_told_and_not_hidden() {
        let totals = Counts { delivered: 1, lost: 3, unexplained: 7, ..Counts::default() };
        let mut run = run(Kind::Redis, Case::Flood, 1, Figures::default(), totals);
        run.summary.ended = vec![("closed by the server".to_owned(), 3)];
        run.server_fault = Some("redis ended".to_owned());
        let doubts = run.doubts().join("; ");
        for part in ["3 connections were lost", "7 deliveries are missing", "3 × closed", "ended"]
        {
            assert!(doubts.contains(part), "{doubts}");
        }
    }

    #[test]
    fn a_summary_is_found_alone_or_behind_its_head() {
        let run = run(Kind::Nats, Case::Idle, 1, Figures::default(), Counts::default());
        let alone = serde_json::to_value(&run.summary).unwrap();
        assert_eq!(summary(&alone).unwrap(), run.summary);
        assert_eq!(summary(&json!({"head": {}, "summary": alone})).unwrap(), run.summary);
        assert!(summary(&json!({"error": 1})).is_err());
    }
}
