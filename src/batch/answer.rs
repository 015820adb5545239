//! Answers as lines of JSON, in OpenAI's shapes for lines of OpenAI's shape.
//!
//! A line depends on its record alone: there is no time and no random number in it, so a run that was interrupted writes the bytes of one that was not.

use super::Failure;
use super::identity::Identity;
use super::job::{Embedded, Scored};
use super::notes::Note;
use super::record::{Head, Shape};
use crate::error::Result;
use crate::generate::{Finish, Outcome};
use crate::json;
use serde::Serialize;
use std::collections::HashSet;

/// From ids to the bytes that they stand for.
pub type Bytes<'a> = dyn Fn(u32) -> Vec<u8> + 'a;

/// What a whole run says about its answers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Style {
    /// What the model is called.
    pub model: String,
    /// Seconds since 1970 that answers say they were made at.
    pub created: u64,
    /// Whether the ids of prompts and texts are added.
    pub token_ids: bool,
    /// Whether the hash of all logits and the seed are added.
    pub fingerprint: bool,
}

/// One text.
#[derive(Debug)]
pub struct Choice {
    /// What came of it.
    pub outcome: Outcome,
    /// What is shown of its text.
    pub text: String,
    /// The ids of its prompt, if they are wanted.
    pub prompt_ids: Option<Vec<u32>>,
    /// What it was drawn with.
    pub seed: u64,
    /// The ids with their probabilities, if they are wanted.
    pub notes: Option<Vec<Note>>,
}

/// What came of a record.
#[derive(Debug)]
pub enum Body {
    /// Texts: so many in turn for each prompt.
    Texts {
        /// All of them.
        choices: Vec<Choice>,
        /// How many belong to one prompt.
        per_prompt: usize,
    },
    /// How probable a text is.
    Scored(Scored),
    /// Vectors.
    Embedded(Embedded),
}

/// A record's place and names.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its index in the input.
    pub index: u64,
    /// The number of its line.
    pub line: u64,
    /// What it calls itself, and how it is answered.
    pub head: Head,
    /// Whether an earlier record calls itself so.
    pub twice: bool,
}

impl Place {
    /// The name that its line says.
    fn name(&self) -> Identity {
        match &self.head.id {
            Some(id) if !self.twice => Identity::of_name(id),
            _ => Identity::of_place(self.index),
        }
    }

    /// What tells its line from all others: a plain one says its place.
    pub fn identity(&self) -> Identity {
        match self.head.shape {
            Shape::Plain => Identity::of_plain(self.index, self.head.id.as_deref()),
            _ => self.name(),
        }
    }
}

/// The line of a record that has an answer.
///
/// # Errors
/// None that can be expected: everything in it can be written as JSON.
pub fn line(place: &Place, body: &Body, style: &Style, bytes: &Bytes) -> Result<String> {
    let shape = place.head.shape;
    if shape == Shape::Plain {
        return plain(place, body, style, bytes);
    }
    let name = place.name().hex();
    let wrap = |inner: Inner| {
        json::one_line(&Response {
            id: format!("batch_req_{name}"),
            custom_id: place.head.id.as_deref(),
            response: Some(Http {
                status_code: 200,
                request_id: format!("req_{name}"),
                body: inner,
            }),
            error: None,
        })
    };
    match body {
        Body::Texts {
            choices,
            per_prompt,
        } => {
            let usage = usage_of(choices, *per_prompt);
            let chat = shape == Shape::Chat;
            let rows = choices.iter().enumerate();
            let rows =
                rows.map(|(index, choice)| open_ai_choice(index, choice, chat, style, bytes));
            let rows = rows.collect();
            wrap(Inner::Texts {
                id: format!("{}-{name}", if chat { "chatcmpl" } else { "cmpl" }),
                object: match chat {
                    true => "chat.completion",
                    false => "text_completion",
                },
                created: style.created,
                model: &style.model,
                choices: rows,
                usage,
                prompt_token_ids: prompt_ids(choices, *per_prompt),
            })
        }
        Body::Embedded(embedded) => {
            let rows = embedded.vectors.iter().enumerate();
            let data = rows.map(|(index, embedding)| Datum {
                object: "embedding",
                index,
                embedding,
            });
            wrap(Inner::Vectors {
                object: "list",
                data: data.collect(),
                model: &style.model,
                usage: PromptUsage::of(embedded.tokens),
            })
        }
        // No URL asks for scores.
        Body::Scored(_) => plain(place, body, style, bytes),
    }
}

/// The line of a record that has none.
///
/// # Errors
/// As [`line()`].
pub fn failure_line(place: &Place, failure: &Failure) -> Result<String> {
    let error = Problem {
        code: failure.code,
        message: &failure.message,
    };
    match place.head.shape {
        Shape::Plain => json::one_line(&PlainFailure {
            index: place.index,
            id: place.head.id.as_deref(),
            error,
        }),
        _ => json::one_line(&Response {
            id: format!("batch_req_{}", place.name().hex()),
            custom_id: place.head.id.as_deref(),
            response: None::<Http<Inner>>,
            error: Some(error),
        }),
    }
}

