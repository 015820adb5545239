//! `quern chat`: a conversation, on a terminal or through pipes.
//!
//! The messages are in a `Dialogue`, what the model computed of them in a session: each turn only new tokens go through the model. On a
//! terminal there is a line editor; otherwise lines of standard input are messages and commands, and answers go to standard output, one
//! line end behind each. Everything else goes to stderr.

mod answer;
mod dialogue;
mod entry;
mod history;
mod input;

use super::ending::EndingArgs;
use super::load::ModelArgs;
use super::messages::{TemplateArgs, text_or_file};
use super::output::{self, Stream};
use super::sampling::SamplingArgs;
use super::signals;
use super::speculation::SpeculationArgs;
use super::text::stdin_is_piped;
use crate::error::{Error, ErrorKind, Result};
use crate::file::meta::key;
use crate::generate::{Request, Session};
use crate::template::Json;
use answer::{Answered, Talk};
use dialogue::Dialogue;
use entry::{Command, Entry, HELP};
use input::{Event, Input, Lines, Terminal};
use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::PathBuf;

/// Arguments of `quern chat`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "On a terminal: Ctrl-C stops an answer, Ctrl-D leaves, /help lists the commands (/system /reset /save /load /regen /stats /quit). \
A line that ends in \\ goes on in the next one, and \"\"\" begins and ends a block of lines.

Elsewhere every line of standard input is a message or a command, and standard output has the answers. A conversation that is longer than the \
context is then exit 5.

Examples:
  quern chat
  quern chat -m model.quern
  quern chat -m model.quern --system \"You answer in one sentence.\" \"Why is the sky blue?\"
  quern chat -m model.quern --load talk.json --truncate --hide-thinking
  printf '%s\\n' \"What is 2+3?\" \"And twice that?\" | quern chat -m model.quern --temp 0"
)]
pub struct Args {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub model: ModelArgs,
    /// The first message
    #[arg(value_name = "PROMPT")]
    pub prompt: Option<OsString>,
    /// The system message before the conversation, or @FILE with it
    #[arg(long, value_name = "TEXT|@FILE")]
    pub system: Option<String>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub template: TemplateArgs,
    /// Go on with a conversation from a file (what /save wrote, or {\"messages\": [...], \"tools\": [...]})
    #[arg(long, value_name = "FILE")]
    pub load: Option<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub ending: EndingArgs,
    /// When the context is full, let the oldest messages go, but never the system prompt
    #[arg(long)]
    pub truncate: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub sampling: SamplingArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub speculation: SpeculationArgs,
    /// Read special tokens in messages as such, and not as text
    #[arg(long)]
    pub parse_special: bool,
    /// Leave out what the model writes between <think> and </think>, or a pair that means the same, before it answers
    #[arg(long)]
    pub hide_thinking: bool,
    /// Neither read nor write the history of what was typed ($XDG_STATE_HOME/quern/history)
    #[arg(long)]
    pub no_history: bool,
    /// Print one JSON object per answer
    #[arg(long)]
    pub json: bool,
    /// Print what /stats shows after every answer, on stderr
    #[arg(long)]
    pub stats: bool,
}

impl Args {
    /// The first message and the system prompt.
    fn texts(&self) -> Result<(Option<String>, Option<String>)> {
        self.ending.check()?;
        self.sampling.check()?;
        self.speculation.check()?;
        let prompt = self.prompt.as_ref().map(|text| {
            text.to_str()
                .map(str::to_owned)
                .ok_or_else(|| Error::invalid("the prompt argument is not UTF-8"))
        });
        let system = self.system.as_deref().map(text_or_file);
        Ok((prompt.transpose()?, system.transpose()?))
    }
}

/// Holds the conversation.
///
/// # Errors
/// Wrong arguments (2), a bad model, template or conversation (3), I/O (4), without a terminal a conversation longer than the context (5), a
/// model that changes (6).
pub fn run(args: Args) -> Result<()> {
    let (first, system) = args.texts()?;
    let mut dialogue = match &args.load {
        Some(path) => Dialogue::load(path)?,
        None => Dialogue::default(),
    };
    if system.is_some() {
        dialogue.set_system(system.as_deref());
    }
    let interactive = std::io::stdin().is_terminal() && Stream::Stdout.is_terminal();
    let mut input = match interactive {
        true => {
            let variable = |name: &str| std::env::var_os(name);
            let history = history::path(variable).filter(|_| !args.no_history);
            Input::Terminal(Box::new(Terminal::new(history)?))
        }
        false if stdin_is_piped() || std::io::stdin().is_terminal() => {
            Input::Lines(Lines::default())
        }
        false => Input::Empty,
    };
    if first.is_none() && matches!(input, Input::Empty) {
        return Err(Error::usage(
            "no message: give one as an argument, on a terminal or through a pipe",
        ));
    }
    let loaded = args.model.load()?;
    let tokenizer = loaded.reader.tokenizer.clone().ok_or_else(|| {
        Error::usage(
            "this model file has no tokenizer: it cannot be talked with, only run with --ids",
        )
    })?;
    if loaded.reader.decoder_start()?.is_some() {
        return Err(Error::usage(
            "this model writes about a text that its encoder reads: use quern run",
        ));
    }
    let template = loaded.reader.template(&args.template)?.ok_or_else(|| {
        Error::usage(format_args!(
            "{:?} has no chat template: give one with --template FILE, or continue a text with quern run",
            loaded.engine.model().file().path()
        ))
    })?;
    let options = args.template.options();
    let spec = loaded.engine.model().spec();
    let request = Request {
        source: None,
        prompt: Vec::new(),
        max_new: args.ending.max_new(),
        context: args.ending.context.positions(spec)?,
        stop: args.ending.stop.clone(),
        end_ids: loaded.reader.chat_end_ids(&template, &options),
        kv: args.model.kv.into(),
        chunk: args.model.chunk as usize,
        sampling: args.sampling.params(
            loaded.engine.model().file().meta(),
            spec.vocab_size,
            Some(&tokenizer),
        )?,
        fingerprint: false,
    };
    let mut chat = Chat {
        talk: Talk {
            loaded,
            tokenizer: &tokenizer,
            template,
            options,
            parse_special: args.parse_special,
            session: Session::new(),
            request,
            model: &args.model,
            speculation: &args.speculation,
            truncate: args.truncate,
            hide_thinking: args.hide_thinking,
            json: args.json,
            stats: args.stats,
            answers: 0,
            last: None,
        },
        dialogue,
        interactive,
    };
    if interactive {
        signals::keep_interrupts();
        chat.greet();
    }
    if let Some(text) = first
        && chat.message(&text)? == Next::Leave
    {
        return Ok(());
    }
    loop {
        let next = match input.next()? {
            Event::Entry(text) => {
                signals::take_interrupt();
                chat.entry(&text)?
            }
            Event::Interrupted => Next::On,
            Event::End => Next::Leave,
        };
        if next == Next::Leave {
            return Ok(());
        }
    }
}

