//! `quern bench batch`.

use super::examples;
use super::model::{list, main_format};
use super::output::{OutputArgs, Session};
use crate::bench::batch::{self, Workload};
use crate::cli::load::{Loaded, ModelArgs};
use crate::cli::memory::mib;
use crate::cli::screen::Progress;
use crate::error::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Arguments of `quern bench batch`.
#[derive(Debug, clap::Args)]
#[command(after_help = examples(&[
    "batch -m model.quern",
    "batch -m model.quern --records 64 -p 128 -n 32,256 --in-flight 1,8,32,64",
    "batch -m model.quern --shared 512 -p 16 -n 16 --in-flight 64",
    "batch -m model.gguf --in-flight 8,32 --llama llama.cpp/build/bin",
]))]
pub struct Args {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub model: ModelArgs,
    /// Records of a run
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub records: u32,
    /// Tokens that all prompts begin with
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub shared: u32,
    /// Tokens of a prompt behind those
    #[arg(
        short,
        long,
        visible_alias = "n-prompt",
        value_name = "N",
        default_value_t = 128
    )]
    pub prompt: u32,
    /// Tokens of a text, or the fewest and the most of them
    #[arg(
        short = 'n',
        long,
        visible_alias = "n-gen",
        value_name = "N[,N]",
        value_delimiter = ',',
        default_value = "32,256",
        num_args = 1
    )]
    pub decode: Vec<u32>,
    /// Records side by side, as a list
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1,8,32", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub in_flight: Vec<u32>,
    /// Runs; the median counts
    #[arg(short, long, visible_alias = "repetitions", value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub runs: u16,
    /// Folder with llama.cpp's llama-batched-bench, whose figures are shown beside those of this program (default: it is looked for in PATH); -m must then be a GGUF file
    #[arg(long, value_name = "FOLDER")]
    pub llama: Option<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub output: OutputArgs,
}

/// Measures.
///
/// # Errors
/// As [`super::run`].
pub fn run(args: &Args) -> Result<()> {
    let (fewest, most) = match args.decode[..] {
        [n] => (n, n),
        [fewest, most] if fewest <= most => (fewest, most),
        _ => {
            return Err(Error::usage(
                "-n takes the tokens of a text, or the fewest and the most of them",
            ));
        }
    };
    let session = Session::begin(&args.output, "batch")?;
    let peer = Peer::find(args)?;
    let Loaded { mut engine, .. } = args.model.load()?;
    let file = engine.model().file();
    let stem = file.path().file_stem().unwrap_or_default();
    let name = format!("{} {}", stem.to_string_lossy(), main_format(file));
    let head = format!(
        "{name}: {:.1} MiB, cache {}, median of {} runs",
        mib(file.len()),
        quern_kernels::KvType::from(args.model.kv).name(),
        args.runs
    );
    let work = Workload {
        records: args.records as usize,
        shared: args.shared as usize,
        prompt: args.prompt as usize,
        decode: (fewest as usize, most as usize),
        in_flight: list(&args.in_flight),
        runs: args.runs.into(),
        chunk: args.model.chunk as usize,
        kv: args.model.kv.into(),
    };
    let mut shown = Progress::new("measure {bar:30} run {pos} of {len}, {eta} left");
    let rows = batch::measure(&name, &mut engine, &work, &mut |done, all| {
        shown.set(done, all);
    });
    shown.clear();
    let mut rows = rows?;
    if let Some(peer) = peer {
        let threads = engine.threads();
        let mut samples = Vec::new();
        for _ in 0..work.runs {
            samples.push(batch::of_peer(
                &peer.run(&work, threads)?,
                &work,
                "llama.cpp",
                threads,
            )?);
        }
        let mut samples = samples.into_iter();
        let mut first = samples.next().unwrap_or_default();
        for (row, more) in samples.flat_map(|more| (0..more.len()).zip(more)) {
            if let Some(row) = first.get_mut(row) {
                row.samples.extend(more.samples);
            }
        }
        rows.extend(first);
    }
    session.end(&head, rows)
}

/// llama.cpp's program and the file that it reads.
struct Peer {
    program: PathBuf,
    file: PathBuf,
}

impl Peer {
    /// What was asked for, or what lies in PATH; none if there is none, or the model is not a GGUF file.
    fn find(args: &Args) -> Result<Option<Peer>> {
        const PROGRAM: &str = "llama-batched-bench";
        let gguf = args.model.model.as_deref().filter(|file| {
            let extension = file.extension();
            extension.is_some_and(|e| e.eq_ignore_ascii_case("gguf"))
        });
        let path = std::env::var_os("PATH").unwrap_or_default();
        let program = match &args.llama {
            Some(folder) => Some(folder.join(PROGRAM)),
            None => std::env::split_paths(&path)
                .map(|folder| folder.join(PROGRAM))
                .find(|p| p.is_file()),
        };
        match (program, gguf, &args.llama) {
            (Some(program), Some(file), _) if program.is_file() => Ok(Some(Peer {
                program,
                file: file.to_path_buf(),
            })),
            (_, None, Some(_)) => Err(Error::usage(
                "--llama needs a GGUF file as -m, which both programs can read",
            )),
            (Some(program), _, Some(_)) => Err(no_program(&program, "there is no such file")),
            _ => Ok(None),
        }
    }

    /// Its lines of JSON. A text has the mean of the lengths, since it knows one only.
    fn run(&self, work: &Workload, threads: usize) -> Result<String> {
        let decode = work.generated() / work.records.max(1);
        let most = work.in_flight.iter().max().copied().unwrap_or(1);
        let context = work.shared + most * (work.prompt + decode);
        let sides: Vec<String> = work.in_flight.iter().map(usize::to_string).collect();
        let mut command = Command::new(&self.program);
        command.arg("-m").arg(&self.file);
        command.args(["-c", &context.next_multiple_of(256).to_string(), "-fa", "1"]);
        command.args(["-npp", &(work.shared + work.prompt).to_string()]);
        command.args(["-ntg", &decode.to_string(), "-npl", &sides.join(",")]);
        command.args(["-t", &threads.to_string(), "-tb", &threads.to_string()]);
        command.args(["--output-format", "jsonl"]);
        let done = command.stdin(Stdio::null()).stderr(Stdio::null()).output();
        let done = done.map_err(|e| no_program(&self.program, e))?;
        if !done.status.success() {
            return Err(no_program(&self.program, done.status));
        }
        Ok(String::from_utf8_lossy(&done.stdout).into_owned())
    }
}

fn no_program(program: &Path, why: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Io, format_args!("cannot run {program:?}: {why}"))
}