fn plain(place: &Place, body: &Body, style: &Style, bytes: &Bytes) -> Result<String> {
    let (index, id) = (place.index, place.head.id.as_deref());
    match body {
        Body::Texts {
            choices,
            per_prompt,
        } => {
            let usage = usage_of(choices, *per_prompt);
            let prompt_ids = prompt_ids(choices, *per_prompt);
            let rows: Vec<_> = choices
                .iter()
                .map(|c| plain_text(c, style, bytes))
                .collect();
            match <[PlainText; 1]>::try_from(rows) {
                Ok([text]) => json::one_line(&PlainOne {
                    index,
                    id,
                    text,
                    usage,
                    prompt_ids,
                }),
                Err(choices) => json::one_line(&PlainSeveral {
                    index,
                    id,
                    choices,
                    usage,
                    prompt_ids,
                }),
            }
        }
        Body::Scored(scored) => {
            let known = || scored.logprobs.iter().filter_map(|(_, p)| *p);
            json::one_line(&PlainScore {
                index,
                id,
                logprob: known().sum(),
                logprobs: scored.logprobs.iter().map(|(_, p)| *p).collect(),
                ids: scored.logprobs.iter().map(|(id, _)| *id).collect(),
                usage: Usage {
                    prompt_tokens: scored.prompt_tokens,
                    completion_tokens: scored.logprobs.len(),
                    total_tokens: scored.prompt_tokens + scored.logprobs.len(),
                },
            })
        }
        Body::Embedded(embedded) => json::one_line(&PlainVector {
            index,
            id,
            embedding: embedded.vectors.first().map_or(&[], |v| &v[..]),
            usage: PromptUsage::of(embedded.tokens),
        }),
    }
}

/// A context that is full is a length too: OpenAI has no word for it.
fn reason(finish: Finish, plain: bool) -> &'static str {
    match finish {
        Finish::Context if !plain => Finish::Length.name(),
        finish => finish.name(),
    }
}

fn usage_of(choices: &[Choice], per_prompt: usize) -> Usage {
    let prompts = choices.iter().step_by(per_prompt.max(1));
    let prompt_tokens = prompts.map(|c| c.outcome.stats.prompt_tokens).sum();
    let completion_tokens = choices.iter().map(|c| c.outcome.ids.len()).sum();
    Usage {
        prompt_tokens,
        completion_tokens,
        total_tokens: prompt_tokens + completion_tokens,
    }
}

/// The ids of all prompts, or those of the only one.
fn prompt_ids(choices: &[Choice], per_prompt: usize) -> Option<PromptIds<'_>> {
    let prompts = choices.iter().step_by(per_prompt.max(1));
    let ids: Option<Vec<&[u32]>> = prompts.map(|c| c.prompt_ids.as_deref()).collect();
    match &ids?[..] {
        [] => None,
        [one] => Some(PromptIds::One(one)),
        several => Some(PromptIds::Several(several.to_vec())),
    }
}

fn open_ai_choice<'a>(
    index: usize,
    choice: &'a Choice,
    chat: bool,
    style: &Style,
    bytes: &Bytes,
) -> OpenAiChoice<'a> {
    let notes = choice.notes.as_deref();
    OpenAiChoice {
        index,
        message: chat.then_some(Message {
            role: "assistant",
            content: &choice.text,
        }),
        text: (!chat).then_some(&choice.text),
        logprobs: match chat {
            true => notes.map(|notes| chat_logprobs(notes, bytes)),
            false => notes.map(|notes| completion_logprobs(notes, bytes)),
        },
        finish_reason: reason(choice.outcome.finish, false),
        token_ids: style.token_ids.then_some(&choice.outcome.ids),
        fingerprint: choice.outcome.fingerprint.as_deref(),
        seed: style.fingerprint.then_some(choice.seed),
    }
}

/// Parts of characters as replacement characters.
fn piece(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn chat_logprobs(notes: &[Note], bytes: &Bytes) -> Logprobs {
    let token = |id: u32, logprob: Option<f64>| {
        let bytes = bytes(id);
        ChatToken {
            token: piece(&bytes),
            logprob,
            bytes,
        }
    };
    let entry = |note: &Note| ChatEntry {
        token: token(note.id, note.logprob),
        top_logprobs: note.top.iter().map(|&(id, p)| token(id, Some(p))).collect(),
    };
    Logprobs::Chat {
        content: notes.iter().map(entry).collect(),
    }
}

fn completion_logprobs(notes: &[Note], bytes: &Bytes) -> Logprobs {
    let tokens: Vec<String> = notes.iter().map(|note| piece(&bytes(note.id))).collect();
    let mut at = 0;
    let offset = |token: &String| {
        let before = at;
        at += token.chars().count();
        before
    };
    let text_offset = tokens.iter().map(offset).collect();
    let best = |note: &Note| {
        // Ids that are written alike: the more probable one is the first.
        let mut seen = HashSet::new();
        let all = note.top.iter().map(|&(id, p)| (piece(&bytes(id)), p));
        Pairs(all.filter(|(text, _)| seen.insert(text.clone())).collect())
    };
    Logprobs::Completion {
        token_logprobs: notes.iter().map(|note| note.logprob).collect(),
        top_logprobs: notes.iter().map(best).collect(),
        tokens,
        text_offset,
    }
}

fn plain_text<'a>(choice: &'a Choice, style: &Style, bytes: &Bytes) -> PlainText<'a> {
    let alternative = |&(id, logprob): &(u32, f64)| Alternative {
        id,
        text: piece(&bytes(id)),
        logprob,
    };
    let entry = |note: &Note| PlainEntry {
        id: note.id,
        text: piece(&bytes(note.id)),
        logprob: note.logprob,
        top: note.top.iter().map(alternative).collect(),
    };
    PlainText {
        text: &choice.text,
        finish_reason: reason(choice.outcome.finish, true),
        logprobs: choice
            .notes
            .as_ref()
            .map(|notes| notes.iter().map(entry).collect()),
        ids: style.token_ids.then_some(&choice.outcome.ids),
        fingerprint: choice.outcome.fingerprint.as_deref(),
        seed: style.fingerprint.then_some(choice.seed),
    }
}