/// What the loop needs besides the input.
struct Chat<'a> {
    talk: Talk<'a>,
    dialogue: Dialogue,
    /// Whether somebody sits at a terminal, who can do something about an error.
    interactive: bool,
}

/// Whether the conversation goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    On,
    Leave,
}

impl Chat<'_> {
    fn greet(&self) {
        let file = self.talk.loaded.engine.model().file();
        let name = file.meta().string(key::NAME).unwrap_or("this model");
        let so_far = match self.dialogue.len() {
            0 => String::new(),
            n => format!(" ({n} messages so far)"),
        };
        output::note(output::visible(&format!(
            "quern: {name}{so_far}; /help lists the commands, Ctrl-D leaves"
        )));
    }

    fn entry(&mut self, text: &str) -> Result<Next> {
        match entry::parse(text) {
            Entry::Nothing => Ok(Next::On),
            Entry::Message(text) => self.message(&text),
            Entry::Wrong(message) => self.trouble(Error::usage(message)),
            Entry::Command(Command::Quit) => Ok(Next::Leave),
            Entry::Command(Command::Regen) => self.regenerate(),
            Entry::Command(command) => match self.command(command) {
                Ok(text) => {
                    output::note(text);
                    Ok(Next::On)
                }
                Err(e) => self.trouble(e),
            },
        }
    }

    /// Commands that say something.
    fn command(&mut self, command: Command) -> Result<String> {
        Ok(match command {
            Command::System(None) => match self.dialogue.system() {
                Some(text) => output::visible(&format!("system prompt: {text}")),
                None => "there is no system prompt".to_owned(),
            },
            Command::System(Some(text)) => {
                self.dialogue
                    .set_system(Some(&text[..]).filter(|t| !t.is_empty()));
                "the system prompt is another from here on".to_owned()
            }
            Command::Reset => {
                self.dialogue.reset();
                "the conversation is forgotten".to_owned()
            }
            Command::Save(path, replace) => {
                self.dialogue.save(&path, replace)?;
                format!("{} messages are in {path:?}", self.dialogue.len())
            }
            Command::Load(path) => {
                self.dialogue = Dialogue::load(&path)?;
                format!("{} messages came from {path:?}", self.dialogue.len())
            }
            Command::Stats => match &self.talk.last {
                Some(stats) => stats.clone(),
                None => "there was no answer yet".to_owned(),
            },
            Command::Help | Command::Regen | Command::Quit => HELP.to_owned(),
        })
    }

    fn message(&mut self, text: &str) -> Result<Next> {
        self.dialogue.ask(text);
        self.reply(None)
    }

    fn regenerate(&mut self) -> Result<Next> {
        let old = self.dialogue.take_back("assistant");
        if !self.dialogue.is_asked() {
            if let Some(old) = old {
                self.dialogue.put_back(old);
            }
            return self.trouble(Error::usage("there is no message to answer again"));
        }
        self.reply(old)
    }

    /// Answers the last message. If no answer comes of it, everything is as it was before: the old answer, or no message.
    fn reply(&mut self, old: Option<Json>) -> Result<Next> {
        let result = self.talk.answer(&mut self.dialogue);
        match self.interactive {
            true => signals::take_interrupt(),
            false => {
                signals::unpoll();
                false
            }
        };
        if let Ok(Answered::Yes) = result {
            return Ok(self.next());
        }
        match old {
            Some(old) => self.dialogue.put_back(old),
            None => {
                self.dialogue.take_back("user");
            }
        }
        match result {
            Ok(_) => output::note(
                "quern: stopped before the answer began: the conversation is as it was",
            ),
            Err(e) if matches!(e.kind(), ErrorKind::Io | ErrorKind::Changed) => return Err(e),
            Err(e) => return self.trouble(e),
        }
        Ok(self.next())
    }

    /// A signal that is not for the conversation ends it.
    fn next(&self) -> Next {
        match signals::caught() {
            Some(_) => Next::Leave,
            None => Next::On,
        }
    }

    /// At a terminal somebody reads what is wrong and goes on; elsewhere the program ends with it.
    fn trouble(&self, e: Error) -> Result<Next> {
        if !self.interactive {
            return Err(e);
        }
        output::note(output::visible(&format!("quern: {e}")));
        Ok(self.next())
    }
}
