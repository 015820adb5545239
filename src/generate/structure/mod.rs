//! Text that a grammar describes: a JSON schema, a grammar in Lark or GBNF, a regular expression. llguidance says what may come next.
//!
//! A grammar is about the bytes of the whole text that is generated. Of the ids that are text those stay whose bytes can go on; control tokens are
//! never among them. Where the text may end, the ids that end a text are allowed, and where nothing else is, the text is complete. Bytes that the grammar
//! leaves no choice about become the ids that the tokenizer would write them with, and these are forced.
//!
//! A grammar is input like any other: its length, its nesting, the time and stack that it is compiled with, and the work per id are bounded, and
//! each bound that is reached is a limit error.

mod gbnf;
mod vocabulary;

pub use vocabulary::Vocabulary;

use super::Constraint;
use crate::error::{Error, Result};
use llguidance::api::{ParserLimits, StopReason, TopLevelGrammar};
use llguidance::{Matcher, TokenParser};
use std::sync::{Arc, mpsc};
use std::time::Duration;

/// The longest grammar, in bytes.
pub const LONGEST: usize = 1 << 20;
/// A grammar that takes longer to compile is given up. The largest published schemas take well below a second.
const COMPILE_TIME: Duration = Duration::from_secs(10);
/// What a compilation may need for nested schemas; reserved, and used where it is touched.
const COMPILE_STACK: usize = 64 << 20;

/// What the text must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Grammar {
    /// JSON that a schema describes.
    JsonSchema(String),
    /// A grammar in llguidance's variant of Lark, with the rule `start`.
    Lark(String),
    /// A grammar as llama.cpp has them, with the rule `root`.
    Gbnf(String),
    /// A regular expression of the whole text.
    Regex(String),
}

impl Grammar {
    /// A grammar in whichever of the two languages this is: GBNF defines with `::=`, which means nothing in Lark.
    pub fn of_text(text: String) -> Grammar {
        match gbnf::is_gbnf(&text) {
            true => Grammar::Gbnf(text),
            false => Grammar::Lark(text),
        }
    }

    fn text(&self) -> &str {
        match self {
            Grammar::JsonSchema(text)
            | Grammar::Lark(text)
            | Grammar::Gbnf(text)
            | Grammar::Regex(text) => text,
        }
    }

    fn top_level(&self) -> Result<TopLevelGrammar> {
        let text = self.text();
        if text.len() > LONGEST {
            return Err(Error::limit(format_args!(
                "the grammar has {} bytes, expected at most {LONGEST}",
                text.len()
            )));
        }
        match self {
            Grammar::JsonSchema(text) => {
                let schema = serde_json::from_str(text)
                    .map_err(|e| Error::invalid(format_args!("the schema is not JSON: {e}")))?;
                Ok(TopLevelGrammar::from_json_schema(on_one_line(schema)?))
            }
            Grammar::Lark(text) => Ok(TopLevelGrammar::from_lark(text.clone())),
            Grammar::Gbnf(text) => Ok(TopLevelGrammar::from_lark(gbnf::to_lark(text)?)),
            Grammar::Regex(text) => Ok(TopLevelGrammar::from_regex(text)),
        }
    }
}

/// A schema that does not say how JSON is laid out gets one line with a space after each comma and colon. Free white space would be a place where a model
/// can stay for ever, and fixed separators are not sampled.
fn on_one_line(mut schema: serde_json::Value) -> Result<serde_json::Value> {
    use serde_json::{Value, json};
    if schema == Value::Bool(true) {
        schema = json!({});
    }
    let Value::Object(map) = &mut schema else {
        return Err(Error::invalid(
            "the schema is not an object, expected {\"type\": ...} or the like",
        ));
    };
    map.entry("x-guidance").or_insert_with(
        || json!({"item_separator": ", ", "key_separator": ": ", "whitespace_flexible": false}),
    );
    Ok(schema)
}

/// llguidance's own limits, with a tenth of its states (each is 1 to 2 KiB), and errors without the state of its parser.
fn limits() -> ParserLimits {
    ParserLimits {
        max_items_in_row: 2_000,
        initial_lexer_fuel: 1_000_000,
        step_lexer_fuel: 200_000,
        step_max_items: 50_000,
        max_lexer_states: 25_000,
        max_grammar_size: 500_000,
        precompute_large_lexemes: true,
        verbose_errors: false,
    }
}

/// A grammar at some place of a text. See [`Constraint`].
pub struct Structure {
    vocabulary: Arc<Vocabulary>,
    matcher: Matcher,
    end_ids: Vec<u32>,
}

impl Structure {
    /// A grammar at the beginning of a text, which `end_ids` may end.
    ///
    /// # Errors
    /// A grammar that means nothing (invalid) or is too much (limit).
    pub fn new(vocabulary: &Arc<Vocabulary>, grammar: &Grammar, end_ids: &[u32]) -> Result<Self> {
        let parser = compile(vocabulary, grammar.top_level()?)?;
        Ok(Structure {
            vocabulary: vocabulary.clone(),
            matcher: Matcher::new(Ok(parser)),
            end_ids: end_ids.to_vec(),
        })
    }

