//! `quern verify`: every byte of a weight file, checked.

use super::output;
use crate::error::Result;
use crate::file::verify::verify;
use crate::file::{ModelFile, OpenOptions};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use std::path::PathBuf;

/// Below this many bytes checking takes less time than a person needs to read a progress bar.
const PROGRESS_FROM: u64 = 256 << 20;

/// Arguments of `quern verify`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Checks the structure, the checksum of every tensor, that all weights and scales are finite, that padding is zero, \
and that the tokenizer still gives the ids recorded at import.\n\nExamples:\n  quern verify model.quern\n  quern verify model.quern --json\n\n\
Exit code 3 names the first tensor and element that is wrong."
)]
pub struct Args {
    /// The weight file to check
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// Read the file into memory instead of mapping it
    #[arg(long)]
    pub no_mmap: bool,
}

/// Checks a file.
///
/// # Errors
/// Invalid (3) with the place of the first fault; io (4); changed (6) if the file changed meanwhile.
pub fn run(args: Args) -> Result<()> {
    let options = OpenOptions {
        mmap: !args.no_mmap,
    };
    let file = ModelFile::open(&args.file, options)?;
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let bar = progress(file.header().data.length);
    let result = verify(&file, threads, &|bytes| bar.inc(bytes));
    bar.finish_and_clear();
    result?;
    let tensors = file.entries().len();
    let mut out = output::stdout();
    if args.json {
        return out.line(json!({
            "ok": true,
            "path": args.file.to_string_lossy(),
            "id": file.id_hex(),
            "bytes": file.len(),
            "tensors": tensors,
        }));
    }
    out.line(format_args!(
        "{:?}: ok: {tensors} tensors, {} bytes, id {}",
        args.file,
        file.len(),
        file.id_hex(),
    ))
}

/// A progress bar on stderr for a large file, if that is a terminal.
fn progress(bytes: u64) -> ProgressBar {
    if bytes < PROGRESS_FROM || !output::Stream::Stderr.is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(bytes);
    if let Ok(style) =
        ProgressStyle::with_template("verify {bar:40} {bytes}/{total_bytes} {binary_bytes_per_sec}")
    {
        bar.set_style(style);
    }
    bar
}
