//! What becomes of figures: a table or a file for other programs on stdout, a comparison, a page; warnings on stderr.

use crate::bench::busy::Watch;
use crate::bench::compare::{self, Comparison, Verdict, label};
use crate::bench::hardware::Machine;
use crate::bench::html;
use crate::bench::rows::{self, Report, Row, number};
use crate::cli::output;
use crate::error::{Error, ErrorKind, Result};
use crate::json::one_line;
use serde_json::json;
use std::path::{Path, PathBuf};

/// How figures are shown.
#[derive(Clone, Debug, clap::Args)]
pub struct OutputArgs {
    /// Print one line of JSON with every sample; --compare and others read it again
    #[arg(long, conflicts_with_all = ["csv", "md"])]
    pub json: bool,
    /// Print comma-separated values
    #[arg(long, conflicts_with = "md")]
    pub csv: bool,
    /// Print a Markdown table
    #[arg(long)]
    pub md: bool,
    /// Compare with the lines of --json in FILE: exit 1 if a figure is worse
    #[arg(long, value_name = "FILE")]
    pub compare: Option<PathBuf>,
    /// Per cent by which a figure may be worse in --compare
    #[arg(long, value_name = "PERCENT", default_value_t = 2.0, value_parser = tolerance)]
    pub tolerance: f64,
    /// Write a page with a roofline plot, bars and tables
    #[arg(long, value_name = "FILE.html")]
    pub report: Option<PathBuf>,
}

/// How the machine's limits are measured.
#[derive(Clone, Debug, clap::Args)]
pub struct MeterArgs {
    /// MiB of the buffer that is read to measure the bandwidth of memory (default: 512, or eight times the last cache)
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub buffer: Option<u32>,
}

impl MeterArgs {
    /// The size in bytes.
    pub fn bytes(&self) -> Option<usize> {
        self.buffer.map(|mib| (mib as usize) << 20)
    }
}

/// A share in per cent.
pub fn tolerance(text: &str) -> Result<f64, String> {
    let value = text.parse::<f64>().ok();
    value
        .filter(|v| (0.0..100.0).contains(v))
        .ok_or_else(|| "expected a number from 0 to 100".to_owned())
}

/// What is prepared before anything is measured, so that a mistake does not cost the time of measuring.
pub struct Session<'a> {
    args: &'a OutputArgs,
    command: &'static str,
    machine: Machine,
    old: Option<Vec<Report>>,
    watch: Watch,
}

impl<'a> Session<'a> {
    /// Reads the older figures, makes sure that the page can be written, and begins to watch the machine.
    ///
    /// # Errors
    /// Io (4); a file that holds no figures (3).
    pub fn begin(args: &'a OutputArgs, command: &'static str) -> Result<Session<'a>> {
        let old = args.compare.as_deref().map(rows::read).transpose()?;
        if let Some(path) = &args.report {
            writable(path)?;
        }
        Ok(Session {
            args,
            command,
            machine: Machine::look(),
            old,
            watch: Watch::new(),
        })
    }

    /// The machine that is measured.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Shows the figures; `head` is a line above a table for a person.
    ///
    /// # Errors
    /// A figure that is worse than the older one (1); Io (4).
    pub fn end(self, head: &str, rows: Vec<Row>) -> Result<()> {
        let reasons = self.watch.reasons(&rows);
        let report = Report::new(self.command, self.machine, rows, reasons);
        let mut out = output::stdout();
        if self.args.json {
            out.line(one_line(&report)?)?;
        } else if self.args.csv {
            out.put(report.csv().as_bytes())?;
        } else if self.args.md {
            out.put(report.markdown().as_bytes())?;
        } else {
            if !head.is_empty() {
                out.line(head)?;
            }
            out.put(report.text().as_bytes())?;
        }
        out.flush_now()?;
        if report.busy {
            output::note(format_args!(
                "quern: warning: this machine was busy ({}): these figures may mean little",
                report.busy_because.join("; ")
            ));
        }
        if let Some(path) = &self.args.report {
            write(path, &html::page(std::slice::from_ref(&report)))?;
        }
        let (Some(old), Some(path)) = (&self.old, &self.args.compare) else {
            return Ok(());
        };
        let found = compare::compare(&[report], old);
        let tolerance = self.args.tolerance / 100.0;
        let text = comparison_text(&found, tolerance);
        // Only one kind of data on stdout.
        if self.args.json || self.args.csv || self.args.md {
            output::note(text.trim_end());
        } else {
            out.line(format_args!("\ncompared with {path:?}"))?;
            out.put(text.as_bytes())?;
            out.flush_now()?;
        }
        verdict(&found, tolerance, path)
    }
}

