//! One line of the input: what it asks for, in one of the shapes that it may have.
//!
//! | shape | line | answered by |
//! |---|---|---|
//! | OpenAI Batch | `{"custom_id","method","url","body"}` | `{"id","custom_id","response","error"}` |
//! | plain | `{"id"?,"prompt"}`, `{"messages"}`, `{"ids"}`, `{"prompt","completion"}` (a score), `{"embed"}` | `{"index","id"?,...}` |
//! | text | the line itself is the prompt (`--text`) | as plain |
//!
//! A field that is not known is an error: it may be one that the answer depends on.

use super::Failure;
use super::ask::{Ask, Prompt};
use super::fields::{Fields, ids_of};
use super::lines::{Line, MAX_LINE};
use crate::template::{Conversation, Json};

/// Longest `custom_id` or `id`.
const MAX_ID: usize = 512;
/// Most texts of one embedding record, and most prompts of one completion record.
const MAX_INPUTS: usize = 2048;
/// Most answers to all prompts of a record together.
const MAX_TEXTS: usize = 4096;

/// How a line is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// An object with what was asked for.
    Plain,
    /// `/v1/chat/completions`, and a line of OpenAI's shape that does not get as far as to say its URL.
    Chat,
    /// `/v1/completions`.
    Completion,
    /// `/v1/embeddings`.
    Embedding,
}

/// What is known of a line even if something in it is wrong.
#[derive(Clone, Debug, PartialEq)]
pub struct Head {
    /// `custom_id` or `id`.
    pub id: Option<String>,
    /// How it is answered.
    pub shape: Shape,
}

/// What a line asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Work {
    /// Text.
    Generate(Box<Ask>),
    /// How probable a text is.
    Score(Score),
    /// Vectors, one per input.
    Embed(Vec<Prompt>),
}

/// A text whose probability is asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Score {
    /// What stands before it.
    pub prompt: Prompt,
    /// The system message before that, if the record has one.
    pub system: Option<String>,
    /// What is scored.
    pub completion: Prompt,
}

