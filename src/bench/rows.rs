//! Figures in one form, whatever they are of: as a table for a person, as Markdown, CSV or JSON, and back from JSON.
//!
//! A [`Report`] is one run of the program; its JSON is one line, so that runs can be appended to a file and are read from it as [`read`] does. A figure
//! is found again in another run by [`Row::key`].

use super::hardware::Machine;
use super::stats;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::path::Path;

/// The form of the JSON; another one is refused.
pub const SCHEMA: &str = "quern-bench-1";

/// Longest file of reports that is read.
const MOST_BYTES: u64 = 64 << 20;

/// One figure.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// `machine`, `kernels`, `model` or `load`.
    pub group: String,
    /// What was measured.
    pub name: String,
    /// The model and its formats; empty if there is none.
    #[serde(default)]
    pub model: String,
    /// The instruction set of the kernels; empty where none were used.
    #[serde(default)]
    pub isa: String,
    /// How many threads worked.
    pub threads: usize,
    /// The unit of the samples.
    pub unit: String,
    /// One value per run, in the order of the runs.
    pub samples: Vec<f64>,
    /// 10^9 bytes per second that the median means.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gb_per_s: Option<f64>,
    /// 10^9 multiply-adds per second that the median means.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gmac_per_s: Option<f64>,
    /// What the machine allows, in the unit of the samples.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<Limit>,
}

/// What bounds a figure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Limit {
    /// The name of the bound.
    pub what: String,
    /// Its value.
    pub value: f64,
}

/// What identifies a figure from run to run.
pub type Key<'a> = (&'a str, &'a str, &'a str, &'a str, usize);

impl Row {
    /// The median of the runs.
    pub fn median(&self) -> f64 {
        stats::median(&self.samples)
    }

    /// Whether more of it is better: rates are so, times and sizes are not.
    pub fn more_is_better(&self) -> bool {
        self.unit.ends_with("/s") || self.unit == "GHz"
    }

    /// How near the figure comes to its limit, 1 being there.
    pub fn share(&self) -> Option<f64> {
        let limit = self.limit.as_ref()?.value;
        let share = match self.more_is_better() {
            true => self.median() / limit,
            false => limit / self.median(),
        };
        share.is_finite().then_some(share)
    }

    /// What identifies it.
    pub fn key(&self) -> Key<'_> {
        (
            &self.group,
            &self.model,
            &self.name,
            &self.isa,
            self.threads,
        )
    }
}

/// All figures of one run of the program.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: String,
    /// The version of the program.
    pub quern: String,
    /// Seconds since 1970.
    pub time: u64,
    /// The subcommand.
    pub command: String,
    /// What it ran on.
    pub machine: Machine,
    /// Whether something else was going on, so that the figures mean little.
    pub busy: bool,
    /// What that was.
    #[serde(default)]
    pub busy_because: Vec<String>,
    /// The figures.
    pub rows: Vec<Row>,
}

