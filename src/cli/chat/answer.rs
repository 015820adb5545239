//! One answer: the conversation as ids, the part of them that the session has not seen through the model, text to the screen.

use super::dialogue::Dialogue;
use crate::cli::load::{Loaded, ModelArgs};
use crate::cli::output;
use crate::cli::screen::{Screen, Text};
use crate::cli::signals;
use crate::cli::speculation::SpeculationArgs;
use crate::cli::thinking::{self, Thinking};
use crate::error::{Error, Result};
use crate::generate::{Draft, Finish, Generation, Outcome, Request, Session};
use crate::template::{Options, Template};
use crate::tokenizer::Tokenizer;
use serde_json::json;

/// Of the context, so much is kept free for an answer under `--truncate`.
const ROOM: usize = 4;

/// What all answers have in common.
pub struct Talk<'a> {
    /// The model.
    pub loaded: Loaded,
    /// Its tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// From messages to text.
    pub template: Template,
    /// What it depends on besides the conversation. The time stays that of the beginning, so that it does not change what was said.
    pub options: Options,
    /// Whether messages may contain special tokens.
    pub parse_special: bool,
    /// What went through the model.
    pub session: Session,
    /// Everything of a request but the prompt and the seed's place.
    pub request: Request,
    /// What the model was opened with.
    pub model: &'a ModelArgs,
    /// Who guesses ahead.
    pub speculation: &'a SpeculationArgs,
    /// Whether the oldest messages go when the context is full.
    pub truncate: bool,
    /// Whether reasoning is left out.
    pub hide_thinking: bool,
    /// Whether answers are JSON lines.
    pub json: bool,
    /// Whether statistics follow every answer.
    pub stats: bool,
    /// How many answers there were.
    pub answers: u64,
    /// What `/stats` shows.
    pub last: Option<String>,
}

/// How an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answered {
    /// It stands in the conversation; if it was stopped, as far as it came.
    Yes,
    /// It was stopped before it began.
    No,
}

impl Talk<'_> {
    /// Answers the last message and adds the answer to the conversation.
    ///
    /// # Errors
    /// A conversation longer than the context (limit); what the template, the tokenizer, the model and standard output say.
    pub fn answer(&mut self, dialogue: &mut Dialogue) -> Result<Answered> {
        let prompt = self.prompt(dialogue)?;
        let thinking = || Thinking::after(&prompt, self.tokenizer);
        let mut request = self.request.clone();
        request.prompt = prompt.clone();
        // Every answer has a seed of its own, so that answering again gives another answer.
        request.sampling.seed = request.sampling.seed.wrapping_add(self.answers);
        let mut screen = Screen::new(!self.json, self.hide_thinking, thinking()?);
        let mut text = Text::after(&prompt, self.tokenizer)?;
        let mut guesses = self.speculation.build(self.model, &self.loaded, &request)?;
        signals::poll();
        let generation = Generation {
            request: &request,
            session: &mut self.session,
            draft: guesses.as_mut().map(|s| s as &mut dyn Draft),
            constraint: None,
            decode: &mut text,
            watch: &mut screen,
        };
        let result = generation.run(&mut self.loaded.engine);
        let ended = screen.end();
        let outcome = result?;
        let in_thinking = ended?;
        if outcome.finish == Finish::Interrupted && outcome.ids.is_empty() {
            return Ok(Answered::No);
        }
        self.answers += 1;
        let shown = match self.hide_thinking {
            true => thinking::without(&outcome.text, thinking()?),
            false => outcome.text.clone(),
        };
        let stats = self.describe(&outcome, request.sampling.seed);
        if self.json {
            self.print_json(&outcome, &shown)?;
        } else {
            screen.end_line()?;
        }
        if in_thinking {
            output::note("quern: note: the answer ended within its reasoning, which is not shown");
        }
        if outcome.finish == Finish::Context {
            output::note(format_args!(
                "quern: note: the answer was cut: {}",
                self.full()
            ));
        }
        if self.stats {
            output::note(&stats);
        }
        self.last = Some(stats);
        let mut generated = &outcome.ids[..];
        if let [before @ .., last] = generated
            && request.end_ids.contains(last)
        {
            generated = before;
        }
        dialogue.answer(&outcome.text, prompt, generated);
        Ok(Answered::Yes)
    }

    /// The ids of what the model sees; under `--truncate` so much of it that the answer has room.
    fn prompt(&self, dialogue: &mut Dialogue) -> Result<Vec<u32>> {
        let context = self.request.context;
        let most = self.request.max_new.unwrap_or(usize::MAX);
        let room = match self.truncate {
            true => most.min(context / ROOM).max(1),
            false => 1,
        };
        let before = dialogue.dropped();
        let ids = loop {
            let (seen, special) = (dialogue.seen(), self.parse_special);
            let ids = self
                .loaded
                .reader
                .chat_ids(&self.template, &seen, &self.options, special)?;
            let ids = dialogue.prompt(self.tokenizer, ids)?;
            let fits = ids.len() + room <= context;
            if fits || !self.truncate || !dialogue.drop_oldest() {
                break ids;
            }
        };
        let dropped = dialogue.dropped() - before;
        if dropped > 0 {
            output::note(format_args!(
                "quern: note: the context is full: the {dropped} oldest messages are out of the model's sight"
            ));
        }
        if ids.len() >= context {
            return Err(Error::limit(format_args!(
                "the conversation has {} tokens: {}",
                ids.len(),
                self.full()
            )));
        }
        Ok(ids)
    }

    /// What to do about a full context.
    fn full(&self) -> String {
        let context = self.request.context;
        let more = match (context as u32) < self.loaded.engine.model().spec().context_length {
            true => ", start with a larger --context",
            false => "",
        };
        let truncate = match self.truncate {
            true => "",
            false => ", or start with --truncate to let the oldest messages go",
        };
        format!(
            "the context of {context} tokens is full; /reset forgets the conversation{more}{truncate}"
        )
    }

    fn describe(&self, outcome: &Outcome, seed: u64) -> String {
        let stats = &outcome.stats;
        format!(
            "prompt:      {} tokens, {} of them reused, the rest in {:.1} ms, {:.2} tok/s\n\
             generated:   {} tokens, {:.2} tok/s after the first\n\
             context:     {} of {} tokens, cache {:.1} MiB\n\
             seed:        {seed}\n\
             stopped by:  {}",
            stats.prompt_tokens,
            stats.reused_tokens,
            stats.prompt_time.as_secs_f64() * 1e3,
            stats.prompt_rate(),
            stats.new_tokens,
            stats.decode_rate(),
            stats.prompt_tokens + stats.new_tokens,
            self.request.context,
            crate::cli::memory::mib(stats.kv_bytes as u64),
            outcome.finish.name(),
        )
    }

    fn print_json(&self, outcome: &Outcome, text: &str) -> Result<()> {
        let stats = &outcome.stats;
        let mut out = output::stdout();
        out.json(&json!({
            "text": text,
            "finish_reason": outcome.finish.name(),
            "usage": {
                "prompt_tokens": stats.prompt_tokens,
                "reused_tokens": stats.reused_tokens,
                "completion_tokens": stats.new_tokens,
            },
        }))?;
        out.flush_now()
    }
}
