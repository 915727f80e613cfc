//! `report`: a page with charts of a run. One file that needs nothing from anywhere.

mod chart;
mod columns;
mod tables;

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result};
use clap::Args;

use crate::exit::{Ended, Exit};
use crate::record::page::chart::{Series, escape, over_nines, over_time};
use crate::record::page::columns::{Column, Columns};
use crate::record::{Counts, Record, Times};

const STYLE: &str = include_str!("page/style.css");
const SCRIPT: &str = include_str!("page/script.js");
/// Points of a percentile curve for each nine.
const POINTS_PER_NINE: u32 = 20;
const NINES_MAX: u32 = 8;

/// `report`.
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// The record of a run.
    #[arg(value_name = "DIR")]
    pub record: PathBuf,
    /// Where the page goes [default: report.html in the record].
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Another record, whose latencies and figures are shown beside.
    #[arg(long, value_name = "DIR")]
    pub compare: Option<PathBuf>,
}

/// Runs the command.
pub fn run(args: &ReportArgs, _stop: &Arc<AtomicBool>) -> Result<Ended> {
    let record = Record::read(&args.record)?;
    let other = args.compare.as_ref().map(|dir| Record::read(dir)).transpose()?;
    let out = args.out.clone().unwrap_or_else(|| args.record.join("report.html"));
    let text = page(&record, other.as_ref())?;
    let context = || out.display().to_string();
    File::create(&out).with_context(context)?.write_all(text.as_bytes()).with_context(context)?;
    Ok(Ended { text: format!("{}\n", out.display()), exit: Exit::Pass })
}

/// The page of a record, and of another one to be held beside it.
pub fn page(record: &Record, other: Option<&Record>) -> Result<String> {
    let title = escape(&record.head.scenario);
    let cut = columns::cut(record)?;
    let mut body = tables::header(record);
    body.push_str(&tables::notes(record));
    body.push_str(&tables::objectives(record));
    body.push_str("<h2>Latency</h2>\n");
    body.push_str(&latency(&cut));
    body.push_str(&percentiles(record, other)?);
    body.push_str("<h2>Over time</h2>\n");
    body.push_str(&timelines(&cut));
    body.push_str(&tables::phases(record)?);
    if let Some(other) = other {
        body.push_str(&tables::beside(record, other));
    }
    body.push_str(&tables::counts(record));
    body.push_str(&tables::events(record));
    body.push_str(&tables::scenario(record));
    Ok(format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style></head>\n<body>\n{body}\
         <div id=\"tip\" role=\"presentation\"></div>\n<script>\n{SCRIPT}</script>\n\
         </body></html>\n"
    ))
}

fn latency(cut: &Columns<'_>) -> String {
    let series = [
        series(cut, "50th percentile", |column| column.p50),
        series(cut, "99th percentile", |column| column.p99),
    ];
    let title = "Latency over time, from the intended time of sending (the stronger the colour, \
                 the more deliveries)";
    let Columns { cells, backdrop, .. } = cut;
    chart::heat(title, cells, &times(cut), &series, backdrop, micros)
}

fn percentiles(record: &Record, other: Option<&Record>) -> Result<String> {
    let mut all = vec![
        ("from the intended time of sending".to_owned(), record.times("corrected")?),
        ("from the actual time (uncorrected)".to_owned(), record.times("uncorrected")?),
    ];
    if let Some(other) = other {
        let name = other.dir.file_name().unwrap_or(other.dir.as_os_str()).to_string_lossy();
        all.push((format!("{name}: intended"), other.times("corrected")?));
        all.push((format!("{name}: actual"), other.times("uncorrected")?));
    }
    let longest = all.iter().map(|(_, times)| times.len()).max().unwrap_or(0);
    let most = (longest.max(10) as f64).log10().ceil().min(f64::from(NINES_MAX));
    let steps = most as u32 * POINTS_PER_NINE;
    let nines = (0..=steps).map(|step| f64::from(step) / f64::from(POINTS_PER_NINE));
    let nines = nines.collect::<Vec<_>>();
    let series = all.into_iter().map(|(name, times)| {
        let values = nines.iter().map(|nine| at_nines(&times, *nine));
        Series { name, values: values.collect() }
    });
    let series = series.collect::<Vec<_>>();
    Ok(over_nines("Latency by percentile", &nines, &series, micros))
}

/// The latency at so many nines, if there are times beyond it.
fn at_nines(times: &Times, nines: f64) -> Option<f64> {
    let beyond = 10.0_f64.powf(-nines);
    let told = times.len() as f64 * beyond >= 1.0;
    told.then(|| times.value_at_quantile(1.0 - beyond).max(1) as f64)
}

