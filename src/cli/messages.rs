//! Conversations on the command line: the chat template of a model or a file, what it is given, and the ids that come of it.

use super::load::Reader;
use crate::error::{Error, Result};
use crate::file::Meta;
use crate::file::meta::key;
use crate::template::{Conversation, DateTime, Json, Options, SpecialTokens, Template};
use crate::tokenizer::Tokenizer;
use std::cell::OnceCell;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Longest file with messages or a template.
const MAX_FILE: u64 = 256 << 20;

/// What a chat template depends on besides the messages.
#[derive(Debug, Default, clap::Args)]
pub struct TemplateArgs {
    /// A chat template (Jinja) instead of the model's own
    #[arg(long, visible_alias = "chat-template-file", value_name = "FILE")]
    pub template: Option<PathBuf>,
    /// A variable for the chat template, such as enable_thinking=false (the value is JSON); may be given several times
    #[arg(long, value_name = "KEY=JSON", value_parser = parse_variable)]
    pub template_arg: Vec<(String, Json)>,
    /// The date and time (UTC) that the chat template is told, as 2026-01-15 or 2026-01-15T09:30 (default: now)
    #[arg(long, value_name = "DATE", value_parser = parse_now)]
    pub now: Option<DateTime>,
}

fn parse_variable(text: &str) -> Result<(String, Json), String> {
    let (key, value) = text
        .split_once('=')
        .ok_or("expected KEY=JSON, such as enable_thinking=false")?;
    let word = |c: char| c == '_' || c.is_alphanumeric();
    if key.is_empty() || !key.chars().all(word) {
        return Err(format!("{key:?} is not the name of a variable"));
    }
    let value = serde_json::from_str(value).map_err(|e| {
        format!("{value:?} is not JSON ({e}); a text needs quotes: '{key}=\"...\"'")
    })?;
    Ok((key.to_owned(), value))
}

fn parse_now(text: &str) -> Result<DateTime, String> {
    DateTime::parse(text).ok_or_else(|| "expected 2026-01-15 or 2026-01-15T09:30:00".to_owned())
}

impl TemplateArgs {
    /// How to render for the next answer.
    pub fn options(&self) -> Options {
        let now = self.now.unwrap_or_else(|| {
            let since = SystemTime::now().duration_since(UNIX_EPOCH);
            let seconds = since.map_or(0, |d| d.as_secs());
            DateTime::from_unix(i64::try_from(seconds).unwrap_or(0))
        });
        let mut options = Options::new(now);
        options.args = self.template_arg.clone();
        options
    }

    /// The template that was named, else the model's; none if there is neither.
    ///
    /// # Errors
    /// Invalid (3) or a limit (5) if it cannot be read; I/O (4).
    pub fn load(&self, meta: &Meta, special: &SpecialTokens) -> Result<Option<Template>> {
        if let Some(path) = &self.template {
            return read_template(path, special).map(Some);
        }
        template_of(meta, special)
    }
}

/// The template in a file.
///
/// # Errors
/// As [`TemplateArgs::load`].
pub fn read_template(path: &Path, special: &SpecialTokens) -> Result<Template> {
    let bytes = read(path)?;
    let source = String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        Error::invalid(format_args!("{path:?} is not UTF-8 at byte {at}"))
    })?;
    Template::parse(&source, special).map_err(|e| e.at(format_args!("{path:?}")))
}

/// The template that a weight file holds.
///
/// # Errors
/// Invalid or Limit if it cannot be read.
pub fn template_of(meta: &Meta, special: &SpecialTokens) -> Result<Option<Template>> {
    let Some(source) = meta.chat_template() else {
        return Ok(None);
    };
    let template = Template::parse(source, special)?;
    match meta.string(key::CHAT_TEMPLATE_TOOLS) {
        None => Ok(Some(template)),
        Some(source) => template.with_tools(source).map(Some),
    }
}

/// The special tokens that templates know by name: as the source of the model names them, else by their ids.
pub fn special_tokens(meta: &Meta, tokenizer: Option<&Tokenizer>) -> SpecialTokens {
    let mut out = Vec::new();
    for pair in meta.strings(key::CHAT_TEMPLATE_SPECIAL).chunks_exact(2) {
        out.push((pair[0].clone(), pair[1].clone()));
    }
    if let Some(tokenizer) = tokenizer {
        let eos = meta.eos().first().copied();
        for (name, id) in [
            ("bos_token", meta.bos().or(tokenizer.bos())),
            ("eos_token", tokenizer.eos().first().copied().or(eos)),
            ("pad_token", meta.u32(key::PAD).or(tokenizer.pad())),
            ("unk_token", meta.u32(key::UNK)),
        ] {
            if out.iter().all(|(n, _)| n != name)
                && let Some(text) = id.and_then(|id| tokenizer.piece(id))
            {
                out.push((name.to_owned(), text));
            }
        }
    }
    SpecialTokens(out)
}