impl Report {
    /// The figures of a run that ends now.
    pub fn new(command: &str, machine: Machine, rows: Vec<Row>, busy_because: Vec<String>) -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Report {
            schema: SCHEMA.to_owned(),
            quern: env!("CARGO_PKG_VERSION").to_owned(),
            time: now.map_or(0, |t| t.as_secs()),
            command: command.to_owned(),
            machine,
            busy: !busy_because.is_empty(),
            busy_because,
            rows,
        }
    }

    /// The table as aligned text.
    pub fn text(&self) -> String {
        let cells = cells(&self.rows);
        let columns = cells.first().map_or(0, Vec::len);
        let width = |c: usize| cells.iter().map(|row| row[c].chars().count()).max();
        let widths: Vec<usize> = (0..columns).map(|c| width(c).unwrap_or(0)).collect();
        let mut out = String::new();
        for row in &cells {
            let mut line = String::new();
            for (c, (cell, width)) in row.iter().zip(&widths).enumerate() {
                // Words to the left, numbers to the right.
                let _ = match c < WORDS {
                    true => write!(line, "{cell:<width$}  "),
                    false => write!(line, "{cell:>width$}  "),
                };
            }
            let _ = writeln!(out, "{}", line.trim_end());
        }
        out
    }

    /// The table as Markdown.
    pub fn markdown(&self) -> String {
        let cells = cells(&self.rows);
        let mut out = String::new();
        for (i, row) in cells.iter().enumerate() {
            let escaped: Vec<String> = row.iter().map(|cell| cell.replace('|', "\\|")).collect();
            let _ = writeln!(out, "| {} |", escaped.join(" | "));
            if i == 0 {
                let marks = (0..row.len()).map(|c| if c < WORDS { "---" } else { "---:" });
                let _ = writeln!(out, "|{}|", marks.collect::<Vec<_>>().join("|"));
            }
        }
        out
    }

    /// Every figure with its statistics as comma-separated values (RFC 4180).
    pub fn csv(&self) -> String {
        let mut out = String::from(
            "group,name,model,isa,threads,unit,runs,median,min,max,gb_per_s,gmac_per_s,limit,limit_value,share,busy\r\n",
        );
        let quoted = |text: &str| match text.contains([',', '"', '\n', '\r']) {
            true => format!("\"{}\"", text.replace('"', "\"\"")),
            false => text.to_owned(),
        };
        let number = |value: Option<f64>| value.map_or(String::new(), |v| v.to_string());
        for row in &self.rows {
            let limit = row.limit.as_ref();
            let fields = [
                quoted(&row.group),
                quoted(&row.name),
                quoted(&row.model),
                quoted(&row.isa),
                row.threads.to_string(),
                quoted(&row.unit),
                row.samples.len().to_string(),
                row.median().to_string(),
                stats::quantile(&row.samples, 0.0).to_string(),
                stats::quantile(&row.samples, 1.0).to_string(),
                number(row.gb_per_s),
                number(row.gmac_per_s),
                quoted(limit.map_or("", |l| &l.what)),
                number(limit.map(|l| l.value)),
                number(row.share()),
                self.busy.to_string(),
            ];
            let _ = write!(out, "{}\r\n", fields.join(","));
        }
        out
    }
}

/// Columns of words at the left of a table.
const WORDS: usize = 3;

/// Three digits that matter, and no more than are there.
pub fn number(value: f64) -> String {
    match value.abs() {
        v if !v.is_finite() => "-".to_owned(),
        v if v >= 1000.0 => format!("{value:.0}"),
        v if v >= 100.0 => format!("{value:.1}"),
        v if v >= 0.01 || v == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.2e}"),
    }
}

/// The cells of a table, its head first; columns that say nothing are left out.
fn cells(rows: &[Row]) -> Vec<Vec<String>> {
    let head = [
        "what", "model", "isa", "threads", "median", "unit", "spread", "GB/s", "GMAC/s",
        "of limit", "limit",
    ];
    let mut all = vec![head.map(str::to_owned).to_vec()];
    for row in rows {
        let optional = |value: Option<f64>| value.map_or(String::new(), number);
        let rate = |value: Option<f64>, unit: &str| match row.unit == unit {
            true => String::new(),
            false => optional(value),
        };
        all.push(vec![
            row.name.clone(),
            row.model.clone(),
            row.isa.clone(),
            row.threads.to_string(),
            number(row.median()),
            row.unit.clone(),
            format!("{:.0} %", 100.0 * stats::spread(&row.samples)),
            rate(row.gb_per_s, "GB/s"),
            rate(row.gmac_per_s, "GMAC/s"),
            row.share()
                .map_or(String::new(), |s| format!("{:.0} %", 100.0 * s)),
            row.limit
                .as_ref()
                .map_or(String::new(), |l| format!("{} {}", number(l.value), l.what)),
        ]);
    }
    // The words stay, so that a column always is what it is.
    let kept: Vec<usize> = (0..head.len())
        .filter(|&c| c < WORDS || all[1..].iter().any(|row| !row[c].is_empty()))
        .collect();
    let pick = |row: &Vec<String>| kept.iter().map(|&c| row[c].clone()).collect();
    all.iter().map(pick).collect()
}

