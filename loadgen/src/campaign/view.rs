//! Shows a running campaign: on a terminal in place, elsewhere a line a second.
//!
//! The terminal's state is never changed: no other screen, no raw mode, no hidden cursor. Lines are
//! written over with the cursor moved up, so there is nothing to restore whichever way the process
//! ends, and what was shown last stays there to be read.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write, stderr, stdout};

use crate::campaign::scene::Scene;
use crate::latency::Summary as Percentiles;
use crate::report::grouped;

/// Columns and rows of a terminal that does not say.
const COLUMNS: usize = 80;
const ROWS: usize = 24;
const NAME_COLUMNS: usize = 11;
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// How to show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Not at all.
    Quiet,
    /// A line a second on stderr.
    Lines,
    /// In place on stdout.
    Screen,
}

/// Shows scenes.
pub struct View {
    mode: Mode,
    json_lines: bool,
    /// Lines that stand on the terminal.
    drawn: usize,
}

impl View {
    /// As it was asked for, and as stdout is; with `json_lines` scenes go to stdout as JSON, too.
    pub fn new(quiet: bool, no_view: bool, json: bool, json_lines: bool) -> Self {
        let for_people = !no_view && !json && !json_lines;
        let mode = match quiet {
            true => Mode::Quiet,
            false if for_people && stdout().is_terminal() => Mode::Screen,
            false => Mode::Lines,
        };
        Self { mode, json_lines, drawn: 0 }
    }

    /// Shows one.
    pub fn show(&mut self, scene: &Scene) {
        // Nobody can be told that nobody looks any more; the record has everything.
        if self.json_lines {
            let text = serde_json::to_string(scene).expect("a scene has no keys but strings");
            let _ = writeln!(stdout(), "{text}");
        }
        match self.mode {
            Mode::Quiet => {}
            Mode::Lines => {
                let _ = writeln!(stderr(), "{}", line(scene));
            }
            Mode::Screen => {
                let (columns, rows) = size();
                self.draw(&screen(scene, columns, rows));
            }
        }
    }

    fn draw(&mut self, lines: &[String]) {
        let mut text = String::new();
        if self.drawn > 0 {
            // Writing to a String does not fail.
            let _ = write!(text, "\x1b[{}A\r", self.drawn);
        }
        for line in lines {
            let _ = writeln!(text, "\x1b[2K{line}");
        }
        // What was longer before leaves nothing behind.
        text.push_str("\x1b[J");
        self.drawn = lines.len();
        let mut stdout = stdout().lock();
        let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    }
}

fn size() -> (usize, usize) {
    match rustix::termios::tcgetwinsize(stdout()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col.into(), size.ws_row.into()),
        Ok(_) | Err(_) => (COLUMNS, ROWS),
    }
}

/// One line for logs: words and numbers that are easy to find again.
pub fn line(scene: &Scene) -> String {
    let totals = &scene.totals;
    let mut line = format!(
        "{:>5.0} s phase={} ready={} delivered/s={:.0} published/s={:.0} offered/s={:.0}",
        scene.at_s,
        scene.phase,
        scene.ready,
        scene.delivered_per_s,
        scene.published_per_s,
        scene.offered_per_s
    );
    // Writing to a String does not fail.
    if let Some(latency) = scene.latency_us {
        let _ = write!(line, " p50_us={} p99_us={}", latency.p50, latency.p99);
    }
    for (name, count) in [
        ("failed", totals.failed),
        ("lost", totals.lost),
        ("shed", totals.declared_shed),
        ("resets", totals.resets),
        ("unexplained", totals.unexplained),
        ("duplicate", totals.duplicate),
        ("reordered", totals.reordered),
    ] {
        if count > 0 {
            let _ = write!(line, " {name}={count}");
        }
    }
    let _ = write!(line, " busy={:.0}%", scene.busiest() * 100.0);
    let waited = scene.waited.values().copied().fold(0.0, f64::max) * 100.0;
    if waited >= 1.0 {
        let _ = write!(line, " waited={waited:.0}%");
    }
    if let Some(percent) = scene.target_cpu_percent {
        let _ = write!(line, " target_cpu={percent:.0}%");
    }
    if let Some(why) = &scene.invalid {
        let _ = write!(line, " INVALID: {why}");
    }
    line
}

/// The lines of a screen of that size.
pub fn screen(scene: &Scene, columns: usize, rows: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut put = |name: &str, text: String| {
        lines.push(clip(&format!("{name:<NAME_COLUMNS$}{text}"), columns));
    };
    put("phase", phase(scene));
    let totals = &scene.totals;
    let count = |number: u64| grouped(number as f64);
    put(
        "clients",
        format!(
            "{} of {} ready, {} failed, {} lost, {} sent away",
            count(scene.ready),
            count(scene.clients),
            count(totals.failed),
            count(totals.lost),
            count(totals.dropped)
        ),
    );
    put(
        "in",
        format!(
            "{:>12} offered/s  {} published  {} admitted",
            grouped(scene.offered_per_s),
            grouped(scene.published_per_s),
            grouped(scene.admitted_per_s)
        ),
    );
    let width = columns.saturating_sub(NAME_COLUMNS + 24);
    let rates = spark(scene.rate_history.iter().copied(), width);
    put("out", format!("{:>12} deliveries/s {rates}", grouped(scene.delivered_per_s)));
    let p99s = spark(scene.p99_history.iter().copied(), width);
    put("p99", format!("{:>12} {:<12} {p99s}", ms(scene.latency_us.map(|now| now.p99)), ""));
    put("latency", times(scene.latency_us));
    put("  so far", times(scene.latency_so_far_us));
    put(
        "books",
        format!(
            "{} shed, {} resets, {} unexplained, {} twice, {} out of order",
            count(totals.declared_shed),
            count(totals.resets),
            count(totals.unexplained),
            count(totals.duplicate),
            count(totals.reordered)
        ),
    );
    put("generator", generator(scene));
    put("  threads", threads(scene));
    put("target", target(scene));
    for event in &scene.events {
        put("", event.clone());
    }
    // One row is left for the cursor: a screen that scrolls could not be drawn over.
    lines.truncate(rows.saturating_sub(1).max(1));
    lines
}

