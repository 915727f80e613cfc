//! What the runs come to, for people: Markdown.

use std::fmt::Write as _;

use crate::case::Set;
use crate::figure::{Bound, Figure, figures};
use crate::record::Record;

/// Median and extremes of some repeats.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The one in the middle, or the mean of the two there.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

impl Spread {
    /// None when there are no values.
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let median = (sorted[(sorted.len() - 1) / 2] + sorted[sorted.len() / 2]) / 2.0;
        Some(Self { median, min, max })
    }

    /// Whether it is as promised; none when nothing was promised.
    pub fn meets(&self, bound: Bound) -> Option<bool> {
        match bound {
            Bound::AtLeast(least) => Some(self.median >= least),
            Bound::AtMost(most) => Some(self.median <= most),
            Bound::Never(most) => Some(self.max <= most),
            Bound::Open => None,
        }
    }
}

/// The table of the sets, and under it what makes its figures doubtful.
pub fn markdown(sets: &[Set], records: &[Record]) -> String {
    let mut text = "| figure | target | median | min–max | met? |\n\
                    |---|---:|---:|---:|---|\n"
        .to_owned();
    for figure in sets.iter().flat_map(|&set| figures(set)) {
        row(&mut text, &figure, &figure.values(records));
    }
    let doubts = doubts(records);
    if !doubts.is_empty() {
        text += "\nRuns whose figures are not to be trusted:\n\n";
        text += &doubts;
    }
    text
}

/// Puts the tables of sets between their marks in a text, `<!-- figures NAME -->` and
/// `<!-- end of figures NAME -->`, instead of what is there. Sets without marks change nothing.
pub fn with_sections(text: &str, machine: &str, sets: &[Set], records: &[Record]) -> String {
    let mut text = text.to_owned();
    for &set in sets {
        let name = set.name();
        let (begin, end) =
            (format!("<!-- figures {name} -->\n"), format!("<!-- end of figures {name} -->"));
        let Some((before, rest)) = text.split_once(&begin) else { continue };
        let Some((_, after)) = rest.split_once(&end) else { continue };
        let own: Vec<Record> = records.iter().filter(|record| record.set == set).cloned().collect();
        let table = markdown(&[set], &own);
        text = format!("{before}{begin}{machine}\n\n{table}{end}{after}");
    }
    text
}

fn row(text: &mut String, figure: &Figure, values: &[f64]) {
    let Figure { set, name, unit, bound, .. } = figure;
    let target = match bound {
        Bound::AtLeast(least) => format!("≥ {}{unit}", readable(*least)),
        Bound::AtMost(most) => format!("≤ {}{unit}", readable(*most)),
        Bound::Never(most) => format!("{}{unit}", readable(*most)),
        Bound::Open => "–".to_owned(),
    };
    let set = set.name();
    let Some(spread) = Spread::of(values) else {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "| {set}: {name} | {target} | not measured | – | – |");
        return;
    };
    let Spread { median, min, max } = spread;
    let [median, min, max] = [median, min, max].map(readable);
    let met = match spread.meets(*bound) {
        Some(true) => "yes",
        Some(false) => "**no**",
        None => "–",
    };
    let _ = writeln!(text, "| {set}: {name} | {target} | {median}{unit} | {min}–{max} | {met} |");
}

fn doubts(records: &[Record]) -> String {
    let mut text = String::new();
    for record in records {
        for reason in record.invalid_reasons() {
            let (set, case, repeat) = (record.set.name(), record.case, record.repeat);
            let _ = writeln!(text, "- {set} {case}, repeat {repeat}: {reason}");
        }
    }
    text
}

/// A number with as many decimals as matter, and its thousands apart.
pub fn readable(number: f64) -> String {
    let decimals = match number.abs() {
        whole if whole.fract() == 0.0 => 0,
        ..10.0 => 2,
        ..100.0 => 1,
        _ => 0,
    };
    let digits = format!("{:.decimals$}", number.abs());
    let (whole, fraction) = digits.split_at(digits.find('.').unwrap_or(digits.len()));
    let mut text = if number < 0.0 { "-".to_owned() } else { String::new() };
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text + fraction
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_spread_is_median_and_extremes() {
        let check = |values: &[f64], expected: Option<(f64, f64, f64)>| {
            let expected = expected.map(|(median, min, max)| Spread { median, min, max });
            assert_eq!(Spread::of(values), expected);
        };
        check(&[], None);
        check(&[5.0], Some((5.0, 5.0, 5.0)));
        check(&[3.0, 1.0, 9.0], Some((3.0, 1.0, 9.0)));
        check(&[4.0, 1.0, 2.0, 9.0], Some((3.0, 1.0, 9.0)));
    }

    #[test]
    fn never_looks_at_the_worst_repeat_and_the_others_at_the_median() {
        let spread = Spread { median: 1.0, min: 0.0, max: 3.0 };
        let all = [Bound::AtLeast(1.0), Bound::AtMost(0.9), Bound::Never(2.0), Bound::Open];
        let met = [Some(true), Some(false), Some(false), None];
        assert_eq!(all.map(|bound| spread.meets(bound)), met);
    }

    #[test]
    fn numbers_are_readable() {
        let all = [0.0, 3.0, 0.456, 12.34, 100.2, 1_234_567.8, -1500.0].map(readable);
        assert_eq!(all, ["0", "3", "0.46", "12.3", "100", "1,234,568", "-1,500"]);
    }

    #[test]
    fn a_table_takes_the_place_of_the_one_before_it() {
        let report = json!({"storm": {"messages_in": 70}, "valid": true});
        let record =
            Record { set: Set::Storm, case: "merged", repeat: 1, report, hold_cpu_pct: None };
        let before =
            "# Results\n<!-- figures storm -->\nold\n<!-- end of figures storm -->\nrest\n";
        let sets = [Set::Storm, Set::Batched];
        let after = with_sections(before, "a machine", &sets, &[record]);
        assert!(after.starts_with("# Results\n<!-- figures storm -->\na machine\n\n| figure |"));
        assert!(after.contains("| storm: messages in | – | 70 | 70–70 | – |\n"), "{after}");
        assert!(after.ends_with("<!-- end of figures storm -->\nrest\n"), "{after}");
        assert!(!after.contains("old") && !after.contains("batched"), "{after}");
        assert_eq!(with_sections("none", "a machine", &sets, &[]), "none");
    }

    #[test]
    fn a_table_says_what_is_missed_missing_and_doubtful() {
        let record = |repeat, per_cpu_s: f64, valid| Record {
            set: Set::Batched,
            case: "room",
            repeat,
            report: json!({
                "deliveries_per_gateway_cpu_s": per_cpu_s,
                "unexplained": 0,
                "valid": valid,
                "invalid_reasons": if valid { vec![] } else { vec!["busy"] },
            }),
            hold_cpu_pct: None,
        };
        let table = markdown(&[Set::Batched], &[record(1, 9e6, true), record(2, 8e6, false)]);
        let expected = "| batched: deliveries per gateway core-second | ≥ 10,000,000 | 8,500,000 | \
                        8,000,000–9,000,000 | **no** |";
        assert!(table.lines().any(|line| line == expected), "{table}");
        assert!(table.contains("| batched: unexplained | 0 | 0 | 0–0 | yes |"), "{table}");
        assert!(table.contains("not measured"), "{table}");
        assert!(table.ends_with("- batched room, repeat 2: busy\n"), "{table}");
    }
}
