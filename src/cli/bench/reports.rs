//! `quern bench compare` and `quern bench report`: what can be done with figures that are in files.

use super::examples;
use super::output::{comparison_json, comparison_text, tolerance, verdict, write};
use crate::bench::{compare as side_by_side, html, rows};
use crate::cli::output;
use crate::error::Result;
use std::path::PathBuf;

/// Arguments of `quern bench compare`.
#[derive(Debug, clap::Args)]
#[command(after_help = format!(
    "A file has a line of quern bench ... --json per run. Two files with the same number of lines, more than one, are compared line by line: \
append to both in turn, so that what disturbs one disturbs the other.\n\n{}",
    examples(&["compare old.jsonl new.jsonl", "compare old.jsonl new.jsonl --tolerance 5 --json"])
))]
pub struct CompareArgs {
    /// The older figures
    #[arg(value_name = "OLD")]
    pub old: PathBuf,
    /// The newer figures: exit 1 if one of them is worse
    #[arg(value_name = "NEW")]
    pub new: PathBuf,
    /// Per cent by which a figure may be worse
    #[arg(long, value_name = "PERCENT", default_value_t = 2.0, value_parser = tolerance)]
    pub tolerance: f64,
    /// Print one line of JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `quern bench report`.
#[derive(Debug, clap::Args)]
#[command(after_help = examples(&["report -o page.html machine.json kernels.json model.json"]))]
pub struct PageArgs {
    /// Files with lines of quern bench ... --json
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// The page to write
    #[arg(short, long, value_name = "FILE.html")]
    pub output: PathBuf,
}

/// Compares.
///
/// # Errors
/// Something is worse (1), a file that holds no figures (3), Io (4).
pub fn compare(args: &CompareArgs) -> Result<()> {
    let (old, new) = (rows::read(&args.old)?, rows::read(&args.new)?);
    let found = side_by_side::compare(&new, &old);
    let tolerance = args.tolerance / 100.0;
    let mut out = output::stdout();
    match args.json {
        true => out.line(comparison_json(&found, tolerance)?)?,
        false => out.put(comparison_text(&found, tolerance).as_bytes())?,
    }
    out.flush_now()?;
    verdict(&found, tolerance, &args.old)
}

/// Draws.
///
/// # Errors
/// A file that holds no figures (3), Io (4).
pub fn page(args: &PageArgs) -> Result<()> {
    let mut reports = Vec::new();
    for file in &args.files {
        reports.extend(rows::read(file)?);
    }
    write(&args.output, &html::page(&reports))
}
