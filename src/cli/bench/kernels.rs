//! `quern bench kernels`.

use super::output::{MeterArgs, OutputArgs, Session};
use super::shapes::{Shape, named};
use super::{examples, threads};
use crate::bench::kernels::{self, Selection};
use crate::bench::machine::Meter;
use crate::bench::operations::{MatrixShape, Op};
use crate::cli::output;
use crate::cli::screen::Progress;
use crate::error::{Error, Result};
use quern_kernels::{Format, Kernels};

/// Arguments of `quern bench kernels`.
#[derive(Debug, clap::Args)]
#[command(after_help = examples(&[
    "kernels",
    "kernels --op matmul --type q4,q8 --shape NAME --tokens 1,512 -t 2",
    "kernels --op matmul --shape shapes.txt --weights cache --md",
    "kernels --op rope,rmsnorm,softmax --isa all --json",
    "kernels --op matmul --compare before.json",
]))]
pub struct Args {
    /// Operations, separated by commas: matmul, attention, rmsnorm, rope, softmax, activation, quantize, vector, recurrent, sample, barrier
    /// (default: all)
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = op)]
    pub op: Vec<Op>,
    /// Formats of weights in matmul, separated by commas (default: all)
    #[arg(long = "type", value_name = "FORMATS", value_delimiter = ',', value_parser = format)]
    pub formats: Vec<Format>,
    /// Instruction sets, separated by commas, or `all` (default: the best; also: QUERN_ISA)
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub isa: Vec<String>,
    /// Measure what --fast-math allows as well
    #[arg(long)]
    pub fast_math: bool,
    /// Matrices of matmul: those of a known model (see quern bench shapes) or a config.json, or a text file with lines of M N K (outputs, tokens,
    /// inputs)
    #[arg(long, value_name = "NAME|FILE")]
    pub shape: Option<String>,
    /// Tokens of matmul, separated by commas
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1,8,512", value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub tokens: Vec<u32>,
    /// Where the weights of matmul come from
    #[arg(long, value_enum, default_value_t = Weights::Memory, value_name = "FROM")]
    pub weights: Weights,
    /// Threads of matmul and barrier, separated by commas; everything else runs on one
    #[arg(short, long, value_name = "N", value_delimiter = ',', default_value = "1", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Vec<u16>,
    /// Ids that sample chooses from
    #[arg(long, value_name = "N", default_value_t = 128_256, value_parser = clap::value_parser!(u32).range(100..=1 << 24))]
    pub vocabulary: u32,
    /// Rounds; the median counts
    #[arg(short, long, visible_alias = "repetitions", value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub runs: u16,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub meter: MeterArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub output: OutputArgs,
}

/// `--weights`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Weights {
    /// From memory, as in a model: successive calls read other copies.
    Memory,
    /// From wherever the matrix still is after the call before.
    Cache,
}

fn op(name: &str) -> Result<Op, String> {
    let found = Op::ALL.into_iter().find(|op| op.name() == name);
    let names = Op::ALL.map(Op::name).join(", ");
    found.ok_or_else(|| format!("expected one of {names}"))
}

/// A format of weights by its name.
pub fn format(name: &str) -> Result<Format, String> {
    let names = Format::ALL.map(Format::name).join(", ");
    Format::by_name(name).ok_or_else(|| format!("expected one of {names}"))
}

/// The tables that are asked for.
fn tables(names: &[String]) -> Result<Vec<&'static Kernels>> {
    if names.is_empty() {
        return Ok(vec![crate::cli::load::kernels(None, false)?]);
    }
    let mut tables: Vec<&'static Kernels> = Vec::new();
    for name in names {
        match name.as_str() {
            "all" => tables.extend(quern_kernels::supported()),
            name => tables.push(crate::cli::load::kernels(Some(name), false)?),
        }
    }
    Ok(tables)
}

impl Args {
    fn matrices(&self) -> Result<Vec<MatrixShape>> {
        let Some(name) = &self.shape else {
            // Those of a small model: square, to the inner vector, and back.
            let usual = [(2048, 2048), (8192, 2048), (2048, 8192)];
            return Ok(usual
                .map(|(rows, cols)| MatrixShape {
                    rows,
                    cols,
                    tokens: None,
                })
                .into());
        };
        match named(name)? {
            Shape::Model { spec, .. } => Ok(kernels::matrices_of(&spec)),
            Shape::Matrices(list) => Ok(list),
        }
    }
}

/// Measures.
///
/// # Errors
/// As [`super::run`].
pub fn run(args: &Args) -> Result<()> {
    let or_all = |ops: &[Op]| {
        if ops.is_empty() {
            Op::ALL.to_vec()
        } else {
            ops.to_vec()
        }
    };
    let mut tables = tables(&args.isa)?;
    if args.fast_math {
        let fast = tables.iter().map(|table| table.fast_math());
        tables.extend(fast.filter(|table| !table.exact()).collect::<Vec<_>>());
    }
    let threads = threads(&args.threads);
    let session = Session::begin(&args.output, "kernels")?;
    let machine = session.machine().clone();
    let selection = Selection {
        ops: or_all(&args.op),
        formats: match args.formats.is_empty() {
            true => Format::ALL.to_vec(),
            false => args.formats.clone(),
        },
        matrices: args.matrices()?,
        tokens: {
            // In ascending order: how long a large one takes is guessed from the one before.
            let mut tokens: Vec<usize> = args.tokens.iter().map(|n| *n as usize).collect();
            tokens.sort_unstable();
            tokens.dedup();
            tokens
        },
        threads: threads.clone(),
        runs: args.runs.into(),
        beyond: match args.weights {
            Weights::Memory => 2 * machine.last_cache() as usize,
            Weights::Cache => 0,
        },
        vocabulary: args.vocabulary as usize,
        kernels: tables,
    };
    let Some(best) = selection.kernels.last().copied() else {
        return Err(Error::usage("--isa names no instruction set"));
    };
    let mut counts = threads;
    counts.push(1);
    counts.sort_unstable();
    counts.dedup();
    let mut meter = Meter::new(&machine, best, &counts, true, args.meter.bytes())?;
    let mut shown = Progress::new("measure {bar:30} {pos} of {len}, {eta} left");
    let measured = kernels::measure(&selection, &mut meter, &mut |done, all| {
        shown.set(done, all);
    });
    shown.clear();
    let measured = measured?;
    for name in &measured.skipped {
        output::note(format_args!("quern: note: left out {name}"));
    }
    let mut rows = measured.rows;
    rows.extend(meter.rows());
    let head = format!(
        "{}, median of {} rounds; limits are those of {} and the least that the bytes of a call take",
        machine.processor,
        args.runs,
        best.name()
    );
    session.end(&head, rows)
}