    /// What llguidance said when it could not go on.
    fn refused(&self, e: &anyhow::Error) -> Error {
        let message = first_line(&e.to_string());
        match self.matcher.stop_reason() {
            StopReason::LexerTooComplex | StopReason::ParserTooComplex => {
                Error::limit(format_args!(
                    "the grammar takes too much work at this place of the text: {message}"
                ))
            }
            _ => failure(&message),
        }
    }
}

impl Constraint for Structure {
    fn exclude(&mut self, logits: &mut [f32]) -> Result<()> {
        let mask = self.matcher.compute_mask().map_err(|e| self.refused(&e))?;
        let may_end = mask.is_allowed(self.vocabulary.ids as u32);
        let ends: Vec<(u32, f32)> = match may_end {
            true => self.end_ids.iter().copied(),
            false => [].iter().copied(),
        }
        .filter_map(|id| Some((id, *logits.get(id as usize)?)))
        .collect();
        let words = mask.as_slice().iter().zip(&self.vocabulary.text);
        let mut words = words.map(|(allowed, text)| allowed & text);
        let mut nothing = ends.is_empty();
        for of_word in logits.chunks_mut(u32::BITS as usize) {
            let bits = words.next().unwrap_or(0);
            nothing &= bits == 0;
            if bits == 0 {
                of_word.fill(f32::NEG_INFINITY);
            } else if bits != u32::MAX {
                for (i, x) in of_word.iter_mut().enumerate() {
                    if bits >> i & 1 == 0 {
                        *x = f32::NEG_INFINITY;
                    }
                }
            }
        }
        for (id, logit) in ends {
            if let Some(x) = logits.get_mut(id as usize) {
                *x = logit;
            }
        }
        match nothing {
            true => Err(Error::invalid(
                "the grammar allows nothing at this place of the text that the vocabulary can write",
            )),
            false => Ok(()),
        }
    }

    fn accept(&mut self, id: u32) -> Result<()> {
        let taken = self.matcher.consume_token(id);
        taken.map_err(|e| self.refused(&e))
    }

    fn forced(&mut self) -> Result<Vec<u32>> {
        let mut ids = self.matcher.compute_ff_tokens();
        if self.matcher.is_error() {
            let message = self.matcher.get_error().unwrap_or_default();
            return Err(self.refused(&anyhow::anyhow!(message)));
        }
        // The end is not written, it is what end ids are for.
        let text = |&id: &u32| {
            let word = self.vocabulary.text.get(id as usize / 32);
            word.is_some_and(|bits| bits >> (id % 32) & 1 == 1)
        };
        let known = ids.iter().take_while(|id| text(id)).count();
        ids.truncate(known);
        Ok(ids)
    }

    fn is_complete(&mut self) -> bool {
        self.matcher.is_stopped() && self.matcher.stop_reason().is_ok()
    }
}

/// Compiles in a thread of its own, which has the stack for it and can be left behind.
fn compile(vocabulary: &Arc<Vocabulary>, grammar: TopLevelGrammar) -> Result<TokenParser> {
    let (sender, receiver) = mpsc::channel();
    let vocabulary = vocabulary.clone();
    let thread = std::thread::Builder::new().stack_size(COMPILE_STACK);
    let started = thread.spawn(move || {
        // Nobody may be waiting any more.
        let _ = sender.send(vocabulary.factory.create_parser(grammar));
    });
    started
        .map_err(|e| Error::limit(format_args!("cannot start a thread for the grammar: {e}")))?;
    match receiver.recv_timeout(COMPILE_TIME) {
        Ok(Ok(parser)) => Ok(parser),
        Ok(Err(e)) => Err(failure(&first_line(&format!("{e:#}")))),
        Err(_) => Err(Error::limit(format_args!(
            "the grammar takes longer than {COMPILE_TIME:?} to compile"
        ))),
    }
}

/// Messages of llguidance go on with a picture of the place or with its state.
fn first_line(message: &str) -> String {
    let line = message.lines().next().unwrap_or_default();
    // `at 3(7): ` or `3(7): ` is line and column.
    let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let place = line
        .strip_prefix("at ")
        .unwrap_or(line)
        .split_once("): ")
        .and_then(|(place, rest)| Some((place.split_once('(')?, rest)))
        .filter(|((row, column), _)| number(row) && number(column));
    match place {
        Some(((row, column), rest)) => format!("line {row}, column {column}: {rest}"),
        None => line.to_owned(),
    }
}

/// Limits are told from mistakes by what llguidance calls them.
fn failure(message: &str) -> Error {
    const LIMITS: [&str; 8] = [
        "too big",
        "too large",
        "too many",
        "too deep",
        "too complex",
        "exhausted",
        "exceeded",
        "size limit",
    ];
    match LIMITS.iter().any(|words| message.contains(words)) {
        true => Error::limit(format_args!("the grammar is too much: {message}")),
        false => Error::invalid(format_args!("the grammar is not understood: {message}")),
    }
}