#[derive(Serialize)]
struct Response<'a, T> {
    id: String,
    custom_id: Option<&'a str>,
    response: Option<Http<T>>,
    error: Option<Problem<'a>>,
}

#[derive(Serialize)]
struct Http<T> {
    status_code: u16,
    request_id: String,
    body: T,
}

#[derive(Serialize)]
struct Problem<'a> {
    code: &'static str,
    message: &'a str,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Inner<'a> {
    Texts {
        id: String,
        object: &'static str,
        created: u64,
        model: &'a str,
        choices: Vec<OpenAiChoice<'a>>,
        usage: Usage,
        #[serde(skip_serializing_if = "Option::is_none")]
        prompt_token_ids: Option<PromptIds<'a>>,
    },
    Vectors {
        object: &'static str,
        data: Vec<Datum<'a>>,
        model: &'a str,
        usage: PromptUsage,
    },
}

#[derive(Serialize)]
#[serde(untagged)]
enum PromptIds<'a> {
    One(&'a [u32]),
    Several(Vec<&'a [u32]>),
}

#[derive(Serialize)]
struct OpenAiChoice<'a> {
    index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<Message<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a String>,
    logprobs: Option<Logprobs>,
    finish_reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_ids: Option<&'a Vec<u32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fingerprint: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'static str,
    content: &'a str,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Logprobs {
    Chat {
        content: Vec<ChatEntry>,
    },
    Completion {
        tokens: Vec<String>,
        token_logprobs: Vec<Option<f64>>,
        top_logprobs: Vec<Pairs>,
        text_offset: Vec<usize>,
    },
}

#[derive(Serialize)]
struct ChatEntry {
    #[serde(flatten)]
    token: ChatToken,
    top_logprobs: Vec<ChatToken>,
}

#[derive(Serialize)]
struct ChatToken {
    token: String,
    logprob: Option<f64>,
    bytes: Vec<u8>,
}

/// An object whose keys stay in order.
struct Pairs(Vec<(String, f64)>);

impl Serialize for Pairs {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

#[derive(Clone, Copy, Serialize)]
struct Usage {
    prompt_tokens: usize,
    completion_tokens: usize,
    total_tokens: usize,
}

#[derive(Serialize)]
struct PromptUsage {
    prompt_tokens: usize,
    total_tokens: usize,
}

impl PromptUsage {
    fn of(tokens: usize) -> PromptUsage {
        PromptUsage {
            prompt_tokens: tokens,
            total_tokens: tokens,
        }
    }
}

#[derive(Serialize)]
struct Datum<'a> {
    object: &'static str,
    index: usize,
    embedding: &'a [f32],
}

#[derive(Serialize)]
struct PlainText<'a> {
    text: &'a str,
    finish_reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<Vec<PlainEntry>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ids: Option<&'a Vec<u32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fingerprint: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
}

#[derive(Serialize)]
struct PlainEntry {
    id: u32,
    text: String,
    logprob: Option<f64>,
    top: Vec<Alternative>,
}

#[derive(Serialize)]
struct Alternative {
    id: u32,
    text: String,
    logprob: f64,
}

#[derive(Serialize)]
struct PlainOne<'a> {
    index: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(flatten)]
    text: PlainText<'a>,
    usage: Usage,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_ids: Option<PromptIds<'a>>,
}

#[derive(Serialize)]
struct PlainSeveral<'a> {
    index: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    choices: Vec<PlainText<'a>>,
    usage: Usage,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_ids: Option<PromptIds<'a>>,
}

#[derive(Serialize)]
struct PlainScore<'a> {
    index: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    logprob: f64,
    logprobs: Vec<Option<f64>>,
    ids: Vec<u32>,
    usage: Usage,
}

#[derive(Serialize)]
struct PlainVector<'a> {
    index: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    embedding: &'a [f32],
    usage: PromptUsage,
}

#[derive(Serialize)]
struct PlainFailure<'a> {
    index: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    error: Problem<'a>,
}
