//! One page with the figures of one or several runs: a roofline plot, bars against the limits, and the tables. No script, nothing from the network.
//!
//! The plot has multiply-adds per byte to the right and multiply-adds per second upwards, both logarithmic: a figure cannot be above the slope of the
//! level that its bytes come from, nor above the flat line of its arithmetic.

use super::compare::label;
use super::rows::{Report, Row, number};
use std::collections::BTreeMap;
use std::fmt::Write;

/// The page.
pub fn page(reports: &[Report]) -> String {
    let mut body = String::new();
    for report in reports {
        let m = &report.machine;
        let caches = m.caches.iter().map(|c| {
            let kib = c.bytes >> 10;
            match kib >= 1024 {
                true => format!("L{} {} MiB", c.level, kib >> 10),
                false => format!("L{} {kib} KiB", c.level),
            }
        });
        let _ = write!(
            body,
            "<section>\n<h2>quern bench {}</h2>\n<p class=\"machine\">{} &middot; {} processors &middot; {} GiB &middot; {} &middot; quern {}</p>\n",
            escape(&report.command),
            escape(if m.processor.is_empty() {
                "unknown processor"
            } else {
                &m.processor
            }),
            m.processors,
            m.memory >> 30,
            escape(&caches.collect::<Vec<_>>().join(", ")),
            escape(&report.quern),
        );
        if report.busy {
            let _ = writeln!(
                body,
                "<p class=\"busy\"><strong>Busy:</strong> the figures may mean little, because {}.</p>",
                escape(&report.busy_because.join("; "))
            );
        }
        body.push_str(&roofline(&report.rows));
        body.push_str(&bars(&report.rows));
        body.push_str(&table(&report.rows));
        body.push_str("</section>\n");
    }
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>quern bench</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<h1>quern bench</h1>\n{body}</body>\n</html>\n"
    )
}

/// Light and dark by what the reader's system prefers.
const STYLE: &str = "\
:root { color-scheme: light dark; --back: #fcfcfa; --text: #1c1c1c; --soft: #6a6a66; --line: #d9d8d2; --fill: #ecebe4;\n\
  --c0: #2b6cb0; --c1: #c05621; --c2: #2f855a; --c3: #805ad5; --c4: #b83280; --c5: #8a6d1a; --c6: #2c7a7b; --c7: #9b2c2c; }\n\
@media (prefers-color-scheme: dark) { :root { --back: #16181b; --text: #e8e6e1; --soft: #9b9a94; --line: #34373c; --fill: #24272b;\n\
  --c0: #63b3ed; --c1: #f6ad55; --c2: #68d391; --c3: #b794f4; --c4: #f687b3; --c5: #d9bb54; --c6: #4fd1c5; --c7: #fc8181; } }\n\
body { background: var(--back); color: var(--text); font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; padding: 0 1rem; }\n\
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin: 2.5rem 0 .2rem; } h3 { font-size: 1rem; margin: 1.6rem 0 .4rem; }\n\
.machine { color: var(--soft); margin: 0 0 1rem; }\n\
.busy { border-left: 4px solid var(--c1); background: var(--fill); padding: .5rem .8rem; }\n\
svg { width: 100%; height: auto; display: block; } svg text { fill: var(--text); font: 12px system-ui, sans-serif; }\n\
svg .soft { fill: var(--soft); } svg .grid { stroke: var(--line); stroke-width: 1; } svg .roof { fill: none; stroke: var(--soft); stroke-width: 1.5; }\n\
svg .track { fill: var(--fill); }\n\
.wide { overflow-x: auto; }\n\
table { border-collapse: collapse; font-variant-numeric: tabular-nums; } th, td { padding: .2rem .7rem .2rem 0; text-align: right; white-space: nowrap; }\n\
th { color: var(--soft); font-weight: 500; border-bottom: 1px solid var(--line); } .word { text-align: left; }\n\
.legend { color: var(--soft); } .legend span { display: inline-block; margin-right: 1.2rem; }\n\
.legend i { display: inline-block; width: .7em; height: .7em; border-radius: 50%; margin-right: .4em; }\n";

