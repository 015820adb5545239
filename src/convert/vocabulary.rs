//! The tokenizer of a model in prepared form, and what it tells about special ids.

use super::foreign::{Foreign, TokenizerSource};
use super::tokenizer::{gguf_vocab, load};
use crate::bytes::Bytes;
use crate::error::{Error, Result};
use crate::file::Golden;
use crate::tokenizer::{EncodeOptions, Tokenizer};
use std::path::Path;

/// Texts whose ids are recorded: what tokenizers are known to differ in.
const SAMPLES: &[&str] = &[
    "",
    "Hello, world!",
    " leading and trailing  spaces \t\n\n  and lines\r\n",
    "The quick brown fox's 12345 jumps; it isn't 3.14 or 1,000,000.",
    "Straße café naïve Ελληνικά Привет עברית العربية हिन्दी ไทย",
    "你好，世界。こんにちは 안녕하세요",
    "e\u{301} n\u{303} \u{ff21}\u{fb01}\u{2460} \u{1f469}\u{200d}\u{1f4bb}\u{1f3fd} \u{1f1e9}\u{1f1ea}",
    "fn main() { println!(\"{}\", a[i] != b->c); } // <|im_start|>user</s>[INST]",
];

/// A tokenizer ready to be stored.
#[derive(Clone, Debug, Default)]
pub struct Prepared {
    /// The section of the weight file; empty if there is none.
    pub bytes: Vec<u8>,
    /// Samples for `quern verify` to replay: with the special tokens of the model, and without parsing any in the text.
    pub golden: Vec<Golden>,
    /// The id that begins a sequence.
    pub bos: Option<u32>,
    /// The ids that end a generation.
    pub eos: Vec<u32>,
    /// Padding.
    pub pad: Option<u32>,
}

/// Reads the tokenizer file that the user named, else the model's own.
///
/// # Errors
/// Invalid for a broken tokenizer or one with more tokens than `vocab_size`; I/O.
pub fn prepare(foreign: &Foreign, named: Option<&Path>, vocab_size: u32) -> Result<Prepared> {
    let definition = match (named, &foreign.tokenizer) {
        (Some(path), _) => load(path)?,
        (None, TokenizerSource::Folder(path)) => load(path)?,
        (None, TokenizerSource::Gguf(metadata)) => {
            gguf_vocab::read(metadata).map_err(|e| e.at(&foreign.place))?
        }
        (None, TokenizerSource::None) => return Ok(Prepared::default()),
    };
    if definition.tokens.len() > vocab_size as usize {
        return Err(Error::invalid(format_args!(
            "{}: the tokenizer has {} tokens, but the model only {vocab_size}",
            foreign.place,
            definition.tokens.len()
        )));
    }
    let bytes = definition.to_prepared().map_err(|e| e.at(&foreign.place))?;
    let tokenizer = Tokenizer::from_prepared(Bytes::from(bytes.clone()))?;
    let options = EncodeOptions {
        add_special: true,
        parse_special: false,
    };
    // A vocabulary without an unknown token cannot encode every sample.
    let golden = SAMPLES
        .iter()
        .filter_map(|text| {
            Some(Golden {
                text: (*text).to_owned(),
                ids: tokenizer.encode(text, options).ok()?,
            })
        })
        .collect();
    Ok(Prepared {
        golden,
        bos: tokenizer.bos(),
        eos: tokenizer.eos().to_vec(),
        pad: tokenizer.pad(),
        bytes,
    })
}