fn phase(scene: &Scene) -> String {
    let Scene { phase, phase_s, phase_max_s, at_s, .. } = scene;
    match *phase_max_s > 0.0 {
        true => {
            let done = (phase_s / phase_max_s).clamp(0.0, 1.0);
            let full = (done * 20.0) as usize;
            let bar = "█".repeat(full) + &"░".repeat(20 - full);
            format!("{phase} {bar} {phase_s:.0} of {phase_max_s:.0} s   (run {at_s:.0} s)")
        }
        false => format!("{phase}, {phase_s:.0} s   (run {at_s:.0} s)"),
    }
}

fn generator(scene: &Scene) -> String {
    let lag = ms(scene.lag_us.map(|lag| lag.p99));
    match &scene.invalid {
        Some(why) => format!("INVALID: {why}; lag p99 {lag}"),
        None => format!("valid so far; lag p99 {lag}"),
    }
}

/// How busy threads are, and of those that wait for a core how long: the busiest first, as many as
/// there is room for.
fn threads(scene: &Scene) -> String {
    let mut busy: Vec<(&String, f64)> =
        scene.busy.iter().map(|(source, busy)| (source, busy * 100.0)).collect();
    busy.sort_by(|a, b| b.1.total_cmp(&a.1));
    let told = busy.into_iter().map(|(source, busy)| {
        let waits = scene.waited.get(source).map_or(0.0, |waited| waited * 100.0);
        match waits >= 1.0 {
            true => format!("{source} {busy:.0} % busy, {waits:.0} % waiting"),
            false => format!("{source} {busy:.0} %"),
        }
    });
    told.collect::<Vec<_>>().join("; ")
}

fn target(scene: &Scene) -> String {
    let Some(sample) = scene.target else { return "not watched".to_owned() };
    let mut known = Vec::new();
    known.extend(scene.target_cpu_percent.map(|percent| format!("{percent:.0} % of a core")));
    known.extend(sample.rss_bytes.map(|bytes| format!("{:.1} MB", bytes as f64 / 1e6)));
    known.extend(sample.connections.map(|count| format!("{} connections", grouped(count as f64))));
    known.join(", ")
}

fn times(times: Option<Percentiles>) -> String {
    let Some(Percentiles { p50, p90, p99, p999, max }) = times else { return "-".to_owned() };
    let all = [("p50", p50), ("p90", p90), ("p99", p99), ("p99.9", p999), ("max", max)];
    all.map(|(name, us)| format!("{name} {}", ms(Some(us)))).join("  ")
}

fn ms(us: Option<u64>) -> String {
    us.map_or_else(|| "-".to_owned(), |us| format!("{:.2} ms", us as f64 / 1e3))
}

/// The last values as bars, the highest as high as it goes.
fn spark(values: impl ExactSizeIterator<Item = u64> + Clone, width: usize) -> String {
    let skipped = values.len().saturating_sub(width);
    let shown = values.skip(skipped);
    let highest = shown.clone().max().unwrap_or(0).max(1);
    shown.map(|value| BARS[(value * 7).div_ceil(highest) as usize]).collect()
}

/// As much of a line as there is room for, and nothing that moves the cursor.
fn clip(line: &str, columns: usize) -> String {
    let plain = line.chars().map(|letter| if letter.is_control() { ' ' } else { letter });
    plain.take(columns.saturating_sub(1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Counts;

    fn scene() -> Scene {
        let mut scene = Scene {
            at_s: 12.0,
            phase: "steady".into(),
            phase_s: 5.0,
            phase_max_s: 20.0,
            clients: 2000,
            ready: 1999,
            totals: Counts { lost: 1, unexplained: 4, ..Counts::default() },
            delivered_per_s: 300_000.0,
            latency_us: Some(Percentiles { p50: 900, p99: 2500, ..Percentiles::default() }),
            ..Scene::default()
        };
        scene.p99_history.extend([10, 20, 80]);
        scene.tell("a \x1b[2J gateway's own words".into());
        scene
    }

    #[test]
    fn a_line_is_one_line_and_tells_what_is_wrong() {
        let text = line(&scene());
        assert!(text.contains(" phase=steady ready=1999 delivered/s=300000 "), "{text}");
        assert!(text.contains(" p50_us=900 p99_us=2500 lost=1 unexplained=4 "), "{text}");
        assert!(!text.contains('\n') && !text.contains("failed"), "{text}");
    }

    #[test]
    fn a_screen_fits_its_terminal_whatever_is_in_it() {
        for (columns, rows) in [(80, 24), (40, 6), (1, 1), (300, 100)] {
            let lines = screen(&scene(), columns, rows);
            assert!(!lines.is_empty() && lines.len() < rows.max(2), "{columns}×{rows}");
            for line in &lines {
                assert!(line.chars().count() <= columns, "{line}");
                assert!(!line.chars().any(char::is_control), "{line:?}");
            }
        }
    }

    #[test]
    fn bars_are_as_high_as_their_values() {
        assert_eq!(spark([0, 40, 80].into_iter(), 9), "▁▅█");
        assert_eq!(spark([80, 0, 1].into_iter(), 2), "▁█", "only the last fit");
        assert_eq!(spark([0u64; 2].into_iter(), 2), "▁▁");
    }
}