/// Colours that the style defines.
const COLORS: usize = 8;

/// Text as it may stand in HTML, attributes included.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if c.is_control() => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
    }
    out
}

/// A logarithmic axis from one number to another, over a range of pixels.
struct Axis {
    from: f64,
    to: f64,
    start: f64,
    length: f64,
}

impl Axis {
    /// An axis over whole powers of ten that holds these values; none without any.
    fn over(values: impl Iterator<Item = f64>, start: f64, length: f64) -> Option<Axis> {
        let logs = values.filter(|v| v.is_finite() && *v > 0.0).map(f64::log10);
        let (low, high) = logs.fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| {
            (a.min(v), b.max(v))
        });
        (low <= high).then(|| Axis {
            from: low.floor(),
            to: high.ceil().max(low.floor() + 1.0),
            start,
            length,
        })
    }

    /// The pixel of a value, within the axis.
    fn at(&self, value: f64) -> f64 {
        let part = (value.log10() - self.from) / (self.to - self.from);
        self.start + self.length * part.clamp(0.0, 1.0)
    }

    /// Powers of ten, each with its pixel.
    fn ticks(&self) -> impl Iterator<Item = (f64, f64)> + '_ {
        let steps = (self.to - self.from).round() as i32;
        (0..=steps).map(|i| {
            let value = 10f64.powf(self.from + f64::from(i));
            (value, self.at(value))
        })
    }
}

/// A power of ten in words.
fn tick(value: f64) -> String {
    let digits = (-value.log10()).ceil().max(0.0) as usize;
    format!("{value:.digits$}")
}

