//! `quern batch`: many records, unattended.

mod describe;
mod dry;
pub mod merge;
mod prepare;
mod progress;

use super::embed::Pooling;
use super::ending::EndingArgs;
use super::load::{Loaded, ModelArgs};
use super::memory;
use super::messages::{self, Prompts, TemplateArgs};
use super::output;
use super::sampling::{SamplingArgs, Seed};
use super::signals;
use super::structure::StructureArgs;
use crate::batch::answer::Style;
use crate::batch::feed::{Batch, Settings, Status};
use crate::batch::journal::Output;
use crate::batch::lines::Input;
use crate::batch::manifest::Manifest;
use crate::batch::resume::{ErrorLines, Reading, Resumed};
use crate::batch::shard::{Choice, Shard};
use crate::batch::survey::{Stamp, Survey, survey};
use crate::batch::{self, Limits};
use crate::error::{Error, ErrorKind, Result};
use crate::model::Model;
use crate::template::DateTime;
use prepare::Desk;
use progress::{Display, Mode, by_code};
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

/// Arguments of `quern batch`.
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "Lines of the input, blank ones aside, are records; each becomes one line of the output:
  {\"custom_id\":\"a\",\"method\":\"POST\",\"url\":\"/v1/chat/completions\",\"body\":{\"messages\":[...],\"max_tokens\":50}}   as OpenAI has them
  {\"prompt\":\"...\"}   {\"messages\":[...]}   {\"ids\":[1,2]}   {\"prompt\":\"...\",\"completion\":\"...\"}   {\"embed\":\"...\"}   plain ones
The options of a record (temperature, max_tokens, stop, seed, n, logprobs, response_format, ...) go before those of the command line. README.md has all of them.

Examples:
  quern batch -m model.quern -i requests.jsonl -o results.jsonl
  quern batch -m model.quern -i requests.jsonl -o results.jsonl --resume
  quern batch -m model.quern -i requests.jsonl --dry-run
  quern batch -m model.quern --text -i prompts.txt -o answers.jsonl -n 100 --temp 0
  quern batch -m model.quern -i requests.jsonl -o part-2.jsonl --shard 2/8
  quern batch -m model.quern -i requests.jsonl -o part-$SLURM_ARRAY_TASK_ID.jsonl --shard auto
  quern batch merge -o results.jsonl part-*.jsonl
  generate | quern batch -m model.quern -i - -o - --quiet | consume
  quern batch -m model.quern -i requests.jsonl -o results.jsonl --errors failed.jsonl --progress json --summary summary.json"
)]
pub struct Args {
    /// Put shards together.
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub model: ModelArgs,
    /// Records, one per line (- is standard input)
    #[arg(short, long, value_name = "FILE", required = true)]
    pub input: Option<PathBuf>,
    /// Where results go, one line per record (- is standard output, where every line is passed on at once)
    #[arg(short, long, value_name = "FILE", required_unless_present = "dry_run")]
    pub output: Option<PathBuf>,
    /// Go on with the output of a run that was interrupted; the result is the same, byte by byte, as if it had not been
    #[arg(long)]
    pub resume: bool,
    /// Lines are prompts and not JSON
    #[arg(long)]
    pub text: bool,
    /// In which order results are written
    #[arg(long, value_enum, value_name = "ORDER", default_value_t = Order::Input)]
    pub order: Order,
    /// Pass over fields of records that are not known, instead of failing the record
    #[arg(long)]
    pub lenient: bool,
    /// Answer records whose name came before as any other; names are then not compared, and no memory is needed for them
    #[arg(long)]
    pub allow_duplicates: bool,
    /// Write the lines of failed records to this file as well
    #[arg(long, value_name = "FILE")]
    pub errors: Option<PathBuf>,
    /// Stop at the first record that fails
    #[arg(long)]
    pub fail_fast: bool,
    /// Only every Nth record, beginning with the Kth; auto: which one Slurm, Kubernetes or AWS Batch say (auto/N where they do not say of how many)
    #[arg(long, value_name = "K/N|auto|auto/N")]
    pub shard: Option<Choice>,
    /// Only the first N records of the input
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,
    /// Check every record, count tokens, run nothing and write nothing
    #[arg(long, conflicts_with_all = ["resume", "errors"])]
    pub dry_run: bool,
    /// Texts that are written side by side
    #[arg(long, value_name = "N|auto", default_value = "auto", value_parser = parse_inflight)]
    pub max_inflight: Inflight,
    /// Most memory for keys and values, such as 512M or 4G (default: three quarters of what is free beside the model); records wait for it
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub kv_memory: Option<u64>,
    /// Plain completion of prompts: no chat template around them
    #[arg(long)]
    pub raw: bool,
    /// The system message before prompts that have none, or @FILE with it
    #[arg(long, value_name = "TEXT|@FILE", conflicts_with = "raw")]
    pub system: Option<String>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub template: TemplateArgs,
    /// Read special tokens in prompts as such, and not as text
    #[arg(long)]
    pub parse_special: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub ending: EndingArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub sampling: SamplingArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub structure: StructureArgs,
    /// Go on after end-of-text tokens
    #[arg(long)]
    pub ignore_eos: bool,
    /// Leave out what the model writes between <think> and </think>, or a pair that means the same, before it answers
    #[arg(long)]
    pub hide_thinking: bool,
    /// For embeddings: which hidden vectors count
    #[arg(long, value_enum, value_name = "HOW", default_value_t = Pooling::Auto)]
    pub pooling: Pooling,
    /// For embeddings: divide each vector by its Euclidean length, which those of /v1/embeddings always are
    #[arg(long)]
    pub normalize: bool,
    /// Add the token ids of prompts and texts
    #[arg(long)]
    pub token_ids: bool,
    /// Add a hash of all logits that a text was drawn from, and the seed that it was drawn with
    #[arg(long)]
    pub fingerprint: bool,
    /// How progress is shown on stderr
    #[arg(long, value_enum, value_name = "HOW", default_value_t = Mode::Auto)]
    pub progress: Mode,
    /// Write a summary as JSON to this file (- is stderr)
    #[arg(long, value_name = "FILE")]
    pub summary: Option<PathBuf>,
    /// No summary on stderr
    #[arg(short, long)]
    pub quiet: bool,
}

