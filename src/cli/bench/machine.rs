//! `quern bench machine`.

use super::examples;
use super::output::{MeterArgs, OutputArgs, Session};
use crate::bench::machine::{Meter, thread_counts};
use crate::cli::load::kernels;
use crate::cli::screen::Progress;
use crate::error::Result;

/// Arguments of `quern bench machine`.
#[derive(Debug, clap::Args)]
#[command(after_help = examples(&[
    "machine",
    "machine -t 4 -r 9 --json",
    "machine --compare before.json",
]))]
pub struct Args {
    /// Most threads to use (default: those this process may run on)
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Runs; the median counts
    #[arg(short, long, visible_alias = "repetitions", value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub runs: u16,
    /// Instruction set whose arithmetic is measured (default: the best; also: QUERN_ISA)
    #[arg(long, value_name = "NAME")]
    pub isa: Option<String>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub meter: MeterArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub output: OutputArgs,
}

/// Measures.
///
/// # Errors
/// As [`super::run`].
pub fn run(args: &Args) -> Result<()> {
    let kernels = kernels(args.isa.as_deref(), false)?;
    let session = Session::begin(&args.output, "machine")?;
    let machine = session.machine().clone();
    let most = args.threads.map_or(machine.processors, usize::from);
    let mut meter = Meter::new(
        &machine,
        kernels,
        &thread_counts(most),
        true,
        args.meter.bytes(),
    )?;
    let mut shown = Progress::new("measure {bar:30} run {pos} of {len}, {eta} left");
    for run in 0..args.runs {
        shown.set(run.into(), args.runs.into());
        meter.run();
    }
    shown.clear();
    let caches = machine.caches.iter().map(|c| {
        let kib = c.bytes >> 10;
        format!("L{} {kib} KiB", c.level)
    });
    let head = format!(
        "{}, {} processors, {}, median of {} runs",
        machine.processor,
        machine.processors,
        caches.collect::<Vec<_>>().join(", "),
        args.runs
    );
    session.end(&head, meter.rows())
}
