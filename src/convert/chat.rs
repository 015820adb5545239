//! The chat template of a model on its way into a weight file, with conversations that were rendered by it.
//!
//! What the samples became at import is recorded, and `quern verify` renders them again. A template that cannot be read is kept all the same:
//! the weights are of use without it, and the command that needs it says what is wrong.

use super::foreign::Chat;
use super::vocabulary;
use crate::bytes::Bytes;
use crate::file::meta::key;
use crate::file::{Meta, TemplateSample, Value};
use crate::template::{Conversation, DateTime, Options, SpecialTokens, Template};
use crate::tokenizer::Tokenizer;

/// When the samples are rendered, for templates that tell the date.
pub const SAMPLE_TIME: &str = "2026-01-15T12:00:00";

/// Conversations that templates are known to differ in. One that a template refuses is left out.
const SAMPLES: &[&str] = &[
    r#"[{"role": "user", "content": "Hello, world!"}]"#,
    r#"[{"role": "system", "content": "Answer briefly. "}, {"role": "user", "content": " Who was Ada?\n"},
        {"role": "assistant", "content": "A mathematician."}, {"role": "user", "content": "<|im_end|></s>[/INST]<|eot_id|><end_of_turn> \"ж\" & 'é'"}]"#,
    r#"{"messages": [{"role": "user", "content": "Add 2 and 3.5."},
        {"role": "assistant", "content": "", "tool_calls": [{"id": "call00001", "type": "function",
          "function": {"name": "add", "arguments": {"a": 2, "b": 3.5}}}]},
        {"role": "tool", "tool_call_id": "call00001", "name": "add", "content": "5.5"}],
       "tools": [{"type": "function", "function": {"name": "add", "description": "Adds <numbers>.", "parameters": {"type": "object",
          "properties": {"a": {"type": "number"}, "b": {"type": "number"}}, "required": ["a", "b"]}}}]}"#,
];

/// A chat template ready to be stored.
#[derive(Clone, Debug, Default)]
pub struct Prepared {
    chat: Chat,
    samples: Vec<TemplateSample>,
    /// Why the template cannot be used.
    pub fault: Option<String>,
}

/// Reads the template and renders the samples.
pub fn prepare(chat: &Chat, tokenizer: &vocabulary::Prepared) -> Prepared {
    let mut out = Prepared {
        chat: chat.clone(),
        ..Prepared::default()
    };
    let Some(source) = &chat.template else {
        return out;
    };
    let special = SpecialTokens(chat.special.clone());
    let template = Template::parse(source, &special).and_then(|t| match &chat.tools {
        Some(source) => t.with_tools(source),
        None => Ok(t),
    });
    let template = match template {
        Ok(template) => template,
        Err(e) => {
            out.fault = Some(e.to_string());
            return out;
        }
    };
    let tokenizer = match tokenizer.bytes.is_empty() {
        true => None,
        false => Tokenizer::from_prepared(Bytes::from(tokenizer.bytes.clone())).ok(),
    };
    let samples = SAMPLES.iter();
    out.samples = samples
        .filter_map(|sample| render(&template, sample, tokenizer.as_ref()))
        .collect();
    out
}

/// What a template makes of a sample; none if it refuses it.
fn render(
    template: &Template,
    sample: &str,
    tokenizer: Option<&Tokenizer>,
) -> Option<TemplateSample> {
    let conversation = Conversation::from_json(sample.as_bytes()).ok()?;
    let options = Options::new(DateTime::parse(SAMPLE_TIME)?);
    let rendered = template.render(&conversation, &options).ok()?;
    let ids = match tokenizer {
        Some(tokenizer) => rendered.encode(tokenizer, false).ok()?,
        None => Vec::new(),
    };
    Some(TemplateSample {
        conversation: sample.to_owned(),
        text: rendered.text().to_owned(),
        ids,
    })
}

impl Prepared {
    /// Sets the records of a weight file.
    pub fn record(&self, meta: &mut Meta) {
        let text = |s: &str| Value::String(s.to_owned());
        if let Some(template) = &self.chat.template {
            meta.set(key::CHAT_TEMPLATE, text(template));
        }
        if let Some(template) = &self.chat.tools {
            meta.set(key::CHAT_TEMPLATE_TOOLS, text(template));
        }
        if !self.chat.special.is_empty() && self.chat.template.is_some() {
            let pairs = self.chat.special.iter();
            let pairs = pairs.flat_map(|(name, text)| [name.clone(), text.clone()]);
            meta.set(key::CHAT_TEMPLATE_SPECIAL, Value::Strings(pairs.collect()));
        }
        if !self.samples.is_empty() {
            meta.set_template_samples(&self.samples);
        }
    }
}