fn roofline(rows: &[Row]) -> String {
    let points: Vec<&Row> = rows
        .iter()
        .filter(|row| row.group != "machine")
        .filter(|row| matches!((row.gb_per_s, row.gmac_per_s), (Some(b), Some(m)) if b > 0.0 && m > 0.0))
        .collect();
    // The roofs of the most threads that were used.
    let limits = || rows.iter().filter(|row| row.group == "machine");
    let threads = limits().map(|row| row.threads).max().unwrap_or(0);
    let mut slopes: BTreeMap<String, f64> = BTreeMap::new();
    let mut flats: BTreeMap<String, f64> = BTreeMap::new();
    for row in limits().filter(|row| row.threads == threads) {
        let best = |known: &mut BTreeMap<String, f64>, name: &str| {
            let rate = known.entry(name.to_owned()).or_insert(0.0);
            *rate = rate.max(row.median());
        };
        match (row.unit.as_str(), row.name.strip_prefix("read ")) {
            ("GB/s", Some(level)) => best(&mut slopes, level.split(',').next().unwrap_or(level)),
            ("GMAC/s", _) => best(&mut flats, &row.name),
            _ => {}
        }
    }
    if slopes.is_empty() || flats.is_empty() {
        return String::new();
    }
    const WIDTH: f64 = 900.0;
    const HEIGHT: f64 = 430.0;
    let (left, right, top, bottom) = (60.0, 20.0, 15.0, 45.0);
    let intensity = |row: &Row| row.gmac_per_s.unwrap_or(0.0) / row.gb_per_s.unwrap_or(f64::NAN);
    let top_rate = flats.values().copied().fold(0.0, f64::max);
    // From where the fastest level is a slope to where the slowest one meets the roof.
    let knees = slopes.values().map(|rate| top_rate / rate);
    let ends = points
        .iter()
        .map(|row| intensity(row))
        .chain(knees)
        .chain([0.5, 300.0]);
    let x = Axis::over(ends, left, WIDTH - left - right);
    let slowest = slopes.values().copied().fold(f64::INFINITY, f64::min);
    let rates = points.iter().filter_map(|row| row.gmac_per_s);
    let heights = rates.chain([top_rate * 1.2, slowest]);
    let y = Axis::over(heights, HEIGHT - bottom, -(HEIGHT - top - bottom));
    let (Some(x), Some(y)) = (x, y) else {
        return String::new();
    };
    let mut svg = format!(
        "<h3>Roofline, {threads} threads</h3>\n<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"Roofline plot\">\n"
    );
    for (value, at) in x.ticks() {
        let _ = writeln!(
            svg,
            "<line class=\"grid\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{top}\" y2=\"{:.1}\"/><text class=\"soft\" x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            HEIGHT - bottom,
            HEIGHT - bottom + 16.0,
            tick(value)
        );
    }
    for (value, at) in y.ticks() {
        let _ = writeln!(
            svg,
            "<line class=\"grid\" x1=\"{left}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/><text class=\"soft\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            WIDTH - right,
            left - 6.0,
            at + 4.0,
            tick(value)
        );
    }
    let _ = writeln!(
        svg,
        "<text class=\"soft\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">multiply-adds per byte</text><text class=\"soft\" x=\"14\" y=\"{:.1}\" transform=\"rotate(-90 14 {:.1})\" text-anchor=\"middle\">GMAC/s</text>",
        left + (WIDTH - left - right) / 2.0,
        HEIGHT - 8.0,
        HEIGHT / 2.0,
        HEIGHT / 2.0
    );
    let (x0, x1, y0) = (10f64.powf(x.from), 10f64.powf(x.to), 10f64.powf(y.from));
    for (i, (name, rate)) in slopes.iter().enumerate() {
        // From where it enters the picture to where it meets the highest roof.
        let (a, b) = (x0.max(y0 / rate), (top_rate / rate).min(x1));
        if a >= b {
            continue;
        }
        let (xa, ya, xb, yb) = (x.at(a), y.at(a * rate), x.at(b), y.at(b * rate));
        let angle = (yb - ya).atan2(xb - xa).to_degrees();
        // Beside each other, for the lines are near.
        let along = 0.12 + 0.22 * (i % 4) as f64;
        let (tx, ty) = (xa + (xb - xa) * along, ya + (yb - ya) * along - 5.0);
        let _ = writeln!(
            svg,
            "<line class=\"roof\" x1=\"{xa:.1}\" y1=\"{ya:.1}\" x2=\"{xb:.1}\" y2=\"{yb:.1}\"/><text class=\"soft\" x=\"{tx:.1}\" y=\"{ty:.1}\" transform=\"rotate({angle:.1} {tx:.1} {ty:.1})\">{} {} GB/s</text>",
            escape(name),
            number(*rate)
        );
    }
    let fastest = slopes.values().copied().fold(0.0, f64::max);
    for (name, rate) in &flats {
        let (xa, xb, yy) = (x.at((rate / fastest).max(x0)), x.at(x1), y.at(*rate));
        let _ = writeln!(
            svg,
            "<line class=\"roof\" x1=\"{xa:.1}\" x2=\"{xb:.1}\" y1=\"{yy:.1}\" y2=\"{yy:.1}\"/><text class=\"soft\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{} {} GMAC/s</text>",
            xb - 4.0,
            yy - 5.0,
            escape(name),
            number(*rate)
        );
    }
    let mut legend = Vec::new();
    for row in &points {
        let series = series(row);
        let at = legend.iter().position(|s| *s == series).unwrap_or_else(|| {
            legend.push(series);
            legend.len() - 1
        });
        let _ = writeln!(
            svg,
            "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"4.5\" fill=\"var(--c{})\" fill-opacity=\"0.85\"><title>{}: {} GMAC/s, {} GB/s</title></circle>",
            x.at(intensity(row)),
            y.at(row.gmac_per_s.unwrap_or(0.0)),
            at % COLORS,
            escape(&label(row)),
            number(row.gmac_per_s.unwrap_or(0.0)),
            number(row.gb_per_s.unwrap_or(0.0))
        );
    }
    svg.push_str("</svg>\n");
    if !legend.is_empty() {
        svg.push_str("<p class=\"legend\">");
        for (i, series) in legend.iter().enumerate() {
            let _ = write!(
                svg,
                "<span><i style=\"background: var(--c{})\"></i>{}</span>",
                i % COLORS,
                escape(series)
            );
        }
        svg.push_str("</p>\n");
    }
    svg
}