fn timelines(cut: &Columns<'_>) -> String {
    let rate = |count: fn(&Counts) -> u64| move |column: &Column<'_>| Some(column.rate(count));
    let one = |title: &str, series: &[Series], format| {
        over_time(title, &times(cut), series, &cut.backdrop, format)
    };
    let mut text = one(
        "Messages a second",
        &[
            series(cut, "offered", rate(|counts| counts.offered)),
            series(cut, "published", rate(|counts| counts.published)),
            series(cut, "admitted", rate(|counts| counts.admitted)),
        ],
        plain,
    );
    text += &one(
        "Deliveries a second",
        &[
            series(cut, "delivered", rate(|counts| counts.delivered)),
            series(cut, "left out and declared", rate(|counts| counts.declared_shed)),
        ],
        plain,
    );
    text += &one("Clients", &[series(cut, "ready", |column| Some(column.ready as f64))], plain);
    text += &one(
        "Connections a second",
        &[
            series(cut, "ready", rate(|counts| counts.connected + counts.reconnected)),
            series(cut, "lost", rate(|counts| counts.lost)),
            series(cut, "dropped on purpose", rate(|counts| counts.dropped)),
            series(cut, "failed", rate(|counts| counts.failed)),
        ],
        plain,
    );
    text += &one(
        "Processor time of the target",
        &[series(cut, "percent of a core", |column| column.target_cpu)],
        percent,
    );
    text +=
        &one("Memory of the target", &[series(cut, "resident", |column| column.target_rss)], bytes);
    text += &one(
        "How busy the generator is",
        &[
            series(cut, "busiest worker", |column| column.busy_worker),
            series(cut, "publisher", |column| column.busy_publisher),
        ],
        percent,
    );
    let lag = [series(cut, "99th percentile", |column| column.lag_p99)];
    text + &one("How late messages are sent", &lag, micros)
}

fn times(cut: &Columns<'_>) -> Vec<f64> {
    cut.columns.iter().map(|column| column.at).collect()
}

fn series(cut: &Columns<'_>, name: &str, of: impl Fn(&Column<'_>) -> Option<f64>) -> Series {
    Series { name: name.to_owned(), values: cut.columns.iter().map(of).collect() }
}

/// A count or a rate, short.
fn plain(value: f64) -> String {
    scaled(value, 1000.0, &["", " k", " M", " G"])
}

fn bytes(value: f64) -> String {
    scaled(value, 1000.0, &[" B", " kB", " MB", " GB", " TB"])
}

fn micros(us: f64) -> String {
    scaled(us, 1000.0, &[" µs", " ms", " s"])
}

fn percent(value: f64) -> String {
    format!("{} %", (value * 10.0).round() / 10.0)
}

/// With three digits and the unit that makes it short.
fn scaled(mut value: f64, step: f64, units: &[&str]) -> String {
    let mut unit = 0;
    while value.abs() >= step && unit + 1 < units.len() {
        value /= step;
        unit += 1;
    }
    let digits = match value.abs() {
        value if value < 10.0 => 2,
        value if value < 100.0 => 1,
        _ => 0,
    };
    let text = format!("{value:.digits$}");
    let text = match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.'),
        false => &text,
    };
    format!("{text}{}", units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::samples::{Made, place};

    fn made(test: &str, finished: bool) -> (Record, String) {
        let dir = place(test);
        Made::default().write(&dir, finished);
        let args =
            ReportArgs { record: dir.to_path_buf(), out: None, compare: Some(dir.to_path_buf()) };
        run(&args, &Arc::new(AtomicBool::new(false))).expect("it can be made");
        let text = std::fs::read_to_string(dir.join("report.html")).expect("it is there");
        (Record::read(&dir).expect("it is one"), text)
    }

    #[test]
    fn a_page_needs_nothing_from_elsewhere_and_lets_no_markup_in() {
        let (_, text) = made("page", true);
        for outside in ["http://", "https://", "src=", "@import", "url("] {
            assert!(!text.contains(outside), "{outside}");
        }
        for markup in ["<a record>", "<stall>", "<unexplained>", "# <b>"] {
            assert!(!text.contains(markup), "{markup}");
            assert!(text.contains(&escape(markup)), "{markup}");
        }
        assert!(!text.contains("NaN") && !text.contains("inf"), "every figure is a number");
        for name in ["ramp", "steady", "storm"] {
            assert!(text.contains(&format!("<title>{name}</title>")), "{name}");
        }
        assert_eq!(text.matches("<svg").count(), text.matches("</svg>").count());
        assert_eq!(text.matches("<figure").count(), 10);
    }

    #[test]
    fn a_run_that_was_cut_off_has_a_page_too() {
        let (_, text) = made("page-cut", false);
        assert!(text.contains("cut off"));
        assert!(text.contains("<td>steady</td>"), "its phases come from its intervals");
    }

    #[test]
    fn figures_are_short() {
        let check = |found: String, wanted: &str| assert_eq!(found, wanted);
        check(plain(0.0), "0");
        check(plain(12_340.0), "12.3 k");
        check(plain(300_000.0), "300 k");
        check(micros(999.0), "999 µs");
        check(micros(1_500_000.0), "1.5 s");
        check(bytes(80e6), "80 MB");
        check(percent(12.34), "12.3 %");
    }
}
