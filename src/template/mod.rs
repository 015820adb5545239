//! Chat templates: from messages to the text that a model was trained on, and from there to token ids.
//!
//! A template is a program of a stranger in the language of jinja2, with the surroundings that transformers gives it: `trim_blocks` and
//! `lstrip_blocks`, loop controls, the `generation` tag, `tojson` as Python's `json.dumps(ensure_ascii=False)`, `raise_exception`,
//! `strftime_now`; Python's methods of `str`, `dict` and `list` as far as they change nothing. The language is done here and not by a library
//! for three reasons: every value is bounded while it is made ([`budget`](self)), results are Python's to the character, and every byte of
//! the result knows whether it came from the conversation ([`Rendered::encode`]).
//!
//! ```text
//! source -> lexer -> parser -> Program;   Program + Conversation + Options -> Run -> Rendered (text, marks) -> ids
//! ```
//!
//! # Limits
//! Sources of 1 MiB, 100 blocks and brackets inside each other, 600 levels of evaluation, and work and memory in proportion to the
//! conversation. Exceeding one is an error of kind Limit, in bounded time, memory and stack.

mod args;
mod budget;
mod checks;
mod clock;
mod conversation;
mod expr;
mod filters;
mod json;
mod lexer;
mod lists;
mod ops;
mod parser;
mod printf;
mod run;
mod show;
mod strings;
mod syntax;
#[cfg(test)]
mod tests;
mod text;
mod tokens;
mod value;

pub use clock::DateTime;
pub use conversation::{Conversation, message};
pub use json::Json;
pub use tokens::Rendered;

use crate::error::Result;
use crate::tokenizer::Tokenizer;
use budget::Budget;
use value::Value;

/// The special tokens that templates know by name: `("bos_token", "<s>")`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpecialTokens(pub Vec<(String, String)>);

/// A template that was read.
#[derive(Debug)]
pub struct Template {
    source: String,
    program: syntax::Program,
    /// For conversations with tools, if there is another one for them.
    with_tools: Option<syntax::Program>,
    special: SpecialTokens,
}

/// Texts of control tokens that end a turn, whatever a template writes.
pub const TURN_ENDS: &[&str] = &[
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<end_of_turn>",
    "<|END_OF_TURN_TOKEN|>",
    "<|end_of_turn|>",
    "<|endofturn|>",
];

/// What a rendering depends on besides the conversation.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whether the text ends where the assistant's answer begins.
    pub add_generation_prompt: bool,
    /// What `strftime_now` tells.
    pub now: DateTime,
    /// Further variables, such as `enable_thinking`. They hide variables of the same name. Texts in them count as input.
    pub args: Vec<(String, Json)>,
}

impl Options {
    /// For the next answer, at this moment.
    pub fn new(now: DateTime) -> Options {
        Options {
            add_generation_prompt: true,
            now,
            args: Vec::new(),
        }
    }
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// Invalid with the line; Limit for a source that is too long or too deep.
    pub fn parse(source: &str, special: &SpecialTokens) -> Result<Template> {
        Ok(Template {
            source: source.to_owned(),
            program: parser::parse(source)?,
            with_tools: None,
            special: special.clone(),
        })
    }

    /// The source that it was read from.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The same with another source for conversations that have tools.
    ///
    /// # Errors
    /// As [`Template::parse`].
    pub fn with_tools(self, source: &str) -> Result<Template> {
        Ok(Template {
            with_tools: Some(parser::parse(source)?),
            ..self
        })
    }

    /// The control tokens that follow an answer in a rendered conversation, which are those that an answer ends with: what the template writes
    /// behind one, and tokens that it mentions and that are known to end turns. None for a template that renders no such conversation.
    pub fn turn_ends(&self, tokenizer: &Tokenizer, options: &Options) -> Vec<u32> {
        let mut out = Vec::new();
        for text in TURN_ENDS.iter().filter(|text| self.source.contains(**text)) {
            out.extend(tokenizer.id_of(text).filter(|&id| tokenizer.is_control(id)));
        }
        let answer = "Zebra";
        let mut conversation = Conversation::of_prompt(None, "Name one");
        conversation.messages.push(message("assistant", answer));
        let mut options = options.clone();
        options.add_generation_prompt = false;
        let Ok(rendered) = self.render(&conversation, &options) else {
            return out;
        };
        let Some(at) = rendered.text().rfind(answer) else {
            return out;
        };
        let behind = rendered.text()[at + answer.len()..].trim_start();
        let options = crate::tokenizer::EncodeOptions {
            add_special: false,
            parse_special: true,
        };
        let first = tokenizer.encode(behind, options).ok();
        let first = first.and_then(|ids| ids.first().copied());
        out.extend(first.filter(|&id| tokenizer.is_control(id)));
        out.sort_unstable();
        out.dedup();
        out
    }

    /// Renders a conversation.
    ///
    /// # Errors
    /// Invalid with the line and what the template raised, or what it did that is not possible; Limit for too much work or memory.
    pub fn render(&self, conversation: &Conversation, options: &Options) -> Result<Rendered> {
        let args = options.args.iter().map(|(k, v)| k.len() + v.size());
        let budget = Budget::new(conversation.size() + args.sum::<usize>());
        let mut variables = vec![
            ("messages", conversation.messages_value(&budget)?),
            (
                "tools",
                conversation::optional(&budget, &conversation.tools)?,
            ),
            (
                "documents",
                conversation::optional(&budget, &conversation.documents)?,
            ),
            (
                "add_generation_prompt",
                Value::Bool(options.add_generation_prompt),
            ),
        ];
        for (name, text) in &self.special.0 {
            variables.push((name, Value::plain(&budget, text)?));
        }
        for (name, value) in &options.args {
            variables.push((name, conversation::input(&budget, value)?));
        }
        let tools = match &conversation.tools {
            Some(Json::List(list)) => !list.is_empty(),
            other => other.is_some(),
        };
        let program = match &self.with_tools {
            Some(program) if tools => program,
            _ => &self.program,
        };
        let out = run::Run::render(program, &budget, options.now, variables)?;
        let (text, input) = out.into_parts();
        Ok(Rendered::new(text, input))
    }
}
