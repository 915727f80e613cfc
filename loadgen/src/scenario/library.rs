//! Scenarios that come with the program.

/// A scenario of the library.
#[derive(Clone, Copy, Debug)]
pub struct Ready {
    /// Its name.
    pub name: &'static str,
    /// Its file.
    pub text: &'static str,
}

macro_rules! ready {
    ($($name:literal,)*) => {
        /// All of them.
        pub const READY: &[Ready] = &[$(Ready {
            name: $name,
            text: include_str!(concat!("../../scenarios/", $name, ".toml")),
        }),*];
    };
}

ready! {
    "headline-300k",
    "million-idle",
    "olympics-storm",
    "gift-combo",
    "pk-night",
    "flash-reconnect",
    "class-replay",
    "push-3m",
    "two-machine",
}

/// All of them with what they are for, for people.
pub fn list() -> String {
    let width = READY.iter().map(|ready| ready.name.len()).max().unwrap_or(0);
    READY.iter().map(|ready| format!("{:width$}  {}\n", ready.name, about(ready.text))).collect()
}

/// What a scenario says about itself: the line of `about`, without reading the rest.
fn about(text: &str) -> &str {
    let line = text.lines().find_map(|line| line.strip_prefix("about = \""));
    line.and_then(|line| line.strip_suffix('"')).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::file;

    #[test]
    fn every_scenario_loads_under_its_name_and_says_what_it_is_for() {
        for ready in READY {
            let loaded = file::load(ready.name, &[]).expect(ready.name);
            assert_eq!(loaded.scenario.name, ready.name);
            assert_eq!(loaded.scenario.about, about(ready.text), "{} in one line", ready.name);
            assert!(ready.text.starts_with("# Shows "), "{} begins with what it shows", ready.name);
            assert!(list().contains(&format!("{} ", ready.name)));
        }
    }

    /// Messages wait for clients who are away: no percentile can be under that time when more than
    /// its share of the deliveries do.
    #[test]
    fn no_objective_is_under_the_time_that_clients_are_away() {
        for ready in READY {
            let scenario = file::load(ready.name, &[]).expect(ready.name).scenario;
            let slo = &scenario.slo;
            for churn in scenario.phases.iter().filter_map(|phase| phase.churn) {
                let away_ms = churn.away_ns as f64 / 1e6;
                let away = churn.clients_per_s * away_ms / 1e3 / f64::from(scenario.clients.count);
                for (beyond, objective) in [(0.1, slo.p90_ms), (0.01, slo.p99_ms)] {
                    let possible = objective.is_none_or(|ms| ms > away_ms || away < beyond);
                    assert!(possible, "{}: {away} of the clients are away", ready.name);
                }
            }
        }
    }

    /// The settings that a scenario's comment suggests belong to it.
    #[test]
    fn every_suggested_setting_is_understood() {
        let mut suggested = 0;
        for ready in READY {
            let comments = ready.text.lines().filter_map(|line| line.strip_prefix('#'));
            let comments = comments.collect::<Vec<_>>().join(" ");
            for sentence in comments.split(". ") {
                let words: Vec<&str> = sentence.split_whitespace().collect();
                let settings = words.windows(2).filter(|pair| pair[0] == "--set");
                let settings: Vec<String> = settings
                    .map(|pair| pair[1].trim_end_matches([',', ';', '.']).to_owned())
                    .filter(|setting| !setting.ends_with('…'))
                    .collect();
                suggested += settings.len();
                file::load(ready.name, &settings).expect(ready.name);
            }
        }
        assert!(suggested > 15, "{suggested}");
    }
}