/// `quern batch merge`.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Put the outputs of all shards together as the output of a run without shards
    Merge(merge::Args),
}

/// `--order`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Order {
    /// In that of the input.
    Input,
    /// As they come.
    Completion,
}

/// `--max-inflight`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inflight(pub Option<usize>);

fn parse_inflight(text: &str) -> Result<Inflight, String> {
    match text {
        "auto" => Ok(Inflight(None)),
        _ => match text.parse() {
            Ok(n @ 1..) => Ok(Inflight(Some(n))),
            _ => Err("expected a number of at least 1, or auto".to_owned()),
        },
    }
}

/// `4G` and `4GiB` are both 2^32 bytes.
fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || "expected a number of bytes, such as 512M or 4G".to_owned();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.');
    let (number, unit) = text.split_at(digits.unwrap_or(text.len()));
    let power = match unit.trim_end_matches(['B', 'b']).trim_end_matches('i') {
        "" if !unit.contains('i') => 0,
        "K" | "k" => 1,
        "M" | "m" => 2,
        "G" | "g" => 3,
        "T" | "t" => 4,
        _ => return Err(wrong()),
    };
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let bytes = number * 1024_f64.powi(power);
    match bytes >= 1.0 && bytes < 2_f64.powi(63) {
        true => Ok(bytes as u64),
        false => Err(wrong()),
    }
}

/// An input that is open, and what is known of it.
struct Source {
    input: Input,
    path: PathBuf,
    survey: Option<(Survey, File, Stamp)>,
}

impl Args {
    /// Everything that is wrong without looking at any file.
    fn check(&self) -> Result<()> {
        self.ending.check()?;
        self.sampling.check()?;
        if self.pooling == Pooling::None {
            return Err(Error::usage(
                "--pooling is none, expected one that makes a vector of a text",
            ));
        }
        if self.allow_duplicates && self.order == Order::Completion {
            return Err(Error::usage(
                "--allow-duplicates needs --order input: in another one names tell which records have been answered",
            ));
        }
        let output = self.output.as_deref().filter(|path| is_dash(path));
        if self.resume && output.is_some() {
            return Err(Error::usage(
                "--resume needs an output that is a file: standard output has no past",
            ));
        }
        Ok(())
    }

    /// Whether nobody asks what records are called.
    fn has_no_names(&self) -> bool {
        self.text || self.allow_duplicates
    }

    /// Opens the input; one that is a file is looked through.
    fn source(&self) -> Result<Source> {
        let path = self.input.clone().unwrap_or_default();
        let failed = |e: std::io::Error| Error::io("read", &path, &e);
        if !is_dash(&path) {
            let mut file = File::open(&path).map_err(failed)?;
            if file.metadata().map_err(failed)?.is_file() {
                let stamp = Stamp::of(&path, &file)?;
                let survey = survey(&path, &mut file, self.has_no_names())?;
                let copy = file.try_clone().map_err(failed)?;
                let input = Input::of_file(&path, file, stamp.bytes());
                return Ok(Source {
                    input,
                    path,
                    survey: Some((survey, copy, stamp)),
                });
            }
        }
        Ok(Source {
            input: Input::open(&path)?,
            path,
            survey: None,
        })
    }

