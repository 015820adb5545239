//! `quern run`: answers a prompt where the model has a chat template or an encoder that reads it, else continues it.

use super::ending::EndingArgs;
use super::load::{Ids, ModelArgs};
use super::logprobs::Logged;
use super::messages::{self, Asked, PromptArgs, Prompts, TemplateArgs};
use super::output;
use super::profile::ProfileArgs;
use super::prompt_cache::{Keeping, PromptCacheArgs};
use super::report::Report;
use super::sampling::SamplingArgs;
use super::screen::{Numbers, Screen, Text};
use super::speculation::SpeculationArgs;
use super::structure::StructureArgs;
use super::text::TextArgs;
use super::thinking::{self, Thinking};
use crate::error::Result;
use crate::generate::{Constraint, Decode, Draft, Finish, Generation, Request};
use std::path::PathBuf;

/// Arguments of `quern run`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  quern run \"What is the capital of France?\"
  quern run -m model.quern \"Once upon a time\"
  cat notes.txt | quern run -m model.quern -n 100 \" In short:\"
  quern run -m model.quern --lookup -f program.py \"# The same with type hints:\"
  quern run -m model.quern --draft small.quern \"Once upon a time\"
  quern run -m model.quern --prompt-cache notes.cache -f notes.txt -n 200
  quern run -m model.quern --system \"Answer in one word.\" \"What is the capital of France?\"
  quern run -m model.quern --raw \"Plain text to be continued, without a chat template,\"
  quern run -m model.quern --temp 0 --json --ids 1,403,407
  quern run -m model.quern --temp 0 --json --logprobs 3 -n 8 \"Once upon a time\"
  quern run -m model.quern --temp 1.2 --min-p 0.1 --top-k 0 --top-p 1 -s 7 \"Once upon a time\"
  quern run -m model.quern --json-schema '{\"type\":\"object\",\"properties\":{\"age\":{\"type\":\"integer\"}},\"required\":[\"age\"]}' \"Tom is 9.\"
  quern run -m model.quern --regex '(yes|no)' \"Is water wet? \"
  quern run -m model.quern --grammar list.gbnf \"Three colours: \"")]
pub struct Args {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub model: ModelArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub text: TextArgs,
    /// Continue exactly these token ids (nothing is added in front); an encoder reads exactly these
    #[arg(long, value_name = "1,2,3", conflicts_with_all = ["text", "prompt", "file"])]
    pub ids: Option<Ids>,
    /// Plain completion: no chat template around the prompt
    #[arg(long)]
    pub raw: bool,
    /// The system message before the prompt, or @FILE with it
    #[arg(long, value_name = "TEXT|@FILE", conflicts_with_all = ["raw", "ids"])]
    pub system: Option<String>,
    /// Answer the conversation in this JSON file (see quern template --help; - is standard input)
    #[arg(long, value_name = "FILE", conflicts_with_all = ["raw", "ids", "text", "prompt", "file", "system"])]
    pub messages: Option<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub template: TemplateArgs,
    /// Read special tokens in the prompt as such, and not as text
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
    /// With --json: the log-probability of each generated token, and the N most probable ones in its place
    #[arg(long, value_name = "N", requires = "json")]
    pub logprobs: Option<usize>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub speculation: SpeculationArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub cache: PromptCacheArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub profile: ProfileArgs,
    /// Go on after end-of-text tokens
    #[arg(long)]
    pub ignore_eos: bool,
    /// Leave out what the model writes between <think> and </think>, or a pair that means the same, before it answers
    #[arg(long)]
    pub hide_thinking: bool,
    /// Print one JSON object at the end instead of streaming text
    #[arg(long)]
    pub json: bool,
    /// Print speed, memory, threads and a fingerprint of all logits on stderr
    #[arg(long)]
    pub stats: bool,
}

impl Args {
    /// Everything that is wrong without looking at the model.
    fn check(&self) -> Result<()> {
        self.ending.check()?;
        self.speculation.check()?;
        self.sampling.check()
    }
}

