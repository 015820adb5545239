//! `quern bench model`.

use super::output::{MeterArgs, OutputArgs, Session};
use super::shapes::{Shape, named};
use super::{examples, kernels, threads};
use crate::bench::machine::Meter;
use crate::bench::model::{self, Workload};
use crate::bench::synthetic;
use crate::cli::load::{self, Kv};
use crate::cli::memory::mib;
use crate::cli::screen::Progress;
use crate::error::{Error, Result};
use crate::file::ModelFile;
use crate::model::{Engine, Model};
use crate::par::Team;
use quern_kernels::Format;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// Arguments of `quern bench model`.
#[derive(Debug, clap::Args)]
#[command(after_help = examples(&[
    "model -m model.quern",
    "model -m model.quern -p 512 -n 32 -t 1,2 --isa avx2 --json",
    "model -m model.quern -p 512 -n 64 -d 0,4096 -b 1,8,32",
    "model --shape NAME --quant q4 -p 512 -n 64",
    "model --shape path/to/config.json --quant q8 -p 0 -n 16 -r 3",
    "model -m model.quern --compare before.json --report page.html",
]))]
pub struct Args {
    /// Model: a .quern file, or a .gguf or Hugging Face folder, which is imported once into the cache folder (default: pocket, the
    /// built-in model)
    #[arg(short, long, value_name = "FILE", conflicts_with = "shape")]
    pub model: Option<PathBuf>,
    /// A model of made-up weights in memory: the shape of a known one (see quern bench shapes), or of a config.json
    #[arg(long, value_name = "NAME|FILE")]
    pub shape: Option<String>,
    /// Format of the matrices of --shape
    #[arg(long, value_name = "FORMAT", default_value = "q4", value_parser = kernels::format)]
    pub quant: Format,
    /// Tokens of a prompt, as a list separated by commas; 0: none
    #[arg(
        short,
        long,
        visible_alias = "n-prompt",
        value_name = "N",
        value_delimiter = ',',
        default_value = "512"
    )]
    pub prompt: Vec<u32>,
    /// Tokens decoded one by one, as a list; 0: none
    #[arg(
        short = 'n',
        long,
        visible_alias = "n-gen",
        value_name = "N",
        value_delimiter = ',',
        default_value = "64"
    )]
    pub decode: Vec<u32>,
    /// Tokens in the cache before each test, as a list
    #[arg(
        short,
        long,
        visible_alias = "n-depth",
        value_name = "N",
        value_delimiter = ',',
        default_value = "0"
    )]
    pub depth: Vec<u32>,
    /// Sequences that decode side by side, as a list
    #[arg(short, long, value_name = "N", value_delimiter = ',', default_value = "1", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub batch: Vec<u32>,
    /// Threads, as a list (default: one per physical core that this process may use)
    #[arg(short, long, value_name = "N", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Vec<u16>,
    /// Runs; the median counts
    #[arg(short, long, visible_alias = "repetitions", value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub runs: u16,
    /// Instruction set of the kernels: scalar, avx2, avxvnni, avx512, neon, neondot, neoni8mm (default: the best; also: QUERN_ISA)
    #[arg(long, value_name = "NAME")]
    pub isa: Option<String>,
    /// Let products of bf16 weights use bfloat16 dot products where the CPU has them, see quern run --help
    #[arg(long)]
    pub fast_math: bool,
    /// Read the model into memory instead of mapping its file
    #[arg(long)]
    pub no_mmap: bool,
    /// Element type of the key and value cache
    #[arg(long, visible_alias = "cache-type-k", value_enum, default_value_t = Kv::F16, value_name = "TYPE")]
    pub kv: Kv,
    /// Prompt tokens that go through the model in one pass
    #[arg(long, visible_alias = "ubatch-size", value_name = "N", default_value_t = crate::generate::DEFAULT_CHUNK as u32,
          value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub chunk: u32,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub meter: MeterArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub output: OutputArgs,
}

impl Args {
    /// The model and what to call it.
    fn open(&self) -> Result<(ModelFile, String)> {
        let Some(name) = &self.shape else {
            let file = load::open(self.model.as_deref(), !self.no_mmap)?;
            let stem = file
                .path()
                .file_stem()
                .unwrap_or_default()
                .to_string_lossy();
            let name = format!("{stem} {}", main_format(&file));
            return Ok((file, name));
        };
        let Shape::Model { name, spec } = named(name)? else {
            return Err(Error::usage(format_args!(
                "--shape {name:?} is a list of matrices, expected a model: a name of quern bench shapes or a config.json"
            )));
        };
        let mut shown = Progress::new("make weights {bar:30} {pos} of {len} tensors, {eta} left");
        let file = synthetic::model(&name, &spec, self.quant, &mut |done, all| {
            shown.set(done, all);
        });
        shown.clear();
        Ok((file?, format!("{name} {}", self.quant.name())))
    }
}

/// The format of most bytes.
pub(super) fn main_format(file: &ModelFile) -> &'static str {
    let mut bytes: BTreeMap<&str, u64> = BTreeMap::new();
    for entry in file.entries() {
        *bytes.entry(entry.format.name()).or_default() += entry.length;
    }
    bytes
        .into_iter()
        .max_by_key(|(_, n)| *n)
        .map_or("", |(name, _)| name)
}

/// Each number once, in the order given.
pub(super) fn list(numbers: &[u32]) -> Vec<usize> {
    let mut out = Vec::new();
    for n in numbers.iter().map(|n| *n as usize) {
        if !out.contains(&n) {
            out.push(n);
        }
    }
    out
}

/// Measures.
///
/// # Errors
/// As [`super::run`].
pub fn run(args: &Args) -> Result<()> {
    let kernels = load::kernels(args.isa.as_deref(), args.fast_math)?;
    let session = Session::begin(&args.output, "model")?;
    let (file, name) = args.open()?;
    if args.fast_math {
        load::note_idle_fast_math(&file, kernels);
    }
    let bytes = file.len();
    let model = Arc::new(Model::bind(Arc::new(file))?);
    let work = Workload {
        prompts: list(&args.prompt),
        decodes: list(&args.decode),
        depths: list(&args.depth),
        batches: list(&args.batch),
        runs: args.runs.into(),
        chunk: args.chunk as usize,
        kv: args.kv.into(),
    };
    let mut counts = threads(&args.threads);
    counts.sort_unstable();
    counts.dedup();
    let engine = |n: &usize| Ok(Engine::new(model.clone(), kernels, Team::new(*n)?));
    let mut engines = counts.iter().map(engine).collect::<Result<Vec<_>>>()?;
    // A model that fits into a cache is bounded by that.
    let levels = bytes <= 4 * session.machine().last_cache();
    let mut meter = Meter::new(
        session.machine(),
        kernels,
        &counts,
        levels,
        args.meter.bytes(),
    )?;
    let mut shown = Progress::new("measure {bar:30} run {pos} of {len}, {eta} left");
    let rows = model::measure(&name, &mut engines, &work, &mut meter, &mut |done, all| {
        shown.set(done, all);
    });
    shown.clear();
    let mut rows = rows?;
    rows.extend(meter.rows());
    let head = format!(
        "{name}: {:.1} MiB, {:.1} MiB of weights a pass, cache {}, median of {} runs",
        mib(bytes),
        mib(model.weight_bytes_per_pass()),
        work.kv.name(),
        args.runs
    );
    session.end(&head, rows)
}
