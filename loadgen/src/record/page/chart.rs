//! Charts as SVG: lines over time, lines over percentiles, and a heat map.

use std::fmt::Write;

use serde_json::json;

/// The size of a chart, in its own units; the page stretches it.
pub const WIDTH: f64 = 1000.0;
/// See [`WIDTH`].
pub const HEIGHT: f64 = 260.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 30.0;
/// Lines that have a colour of their own.
const COLOURS: usize = 4;

/// One line: its name, and a value at each place of the axis at which there is one.
pub struct Series {
    /// Its name.
    pub name: String,
    /// Its values.
    pub values: Vec<Option<f64>>,
}

/// What lies behind all charts over time.
#[derive(Clone, Debug, Default)]
pub struct Backdrop {
    /// The end of the time axis, in seconds.
    pub seconds: f64,
    /// Phases: name, beginning, end.
    pub phases: Vec<(String, f64, f64)>,
    /// Events: what, when.
    pub events: Vec<(String, f64)>,
}

/// A scale of values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scale {
    /// From 0.
    Linear {
        /// The highest value.
        max: f64,
    },
    /// By tens.
    Log {
        /// The lowest value, over 0.
        min: f64,
        /// The highest.
        max: f64,
    },
}

impl Scale {
    /// For some values, from 0.
    pub fn linear(values: impl Iterator<Item = f64>) -> Self {
        let max = values.fold(0.0, f64::max);
        Self::Linear { max: if max > 0.0 { nice(max * 1.05) } else { 1.0 } }
    }

    /// For some values, by whole tens.
    pub fn log(values: impl Iterator<Item = f64>) -> Self {
        let (mut min, mut max) = (f64::INFINITY, 0.0_f64);
        values.filter(|value| *value > 0.0).for_each(|value| {
            (min, max) = (min.min(value), max.max(value));
        });
        if max <= 0.0 {
            return Self::Log { min: 1.0, max: 10.0 };
        }
        let low = 10.0_f64.powf(min.log10().floor());
        let high = 10.0_f64.powf(max.log10().ceil());
        Self::Log { min: low, max: if high > low { high } else { low * 10.0 } }
    }

    /// Where a value is: 0 at the bottom, 1 at the top.
    pub fn at(self, value: f64) -> f64 {
        let share = match self {
            Self::Linear { max } => value / max,
            Self::Log { min, max } => (value.max(min) / min).ln() / (max / min).ln(),
        };
        share.clamp(0.0, 1.0)
    }

    fn ticks(self) -> Vec<f64> {
        match self {
            Self::Linear { max } => (0..=4).map(|step| max * f64::from(step) / 4.0).collect(),
            Self::Log { min, max } => {
                let tens = (max / min).log10().round() as i32;
                (0..=tens).map(|ten| min * 10.0_f64.powi(ten)).collect()
            }
        }
    }
}

/// Where a share of the width is.
fn x_at(share: f64) -> f64 {
    LEFT + share.clamp(0.0, 1.0) * (WIDTH - LEFT - RIGHT)
}

/// Where a share of the height is.
fn y_at(share: f64) -> f64 {
    TOP + (1.0 - share) * (HEIGHT - TOP - BOTTOM)
}

/// Lines over time. `times` are the seconds of all values.
pub fn over_time(
    title: &str,
    times: &[f64],
    series: &[Series],
    backdrop: &Backdrop,
    format: fn(f64) -> String,
) -> String {
    let scale = Scale::linear(series.iter().flat_map(|one| one.values.iter().flatten().copied()));
    let shares = times.iter().map(|time| time / backdrop.seconds).collect::<Vec<_>>();
    let labels = times.iter().map(|time| format!("{time:.1} s")).collect::<Vec<_>>();
    let mut inner = behind(backdrop);
    inner.push_str(&values_axis(scale, format));
    inner.push_str(&time_axis(backdrop));
    inner.push_str(&lines(&shares, series, scale));
    let key = key(series, !backdrop.events.is_empty());
    frame(title, &key, &inner, &tips(&shares, &labels, series, format))
}