/// Runs the prompt.
///
/// # Errors
/// Wrong arguments (2), a bad model or prompt (3), I/O (4), a prompt longer than the context (5), a model that changes (6).
pub fn run(args: Args) -> Result<()> {
    args.check()?;
    args.cache.check()?;
    let asked = match (&args.ids, &args.messages) {
        (Some(Ids(ids)), _) => Asked::Ids(ids.clone()),
        (None, Some(path)) => Asked::Messages(messages::read_conversation(path)?),
        (None, None) => Asked::Text(args.text.read()?),
    };
    let grammar = args.structure.grammar()?;
    let system = args.system.as_deref().map(messages::text_or_file);
    let system = system.transpose()?;
    let profile = args.profile.begin()?;
    let mut loaded = args.model.load()?;
    if let Some(profile) = &profile {
        loaded.engine.set_profile(profile.clone());
    }
    let enter = |operation| {
        if let Some(profile) = &profile {
            profile.operation(operation);
        }
    };
    enter("prepare");
    args.model.announce(&loaded);
    let spec = loaded.engine.model().spec();
    let context = args.ending.context.positions(spec)?;
    let prompts = Prompts::new(&loaded.reader, &args.template);
    let prompt = PromptArgs {
        system: system.as_deref(),
        raw: args.raw,
        parse_special: args.parse_special,
    };
    let (given, end_ids) = prompts.make(asked, prompt)?;
    // An encoder reads what is given, and the decoder begins anew.
    let (source, prompt) = match loaded.reader.decoder_start()? {
        Some(start) => (Some(given), vec![start]),
        None => (None, given),
    };
    let end_ids = match args.ignore_eos {
        true => Vec::new(),
        false => end_ids,
    };
    let sampling = args.sampling.params(
        loaded.engine.model().file().meta(),
        spec.vocab_size,
        loaded.reader.tokenizer.as_deref(),
    )?;
    let mut structure =
        args.structure
            .constraint(grammar.as_ref(), loaded.reader.tokenizer.as_ref(), &end_ids)?;
    let request = Request {
        source,
        prompt,
        max_new: args.ending.max_new(),
        context,
        stop: args.ending.stop.clone(),
        end_ids,
        kv: args.model.kv.into(),
        chunk: args.model.chunk as usize,
        sampling,
        fingerprint: args.json || args.stats,
    };
    let tokenizer = loaded.reader.tokenizer.clone();
    // What a decoder writes continues nothing.
    let continued = match &request.source {
        Some(_) => &[][..],
        None => &request.prompt,
    };
    let mut decode: Box<dyn Decode> = match &tokenizer {
        Some(tokenizer) => Box::new(Text::after(continued, tokenizer)?),
        None => Box::new(Numbers::new(!args.json)),
    };
    let thinking = || match &tokenizer {
        Some(tokenizer) => Thinking::after(continued, tokenizer),
        None => Ok(Thinking::default()),
    };
    let mut screen = Screen::new(!args.json, args.hide_thinking, thinking()?);
    let model = loaded.engine.model().clone();
    let (mut session, mut cache) = args.cache.open(&loaded.engine, request.kv)?;
    let mut speculation = args.speculation.build(&args.model, &loaded, &request)?;
    let mut logged = Logged::new(&mut screen, tokenizer.clone(), args.logprobs);
    let before = super::since_start();
    let mut watch = Keeping {
        watch: &mut logged,
        cache: cache.as_mut(),
        model: &model,
    };
    let generation = Generation {
        request: &request,
        session: &mut session,
        draft: speculation.as_mut().map(|s| s as &mut dyn Draft),
        constraint: structure.as_mut().map(|s| s as &mut dyn Constraint),
        decode: &mut *decode,
        watch: &mut watch,
    };
    enter("between passes");
    let result = generation.run(&mut loaded.engine);
    enter("report");
    let logprobs = logged.finish();
    let ended = screen.end();
    let mut outcome = result?;
    let in_thinking = ended?;
    if let Some(cache) = &mut cache {
        cache.text_done(&session, &model);
    }
    if args.hide_thinking {
        outcome.text = thinking::without(&outcome.text, thinking()?);
    }
    let report = Report {
        request: &request,
        outcome: &outcome,
        loaded: &loaded,
        before,
        guessed: speculation.is_some(),
        cache: cache.as_ref().map(|c| c.used()),
        logprobs: logprobs.as_deref(),
    };
    if args.json {
        output::stdout().line(report.json()?)?;
    }
    output::stdout().flush_now()?;
    if outcome.finish == Finish::Context && !args.json {
        output::note(format_args!(
            "quern: note: the context of {context} tokens is full"
        ));
    }
    if in_thinking && !args.json {
        output::note("quern: note: the text ended within its reasoning, which is not shown");
    }
    if args.stats {
        output::note(report.stats());
    }
    args.profile.end(profile.as_ref())?;
    cache.map_or(Ok(()), |c| c.finish())
}
