//! A record cut into columns of equal time, for charts.

use std::collections::BTreeMap;

use anyhow::Result;

use crate::record::compare::figures::cpu_at;
use crate::record::page::chart::{Backdrop, Cell};
use crate::record::reader::Row;
use crate::record::totals::is_odd;
use crate::record::{Counts, Record, Times, no_times};

const NS_PER_S: f64 = 1e9;
/// The most columns: more would be finer than a screen.
const COLUMNS_MAX: f64 = 240.0;
/// Rows of the heat map for each factor of ten.
const ROWS_PER_TEN: f64 = 8.0;
/// The most events that are drawn.
const EVENTS_MAX: usize = 500;

/// A column.
#[derive(Clone, Debug, Default)]
pub struct Column {
    /// Its middle, in seconds since the beginning.
    pub at: f64,
    /// Its length.
    pub seconds: f64,
    /// What was counted in it.
    pub counts: Counts,
    /// Clients that were ready at its end.
    pub ready: u64,
    /// The busiest worker, in percent of a core.
    pub busy_worker: Option<f64>,
    /// The publisher.
    pub busy_publisher: Option<f64>,
    /// Latencies, in microseconds: the 50th …
    pub p50: Option<f64>,
    /// … and the 99th percentile.
    pub p99: Option<f64>,
    /// How late messages were sent: the 99th percentile.
    pub lag_p99: Option<f64>,
    /// Processor time of the target in percent of a core.
    pub target_cpu: Option<f64>,
    /// Its memory.
    pub target_rss: Option<f64>,
}

/// A record in columns.
pub struct Columns {
    /// The columns.
    pub columns: Vec<Column>,
    /// The heat map's cells.
    pub cells: Vec<Cell>,
    /// Phases and events.
    pub backdrop: Backdrop,
}

/// Cuts a record.
pub fn cut(record: &Record) -> Result<Columns> {
    let began = record.head.began_ns;
    let second = |at_ns: u64| at_ns.saturating_sub(began) as f64 / NS_PER_S;
    let seconds = record.rows.iter().map(|row| second(row.line.to_ns)).fold(1.0, f64::max);
    let width = (seconds / COLUMNS_MAX).max(1.0).ceil();
    let count = (seconds / width).ceil().max(1.0) as usize;
    let mut places = vec![Vec::new(); count];
    for row in record.rows.iter().filter(|row| !is_odd(&row.line.source)) {
        let middle = f64::midpoint(second(row.line.from_ns), second(row.line.to_ns));
        places[((middle / width) as usize).min(count - 1)].push(row);
    }
    let mut ready = BTreeMap::new();
    let mut heats = Vec::new();
    let mut columns = Vec::new();
    for (place, rows) in places.iter().enumerate() {
        let (from, to) = (place as f64 * width, (place as f64 + 1.0) * width);
        let (mut column, latencies) = column(rows, &mut ready)?;
        (column.at, column.seconds) = (f64::midpoint(from, to), width);
        let ns = |at: f64| began.saturating_add((at * NS_PER_S) as u64);
        let cpu = cpu_at(&record.target, ns(to)).zip(cpu_at(&record.target, ns(from)));
        column.target_cpu = cpu.map(|(end, begin)| (end - begin).max(0.0) / width * 100.0);
        let samples = record.target.iter().filter(|one| (ns(from)..ns(to)).contains(&one.at_ns));
        column.target_rss = samples.filter_map(|one| one.rss_bytes).max().map(|rss| rss as f64);
        heats.push((from, to, by_row(&latencies)));
        columns.push(column);
    }
    let backdrop = backdrop(record, count as f64 * width, second);
    Ok(Columns { columns, cells: cells(&heats), backdrop })
}

/// All that some rows say, and their latencies. `ready` are the clients of each source.
fn column<'a>(rows: &[&'a Row], ready: &mut BTreeMap<&'a str, u64>) -> Result<(Column, Times)> {
    let mut column = Column::default();
    let (mut latencies, mut lags) = (no_times(), no_times());
    for row in rows {
        let line = &row.line;
        column.counts.add(&line.counts);
        ready.insert(&line.source, line.ready);
        let busy = match line.logged.iter().any(|kind| kind == "lag") || is_publisher(line) {
            true => &mut column.busy_publisher,
            false => &mut column.busy_worker,
        };
        *busy = Some(busy.unwrap_or(0.0).max(line.busy * 100.0));
        for (kind, all) in [("corrected", &mut latencies), ("lag", &mut lags)] {
            if let Some(times) = row.times(kind)? {
                all.add(&times)?;
            }
        }
    }
    column.ready = ready.values().sum();
    let at = |times: &Times, quantile| {
        (!times.is_empty()).then(|| times.value_at_quantile(quantile) as f64)
    };
    (column.p50, column.p99) = (at(&latencies, 0.5), at(&latencies, 0.99));
    column.lag_p99 = at(&lags, 0.99);
    Ok((column, latencies))
}

fn is_publisher(line: &crate::record::writer::Line) -> bool {
    line.source.ends_with("publisher")
}

/// Counts of times by the heat map's rows.
fn by_row(times: &Times) -> BTreeMap<i32, u64> {
    let mut rows = BTreeMap::new();
    for value in times.iter_recorded() {
        let us = value.value_iterated_to().max(1) as f64;
        let row = (us.log10() * ROWS_PER_TEN).floor() as i32;
        *rows.entry(row).or_default() += value.count_since_last_iteration();
    }
    rows
}

/// Cells, the darker the more of their column's times they have.
fn cells(heats: &[(f64, f64, BTreeMap<i32, u64>)]) -> Vec<Cell> {
    let most = heats.iter().flat_map(|(_, _, rows)| rows.values()).copied().max().unwrap_or(1);
    let dark = |count: u64| ((count as f64).ln_1p() / (most as f64).ln_1p()).max(0.06);
    let edge = |row: i32| 10.0_f64.powf(f64::from(row) / ROWS_PER_TEN);
    let cells = heats.iter().flat_map(|(from, to, rows)| {
        rows.iter().map(move |(row, count)| Cell {
            from: *from,
            to: *to,
            low: edge(*row),
            high: edge(row + 1),
            dark: dark(*count),
        })
    });
    cells.collect()
}

fn backdrop(record: &Record, seconds: f64, second: impl Fn(u64) -> f64) -> Backdrop {
    let mut spans = BTreeMap::<usize, (f64, f64)>::new();
    for row in &record.rows {
        let (from, to) = (second(row.line.from_ns), second(row.line.to_ns));
        let span = spans.entry(row.line.phase).or_insert((from, to));
        *span = (span.0.min(from), span.1.max(to));
    }
    let phases = spans.into_iter().map(|(phase, (from, to))| (record.phase_name(phase), from, to));
    // The beginning of a phase is drawn as its edge already.
    let events = record.events.iter().filter(|event| event.kind != "phase").take(EVENTS_MAX);
    let events =
        events.map(|event| (format!("{}: {}", event.kind, event.text), second(event.at_ns)));
    Backdrop { seconds, phases: phases.collect(), events: events.collect() }
}
