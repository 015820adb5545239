//! From rendered text to ids.

use crate::error::Result;
use crate::tokenizer::{EncodeOptions, TemplateItem, Tokenizer};

/// A rendered conversation: its text, and which bytes of it came from the conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    text: String,
    /// Byte ranges, ascending, that neither touch nor overlap.
    input: Vec<(usize, usize)>,
}

impl Rendered {
    pub(super) fn new(text: String, input: Vec<(usize, usize)>) -> Rendered {
        Rendered { text, input }
    }

    /// The text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The byte ranges that came from the conversation, in ascending order.
    pub fn input(&self) -> &[(usize, usize)] {
        &self.input
    }

    /// The ids. Special tokens are read where the template wrote them; text of the conversation never becomes one, also not together with
    /// text around it, unless `parse_special`. What the tokenizer puts before every text (a beginning of sequence) is added unless the
    /// template wrote it; what it puts behind is not: the answer is to follow.
    ///
    /// # Errors
    /// What the tokenizer says.
    pub fn encode(&self, tokenizer: &Tokenizer, parse_special: bool) -> Result<Vec<u32>> {
        let options = EncodeOptions {
            add_special: false,
            parse_special: true,
        };
        let ids = match parse_special {
            true => tokenizer.encode(&self.text, options)?,
            false => tokenizer.encode_marked(&self.text, &self.input)?,
        };
        let before = tokenizer.pipeline().template.iter();
        let before: Vec<u32> = before
            .map_while(|item| match item {
                TemplateItem::Id(id) => Some(*id),
                TemplateItem::Text => None,
            })
            .collect();
        // A template that has no place for the text adds nothing to it.
        let has_text = tokenizer
            .pipeline()
            .template
            .iter()
            .any(|item| matches!(item, TemplateItem::Text));
        if !has_text || before.is_empty() || ids.starts_with(&before) {
            return Ok(ids);
        }
        Ok([before, ids].concat())
    }
}