/// Lines over percentiles, with an axis of nines.
pub fn over_nines(
    title: &str,
    nines: &[f64],
    series: &[Series],
    format: fn(f64) -> String,
) -> String {
    let scale = Scale::log(series.iter().flat_map(|one| one.values.iter().flatten().copied()));
    let most = nines.iter().copied().fold(1.0, f64::max);
    let shares = nines.iter().map(|nine| nine / most).collect::<Vec<_>>();
    let labels = nines.iter().map(|nine| percent_of(*nine)).collect::<Vec<_>>();
    let mut inner = values_axis(scale, format);
    for nine in 0..=most.floor() as u32 {
        let x = x_at(f64::from(nine) / most);
        // The last one would stand out on the right.
        let anchor = if f64::from(nine) < most { "middle" } else { "end" };
        inner.push_str(&format!(
            "<line class=\"rule\" x1=\"{x:.1}\" y1=\"{TOP}\" x2=\"{x:.1}\" y2=\"{:.1}\"/>\
             <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{}</text>",
            y_at(0.0),
            HEIGHT - 10.0,
            percent_of(f64::from(nine)),
        ));
    }
    inner.push_str(&lines(&shares, series, scale));
    frame(title, &key(series, false), &inner, &tips(&shares, &labels, series, format))
}

/// A cell of a heat map: its column, its row from below, and how dark it is.
pub struct Cell {
    /// The beginning of its column, in seconds.
    pub from: f64,
    /// The end.
    pub to: f64,
    /// The lowest value of its row.
    pub low: f64,
    /// The highest.
    pub high: f64,
    /// 0 to 1.
    pub dark: f64,
}

/// A heat map over time, with lines over it.
pub fn heat(
    title: &str,
    cells: &[Cell],
    times: &[f64],
    series: &[Series],
    backdrop: &Backdrop,
    format: fn(f64) -> String,
) -> String {
    let scale = Scale::log(cells.iter().flat_map(|cell| [cell.low, cell.high]));
    let mut inner = behind(backdrop);
    inner.push_str(&values_axis(scale, format));
    inner.push_str(&time_axis(backdrop));
    for cell in cells {
        let (left, right) = (x_at(cell.from / backdrop.seconds), x_at(cell.to / backdrop.seconds));
        let (top, bottom) = (y_at(scale.at(cell.high)), y_at(scale.at(cell.low)));
        inner.push_str(&format!(
            "<rect class=\"heat\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{:.1}\" \
             height=\"{:.1}\" fill-opacity=\"{:.2}\"/>",
            right - left,
            bottom - top,
            cell.dark,
        ));
    }
    let shares = times.iter().map(|time| time / backdrop.seconds).collect::<Vec<_>>();
    let labels = times.iter().map(|time| format!("{time:.1} s")).collect::<Vec<_>>();
    inner.push_str(&lines(&shares, series, scale));
    let key = key(series, !backdrop.events.is_empty());
    frame(title, &key, &inner, &tips(&shares, &labels, series, format))
}

/// Text for HTML, also within quotes.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c if c.is_control() && c != '\n' && c != '\t' => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

fn frame(title: &str, key: &str, inner: &str, tips: &str) -> String {
    let (title, bottom) = (escape(title), y_at(0.0));
    format!(
        "<figure data-chart=\"{}\"><figcaption>{title}</figcaption><div class=\"key\">{key}</div>\
         <div class=\"wide\"><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
         aria-label=\"{title}\"><title>{title}</title>{inner}<line class=\"cursor\" \
         y1=\"{TOP}\" y2=\"{bottom}\" x1=\"0\" x2=\"0\"/></svg></div></figure>\n",
        escape(tips),
    )
}

fn key(series: &[Series], events: bool) -> String {
    let mut key = String::new();
    for (place, one) in series.iter().enumerate() {
        let colour = place % COLOURS;
        key.push_str(&format!("<span><i class=\"k{colour}\"></i>{}</span>", escape(&one.name)));
    }
    if events {
        key.push_str("<span><i class=\"k9\"></i>event</span>");
    }
    key
}

fn tips(shares: &[f64], labels: &[String], series: &[Series], format: fn(f64) -> String) -> String {
    let xs = shares.iter().map(|share| x_at(*share).round()).collect::<Vec<_>>();
    let rows = series.iter().map(|one| {
        let values = one.values.iter().map(|value| value.map(format)).collect::<Vec<_>>();
        json!([one.name, values])
    });
    let rows = rows.collect::<Vec<_>>();
    json!({ "width": WIDTH, "xs": xs, "labels": labels, "rows": rows }).to_string()
}

fn lines(shares: &[f64], series: &[Series], scale: Scale) -> String {
    let mut text = String::new();
    for (place, one) in series.iter().enumerate() {
        let mut path = String::new();
        let mut down = false;
        for (share, value) in shares.iter().zip(&one.values) {
            let Some(value) = value else {
                down = false;
                continue;
            };
            let (x, y) = (x_at(*share), y_at(scale.at(*value)));
            let step = if down { 'L' } else { 'M' };
            write!(path, "{step}{x:.1} {y:.1}").expect("a String takes what is written");
            down = true;
        }
        text.push_str(&format!("<path class=\"line s{}\" d=\"{path}\"/>", place % COLOURS));
    }
    text
}