/// The reports in a file, one per line.
///
/// # Errors
/// Io; Invalid if it holds none or something else; limit if it is longer than any such file.
pub fn read(path: &Path) -> Result<Vec<Report>> {
    let io = |e: &std::io::Error| Error::io("read", path, e);
    let length = std::fs::metadata(path).map_err(|e| io(&e))?.len();
    if length > MOST_BYTES {
        return Err(Error::limit(format_args!(
            "{path:?} has {length} bytes, expected at most {MOST_BYTES} of quern bench --json"
        )));
    }
    let text = std::fs::read_to_string(path).map_err(|e| io(&e))?;
    let mut reports = Vec::new();
    for (i, line) in text.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let wrong = |what: &dyn std::fmt::Display| {
            Error::invalid(format_args!(
                "{path:?}: line {}: {what}, expected one of quern bench --json",
                i + 1
            ))
        };
        let report: Report = serde_json::from_str(line).map_err(|e| wrong(&e))?;
        if report.schema != SCHEMA {
            return Err(wrong(&format_args!("schema {:?}", report.schema)));
        }
        if let Some(row) = report.rows.iter().find(|row| row.samples.is_empty()) {
            return Err(wrong(&format_args!("{:?} has no samples", row.name)));
        }
        reports.push(report);
    }
    if reports.is_empty() {
        return Err(Error::invalid(format_args!(
            "{path:?} is empty, expected lines of quern bench --json"
        )));
    }
    Ok(reports)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let row = Row {
            group: "model".into(),
            name: "tg64, \"x8\"".into(),
            model: "a|b q4".into(),
            isa: "avx2".into(),
            threads: 2,
            unit: "tok/s".into(),
            samples: vec![10.0, 30.0, 20.0],
            gb_per_s: Some(12.5),
            gmac_per_s: None,
            limit: Some(Limit {
                what: "read memory".into(),
                value: 40.0,
            }),
        };
        let other = Row {
            name: "clock".into(),
            group: "machine".into(),
            unit: "us".into(),
            threads: 1,
            samples: vec![5.0],
            limit: Some(Limit {
                what: "peak".into(),
                value: 1.0,
            }),
            ..Row::default()
        };
        let busy = vec!["others".to_owned()];
        Report::new("test", Machine::default(), vec![row, other], busy)
    }

    #[test]
    fn shares_know_which_way_is_better() {
        let report = report();
        assert_eq!(report.rows[0].share(), Some(0.5));
        assert_eq!(report.rows[1].share(), Some(0.2));
        assert!(report.rows[0].more_is_better() && !report.rows[1].more_is_better());
        assert!(report.busy);
    }

    #[test]
    fn tables_hold_every_figure_and_escape_what_they_must() {
        let report = report();
        let text = report.text();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(
            lines[1].contains("20.00  tok/s") && lines[1].contains("50 %"),
            "{text}"
        );
        assert!(!text.contains("GMAC/s"), "a column without values: {text}");
        let markdown = report.markdown();
        assert!(markdown.contains("a\\|b q4"), "{markdown}");
        let bars = |l: &str| l.replace("\\|", "").matches('|').count();
        let columns: Vec<usize> = markdown.lines().map(bars).collect();
        assert!(
            columns.len() == 4 && columns.iter().all(|c| *c == columns[0]),
            "{markdown}"
        );
        let csv = report.csv();
        assert!(
            csv.contains("model,\"tg64, \"\"x8\"\"\",a|b q4,avx2,2,tok/s,3,20,10,30,12.5,,read memory,40,0.5,true\r\n"),
            "{csv}"
        );
    }

    #[test]
    fn json_comes_back_and_other_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("runs.jsonl");
        let report = report();
        let line = serde_json::to_string(&report).unwrap();
        std::fs::write(&path, format!("{line}\n\n{line}\n")).unwrap();
        assert_eq!(read(&path).unwrap(), [report.clone(), report]);
        let refused = |text: &str, part: &str| {
            std::fs::write(&path, text).unwrap();
            let e = read(&path).unwrap_err();
            assert_eq!(e.exit_code(), 3);
            assert!(e.to_string().contains(part), "{e}");
        };
        refused("", "is empty");
        refused("{}", "line 1: missing field");
        refused(&line.replace(SCHEMA, "quern-bench-9"), "quern-bench-9");
        refused(&line.replace("[5.0]", "[]"), "\"clock\" has no samples");
        refused(&format!("{line}\n[[[["), "line 2");
        let e = read(&folder.path().join("nothing")).unwrap_err();
        assert_eq!(e.exit_code(), 4);
    }

    #[test]
    fn numbers_have_few_digits() {
        let shown = [0.0, 0.001234, 0.5, 12.345, 123.45, 12345.6, f64::NAN].map(number);
        assert_eq!(
            shown,
            ["0.00", "1.23e-3", "0.50", "12.35", "123.5", "12346", "-"]
        );
    }
}
