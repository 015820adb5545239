//! Samples in the metadata: what the tokenizer and the chat template made of some texts at import, for `quern verify` to make again.

use super::meta::{Meta, Value, key};
use crate::error::{Error, Result};

/// A text and the token ids that the source's tokenizer definition gave for it at import.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Golden {
    /// The text.
    pub text: String,
    /// Its ids.
    pub ids: Vec<u32>,
}

/// A conversation, what the chat template made of it at import, and the ids of that (none without a tokenizer).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateSample {
    /// The conversation as JSON.
    pub conversation: String,
    /// The text.
    pub text: String,
    /// Its ids.
    pub ids: Vec<u32>,
}

fn invalid(message: impl std::fmt::Display) -> Error {
    Error::invalid(format_args!("metadata: {message}"))
}

impl Meta {
    /// Records the texts and ids of [`Golden`] samples.
    pub fn set_golden(&mut self, samples: &[Golden], add_special: bool) {
        let lengths = samples.iter().map(|s| s.ids.len() as u32).collect();
        let texts = samples.iter().map(|s| s.text.clone()).collect();
        let ids = samples.iter().flat_map(|s| s.ids.iter().copied()).collect();
        self.set(key::GOLDEN_TEXTS, Value::Strings(texts));
        self.set(key::GOLDEN_LENGTHS, Value::U32s(lengths));
        self.set(key::GOLDEN_IDS, Value::U32s(ids));
        self.set(key::GOLDEN_SPECIAL, Value::Bool(add_special));
    }

    /// The recorded samples.
    ///
    /// # Errors
    /// Invalid if the three lists do not agree.
    pub fn golden(&self) -> Result<Vec<Golden>> {
        let (texts, lengths) = (
            self.strings(key::GOLDEN_TEXTS),
            self.u32s(key::GOLDEN_LENGTHS),
        );
        let ids = self.u32s(key::GOLDEN_IDS);
        let total: u64 = lengths.iter().map(|n| u64::from(*n)).sum();
        if texts.len() != lengths.len() || total != ids.len() as u64 {
            return Err(invalid(format_args!(
                "{} golden texts, {} lengths with a sum of {total}, {} ids: they do not agree",
                texts.len(),
                lengths.len(),
                ids.len()
            )));
        }
        let mut rest = ids;
        let samples = texts.iter().zip(lengths).map(|(text, n)| {
            let (these, after) = rest.split_at(*n as usize);
            rest = after;
            Golden {
                text: text.clone(),
                ids: these.to_vec(),
            }
        });
        Ok(samples.collect())
    }

    /// Records the samples of the chat template.
    pub fn set_template_samples(&mut self, samples: &[TemplateSample]) {
        let texts = samples
            .iter()
            .flat_map(|s| [s.conversation.clone(), s.text.clone()]);
        let lengths = samples.iter().map(|s| s.ids.len() as u32).collect();
        let ids = samples.iter().flat_map(|s| s.ids.iter().copied()).collect();
        self.set(key::TEMPLATE_TEXTS, Value::Strings(texts.collect()));
        self.set(key::TEMPLATE_LENGTHS, Value::U32s(lengths));
        self.set(key::TEMPLATE_IDS, Value::U32s(ids));
    }

    /// The recorded samples of the chat template.
    ///
    /// # Errors
    /// Invalid if the three lists do not agree.
    pub fn template_samples(&self) -> Result<Vec<TemplateSample>> {
        let texts = self.strings(key::TEMPLATE_TEXTS);
        let lengths = self.u32s(key::TEMPLATE_LENGTHS);
        let mut rest = self.u32s(key::TEMPLATE_IDS);
        let total: u64 = lengths.iter().map(|n| u64::from(*n)).sum();
        if texts.len() as u64 != 2 * lengths.len() as u64 || total != rest.len() as u64 {
            return Err(invalid(format_args!(
                "{} texts of samples of the chat template, {} lengths with a sum of {total}, {} ids: they do not agree",
                texts.len(),
                lengths.len(),
                rest.len()
            )));
        }
        let samples = texts.chunks_exact(2).zip(lengths).map(|(pair, n)| {
            let (these, after) = rest.split_at(*n as usize);
            rest = after;
            TemplateSample {
                conversation: pair[0].clone(),
                text: pair[1].clone(),
                ids: these.to_vec(),
            }
        });
        Ok(samples.collect())
    }
}
