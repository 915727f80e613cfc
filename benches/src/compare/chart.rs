//! The chart: for each of the main figures a row of marks, one server under the other. Scales are
//! logarithmic, since servers differ by orders of magnitude; a mark is the median, and the line
//! behind it goes from the smallest to the largest.

use std::fmt::Write as _;

use super::case::Case;
use super::run::{About, Run};
use super::server::Kind;
use super::table::{FIGURES, Figure, kinds};
use crate::table::{Spread, readable};

const WIDTH: f64 = 760.0;
/// Where scales begin and end; names are before them, numbers behind.
const SCALE_FROM: f64 = 110.0;
const SCALE_TO: f64 = 610.0;
const ROW_HEIGHT: f64 = 24.0;
const TITLE_HEIGHT: f64 = 34.0;
/// The numbers under a scale, and the space before the next figure.
const AXIS_HEIGHT: f64 = 34.0;
const MARGIN: f64 = 16.0;
/// The smallest that a logarithmic scale shows.
const LEAST: f64 = 1e-3;

/// Colours that can be read on white and on black.
const STYLE: &str = "
  text { font: 13px system-ui, sans-serif; fill: #1f2328; }
  .title { font-weight: 600; }
  .soft { fill: #59636e; font-size: 11px; }
  .grid { stroke: #d1d9e0; }
  .span { stroke: #8c959f; stroke-width: 6; stroke-linecap: round; }
  .mark { fill: #57606a; }
  .span.own { stroke: #79b8ff; }
  .mark.own { fill: #0969da; }
  .ground { fill: #ffffff; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; }
    .soft { fill: #9198a1; }
    .grid { stroke: #3d444d; }
    .span { stroke: #656c76; }
    .mark { fill: #b7bdc8; }
    .span.own { stroke: #1f4f8b; }
    .mark.own { fill: #58a6ff; }
    .ground { fill: #0d1117; }
  }
";

/// The chart of these runs, as SVG.
pub fn svg(about: &About, runs: &[Run]) -> String {
    let kinds = kinds(runs);
    let shown = FIGURES.iter().filter(|figure| is_main(figure));
    let panels: Vec<Panel> = shown.filter_map(|figure| Panel::of(figure, &kinds, runs)).collect();
    let rows: usize = panels.iter().map(|panel| panel.rows.len()).sum();
    let around = panels.len() as f64 * (TITLE_HEIGHT + AXIS_HEIGHT);
    let height = MARGIN + around + rows as f64 * ROW_HEIGHT + ROW_HEIGHT;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         width=\"{WIDTH}\" height=\"{height}\" role=\"img\" aria-labelledby=\"title\">\n\
         <title id=\"title\">Barrage side by side with public brokers, each on one core</title>\n\
         <style>{STYLE}</style>\n\
         <rect class=\"ground\" width=\"{WIDTH}\" height=\"{height}\"/>\n"
    );
    let mut top = MARGIN;
    for panel in &panels {
        panel.draw(top, &mut out);
        top += TITLE_HEIGHT + panel.rows.len() as f64 * ROW_HEIGHT + AXIS_HEIGHT;
    }
    let foot = format!("{}, {}", about.machine_line, about.time);
    text(MARGIN, top + 4.0, "soft", "start", &foot, &mut out);
    out + "</svg>\n"
}

/// The figures that the chart shows; the table has the others.
fn is_main(figure: &Figure) -> bool {
    match figure.case {
        Case::Flood | Case::RoomsOfOne | Case::RoomsOf20 => {
            figure.name == "deliveries per server core-second"
        }
        Case::Paced => matches!(figure.name, "p99" | "server CPU"),
        Case::Idle => figure.name == "server memory per connection",
    }
}

struct Panel {
    title: String,
    unit: &'static str,
    rows: Vec<(Kind, Option<Spread>)>,
    /// The ends of the scale, as powers of ten.
    from: f64,
    to: f64,
}

impl Panel {
    /// None when nothing of it was measured.
    fn of(figure: &Figure, kinds: &[Kind], runs: &[Run]) -> Option<Self> {
        let spread = |kind| figure.spread(kind, runs).filter(|spread| spread.min >= LEAST);
        let rows: Vec<_> = kinds.iter().map(|&kind| (kind, spread(kind))).collect();
        let spreads = || rows.iter().filter_map(|(_, spread)| *spread);
        let least = spreads().map(|spread| spread.min).reduce(f64::min)?;
        let most = spreads().map(|spread| spread.max).reduce(f64::max)?;
        let (from, to) = (least.log10().floor(), most.log10().ceil());
        let better = if figure.more_is_better { "more" } else { "less" };
        let title = format!("{}: {} ({better} is better)", figure.case.name(), figure.name);
        Some(Self { title, unit: figure.unit, rows, from, to: to.max(from + 1.0) })
    }

    fn x(&self, value: f64) -> f64 {
        let share = (value.log10() - self.from) / (self.to - self.from);
        SCALE_FROM + share.clamp(0.0, 1.0) * (SCALE_TO - SCALE_FROM)
    }

    fn draw(&self, top: f64, out: &mut String) {
        text(MARGIN, top + 14.0, "title", "start", &self.title, out);
        let (begin, height) = (top + TITLE_HEIGHT, self.rows.len() as f64 * ROW_HEIGHT);
        for power in self.from as i32..=self.to as i32 {
            let value = 10f64.powi(power);
            let x = self.x(value);
            line(x, begin - 6.0, x, begin + height, "grid", out);
            text(x, begin + height + 14.0, "soft", "middle", &readable(value), out);
        }
        for (nth, (kind, spread)) in self.rows.iter().enumerate() {
            let y = begin + (nth as f64 + 0.5) * ROW_HEIGHT;
            let own = match kind {
                Kind::Barrage | Kind::BarrageWs => " own",
                Kind::Mosquitto | Kind::Nats | Kind::Redis | Kind::Nchan => "",
            };
            text(SCALE_FROM - 12.0, y + 4.0, "name", "end", kind.name(), out);
            let Some(spread) = spread else {
                text(SCALE_TO + 12.0, y + 4.0, "soft", "start", "not measured", out);
                continue;
            };
            line(self.x(spread.min), y, self.x(spread.max), y, &format!("span{own}"), out);
            // Writing to a String cannot fail.
            let x = self.x(spread.median);
            let _ = writeln!(out, "<circle class=\"mark{own}\" cx=\"{x:.1}\" cy=\"{y}\" r=\"5\"/>");
            let value = format!("{}{}", readable(spread.median), self.unit);
            text(SCALE_TO + 12.0, y + 4.0, "value", "start", &value, out);
        }
    }
}

fn text(x: f64, y: f64, class: &str, anchor: &str, text: &str, out: &mut String) {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(
        out,
        "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y}\" text-anchor=\"{anchor}\">{text}</text>"
    );
}

fn line(x1: f64, y1: f64, x2: f64, y2: f64, class: &str, out: &mut String) {
    let _ = writeln!(
        out,
        "<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1}\" x2=\"{x2:.1}\" y2=\"{y2}\"/>"
    );
}

#[cfg(test)]
mod tests {
    use barrage_loadgen::record::Counts;
    use barrage_loadgen::record::kept::Figures;
    use serde_json::Value;

    use super::super::run::tests::run;
    use super::*;

    fn chart(values: &[(Kind, f64)]) -> String {
        let runs = values.iter().map(|&(kind, value)| {
            let deliveries_per_target_cpu_s = Some(value);
            let measured = Figures { deliveries_per_target_cpu_s, ..Figures::default() };
            run(kind, Case::Flood, 1, measured, Counts::default())
        });
        let about = About {
            time: "now".to_owned(),
            commit: String::new(),
            machine: Value::Null,
            machine_line: "a <small> & old machine".to_owned(),
            versions: Vec::new(),
        };
        svg(&about, &runs.collect::<Vec<_>>())
    }

    #[test]
    fn scales_go_by_powers_of_ten_and_marks_are_on_them() {
        let chart = chart(&[(Kind::Barrage, 1e7), (Kind::Redis, 1e5)]);
        for (value, x) in [("100,000", 110), ("1,000,000", 360), ("10,000,000", 610)] {
            assert!(
                chart.contains(&format!("x=\"{x}.0\" y=\"112\" text-anchor=\"middle\">{value}<")),
                "{chart}"
            );
        }
        assert!(chart.contains("class=\"mark own\" cx=\"610.0\""), "{chart}");
        assert!(chart.contains("class=\"mark\" cx=\"110.0\""), "{chart}");
        assert!(chart.contains("a &lt;small> &amp; old machine"), "{chart}");
    }

    #[test]
    fn what_cannot_be_on_a_logarithmic_scale_is_not_measured() {
        let chart = chart(&[(Kind::Barrage, 5.0), (Kind::Nats, 0.0)]);
        assert!(chart.contains(">not measured<"), "{chart}");
        assert_eq!(chart.matches("<circle").count(), 1);
    }
}