    /// The output, locked and unchanged.
    fn open_output(&self) -> Result<Output> {
        let path = self.output.clone().unwrap_or_default();
        if !is_dash(&path) {
            return Output::open(&path, self.resume);
        }
        let name = Path::new("standard output");
        let out = std::io::stdout();
        let copy = out.as_fd().try_clone_to_owned();
        let copy = copy.map_err(|e| Error::io("write", name, &e))?;
        Ok(Output::stream(name, File::from(copy)))
    }

    fn shard(&self) -> Result<Shard> {
        match self.shard {
            None => Ok(Shard { number: 1, of: 1 }),
            Some(choice) => choice.resolve(|name| std::env::var(name).ok()),
        }
    }

    /// The seed of the run: what an earlier run took, if this one goes on with it and any will do.
    fn seed(&self, earlier: Option<&Manifest>) -> u64 {
        let before = || earlier.and_then(|m| m.get("seed")).and_then(|v| v.as_u64());
        match self.sampling.seed {
            None => 0,
            Some(Seed::Random) => before().unwrap_or_else(|| Seed::Random.value()),
            Some(seed) => seed.value(),
        }
    }

    /// What templates are told as the date: as given, else what an earlier run took, else noon of today.
    fn now(&self, earlier: Option<&Manifest>) -> DateTime {
        let before = || {
            let text = earlier.and_then(|m| m.get("now")).and_then(|v| v.as_str());
            text.and_then(DateTime::parse)
        };
        self.template
            .now
            .or_else(before)
            .unwrap_or_else(|| self.template.options().now.noon())
    }
}