/// What points of one colour have in common: the first words of the name, and the instruction set.
fn series(row: &Row) -> String {
    let words = row.name.split_whitespace();
    let kind: Vec<&str> = words
        .take_while(|word| !word.starts_with(|c: char| c.is_ascii_digit()))
        .collect();
    let name = match row.group.as_str() {
        "model" if row.name.starts_with("pp") => "prompt".to_owned(),
        "model" => "decode".to_owned(),
        _ => kind.join(" "),
    };
    let isa = if row.isa.is_empty() { "" } else { ", " };
    format!("{name}{isa}{}", row.isa)
}

/// Every figure that has a limit as a bar of its share.
fn bars(rows: &[Row]) -> String {
    let shown: Vec<(&Row, f64)> = rows
        .iter()
        .filter_map(|row| Some((row, row.share()?)))
        .collect();
    if shown.is_empty() {
        return String::new();
    }
    const STEP: f64 = 22.0;
    let (width, left, bar) = (900.0, 400.0, 310.0);
    let height = STEP * shown.len() as f64 + 6.0;
    let mut svg = format!(
        "<h3>Share of the limit</h3>\n<svg viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"Shares of the limits\">\n"
    );
    for (i, (row, share)) in shown.iter().enumerate() {
        let y = STEP * i as f64;
        let color = usize::from(
            row.limit
                .as_ref()
                .is_some_and(|l| !l.what.starts_with("read")),
        );
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text><rect class=\"track\" x=\"{left}\" y=\"{:.1}\" width=\"{bar}\" height=\"14\" rx=\"2\"/>\
             <rect x=\"{left}\" y=\"{:.1}\" width=\"{:.1}\" height=\"14\" rx=\"2\" fill=\"var(--c{color})\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\">{:.0} %<tspan class=\"soft\"> of {}</tspan></text>",
            left - 8.0,
            y + 15.0,
            escape(&shorter(&label(row))),
            y + 4.0,
            y + 4.0,
            bar * share.clamp(0.0, 1.0),
            left + bar + 8.0,
            y + 15.0,
            100.0 * share,
            escape(row.limit.as_ref().map_or("", |l| &l.what))
        );
    }
    svg.push_str("</svg>\n");
    svg
}

/// A label that fits beside a bar.
fn shorter(label: &str) -> String {
    const MOST: usize = 62;
    match label.char_indices().nth(MOST) {
        None => label.to_owned(),
        Some((at, _)) => format!("{}\u{2026}", &label[..at]),
    }
}

fn table(rows: &[Row]) -> String {
    let mut out = String::from(
        "<h3>Figures</h3>\n<div class=\"wide\"><table>\n<tr><th class=\"word\">what</th><th class=\"word\">model</th><th class=\"word\">isa</th><th>threads</th>\
         <th>median</th><th class=\"word\">unit</th><th>spread</th><th>GB/s</th><th>GMAC/s</th><th>of limit</th></tr>\n",
    );
    let optional = |value: Option<f64>| value.map_or(String::new(), number);
    for row in rows {
        let _ = writeln!(
            out,
            "<tr><td class=\"word\">{}</td><td class=\"word\">{}</td><td class=\"word\">{}</td><td>{}</td><td>{}</td><td class=\"word\">{}</td><td>{:.0} %</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            escape(&row.name),
            escape(&row.model),
            escape(&row.isa),
            row.threads,
            number(row.median()),
            escape(&row.unit),
            100.0 * super::stats::spread(&row.samples),
            optional(row.gb_per_s.filter(|_| row.unit != "GB/s")),
            optional(row.gmac_per_s.filter(|_| row.unit != "GMAC/s")),
            row.share()
                .map_or(String::new(), |s| format!("{:.0} %", 100.0 * s)),
        );
    }
    out.push_str("</table></div>\n");
    out
}