/// A conversation from a file; `-` is standard input.
///
/// # Errors
/// Invalid (3), naming the place in the file; I/O (4).
pub fn read_conversation(path: &Path) -> Result<Conversation> {
    let bytes = read(path)?;
    Conversation::from_json(&bytes).map_err(|e| e.at(format_args!("{path:?}")))
}

/// A text that is given, or `@FILE`.
///
/// # Errors
/// Invalid (3) if the file is not UTF-8; I/O (4).
pub fn text_or_file(text: &str) -> Result<String> {
    let Some(path) = text.strip_prefix('@') else {
        return Ok(text.to_owned());
    };
    let path = Path::new(path);
    let mut text = String::from_utf8(read(path)?).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        Error::invalid(format_args!("{path:?} is not UTF-8 at byte {at}"))
    })?;
    // The last line end belongs to the file and not to the text.
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let failed = |e: std::io::Error| Error::io("read", path, &e);
    let mut bytes = Vec::new();
    let read = match path.as_os_str() == "-" {
        true => std::io::stdin()
            .lock()
            .take(MAX_FILE + 1)
            .read_to_end(&mut bytes),
        false => {
            let file = std::fs::File::open(path).map_err(failed)?;
            file.take(MAX_FILE + 1).read_to_end(&mut bytes)
        }
    };
    read.map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(Error::limit(format_args!(
            "{path:?} is longer than {MAX_FILE} bytes"
        )));
    }
    Ok(bytes)
}

impl Reader {
    /// The chat template to use: the one that was named, else the model's; none if there is neither.
    ///
    /// # Errors
    /// Invalid (3) or a limit (5), naming the model, if it cannot be read; I/O (4).
    pub fn template(&self, args: &TemplateArgs) -> Result<Option<Template>> {
        let file = self.model.file();
        let special = special_tokens(file.meta(), self.tokenizer.as_deref());
        let named = args.template.is_some();
        args.load(file.meta(), &special).map_err(|e| match named {
            true => e,
            false => e.at(format_args!("{:?}", file.path())),
        })
    }

    /// The ids of a conversation. Text in it becomes no special token unless `parse_special`.
    ///
    /// # Errors
    /// What the template raises (3), a limit of it (5), what the tokenizer says; a usage error if the file has no tokenizer.
    pub fn chat_ids(
        &self,
        template: &Template,
        conversation: &Conversation,
        options: &Options,
        parse_special: bool,
    ) -> Result<Vec<u32>> {
        let tokenizer = self.tokenizer.as_deref().ok_or_else(|| {
            Error::usage("this model file has no tokenizer: give token ids with --ids")
        })?;
        template
            .render(conversation, options)?
            .encode(tokenizer, parse_special)
    }

    /// The ids that end an answer in a chat: those that end any generation, and what the template writes behind an answer.
    pub fn chat_end_ids(&self, template: &Template, options: &Options) -> Vec<u32> {
        let mut ids = self.end_ids();
        if let Some(tokenizer) = &self.tokenizer {
            ids.extend(template.turn_ends(tokenizer, options));
        }
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// Why a model without a template is taken for one that needs it: its name says so, or an id that ends its answers is one that
    /// only chats have.
    pub fn made_for_chats(&self) -> Option<String> {
        let meta = self.model.file().meta();
        let name = meta.name().unwrap_or_default();
        let lower = name.to_lowercase();
        let mut words = lower.split(|c: char| !c.is_alphanumeric());
        if words.any(|w| w.starts_with("instruct") || matches!(w, "chat" | "it")) {
            return Some(format!("is called {name:?}"));
        }
        // Importers of GGUF take every such token of the vocabulary, and base models have them there too.
        if meta.string(key::SOURCE_KIND) == Some("gguf") {
            return None;
        }
        let tokenizer = self.tokenizer.as_deref()?;
        let ends = meta.eos().iter().filter_map(|&id| tokenizer.piece(id));
        let mut ends = ends.filter(|piece| crate::template::TURN_ENDS.contains(&piece.as_str()));
        ends.next()
            .map(|piece| format!("ends its answers with {piece:?}"))
    }
}

/// What a prompt is made of.
pub enum Asked {
    /// Exactly these ids.
    Ids(Vec<u32>),
    /// A text: the user's message where there is a template.
    Text(String),
    /// A whole conversation.
    Messages(Conversation),
}

/// What may differ between the prompts of one run.
#[derive(Clone, Copy, Debug, Default)]
pub struct PromptArgs<'a> {
    /// The system message before a text.
    pub system: Option<&'a str>,
    /// No chat template.
    pub raw: bool,
    /// Whether special tokens in texts are read as such.
    pub parse_special: bool,
}

