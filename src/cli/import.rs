//! `quern import`, and what `-m` does with a model that is not a weight file yet.

use super::output::{Stream, visible};
use super::signals;
use crate::convert::cache::{self, Cached};
use crate::convert::import::{self, Options, Summary};
use crate::convert::quantize::{Quant, TensorQuant};
use crate::error::{Error, Result};
use crate::file::header::MAGIC;
use crate::par::default_threads;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Turn a foreign model into a weight file
///
/// SRC is a Hugging Face folder (config.json and safetensors), a GGUF file (F32, F16, BF16, Q4_0 to Q8_0, Q2_K to Q6_K, IQ4_NL, IQ4_XS, MXFP4), or a llama2.c checkpoint. The
/// result appears under its name complete or not at all.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    quern import path/to/folder -o model.quern --quant q4\n  \
    quern import model-Q4_K_M.gguf -o model.quern\n  \
    quern import path/to/folder -o model.quern --quant q4k --quant-tensor head=q8\n  \
    quern import stories260K.bin --tokenizer tok512.bin -o stories.quern")]
pub struct Args {
    /// The model: a folder, a .gguf or a .bin file
    #[arg(value_name = "SRC")]
    pub source: PathBuf,
    /// The weight file to write
    #[arg(short, long, value_name = "OUT.quern")]
    pub output: PathBuf,
    /// A tokenizer instead of the model's own: tokenizer.json, a SentencePiece .model, a tiktoken rank file, a GGUF, a llama2.c tok.bin
    #[arg(long, value_name = "FILE")]
    pub tokenizer: Option<PathBuf>,
    /// How matrices are stored: all of them, the embedding and the head too; norms and biases are always f32. `keep` stores the values of
    /// the source unchanged; q4k and q5k are mixes with q6k where errors do the most harm, mxfp4 keeps embedding and head in q8
    #[arg(long, value_name = "FORMAT", default_value = "keep", value_parser = quant)]
    pub quant: Quant,
    /// Store the matrices whose name matches in TYPE instead; may be repeated, the last match counts. The pattern (* and ?) is compared with
    /// the name in `quern inspect --tensors`, with its last part, and with the names in the source
    #[arg(long, value_name = "PATTERN=TYPE", value_parser = TensorQuant::parse)]
    pub quant_tensor: Vec<TensorQuant>,
    /// Replace an existing file that is no weight file
    #[arg(long)]
    pub force: bool,
    /// Threads that convert [default: one per core]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
}

fn quant(name: &str) -> Result<Quant, String> {
    Quant::by_name(name).ok_or_else(|| format!("expected one of {}", Quant::NAMES.join(", ")))
}

/// Runs the subcommand; the summary goes to stderr.
///
/// # Errors
/// As [`import::import`]; Usage if the output exists and is something else than a weight file.
pub fn run(args: Args) -> Result<()> {
    refuse_other_file(&args.output, args.force)?;
    let threads = args
        .threads
        .map_or_else(|| default_threads().threads, usize::from);
    let options = Options {
        tokenizer: args.tokenizer.as_deref(),
        quant: args.quant,
        tensors: &args.quant_tensor,
        threads,
        hashes: None,
    };
    let start = Instant::now();
    signals::poll();
    let bar = Bar::new();
    let summary = import::import(&args.source, &args.output, &options, &mut |done, all| {
        bar.set(done, all)
    });
    bar.clear();
    report(&summary?, &args.output, start);
    Ok(())
}

/// A typing error must not cost a photograph: only weight files are replaced without being asked to.
fn refuse_other_file(path: &Path, force: bool) -> Result<()> {
    if force || !path.exists() {
        return Ok(());
    }
    let mut start = Vec::new();
    let same = std::fs::File::open(path)
        .and_then(|f| f.take(MAGIC.len() as u64).read_to_end(&mut start))
        .is_ok_and(|n| n == 0 || start == MAGIC);
    if same {
        return Ok(());
    }
    Err(Error::usage(format_args!(
        "{path:?} is there and is no weight file; --force replaces it"
    )))
}

/// The weight file to run for `-m PATH`: the file itself, or for a GGUF, a llama2.c checkpoint or a folder the one in the user's cache, which is
/// made on first use.
///
/// # Errors
/// As [`cache::look_up`] and [`import::import`].
pub fn resolve_model(path: &Path) -> Result<PathBuf> {
    if !cache::is_foreign(path)? {
        return Ok(path.to_owned());
    }
    let folder = cache::folder(|name| std::env::var_os(name))?;
    match cache::look_up(path, &folder)? {
        Cached::Hit(file) => Ok(file),
        Cached::Miss(pending) => {
            eprintln_line(&format!(
                "quern: importing {path:?} once, into {:?}",
                pending.target()
            ));
            signals::poll();
            let (start, bar) = (Instant::now(), Bar::new());
            let imported = pending.import(default_threads().threads, &mut |done, all| {
                bar.set(done, all)
            });
            bar.clear();
            let (file, summary) = imported?;
            report(&summary, &file, start);
            Ok(file)
        }
    }
}

fn report(summary: &Summary, out: &Path, start: Instant) {
    for (name, reason) in &summary.skipped {
        eprintln_line(&format!("quern: left out {name:?}: {reason}"));
    }
    for note in &summary.notes {
        eprintln_line(&format!("quern: {note}"));
    }
    if !summary.tokenizer {
        eprintln_line("quern: no tokenizer was found: the model can only be run with --ids");
    }
    if let Some(fault) = &summary.template_fault {
        let fault = visible(&fault.split_whitespace().collect::<Vec<_>>().join(" "));
        eprintln_line(&format!(
            "quern: the chat template cannot be used, the model can only be run with --raw or --template: {fault}"
        ));
    }
    eprintln_line(&format!(
        "quern: imported {:?} ({}, {:.1} M weights in {} tensors) to {out:?}: {:.1} MB in {:.1} s",
        summary.name,
        visible(&summary.model_type),
        summary.weights as f64 / 1e6,
        summary.tensors,
        summary.bytes as f64 / 1e6,
        start.elapsed().as_secs_f64()
    ));
}

/// One line on stderr; if stderr is gone there is nobody to tell.
fn eprintln_line(line: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// A progress bar on stderr, drawn only on a terminal.
struct Bar(ProgressBar);

impl Bar {
    fn new() -> Bar {
        let target = if Stream::Stderr.is_terminal() {
            ProgressDrawTarget::stderr_with_hz(10)
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(None, target);
        let style = "{bar:30} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left";
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style);
        }
        Bar(bar)
    }

    /// Shows the progress; an error if a signal asks to stop.
    fn set(&self, done: u64, all: u64) -> Result<()> {
        if signals::caught().is_some() {
            return Err(Error::limit("interrupted"));
        }
        self.0.set_length(all);
        self.0.set_position(done);
        Ok(())
    }

    fn clear(&self) {
        self.0.finish_and_clear();
    }
}