/// Reads one line.
pub fn parse(line: &Line, as_text: bool, lenient: bool) -> (Head, Result<Work, Failure>) {
    let bytes = &line.bytes;
    let plain = Head {
        id: None,
        shape: Shape::Plain,
    };
    // Of a line that cannot be read it is not known what it was to be.
    let marked = !as_text && contains(bytes, b"\"custom_id\"");
    let guess = Head {
        shape: if marked { Shape::Chat } else { Shape::Plain },
        ..plain.clone()
    };
    if let Some(length) = line.too_long {
        let failure = Failure::new(
            "line_too_long",
            format_args!("{length} bytes, expected at most {MAX_LINE}"),
        );
        return (guess, Err(failure));
    }
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(e) => {
            let at = e.valid_up_to();
            let byte = bytes.get(at).copied().unwrap_or_default();
            let failure = Failure::new(
                "invalid_utf8",
                format_args!("byte {at} is {byte:#04x}, expected UTF-8"),
            );
            return (guess, Err(failure));
        }
    };
    if as_text {
        let ask = Ask::plain(Prompt::Text(text.to_owned()));
        return (plain, Ok(Work::Generate(Box::new(ask))));
    }
    let value = serde_json::from_str::<Json>(text)
        .map_err(|e| Failure::new("invalid_json", format_args!("{}", place_free(&e))));
    let fields = match value.and_then(|value| Fields::of("", value)) {
        Ok(fields) => fields,
        Err(failure) => return (guess, Err(failure)),
    };
    let open_ai_fields = ["custom_id", "url", "body"];
    if open_ai_fields.iter().any(|name| fields.has(name)) {
        let mut head = Head {
            id: None,
            shape: Shape::Chat,
        };
        let work = open_ai(fields, lenient, &mut head);
        (head, work)
    } else {
        let mut head = plain;
        let work = own(fields, lenient, &mut head);
        (head, work)
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// A message of the JSON reader, which counts lines within this one.
fn place_free(e: &serde_json::Error) -> String {
    let message = e.to_string();
    let text = message.split(" at line ").next().unwrap_or_default();
    format!("{text} at byte {}", e.column())
}

fn id(fields: &mut Fields, name: &str) -> Result<Option<String>, Failure> {
    let id = fields.text(name)?;
    match &id {
        Some(id) if id.is_empty() || id.len() > MAX_ID => Err(Failure::invalid(format_args!(
            "{name:?} has {} bytes, expected 1 to {MAX_ID}",
            id.len()
        ))),
        _ => Ok(id),
    }
}

fn open_ai(mut fields: Fields, lenient: bool, head: &mut Head) -> Result<Work, Failure> {
    head.id = id(&mut fields, "custom_id")?;
    let url = fields.text("url")?;
    head.shape = match url.as_deref() {
        Some("/v1/chat/completions") => Shape::Chat,
        Some("/v1/completions") => Shape::Completion,
        Some("/v1/embeddings") => Shape::Embedding,
        other => {
            let found = other.map_or("missing".to_owned(), |url| format!("{url:?}"));
            return Err(Failure::invalid(format_args!(
                "\"url\" is {found}, expected \"/v1/chat/completions\", \"/v1/completions\" or \"/v1/embeddings\""
            )));
        }
    };
    if head.id.is_none() {
        return Err(fields.missing("custom_id"));
    }
    match fields.text("method")?.as_deref() {
        Some("POST") | None => {}
        Some(other) => {
            return Err(Failure::invalid(format_args!(
                "\"method\" is {other:?}, expected \"POST\""
            )));
        }
    }
    let Some(mut body) = fields.object("body", "body")? else {
        return Err(fields.missing("body"));
    };
    fields.end(lenient)?;
    // Names of models and users, and what a service does with its records.
    body.ignore(&[
        "model",
        "user",
        "metadata",
        "store",
        "service_tier",
        "safety_identifier",
        "prompt_cache_key",
    ]);
    if body.flag("stream")? == Some(true) {
        return Err(Failure::invalid(
            "\"body.stream\" is true, but a batch does not stream",
        ));
    }
    let work = match head.shape {
        Shape::Embedding => embeddings(&mut body)?,
        Shape::Completion => {
            let prompts = completion_prompts(&mut body)?;
            let ask = Ask::take(&mut body, prompts, false)?;
            let texts = ask.prompts.len() * ask.choices as usize;
            if texts > MAX_TEXTS {
                return Err(Failure::invalid(format_args!(
                    "{texts} texts are asked for, expected at most {MAX_TEXTS}"
                )));
            }
            Work::Generate(Box::new(ask))
        }
        Shape::Chat | Shape::Plain => {
            let Some(messages) = messages(&mut body, true)? else {
                return Err(body.missing("messages"));
            };
            Work::Generate(Box::new(Ask::take(&mut body, vec![messages], true)?))
        }
    };
    body.end(lenient)?;
    Ok(work)
}

/// `messages` and `tools` as the conversation that a template takes.
fn messages(fields: &mut Fields, parts: bool) -> Result<Option<Prompt>, Failure> {
    let Some(mut messages) = fields.take("messages") else {
        return Ok(None);
    };
    if parts && let Json::List(list) = &mut messages {
        for (i, message) in list.iter_mut().enumerate() {
            join_parts(i, message)?;
        }
    }
    let mut entries = vec![("messages".to_owned(), messages)];
    let tools = fields.take("tools");
    entries.extend(tools.map(|tools| ("tools".to_owned(), tools)));
    let value = Json::Object(entries);
    // What is wrong with it is found out here, where the record is known.
    Conversation::from_value(value.clone()).map_err(|e| Failure::invalid(&e))?;
    Ok(Some(Prompt::Messages(value)))
}

/// OpenAI's contents may be lists of parts, which most templates do not know; parts of text are one text.
fn join_parts(i: usize, message: &mut Json) -> Result<(), Failure> {
    let Json::Object(entries) = message else {
        return Ok(());
    };
    let content = entries.iter_mut().find(|(name, _)| name == "content");
    let Some((_, content)) = content else {
        return Ok(());
    };
    let Json::List(list) = content else {
        return Ok(());
    };
    let mut text = String::new();
    for part in list.iter() {
        let kind = part.get("type").and_then(Json::as_str);
        match (kind, part.get("text").and_then(Json::as_str)) {
            (Some("text"), Some(part)) => text.push_str(part),
            (kind, _) => {
                return Err(Failure::invalid(format_args!(
                    "message {i} has a part of type {kind:?}, expected \"text\""
                )));
            }
        }
    }
    *content = Json::Str(text);
    Ok(())
}

fn completion_prompts(body: &mut Fields) -> Result<Vec<Prompt>, Failure> {
    let Some(value) = body.take("prompt") else {
        return Err(body.missing("prompt"));
    };
    let name = body.name("prompt");
    several(value, &name, Prompt::Raw)
}

/// A text, token ids, or a list of either.
fn several(value: Json, name: &str, of_text: fn(String) -> Prompt) -> Result<Vec<Prompt>, Failure> {
    let wrong = || {
        Failure::invalid(format_args!(
            "{name} is neither text nor token ids, nor a list of them"
        ))
    };
    if let Some(ids) = ids_of(&value).filter(|ids| !ids.is_empty()) {
        return Ok(vec![Prompt::Ids(ids)]);
    }
    let list = match value {
        Json::Str(text) => return Ok(vec![of_text(text)]),
        Json::List(list) => list,
        _ => return Err(wrong()),
    };
    if list.is_empty() || list.len() > MAX_INPUTS {
        return Err(Failure::invalid(format_args!(
            "{name} has {} entries, expected 1 to {MAX_INPUTS}",
            list.len()
        )));
    }
    let one = |value: Json| match (ids_of(&value).filter(|ids| !ids.is_empty()), value) {
        (Some(ids), _) => Ok(Prompt::Ids(ids)),
        (None, Json::Str(text)) => Ok(of_text(text)),
        (None, _) => Err(wrong()),
    };
    list.into_iter().map(one).collect()
}

fn embeddings(body: &mut Fields) -> Result<Work, Failure> {
    match body.text("encoding_format")?.as_deref() {
        None | Some("float") => {}
        Some(other) => {
            return Err(Failure::invalid(format_args!(
                "{} is {other:?}, expected \"float\"",
                body.name("encoding_format")
            )));
        }
    }
    let Some(value) = body.take("input") else {
        return Err(body.missing("input"));
    };
    let name = body.name("input");
    several(value, &name, Prompt::Raw).map(Work::Embed)
}

/// A plain line.
fn own(mut fields: Fields, lenient: bool, head: &mut Head) -> Result<Work, Failure> {
    head.id = id(&mut fields, "id")?;
    let raw = fields.flag("raw")?.unwrap_or(false);
    let system = fields.text("system")?;
    let text = fields.text("prompt")?;
    let ids = fields.ids("ids")?;
    let messages = messages(&mut fields, false)?;
    let embed = fields.text("embed")?;
    let given = [
        text.is_some(),
        ids.is_some(),
        messages.is_some(),
        embed.is_some(),
    ];
    if given.iter().filter(|given| **given).count() != 1 {
        return Err(Failure::invalid(
            "expected exactly one of \"prompt\", \"messages\", \"ids\" and \"embed\"",
        ));
    }
    if text.is_none() && (raw || system.is_some()) {
        return Err(Failure::invalid(
            "\"raw\" and \"system\" go with \"prompt\" only",
        ));
    }
    if raw && system.is_some() {
        return Err(Failure::invalid(
            "\"raw\" and \"system\" do not go together: a system message needs the chat template",
        ));
    }
    let of_text = if raw { Prompt::Raw } else { Prompt::Text };
    let prompt = text
        .map(of_text)
        .or(ids.map(Prompt::Ids))
        .or(messages)
        .or(embed.map(Prompt::Raw))
        .ok_or(Failure::invalid("there is no prompt"))?;
    let completion = fields.text("completion")?.map(Prompt::Raw);
    let completion_ids = fields.ids("completion_ids")?.map(Prompt::Ids);
    let completion = match (completion, completion_ids) {
        (Some(_), Some(_)) => {
            return Err(Failure::invalid(
                "expected one of \"completion\" and \"completion_ids\"",
            ));
        }
        (text, ids) => text.or(ids),
    };
    let work = match completion {
        Some(_) if given[3] => {
            return Err(Failure::invalid(
                "\"completion\" goes with a prompt and not with \"embed\"",
            ));
        }
        Some(completion) => Work::Score(Score {
            prompt,
            system,
            completion,
        }),
        None if given[3] => Work::Embed(vec![prompt]),
        None => {
            let mut ask = Ask::take(&mut fields, vec![prompt], false)?;
            ask.system = system;
            Work::Generate(Box::new(ask))
        }
    };
    fields.end(lenient)?;
    Ok(work)
}