#[cfg(test)]
mod tests {
    use super::super::hardware::Machine;
    use super::super::rows::Limit;
    use super::*;

    fn reports() -> Vec<Report> {
        let row = |group: &str, name: &str, unit: &str, value: f64| Row {
            group: group.into(),
            name: name.into(),
            unit: unit.into(),
            threads: 2,
            samples: vec![value],
            ..Row::default()
        };
        let mut hostile = row("kernels", "<script>alert(\"1\")</script>&'", "us", 3.0);
        hostile.gb_per_s = Some(20.0);
        hostile.gmac_per_s = Some(100.0);
        hostile.limit = Some(Limit {
            what: "read <b>".into(),
            value: 1.5,
        });
        let rows = vec![
            row("machine", "read L1", "GB/s", 300.0),
            row("machine", "read memory, near streams", "GB/s", 40.0),
            row("machine", "int8 peak", "GMAC/s", 600.0),
            hostile,
            row("kernels", "phase", "ns", 90.0),
        ];
        let busy = vec!["a < b".to_owned()];
        vec![Report::new("kernels", Machine::default(), rows, busy)]
    }

    /// Reads the page as XML would be read: every tag is closed in order. Returns the names of the elements.
    fn elements(page: &str) -> Vec<String> {
        let mut open: Vec<String> = Vec::new();
        let mut all = Vec::new();
        let mut rest = page;
        while let Some(at) = rest.find('<') {
            let end = rest[at..].find('>').expect("a tag ends") + at;
            let tag = &rest[at + 1..end];
            rest = &rest[end + 1..];
            assert!(!tag.contains('<'), "{tag}");
            assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
            if tag.starts_with('!') {
                continue;
            }
            if let Some(name) = tag.strip_prefix('/') {
                assert_eq!(open.pop().as_deref(), Some(name), "before {:.40}", rest);
                continue;
            }
            let name = tag.split_whitespace().next().unwrap().to_owned();
            if !tag.ends_with('/') && name != "meta" {
                open.push(name.clone());
            }
            all.push(name.trim_end_matches('/').to_owned());
        }
        assert!(open.is_empty(), "{open:?}");
        all
    }

    #[test]
    fn the_page_is_well_formed_and_contains_nothing_of_strangers() {
        let page = page(&reports());
        let elements = elements(&page);
        let count = |name: &str| elements.iter().filter(|e| *e == name).count();
        assert_eq!((count("svg"), count("circle"), count("script")), (2, 1, 0));
        // The head, and one row per figure.
        assert_eq!(count("tr"), 6);
        for outside in ["http:", "https:", "src=", "@import", "url("] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert!(page.contains("&lt;script&gt;alert(&quot;1&quot;)"));
        assert!(page.contains("a &lt; b") && page.contains("prefers-color-scheme: dark"));
        assert!(
            page.contains("50 %"),
            "the share of a time is limit over time"
        );
    }

    #[test]
    fn pages_without_limits_or_figures_have_no_plots() {
        let mut few = reports();
        few[0].rows.retain(|row| row.unit == "ns");
        let page = page(&few);
        assert!(!page.contains("<svg"));
        elements(&page);
        few[0].rows.clear();
        elements(&super::page(&few));
        elements(&super::page(&[]));
    }

    #[test]
    fn an_axis_covers_its_values_in_whole_powers() {
        let axis = Axis::over([3.0, 250.0, f64::NAN, -1.0].into_iter(), 10.0, 300.0).unwrap();
        assert_eq!((axis.from, axis.to), (0.0, 3.0));
        assert_eq!(axis.at(10.0), 110.0);
        assert_eq!(axis.at(1e9), 310.0);
        assert_eq!(axis.at(0.0), 10.0);
        let ticks: Vec<f64> = axis.ticks().map(|(v, _)| v.round()).collect();
        assert_eq!(ticks, [1.0, 10.0, 100.0, 1000.0]);
        assert!(Axis::over([].into_iter(), 0.0, 1.0).is_none());
    }
}
