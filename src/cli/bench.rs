//! `quern bench`: this machine's limits, and a model measured against them.

use super::load::ModelArgs;
use super::memory::mib;
use super::output;
use super::screen::Progress;
use crate::bench::bandwidth::Buffer;
use crate::bench::model::{Workload, measure};
use crate::error::Result;
use serde_json::json;

/// Arguments of `quern bench`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  quern bench bw
  quern bench model -m model.quern")]
pub struct Args {
    /// What to measure.
    #[command(subcommand)]
    pub what: What,
}

/// What can be measured.
#[derive(Debug, clap::Subcommand)]
pub enum What {
    /// Read bandwidth of the memory with 1 to N threads
    Bw(BwArgs),
    /// Speed of a model: prefill and decode, and decode as a share of the read bandwidth
    Model(Box<BenchModelArgs>),
}

/// Arguments of `quern bench bw`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  quern bench bw
  quern bench bw -t 4 -r 9 --json")]
pub struct BwArgs {
    /// Most threads to use (default: those this process may run on)
    #[arg(short = 't', long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Runs per number of threads; the median counts
    #[arg(short = 'r', long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub runs: u16,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `quern bench model`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  quern bench model -m model.quern
  quern bench model -m model.quern -p 512 -n 32 -t 2 --isa avx2 --json")]
pub struct BenchModelArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub model: ModelArgs,
    /// Tokens of the prompt
    #[arg(
        short = 'p',
        long,
        visible_alias = "n-prompt",
        value_name = "N",
        default_value_t = 512
    )]
    pub prompt: u32,
    /// Tokens decoded one by one
    #[arg(
        short = 'n',
        long,
        visible_alias = "n-gen",
        value_name = "N",
        default_value_t = 64
    )]
    pub decode: u32,
    /// Runs; the median counts
    #[arg(short = 'r', long, visible_alias = "repetitions", value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub runs: u16,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Runs the measurement.
///
/// # Errors
/// A bad model (3), standard output (4), not enough memory or context (5).
pub fn run(args: Args) -> Result<()> {
    match args.what {
        What::Bw(args) => bandwidth(&args),
        What::Model(args) => model(&args),
    }
}

fn bandwidth(args: &BwArgs) -> Result<()> {
    let most = match args.threads {
        Some(n) => usize::from(n),
        None => std::thread::available_parallelism().map_or(1, |n| n.get()),
    };
    let buffer = Buffer::new()?;
    let mut out = output::stdout();
    let mut rows = Vec::new();
    // Every count up to eight, then doubling: the curve is flat beyond.
    let mut counts: Vec<usize> = (1..=most.min(8)).collect();
    let mut n = 16;
    while n < most {
        counts.push(n);
        n *= 2;
    }
    if most > 8 {
        counts.push(most);
    }
    if !args.json {
        out.line(format_args!(
            "read bandwidth, {} MiB, median of {} runs",
            buffer.bytes() >> 20,
            args.runs
        ))?;
    }
    for threads in counts {
        let b = buffer.measure(threads, usize::from(args.runs));
        if args.json {
            rows.push(json!({"threads": b.threads, "gb_per_s": b.gb_per_s}));
        } else {
            let s = if b.threads == 1 { ' ' } else { 's' };
            out.line(format_args!(
                "{:>4} thread{s} {:8.2} GB/s",
                b.threads, b.gb_per_s
            ))?;
            out.flush_now()?;
        }
    }
    if args.json {
        out.json(&json!({"bytes": buffer.bytes(), "runs": args.runs, "read": rows}))?;
    }
    Ok(())
}

fn model(args: &BenchModelArgs) -> Result<()> {
    let mut loaded = args.model.load()?;
    let work = Workload {
        prompt: args.prompt as usize,
        decode: args.decode as usize,
        runs: usize::from(args.runs),
        chunk: args.model.chunk as usize,
        kv: args.model.kv.into(),
    };
    let mut shown = Progress::new("measure {bar:30} run {pos} of {len}, {eta} left");
    let speed = measure(&mut loaded.engine, work, &mut |done, all| {
        shown.set(done, all);
    });
    shown.clear();
    let speed = speed?;
    let engine = &loaded.engine;
    let weights = engine.model().weight_bytes_per_pass();
    let mut out = output::stdout();
    if args.json {
        return out.json(&json!({
            "isa": engine.kernels().name(),
            "threads": engine.threads(),
            "runs": args.runs,
            "weight_bytes_per_pass": weights,
            "prompt": {"tokens": work.prompt, "tokens_per_second": speed.prompt_rate},
            "decode": {
                "tokens": work.decode,
                "tokens_per_second": speed.decode_rate,
                "gb_per_second": speed.decode_gb_per_s,
                "share_of_read": speed.share(),
            },
            "read_gb_per_second": speed.read_gb_per_s,
        }));
    }
    out.line(format_args!(
        "{}, {} threads ({}), {:.1} MiB of weights, median of {} runs",
        engine.kernels().name(),
        engine.threads(),
        loaded.threads_reason,
        mib(weights),
        args.runs
    ))?;
    if work.prompt > 0 {
        out.line(format_args!(
            "prefill {:>5} tokens {:>10.2} tok/s",
            work.prompt, speed.prompt_rate
        ))?;
    }
    if work.decode > 0 {
        out.line(format_args!(
            "decode  {:>5} tokens {:>10.2} tok/s, {:.2} GB/s, {:.0} % of the read bandwidth of {:.2} GB/s",
            work.decode,
            speed.decode_rate,
            speed.decode_gb_per_s,
            100.0 * speed.share(),
            speed.read_gb_per_s
        ))?;
    }
    Ok(())
}