fn is_dash(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// A file that a summary goes to, opened before there is one.
struct SummaryFile(Option<(PathBuf, File)>);

impl SummaryFile {
    fn open(path: Option<&Path>) -> Result<SummaryFile> {
        let Some(path) = path.filter(|path| !is_dash(path)) else {
            return Ok(SummaryFile(None));
        };
        let mut options = File::options();
        let file = options.write(true).create(true).truncate(false).open(path);
        let file = file.map_err(|e| Error::io("write", path, &e))?;
        Ok(SummaryFile(Some((path.to_path_buf(), file))))
    }

    fn write(self, line: &str) -> Result<()> {
        let Some((path, mut file)) = self.0 else {
            output::note(line);
            return Ok(());
        };
        let failed = |e: std::io::Error| Error::io("write", &path, &e);
        if file.metadata().is_ok_and(|m| m.is_file()) {
            file.set_len(0).map_err(failed)?;
        }
        writeln!(file, "{line}").map_err(failed)
    }
}

/// Runs the batch.
///
/// # Errors
/// Some records failed (1), wrong arguments, an output that is locked or of another run (2), a bad model or input (3), I/O (4), a limit (5), a
/// model that changes (6).
pub fn run(mut args: Args) -> Result<()> {
    if let Some(Command::Merge(args)) = args.command {
        return merge::run(args);
    }
    args.check()?;
    let shard = args.shard()?;
    // What cannot be written is told before the model is loaded.
    let out = match args.dry_run {
        true => None,
        false => Some(args.open_output()?),
    };
    let errors = args.errors.as_deref().map(ErrorLines::open).transpose()?;
    let summary = SummaryFile::open(args.summary.as_deref())?;
    let form = args.structure.grammar()?;
    let system = args.system.as_deref().map(messages::text_or_file);
    let system = system.transpose()?;
    let earlier = match &out {
        Some(out) => out.manifest()?,
        None => None,
    };
    let source = args.source()?;
    let seed = args.seed(earlier.as_ref());
    let created = args.template.now.map_or(0, |now| now.unix());
    args.template.now = Some(args.now(earlier.as_ref()));
    let mut loaded = args.model.load()?;
    args.model.announce(&loaded);
    let reader = loaded.reader.clone();
    let spec = reader.model.spec();
    let context = args.ending.context.positions(spec)?;
    let mut sampling = args.sampling.params(
        reader.model.file().meta(),
        spec.vocab_size,
        reader.tokenizer.as_deref(),
    )?;
    sampling.seed = seed;
    let prompts = Prompts::new(&reader, &args.template);
    let style = Style {
        model: model_name(&loaded),
        created: u64::try_from(created).unwrap_or(0),
        token_ids: args.token_ids,
        fingerprint: args.fingerprint,
    };
    let survey = source.survey.as_ref().map(|(survey, ..)| survey);
    let settings = Settings {
        as_text: args.text,
        lenient: args.lenient,
        in_order: args.order == Order::Input,
        fail_fast: args.fail_fast,
        shard,
        limit: args.limit,
        seed,
        style,
        compare_names: survey.is_none() && !args.has_no_names(),
    };
    let records = survey.map(|s| args.limit.map_or(s.records, |limit| limit.min(s.records)));
    let about = describe::About {
        args: &args,
        model: &reader.model,
        kernels: loaded.engine.kernels(),
        survey,
        shard,
        seed,
        context,
        sampling: &sampling,
        system: system.as_deref(),
        form: form.as_ref(),
        template: prompts.template_source()?,
    };
    let mut manifest = about.manifest()?;
    let mut desk = Desk::new(&args, &reader, &prompts, system, form, sampling, context);
    let mut display = Display::new(args.progress);
    let Some(out) = out else {
        return dry::run(settings, source.input, &mut desk, &args, summary);
    };
    let mut errors = errors;
    let mut resumed = Resumed::new(settings.in_order, survey.is_some());
    let left = &mut Reading {
        resumed: &mut resumed,
        errors: errors.as_mut(),
    };
    let journal = out.begin(&manifest, left)?;
    if let Some(errors) = &mut errors {
        errors.begin()?;
    }
    let limits = Limits {
        max_inflight: args.max_inflight.0,
        kv_memory: args.kv_memory.or_else(|| spare_memory(&reader.model)),
        chunk: args.model.chunk as usize,
    };
    let total = records.map(|records| shard.share(records));
    let is_file = journal.is_file();
    let stamp = source.survey.as_ref().map(|(_, file, stamp)| (file, stamp));
    // From here on a signal ends the run between two passes.
    signals::poll();
    let (ended, status, complete) = {
        let mut feed = Batch::new(
            settings,
            source.input,
            &mut desk,
            &mut display,
            journal,
            errors,
            resumed,
            total,
        );
        let ended = batch::run(&mut loaded.engine, &limits, &mut feed).and_then(|_| match stamp {
            Some((file, stamp)) if Stamp::of(&source.path, file)? != *stamp => {
                Err(Error::invalid(format_args!(
                    "{:?} changed while it was read: its records may be mixed up",
                    source.path
                )))
            }
            _ => Ok(()),
        });
        let complete = feed.is_complete();
        let status = feed.status().clone();
        let journal = feed.journal();
        let ended = ended.and(journal.sync());
        let ended = ended.map_err(|e| journal.with_saved(e));
        (ended, status, complete)
    };
    display.end(&status);
    if ended.is_ok() && complete && is_file {
        manifest.finish(status.found + status.done, status.failed());
        manifest.write(&args.output.clone().unwrap_or_default())?;
    }
    if !args.quiet {
        output::note(display.text(&status));
        if ended.is_ok() && !complete && is_file {
            output::note(format_args!(
                "quern: stopped; {} records saved, --resume goes on from there",
                status.found + status.done
            ));
        }
    }
    if args.summary.is_some() {
        summary.write(&display.summary(&status, complete)?)?;
    }
    ended?;
    outcome(&status)
}

/// What keys and values may have where nobody says it: three quarters of what is free beside the model, since buffers, answers and other programs need
/// some too.
fn spare_memory(model: &Model) -> Option<u64> {
    const LEAST: u64 = 64 << 20;
    let free = memory::available()?;
    let beside = free.saturating_sub(model.file().mapped_bytes());
    Some((beside / 4 * 3).max(LEAST))
}

/// Exit 1 if records failed.
fn outcome(status: &Status) -> Result<()> {
    match status.failed() {
        0 => Ok(()),
        failed => Err(Error::new(
            ErrorKind::Partial,
            format_args!(
                "{failed} of {} records failed: {}",
                status.found + status.done,
                by_code(&status.failures)
            ),
        )),
    }
}

/// What answers call the model.
fn model_name(loaded: &Loaded) -> String {
    let file = loaded.engine.model().file();
    let stem = || {
        let stem = file.path().file_stem();
        stem.unwrap_or_default().to_string_lossy().into_owned()
    };
    file.meta().name().map_or_else(stem, str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_counts() {
        for (text, bytes) in [
            ("1", 1),
            ("10B", 10),
            ("2K", 2048),
            ("1.5M", 3 << 19),
            ("4G", 4 << 30),
            ("4GiB", 4 << 30),
            ("4gb", 4 << 30),
            ("1T", 1 << 40),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for wrong in ["", "G", "0", "-1", "1X", "1iB", "1e99", "99999999999T", "."] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
        assert_eq!(parse_inflight("auto"), Ok(Inflight(None)));
        assert_eq!(parse_inflight("7"), Ok(Inflight(Some(7))));
        assert!(parse_inflight("0").is_err());
    }
}
