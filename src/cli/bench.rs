//! `quern bench`: this machine's limits, and a model measured against them.

use super::output;
use crate::bench::bandwidth::Buffer;
use crate::error::Result;
use serde_json::json;

/// Arguments of `quern bench`.
#[derive(Debug, clap::Args)]
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
}

/// Arguments of `quern bench bw`.
#[derive(Debug, clap::Args)]
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

/// Runs the measurement.
///
/// # Errors
/// Not enough memory (5), standard output (4).
pub fn run(args: Args) -> Result<()> {
    match args.what {
        What::Bw(args) => bandwidth(&args),
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
        out.line(json!({"bytes": buffer.bytes(), "runs": args.runs, "read": rows}))?;
    }
    Ok(())
}
