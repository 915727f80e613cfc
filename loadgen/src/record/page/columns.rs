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
/// The least that the end of a run is taken for, in seconds: a rate over less would be no rate.
const SLIVER_S: f64 = 0.1;
/// The most events that are drawn.
const EVENTS_MAX: usize = 500;

/// A column.
#[derive(Clone, Debug, Default)]
pub struct Column<'a> {
    /// Its middle, in seconds since the beginning.
    pub at: f64,
    /// How much of it there was a run in.
    pub seconds: f64,
    /// What was counted in the intervals that lie in it, with how much of each does: intervals are
    /// a little longer than columns, and a whole one in each would leave some columns empty.
    pub counted: Vec<(&'a Counts, f64)>,
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

impl Column<'_> {
    /// How often something was counted in a second.
    pub fn rate(&self, of: impl Fn(&Counts) -> u64) -> f64 {
        let count = self.counted.iter().map(|(counts, share)| of(counts) as f64 * share);
        count.sum::<f64>() / self.seconds
    }
}

/// A record in columns.
pub struct Columns<'a> {
    /// The columns.
    pub columns: Vec<Column<'a>>,
    /// The heat map's cells.
    pub cells: Vec<Cell>,
    /// Phases and events.
    pub backdrop: Backdrop,
}

/// Cuts a record.
pub fn cut(record: &Record) -> Result<Columns<'_>> {
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
    let mut counted = counted(record, width, count, second);
    let mut ready = BTreeMap::new();
    let mut heats = Vec::new();
    let mut columns = Vec::with_capacity(count);
    for (place, rows) in places.iter().enumerate() {
        let (from, to) = (place as f64 * width, (place as f64 + 1.0) * width);
        let (mut column, latencies) = column(rows, &mut ready)?;
        column.counted = std::mem::take(&mut counted[place]);
        column.at = f64::midpoint(from, to);
        column.seconds = (seconds - from).clamp(SLIVER_S, width);
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

/// The counts of all intervals in the columns in which they lie, each with its share.
fn counted(
    record: &Record,
    width: f64,
    count: usize,
    second: impl Fn(u64) -> f64,
) -> Vec<Vec<(&Counts, f64)>> {
    let mut columns = vec![Vec::new(); count];
    for row in record.rows.iter().filter(|row| !is_odd(&row.line.source)) {
        let (from, to) = (second(row.line.from_ns), second(row.line.to_ns));
        let place = |at: f64| ((at / width) as usize).min(count - 1);
        for (at, column) in columns.iter_mut().enumerate().take(place(to) + 1).skip(place(from)) {
            let (left, right) = (at as f64 * width, (at as f64 + 1.0) * width);
            let share = match to > from {
                true => (to.min(right) - from.max(left)) / (to - from),
                false => 1.0,
            };
            column.push((&row.line.counts, share));
        }
    }
    columns
}

/// All that some rows say, and their latencies. `ready` are the clients of each source.
fn column<'a>(rows: &[&'a Row], ready: &mut BTreeMap<&'a str, u64>) -> Result<(Column<'a>, Times)> {
    let mut column = Column::default();
    let (mut latencies, mut lags) = (no_times(), no_times());
    for row in rows {
        let line = &row.line;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::samples::{Made, place};

    #[test]
    fn an_even_rate_is_even_though_intervals_are_longer_than_columns() {
        let (dir, made) = (place("columns"), Made::default());
        made.write(&dir, true);
        let mut record = Record::read(&dir).expect("it is one");
        record.rows.retain(|row| row.line.source == "publisher");
        let began = record.head.began_ns;
        for (nth, row) in (0..).zip(&mut record.rows) {
            row.line.from_ns = began + nth * 1_100_000_000;
            row.line.to_ns = began + (nth + 1) * 1_100_000_000;
            row.line.counts = Counts { offered: 110, ..Counts::default() };
        }
        record.rows.truncate(13);
        let cut = cut(&record).expect("its times can be read");
        assert_eq!(cut.columns.len(), 15, "14.3 seconds");
        for column in &cut.columns {
            let rate = column.rate(|counts| counts.offered);
            assert!((rate - 100.0).abs() < 1e-6, "{rate} at {}", column.at);
        }
    }
}
