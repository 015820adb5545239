//! Conversations as templates are given them.

use super::budget::Budget;
use super::json::Json;
use super::text::Text;
use super::value::Value;
use crate::error::{Error, Result};
use std::rc::Rc;

/// Roles that count as the template's own words: templates write `<|` + role + `|>`, which must stay one token. Any other role is text of
/// the conversation.
const ROLES: [&str; 12] = [
    "assistant",
    "critic",
    "developer",
    "documents",
    "function",
    "human",
    "ipython",
    "model",
    "system",
    "tool",
    "tool_response",
    "user",
];

/// Messages, and what the model may be told besides.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Conversation {
    /// Objects with `role` and `content`, and whatever else the template knows.
    pub messages: Vec<Json>,
    /// Descriptions of tools.
    pub tools: Option<Json>,
    /// Documents to answer from.
    pub documents: Option<Json>,
}

/// A message of two keys.
pub fn message(role: &str, content: &str) -> Json {
    Json::Object(vec![
        ("role".to_owned(), Json::from(role)),
        ("content".to_owned(), Json::from(content)),
    ])
}

impl Conversation {
    /// One message of the user's, after a system message if there is one.
    pub fn of_prompt(system: Option<&str>, prompt: &str) -> Conversation {
        let mut messages = Vec::new();
        messages.extend(system.map(|text| message("system", text)));
        messages.push(message("user", prompt));
        Conversation {
            messages,
            ..Conversation::default()
        }
    }

    /// Reads `{"messages": [...], "tools": [...], "documents": [...]}`, or a bare list of messages.
    ///
    /// # Errors
    /// Invalid: not JSON, deeper than 128 levels, another key, or messages that are not a list of objects with a text as role.
    pub fn from_json(bytes: &[u8]) -> Result<Conversation> {
        // Editors on some systems begin files with this mark.
        let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
        let value: Json = serde_json::from_slice(bytes).map_err(Error::invalid)?;
        Conversation::from_value(value)
    }

    /// The same from a value that was read already.
    ///
    /// # Errors
    /// As [`Conversation::from_json`].
    pub fn from_value(value: Json) -> Result<Conversation> {
        let mut out = Conversation::default();
        let mut messages = None;
        match value {
            Json::List(list) => messages = Some(list),
            Json::Object(entries) => {
                for (key, value) in entries {
                    match (key.as_str(), value) {
                        ("messages", Json::List(list)) => messages = Some(list),
                        ("messages", _) => {
                            return Err(Error::invalid("\"messages\" is not a list"));
                        }
                        ("tools" | "documents", Json::Null) => {}
                        ("tools", value) => out.tools = Some(value),
                        ("documents", value) => out.documents = Some(value),
                        (key, _) => {
                            return Err(Error::invalid(format_args!(
                                "the key {key:?} is not known, expected messages, tools or documents"
                            )));
                        }
                    }
                }
            }
            _ => {}
        }
        out.messages = messages.ok_or_else(|| {
            Error::invalid("expected a list of messages or an object with \"messages\"")
        })?;
        for (i, message) in out.messages.iter().enumerate() {
            if message.get("role").and_then(Json::as_str).is_none() {
                return Err(Error::invalid(format_args!(
                    "message {i} has no role, expected an object with \"role\" and \"content\""
                )));
            }
        }
        Ok(out)
    }

    /// Roughly its bytes.
    pub(super) fn size(&self) -> usize {
        let more = self.tools.iter().chain(&self.documents);
        self.messages.iter().chain(more).map(Json::size).sum()
    }

    /// The messages as a value.
    ///
    /// # Errors
    /// Limit.
    pub(super) fn messages_value(&self, budget: &Rc<Budget>) -> Result<Value> {
        let messages = self.messages.iter().map(|message| {
            let Json::Object(entries) = message else {
                return input(budget, message);
            };
            let entries = entries.iter().map(|(key, value)| {
                let value = match value.as_str() {
                    Some(role) if key == "role" && ROLES.contains(&role) => {
                        Value::plain(budget, role)?
                    }
                    _ => input(budget, value)?,
                };
                Ok((text(budget, key)?, value))
            });
            Value::dict(budget, entries.collect::<Result<_>>()?)
        });
        Value::list(budget, messages.collect::<Result<_>>()?)
    }
}

fn text(budget: &Rc<Budget>, text: &str) -> Result<Value> {
    Text::of(budget, text, true).map(Value::Str)
}

/// A JSON value of the conversation as a value whose texts are marked.
///
/// # Errors
/// Limit.
pub(super) fn input(budget: &Rc<Budget>, json: &Json) -> Result<Value> {
    match json {
        Json::Null => Ok(Value::None),
        Json::Bool(b) => Ok(Value::Bool(*b)),
        Json::Int(n) => Ok(Value::Int(*n)),
        Json::Float(f) => Ok(Value::Float(*f)),
        Json::Str(s) => text(budget, s),
        Json::List(list) => {
            let items = list.iter().map(|item| input(budget, item));
            Value::list(budget, items.collect::<Result<_>>()?)
        }
        Json::Object(entries) => {
            let entries = entries
                .iter()
                .map(|(key, value)| Ok((text(budget, key)?, input(budget, value)?)));
            Value::dict(budget, entries.collect::<Result<_>>()?)
        }
    }
}

/// A value that may be missing: `none` then.
///
/// # Errors
/// Limit.
pub(super) fn optional(budget: &Rc<Budget>, json: &Option<Json>) -> Result<Value> {
    match json {
        None => Ok(Value::None),
        Some(json) => input(budget, json),
    }
}