/// Makes sure that a file can be written, without changing one that is there.
pub fn writable(path: &Path) -> Result<()> {
    let mut options = std::fs::OpenOptions::new();
    let opened = options.append(true).create(true).open(path);
    opened.map(drop).map_err(|e| Error::io("write", path, &e))
}

/// Writes a whole file.
pub fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).map_err(|e| Error::io("write", path, &e))
}

/// An error if something got worse.
///
/// # Errors
/// Exit 1, with the number of such figures and the first of them.
pub fn verdict(found: &Comparison, tolerance: f64, old: &Path) -> Result<()> {
    let worse = |change: &&compare::Change| change.verdict(tolerance) == Verdict::Worse;
    let all: Vec<_> = found.changes.iter().filter(worse).collect();
    let Some(first) = all.first() else {
        return Ok(());
    };
    Err(Error::new(
        ErrorKind::Partial,
        format_args!(
            "{} of {} figures are worse than in {old:?}, the first is {}",
            all.len(),
            found.changes.len(),
            label(&first.new)
        ),
    ))
}

/// A comparison for a person.
pub fn comparison_text(found: &Comparison, tolerance: f64) -> String {
    let mut lines =
        vec![["what", "old", "new", "unit", "speed", "95 % interval", ""].map(str::to_owned)];
    for change in &found.changes {
        let ratio = |value: f64| format!("{value:.3}");
        let speed = change.speed.map_or("-".to_owned(), |s| ratio(s.ratio));
        let interval = change.speed.and_then(|s| s.interval);
        let interval = interval.map_or("-".to_owned(), |(low, high)| {
            format!("{} to {}", ratio(low), ratio(high))
        });
        lines.push([
            label(&change.new),
            number(change.old),
            number(change.new.median()),
            change.new.unit.clone(),
            speed,
            interval,
            change.verdict(tolerance).name().to_owned(),
        ]);
    }
    let width = |c: usize| {
        lines
            .iter()
            .map(|l| l[c].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: [usize; 7] = std::array::from_fn(width);
    let mut text = String::new();
    for [what, old, new, unit, speed, interval, verdict] in &lines {
        let line = format!(
            "{what:<w0$}  {old:>w1$}  {new:>w2$}  {unit:<w3$}  {speed:>w4$}  {interval:>w5$}  {verdict}",
            w0 = widths[0],
            w1 = widths[1],
            w2 = widths[2],
            w3 = widths[3],
            w4 = widths[4],
            w5 = widths[5],
        );
        text.push_str(line.trim_end());
        text.push('\n');
    }
    for name in &found.alone {
        text.push_str(&format!("not compared: {name}\n"));
    }
    for doubt in &found.doubts {
        text.push_str(&format!("doubtful: {doubt}\n"));
    }
    text
}

/// The same for a program.
///
/// # Errors
/// None that can be expected: everything in it can be written as JSON.
pub fn comparison_json(found: &Comparison, tolerance: f64) -> Result<String> {
    let changes: Vec<_> = found
        .changes
        .iter()
        .map(|c| {
            json!({
                "group": c.new.group,
                "name": c.new.name,
                "model": c.new.model,
                "isa": c.new.isa,
                "threads": c.new.threads,
                "unit": c.new.unit,
                "old": c.old,
                "new": c.new.median(),
                "speed": c.speed.map(|s| s.ratio),
                "interval": c.speed.and_then(|s| s.interval),
                "paired": c.speed.is_some_and(|s| s.paired),
                "verdict": match c.verdict(tolerance) {
                    Verdict::Better => "better",
                    Verdict::Worse => "worse",
                    Verdict::Same => "same",
                    Verdict::Unknown => "unknown",
                },
            })
        })
        .collect();
    one_line(&json!({"changes": changes, "not_compared": found.alone, "doubts": found.doubts}))
}
