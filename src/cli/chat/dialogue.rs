//! A conversation as the chat keeps it: all messages, which of them the model sees, and the exact ids of what went through it.
//!
//! The ids of a conversation are those of its text. An answer that the model wrote in other tokens than the tokenizer would choose for the
//! same text would therefore change the beginning of the next prompt, and everything behind it would have to be computed again.
//! [`Dialogue::prompt`] puts the ids that were really generated in their place wherever the text is the same.

use crate::error::{Error, Result};
use crate::file::atomic::AtomicFile;
use crate::template::{Conversation, Json, message};
use crate::tokenizer::{DecodeOptions, Tokenizer};
use serde::ser::{Serialize, SerializeMap, Serializer};
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

/// Largest file of a conversation.
const MAX_FILE: u64 = 64 << 20;

/// The roles of what stands before a conversation and is not part of it.
const SYSTEM: [&str; 2] = ["system", "developer"];

/// A conversation.
#[derive(Debug, Default)]
pub struct Dialogue {
    all: Conversation,
    /// Messages from here on are seen by the model, and the system prompt.
    first: usize,
    /// Ids that went through the model, or came from it: a prompt and its answer.
    exact: Vec<u32>,
    /// The same before the last answer.
    exact_before: Vec<u32>,
}

fn role(message: &Json) -> &str {
    message
        .get("role")
        .and_then(Json::as_str)
        .unwrap_or_default()
}

impl Dialogue {
    fn has_system(&self) -> bool {
        let first = self.all.messages.first();
        first.is_some_and(|m| SYSTEM.contains(&role(m)))
    }

    /// The system prompt.
    pub fn system(&self) -> Option<&str> {
        let first = self.all.messages.first().filter(|_| self.has_system());
        first.and_then(|m| m.get("content")).and_then(Json::as_str)
    }

    /// Replaces the system prompt.
    pub fn set_system(&mut self, system: Option<&str>) {
        let had = usize::from(self.has_system());
        let new = system.map(|text| message("system", text));
        self.first = self.first.max(had) - had + usize::from(new.is_some());
        self.all.messages.splice(..had, new);
    }

    /// Forgets everything but the system prompt.
    pub fn reset(&mut self) {
        let keep = usize::from(self.has_system());
        self.all.messages.truncate(keep);
        self.first = keep;
        self.exact.clear();
        self.exact_before.clear();
    }

    /// Number of messages, the system prompt not counted.
    pub fn len(&self) -> usize {
        self.all.messages.len() - usize::from(self.has_system())
    }

    /// Adds what the user says.
    pub fn ask(&mut self, text: &str) {
        self.all.messages.push(message("user", text));
    }

    /// Adds the answer that came after these ids of a prompt, `generated` without the id that ended it.
    pub fn answer(&mut self, text: &str, prompt: Vec<u32>, generated: &[u32]) {
        self.all.messages.push(message("assistant", text));
        self.exact_before = std::mem::replace(&mut self.exact, prompt);
        self.exact.extend_from_slice(generated);
    }

    /// Takes the last message back if it is of this role.
    pub fn take_back(&mut self, of: &str) -> Option<Json> {
        let taken = self.all.messages.pop_if(|m| role(m) == of)?;
        if of == "assistant" {
            self.exact = std::mem::take(&mut self.exact_before);
        }
        Some(taken)
    }

    /// Puts back what was taken.
    pub fn put_back(&mut self, message: Json) {
        self.all.messages.push(message);
    }

    /// Whether there is a message to answer.
    pub fn is_asked(&self) -> bool {
        self.len() > 0
            && self
                .all
                .messages
                .last()
                .is_some_and(|m| role(m) != "assistant")
    }

    /// Lets the model see less: the oldest message of the user's that it sees and everything up to the next one go. The last one stays.
    pub fn drop_oldest(&mut self) -> bool {
        let from = self.first + 1;
        let seen = self.all.messages.get(from..).unwrap_or_default();
        match seen.iter().position(|m| role(m) == "user") {
            Some(at) => {
                self.first = from + at;
                true
            }
            None => false,
        }
    }

    /// How many messages the model does not see any more.
    pub fn dropped(&self) -> usize {
        self.first - usize::from(self.has_system())
    }

    /// What the model sees.
    pub fn seen(&self) -> Conversation {
        let system = &self.all.messages[..usize::from(self.has_system())];
        let rest = self.all.messages.get(self.first..).unwrap_or_default();
        Conversation {
            messages: [system, rest].concat(),
            ..self.all.clone()
        }
    }

    /// The ids of the next prompt, given those of its text: where it begins with the text of the last prompt and its answer, their ids.
    ///
    /// # Errors
    /// What the tokenizer says.
    pub fn prompt(&self, tokenizer: &Tokenizer, ids: Vec<u32>) -> Result<Vec<u32>> {
        let is_known = |&id: &u32| tokenizer.has(id);
        if self.exact.is_empty() || !self.exact.iter().all(is_known) {
            return Ok(ids);
        }
        let options = DecodeOptions::default();
        let text = tokenizer.decode(&self.exact, options)?;
        let mut decoder = tokenizer.decoder(options);
        let mut so_far = String::new();
        for (i, &id) in ids.iter().enumerate() {
            let from = so_far.len();
            decoder.push(id, &mut so_far)?;
            if text.as_bytes().get(from..so_far.len()) != Some(&so_far.as_bytes()[from..]) {
                break;
            }
            if so_far.len() == text.len() {
                return Ok([&self.exact, &ids[i + 1..]].concat());
            }
        }
        Ok(ids)
    }