fn behind(backdrop: &Backdrop) -> String {
    let mut text = String::new();
    let height = y_at(0.0) - TOP;
    for (place, (name, from, to)) in backdrop.phases.iter().enumerate() {
        let (left, right) = (x_at(from / backdrop.seconds), x_at(to / backdrop.seconds));
        let fill = if place % 2 == 0 { "phase" } else { "gap" };
        text.push_str(&format!(
            "<rect class=\"{fill}\" x=\"{left:.1}\" y=\"{TOP}\" width=\"{:.1}\" \
             height=\"{height:.1}\" {}><title>{name}</title></rect>",
            (right - left).max(0.0),
            if place % 2 == 0 { "" } else { "fill=\"none\"" },
            name = escape(name),
        ));
        // A name that would run into the next one is left to the title.
        if right - left > 8.0 * name.chars().count() as f64 {
            let (x, y, name) = (left + 4.0, TOP + 13.0, escape(name));
            text.push_str(&format!("<text x=\"{x:.1}\" y=\"{y:.1}\">{name}</text>"));
        }
    }
    for (what, at) in &backdrop.events {
        let x = x_at(at / backdrop.seconds);
        text.push_str(&format!(
            "<line class=\"event\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{:.1}\">\
             <title>{}</title></line>",
            y_at(0.0),
            escape(what),
        ));
    }
    text
}

fn values_axis(scale: Scale, format: fn(f64) -> String) -> String {
    let mut text = String::new();
    for tick in scale.ticks() {
        let y = y_at(scale.at(tick));
        text.push_str(&format!(
            "<line class=\"rule\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            WIDTH - RIGHT,
            LEFT - 6.0,
            y + 4.0,
            escape(&format(tick)),
        ));
    }
    text
}

fn time_axis(backdrop: &Backdrop) -> String {
    let step = nice(backdrop.seconds / 8.0);
    let mut text = String::new();
    let ticks = (backdrop.seconds / step).floor() as u32;
    for tick in 0..=ticks {
        let time = f64::from(tick) * step;
        text.push_str(&format!(
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{} s</text>",
            x_at(time / backdrop.seconds),
            HEIGHT - 10.0,
            (time * 10.0).round() / 10.0,
        ));
    }
    text
}

/// 0 nines are 0 %, one is 90 %, two are 99 %.
fn percent_of(nines: f64) -> String {
    let share = 100.0 - 100.0 * 10.0_f64.powf(-nines);
    let digits = (nines.ceil() as usize).saturating_sub(2).max(usize::from(nines.fract() > 0.0));
    format!("{share:.digits$} %")
}

/// The next number up of 1, 2, 2.5, 4, 5 and their tens.
fn nice(value: f64) -> f64 {
    let ten = 10.0_f64.powf(value.log10().floor());
    let steps = [1.0, 2.0, 2.5, 4.0, 5.0, 8.0, 10.0];
    let step = steps.into_iter().find(|step| value <= step * ten * (1.0 + 1e-9));
    step.unwrap_or(10.0) * ten
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_become_nice() {
        for (value, wanted) in [(0.9, 1.0), (1.0, 1.0), (3.0, 4.0), (22.0, 25.0), (810.0, 1000.0)] {
            assert!((nice(value) - wanted).abs() < 1e-9, "{value}");
        }
        assert_eq!(percent_of(0.0), "0 %");
        assert_eq!(percent_of(1.0), "90 %");
        assert_eq!(percent_of(3.0), "99.9 %");
        assert_eq!(percent_of(4.0), "99.99 %");
    }

    #[test]
    fn scales_hold_all_values() {
        let scale = Scale::log([30.0, 40_000.0].into_iter());
        assert_eq!(scale, Scale::Log { min: 10.0, max: 100_000.0 });
        assert_eq!((scale.at(10.0), scale.at(1000.0), scale.at(1e9)), (0.0, 0.5, 1.0));
        let Scale::Linear { max } = Scale::linear([3.0, 7.0].into_iter()) else {
            panic!("it is linear");
        };
        assert!(max >= 7.0);
        assert_eq!(Scale::linear(std::iter::empty()).at(0.0), 0.0);
        assert_eq!(Scale::log(std::iter::empty()).ticks(), [1.0, 10.0]);
    }

    #[test]
    fn text_cannot_become_markup() {
        assert_eq!(escape("<a href='\"&\u{1b}"), "&lt;a href=&#39;&quot;&amp;\u{fffd}");
    }
}
