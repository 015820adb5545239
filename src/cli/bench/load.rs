//! `quern bench load`: each run is a process of its own, as a person or a script starts one.

use super::examples;
use super::output::{OutputArgs, Session};
use crate::bench::rows::Row;
use crate::cli::load::{Loaded, ModelArgs};
use crate::cli::memory;
use crate::cli::output;
use crate::cli::screen::Progress;
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Source, Step, Wanted};
use serde::{Deserialize, Serialize};
use std::process::Command;
use std::time::Instant;

/// Arguments of `quern bench load`.
#[derive(Debug, clap::Args)]
#[command(after_help = examples(&["load -m model.quern", "load -m model.quern -r 20 --no-mmap --json"]))]
pub struct Args {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub model: ModelArgs,
    /// Runs; the median counts
    #[arg(short, long, visible_alias = "repetitions", value_name = "N", default_value_t = 9, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub runs: u16,
    /// Be one of the runs: open the model, make one token, print what that took
    #[arg(long, hide = true)]
    pub once: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub output: OutputArgs,
}

/// What one run says of itself.
#[derive(Serialize, Deserialize)]
struct Once {
    open_ms: f64,
    tokenizer_ms: f64,
    first_token_ms: f64,
    private_mib: f64,
    mapped_mib: f64,
    threads: usize,
    isa: String,
    file_mib: f64,
    name: String,
}

/// Measures.
///
/// # Errors
/// As [`super::run`].
pub fn run(args: &Args) -> Result<()> {
    if args.once {
        return once(args);
    }
    let session = Session::begin(&args.output, "load")?;
    let mut shown = Progress::new("measure {bar:30} run {pos} of {len}, {eta} left");
    let mut runs = Vec::new();
    // One more than asked for: the first brings the file into memory, and does not count.
    for run in 0..=args.runs {
        shown.set(run.into(), usize::from(args.runs) + 1);
        runs.push(process(&args.model)?);
    }
    shown.clear();
    let runs = &runs[1..];
    let Some((first, _)) = runs.first() else {
        return Err(Error::usage("no runs"));
    };
    let row = |name: &str, unit: &str, value: &dyn Fn(&(Once, f64)) -> f64| Row {
        group: "load".into(),
        name: name.into(),
        model: first.name.clone(),
        isa: first.isa.clone(),
        threads: first.threads,
        unit: unit.into(),
        samples: runs.iter().map(value).collect(),
        ..Row::default()
    };
    let rows = vec![
        row("open", "ms", &|(o, _)| o.open_ms),
        row("tokenizer", "ms", &|(o, _)| o.tokenizer_ms),
        row("start to first token", "ms", &|(o, _)| o.first_token_ms),
        row("process, start to end", "ms", &|(_, ms)| *ms),
        row("private memory", "MiB", &|(o, _)| o.private_mib),
        row("mapped memory, shared", "MiB", &|(o, _)| o.mapped_mib),
    ];
    let head = format!(
        "{}: a file of {:.1} MiB that is in memory already, one token after one word, median of {} processes",
        first.name, first.file_mib, args.runs
    );
    session.end(&head, rows)
}

/// Runs this program once; what it says, and the milliseconds from its start to its end.
fn process(model: &ModelArgs) -> Result<(Once, f64)> {
    let failed = |what: &dyn std::fmt::Display| {
        Error::new(
            ErrorKind::Io,
            format_args!("cannot run this program: {what}"),
        )
    };
    let program = std::env::current_exe().map_err(|e| failed(&e))?;
    let mut command = Command::new(program);
    command.args(["bench", "load", "--once"]);
    if let Some(path) = &model.model {
        command.arg("-m").arg(path);
    }
    if model.fast_math {
        command.arg("--fast-math");
    }
    if let Some(threads) = model.threads {
        command.args(["-t", &threads.to_string()]);
    }
    if let Some(isa) = &model.isa {
        command.args(["--isa", isa]);
    }
    if model.no_mmap {
        command.arg("--no-mmap");
    }
    let start = Instant::now();
    let done = command.output().map_err(|e| failed(&e))?;
    let ms = start.elapsed().as_secs_f64() * 1e3;
    if !done.status.success() {
        let message = String::from_utf8_lossy(&done.stderr);
        let message = message.trim();
        let kind = match done.status.code() {
            Some(2) => ErrorKind::Usage,
            Some(3) => ErrorKind::Invalid,
            Some(5) => ErrorKind::Limit,
            Some(6) => ErrorKind::Changed,
            _ => ErrorKind::Io,
        };
        return Err(Error::new(
            kind,
            message.strip_prefix("quern: ").unwrap_or(message),
        ));
    }
    let said = serde_json::from_slice(&done.stdout).map_err(|e| failed(&e))?;
    Ok((said, ms))
}

/// One run.
fn once(args: &Args) -> Result<()> {
    let mut loaded = args.model.load()?;
    let ids = match loaded.reader.tokenizer {
        Some(_) => loaded.reader.encode("Hello", false)?,
        None => vec![0],
    };
    first_token(&mut loaded, &ids, args.model.kv.into())?;
    let first_token_ms = crate::cli::since_start().as_secs_f64() * 1e3;
    let memory = memory::now().unwrap_or_default();
    let file = loaded.engine.model().file();
    let stem = file.path().file_stem().unwrap_or_default();
    output::stdout().json(&Once {
        open_ms: loaded.open_time.as_secs_f64() * 1e3,
        tokenizer_ms: loaded.tokenizer_time.as_secs_f64() * 1e3,
        first_token_ms,
        private_mib: memory::mib(memory.private),
        mapped_mib: memory::mib(memory.mapped),
        threads: loaded.engine.threads(),
        isa: loaded.engine.kernels().name().into(),
        file_mib: memory::mib(file.len()),
        name: stem.to_string_lossy().into_owned(),
    })
}

/// The most probable id after a prompt, which an encoder reads where there is one.
fn first_token(loaded: &mut Loaded, ids: &[u32], kv: quern_kernels::KvType) -> Result<usize> {
    let start = loaded.reader.decoder_start()?;
    let model = loaded.engine.model().clone();
    let mut seq = model.new_sequence(kv);
    let decoder: Vec<u32> = start.into_iter().collect();
    let tokens = match decoder.is_empty() {
        true => ids,
        false => {
            let seq = &mut seq;
            loaded.engine.encode(&mut [Source { seq, ids }])?;
            &decoder
        }
    };
    let kernels = loaded.engine.kernels();
    let seq = &mut seq;
    let wanted = Wanted::Last;
    let mut steps = [Step {
        seq,
        tokens,
        wanted,
    }];
    let logits = loaded.engine.forward(&mut steps)?;
    Ok(kernels.argmax(logits.row(0)))
}