    /// Writes all messages to a file.
    ///
    /// # Errors
    /// Usage if the file is there and must not be replaced; io.
    pub fn save(&self, path: &Path, replace: bool) -> Result<()> {
        if !replace && path.symlink_metadata().is_ok() {
            return Err(Error::usage(format_args!(
                "{path:?} is there: /save! replaces it"
            )));
        }
        let io = |e: std::io::Error| Error::io("write", path, &e);
        let mut text = serde_json::to_string_pretty(&Shown(&self.all)).map_err(Error::invalid)?;
        text.push('\n');
        let mut file = AtomicFile::create(path)?;
        file.write_all(text.as_bytes()).map_err(io)?;
        file.commit()
    }

    /// Reads a conversation from a file.
    ///
    /// # Errors
    /// Io; invalid: not a conversation; limit: a file that is too long.
    pub fn load(path: &Path) -> Result<Dialogue> {
        let file = File::open(path).map_err(|e| Error::io("open", path, &e))?;
        let mut bytes = Vec::new();
        file.take(MAX_FILE + 1)
            .read_to_end(&mut bytes)
            .map_err(|e| Error::io("read", path, &e))?;
        if bytes.len() as u64 > MAX_FILE {
            return Err(Error::limit(format_args!(
                "{path:?} is longer than {MAX_FILE} bytes, expected a conversation"
            )));
        }
        let all = Conversation::from_json(&bytes).map_err(|e| e.at(format_args!("{path:?}")))?;
        let mut dialogue = Dialogue {
            all,
            ..Dialogue::default()
        };
        dialogue.first = usize::from(dialogue.has_system());
        Ok(dialogue)
    }
}

/// A conversation as JSON.
struct Shown<'a, T>(&'a T);

impl Serialize for Shown<'_, Conversation> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        let messages: Vec<Shown<'_, Json>> = self.0.messages.iter().map(Shown).collect();
        map.serialize_entry("messages", &messages)?;
        for (key, value) in [("tools", &self.0.tools), ("documents", &self.0.documents)] {
            if let Some(value) = value {
                map.serialize_entry(key, &Shown(value))?;
            }
        }
        map.end()
    }
}

impl Serialize for Shown<'_, Json> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Json::Null => serializer.serialize_unit(),
            Json::Bool(b) => serializer.serialize_bool(*b),
            Json::Int(n) => n.serialize(serializer),
            Json::Float(x) => serializer.serialize_f64(*x),
            Json::Str(s) => serializer.serialize_str(s),
            Json::List(list) => serializer.collect_seq(list.iter().map(Shown)),
            Json::Object(entries) => {
                serializer.collect_map(entries.iter().map(|(k, v)| (k, Shown(v))))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(conversation: &Conversation) -> Vec<&str> {
        let content = |m| Json::get(m, "content").and_then(Json::as_str);
        conversation.messages.iter().filter_map(content).collect()
    }

    #[test]
    fn the_oldest_messages_go_out_of_sight_and_the_system_prompt_stays() {
        let mut d = Dialogue::default();
        for turn in ["1", "2", "3"] {
            d.ask(&format!("q{turn}"));
            d.answer(&format!("a{turn}"), Vec::new(), &[]);
        }
        d.set_system(Some("s"));
        d.ask("q4");
        assert_eq!(d.len(), 7);
        assert_eq!(
            contents(&d.seen()),
            ["s", "q1", "a1", "q2", "a2", "q3", "a3", "q4"]
        );
        assert!(d.drop_oldest());
        assert_eq!(contents(&d.seen()), ["s", "q2", "a2", "q3", "a3", "q4"]);
        assert!(d.drop_oldest());
        // The system prompt may come and go meanwhile.
        d.set_system(None);
        assert_eq!(
            (d.dropped(), contents(&d.seen())),
            (4, vec!["q3", "a3", "q4"])
        );
        d.set_system(Some("t"));
        d.set_system(Some("u"));
        assert_eq!(contents(&d.seen()), ["u", "q3", "a3", "q4"]);
        assert!(d.drop_oldest());
        assert!(!d.drop_oldest(), "the last message stays");
        assert_eq!((d.dropped(), contents(&d.seen())), (6, vec!["u", "q4"]));
        assert_eq!(d.len(), 7);
        assert!(d.is_asked());
        assert!(d.take_back("assistant").is_none());
        assert!(d.take_back("user").is_some());
        assert!(!d.is_asked());
        d.reset();
        assert_eq!((d.len(), d.system()), (0, Some("u")));
        d.ask("new");
        assert_eq!(contents(&d.seen()), ["u", "new"]);
    }
}