/// From what is asked to ids; the chat template is read once, when the first prompt needs it.
pub struct Prompts<'a> {
    reader: &'a Reader,
    args: &'a TemplateArgs,
    options: Options,
    chat: OnceCell<Option<Chat>>,
}

/// A chat template and the ids that end its answers.
struct Chat {
    template: Template,
    end_ids: Vec<u32>,
}

impl<'a> Prompts<'a> {
    /// Prompts for this model.
    pub fn new(reader: &'a Reader, args: &'a TemplateArgs) -> Self {
        Prompts {
            reader,
            args,
            options: args.options(),
            chat: OnceCell::new(),
        }
    }

    fn chat(&self) -> Result<Option<&Chat>> {
        if let Some(chat) = self.chat.get() {
            return Ok(chat.as_ref());
        }
        let template = self.reader.template(self.args)?;
        let chat = template.map(|template| Chat {
            end_ids: self.reader.chat_end_ids(&template, &self.options),
            template,
        });
        Ok(self.chat.get_or_init(|| chat).as_ref())
    }

    /// The source of the template that texts and messages go through, if there is one.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn template_source(&self) -> Result<Option<&str>> {
        Ok(self.chat()?.map(|chat| chat.template.source()))
    }

    /// Whether texts go through a template, unless they are to be taken as they are (`raw`).
    ///
    /// # Errors
    /// The template cannot be read.
    pub fn has_template(&self, raw: bool) -> Result<bool> {
        let plain = raw || self.reader.model.spec().encoder.is_some();
        Ok(!plain && self.chat()?.is_some())
    }

    /// The ids of a prompt, and the ids that end what follows it. A text goes through the chat template unless `raw`; without a template it is
    /// plain, but not for a model that was made for chats.
    ///
    /// # Errors
    /// Usage (2) for messages without a template; Invalid (3) for a template that cannot be read or refuses, and for a model that
    /// lacks one; Limit (5).
    pub fn make(&self, asked: Asked, args: PromptArgs) -> Result<(Vec<u32>, Vec<u32>)> {
        let reader = self.reader;
        let plain = args.raw || reader.model.spec().encoder.is_some();
        let chat = match &asked {
            Asked::Ids(_) => None,
            _ if plain => None,
            _ => self.chat()?,
        };
        let Some(chat) = chat else {
            if args.system.is_some() || matches!(asked, Asked::Messages(_)) {
                return Err(Error::usage(
                    "this model has no chat template, which --system and --messages need: give one with --template FILE",
                ));
            }
            let ids = match asked {
                Asked::Ids(ids) => ids,
                Asked::Text(text) => {
                    if let Some(why) = reader.made_for_chats().filter(|_| !plain) {
                        return Err(Error::invalid(format_args!(
                            "{:?} has no chat template, but {why}: give one with --template FILE, or continue the prompt as plain text with --raw",
                            reader.model.file().path()
                        )));
                    }
                    reader.encode(&text, args.parse_special)?
                }
                Asked::Messages(_) => Vec::new(),
            };
            return Ok((ids, reader.end_ids()));
        };
        let conversation = match asked {
            Asked::Messages(conversation) => conversation,
            Asked::Text(text) => Conversation::of_prompt(args.system, &text),
            Asked::Ids(ids) => return Ok((ids, reader.end_ids())),
        };
        let (template, options) = (&chat.template, &self.options);
        let ids = reader.chat_ids(template, &conversation, options, args.parse_special)?;
        Ok((ids, chat.end_ids.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_on_the_command_line() {
        assert_eq!(
            parse_variable("enable_thinking=false"),
            Ok(("enable_thinking".to_owned(), Json::Bool(false)))
        );
        assert_eq!(
            parse_variable("x=\"a=b\""),
            Ok(("x".to_owned(), Json::from("a=b")))
        );
        for wrong in ["x", "x=", "x=yes", "=1", "a b=1"] {
            assert!(parse_variable(wrong).is_err(), "{wrong}");
        }
    }
}
