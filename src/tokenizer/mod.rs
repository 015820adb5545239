//! Tokenizers: text to ids and back, exact to the id.
//!
//! A [`Definition`] (filled by an importer) becomes bytes once, at import ([`Definition::to_prepared`]); a [`Tokenizer`] uses
//! those bytes in place ([`Tokenizer::from_prepared`]), so that loading costs a few checks whatever the vocabulary. Encoding
//! is linear in the text for every model.

mod added;
mod bpe;
mod build;

mod charsmap;
mod decode;
mod definition;
mod encode;
mod normalize;
mod pattern;
mod prepared;
mod scripts;
mod split;
#[cfg(test)]
mod tests;
mod trie;
mod unicode;
mod unigram;
mod wordpiece;

pub use crate::bytes::Bytes;
pub use decode::byte_piece;
pub use definition::{
    AddedToken, Behavior, DecoderStep, Definition, Merge, Merges, ModelOptions, Normalizer,
    Pattern, Pipeline, PreTokenizer, Prepend, TemplateItem, Token, TokenKind,
};
pub use pattern::from_oniguruma;
pub use unicode::{CharSet, alphabet_to_bytes};

use crate::error::{Error, Result};
use prepared::{Prepared, RAW, View, added_flags};

/// How a text is encoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EncodeOptions {
    /// Add the special tokens of the template (beginning of sequence and the like).
    pub add_special: bool,
    /// Text that looks like a special token becomes that token. Never for text that a user wrote.
    pub parse_special: bool,
}

/// How ids are decoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DecodeOptions {
    /// Special tokens are left out.
    pub skip_special: bool,
}

/// A tokenizer over its prepared form.
pub struct Tokenizer {
    prepared: Prepared,
    pipeline: Pipeline,
    normalizers: Vec<normalize::Step>,
    pre_tokenizers: Vec<split::Step>,
    decoder: decode::Decoder,
    /// Which bytes added tokens begin with, in the raw and in the normalised text.
    raw_first: [bool; 256],
    norm_first: [bool; 256],
    /// The `<0xNN>` tokens; [`trie::NONE`] for those that do not exist.
    byte_tokens: Box<[u32; 256]>,
    /// Ids that special-token parsing can produce, sorted.
    special: Vec<u32>,
    /// Whether some of them are looked for in the normalised text.
    norm_special: bool,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tokenizer({})", self.describe())
    }
}

impl Tokenizer {
    /// Opens a prepared form in place. Everything that later look-ups rely on is checked; an error names what does not fit.
    pub fn from_prepared(bytes: Bytes) -> Result<Self> {
        let prepared = Prepared::open(bytes)?;
        let view = prepared.view();
        let pipeline: Pipeline = serde_json::from_slice(view.config)
            .map_err(|e| Error::invalid(format_args!("tokenizer options: {e}")))?;
        // Each step recurses into the next one; published tokenizers have at most 8.
        let steps = [
            pipeline.normalizers.len(),
            pipeline.pre_tokenizers.len(),
            pipeline.decoder.len(),
        ];
        if steps.iter().any(|&n| n > 64) {
            return Err(Error::invalid(format_args!(
                "tokenizer options: {steps:?} steps, expected at most 64 each"
            )));
        }
        if let Some(&id) = pipeline
            .template
            .iter()
            .filter_map(|t| match t {
                TemplateItem::Id(id) => Some(id),
                TemplateItem::Text => None,
            })
            .chain(pipeline.eos.iter())
            .chain(pipeline.bos.iter())
            .find(|&&id| id as usize >= view.n_tokens())
        {
            return Err(Error::invalid(format_args!(
                "tokenizer options: special id {id}, but the vocabulary has {} tokens",
                view.n_tokens()
            )));
        }
        if !view.charsmap.is_empty() {
            charsmap::Charsmap::new(view.charsmap)?;
        }
        let mut special: Vec<u32> = (0..view.n_added() as u32)
            .filter_map(|i| view.added(i))
            .filter(|(_, f)| f & added_flags::SPECIAL != 0)
            .map(|(id, _)| id)
            .collect();
        special.sort_unstable();
        special.dedup();
        let in_norm = |&id: &u32| {
            let token = view.token(id);
            token.is_some_and(|text| view.norm.get(text) != trie::NONE)
        };
        let norm_special = special.iter().any(in_norm);
        let mut byte_tokens = Box::new([trie::NONE; 256]);
        for (b, id) in byte_tokens.iter_mut().enumerate() {
            let piece = format!("<0x{b:02X}>");
            *id = view.word(piece.as_bytes()).unwrap_or(trie::NONE);
        }
        let normalizers = pipeline
            .normalizers
            .iter()
            .map(normalize::Step::new)
            .collect::<Result<_>>()?;
        let pre_tokenizers = split::compile(&pipeline.pre_tokenizers)?;
        let decoder = decode::Decoder::new(&pipeline.decoder)?;
        let (raw_first, norm_first) = (view.raw.first_bytes(), view.norm.first_bytes());
        Ok(Tokenizer {
            normalizers,
            pre_tokenizers,
            decoder,
            raw_first,
            norm_first,
            byte_tokens,
            special,
            norm_special,
            pipeline,
            prepared,
        })
    }

    /// The ids of `text`. A split pattern that gives up on the text is a limit error.
    pub fn encode(&self, text: &str, options: EncodeOptions) -> Result<Vec<u32>> {
        encode::encode(self, text, options)
    }

    /// The ids of `text`, whose `marked` byte ranges (ascending, on boundaries of characters, not overlapping) are somebody else's: special tokens
    /// are read as such outside of them only. What lies between two special tokens is one text for the rest, marked or not; nothing is added
    /// in front or behind.
    pub fn encode_marked(&self, text: &str, marked: &[(usize, usize)]) -> Result<Vec<u32>> {
        let cut = |&(start, end): &(usize, usize)| {
            start < end && text.is_char_boundary(start) && text.is_char_boundary(end)
        };
        let ascending = marked.windows(2).all(|w| w[0].1 <= w[1].0);
        if !ascending || !marked.iter().all(cut) {
            return Err(Error::invalid(
                "the marked ranges of a text are not ascending ranges of its characters",
            ));
        }
        encode::encode_marked(self, text, marked)
    }

    /// The text of `ids`. An id outside the vocabulary is an error.
    pub fn decode(&self, ids: &[u32], options: DecodeOptions) -> Result<String> {
        let mut stream = self.decoder(options);
        let mut out = String::new();
        for &id in ids {
            stream.push(id, &mut out)?;
        }
        stream.finish(&mut out)?;
        Ok(out)
    }

    /// A decoder that takes ids one by one and returns the text that is complete.
    pub fn decoder(&self, options: DecodeOptions) -> StreamDecoder<'_> {
        StreamDecoder {
            tokenizer: self,
            view: self.prepared.view(),
            machines: self.decoder.start(),
            options,
        }
    }

    /// Number of ids, holes included.
    pub fn vocab_size(&self) -> usize {
        self.prepared.n_tokens()
    }

    /// The text of a token as its source writes it (GPT-2's alphabet, `▁`, `##` and `<0xNN>` included).
    pub fn piece(&self, id: u32) -> Option<String> {
        let view = self.prepared.view();
        Some(piece(&view, id)?.text().into_owned())
    }

    /// Whether there is a token with this id.
    pub fn has(&self, id: u32) -> bool {
        piece(&self.prepared.view(), id).is_some()
    }

    /// The bytes that a token stands for inside a text: raw bytes for byte-level and `<0xNN>` tokens, `▁` as a space.
    pub fn token_bytes(&self, id: u32) -> Option<Vec<u8>> {
        let view = self.prepared.view();
        let p = piece(&view, id)?;
        if p.raw {
            return Some(p.bytes.to_vec());
        }
        if let Some(b) = p.byte() {
            return Some(vec![b]);
        }
        let metaspace = self.pipeline.decoder.iter().any(|s| match s {
            DecoderStep::Metaspace { .. } | DecoderStep::SentencePiece { .. } => true,
            DecoderStep::Replace {
                pattern: Pattern::String(s),
                content,
            } => s == "\u{2581}" && content == " ",
            _ => false,
        });
        Some(if metaspace && p.kind != TokenKind::Control {
            p.text().replace('\u{2581}', " ").into_bytes()
        } else {
            p.bytes.to_vec()
        })
    }

    /// The id of a piece written as [`Tokenizer::piece`] writes it: an added token first, else the model's.
    pub fn id_of(&self, piece: &str) -> Option<u32> {
        let view = self.prepared.view();
        for trie in [view.raw, view.norm] {
            if let Some((id, _)) = view.added(trie.get(piece.as_bytes())) {
                return Some(id);
            }
        }
        match alphabet_to_bytes(piece) {
            Some(bytes) if self.is_byte_level() => view.word(&bytes),
            _ => view.word(piece.as_bytes()),
        }
        .or_else(|| {
            (0..view.n_tokens() as u32)
                .find(|&id| view.token(id).is_some_and(|t| t == piece.as_bytes()))
        })
    }

    /// The beginning-of-sequence token.
    pub fn bos(&self) -> Option<u32> {
        self.pipeline.bos
    }

    /// The tokens that end a generation.
    pub fn eos(&self) -> &[u32] {
        &self.pipeline.eos
    }

    /// The padding token.
    pub fn pad(&self) -> Option<u32> {
        self.pipeline.pad
    }

    /// Whether a token is a control token: one that plain text never becomes.
    pub fn is_control(&self, id: u32) -> bool {
        self.special.binary_search(&id).is_ok()
            || self.prepared.view().kind(id) == TokenKind::Control
    }

    /// What kind of token an id is; absent beyond the vocabulary.
    pub fn token_kind(&self, id: u32) -> TokenKind {
        let view = self.prepared.view();
        match (id as usize) < view.n_tokens() {
            true => view.kind(id),
            false => TokenKind::Absent,
        }
    }

    /// The kind of model: "byte-level BPE", "BPE", "Unigram" or "WordPiece".
    pub fn kind(&self) -> &'static str {
        match &self.pipeline.model {
            ModelOptions::Bpe {
                byte_level: true, ..
            } => "byte-level BPE",
            ModelOptions::Bpe { .. } => "BPE",
            ModelOptions::Unigram { .. } => "Unigram",
            ModelOptions::WordPiece { .. } => "WordPiece",
        }
    }

    /// One line for people.
    pub fn describe(&self) -> String {
        format!(
            "{}, {} tokens, from {}",
            self.kind(),
            self.vocab_size(),
            self.pipeline.source
        )
    }

    /// The small parts of the tokenizer.
    pub fn pipeline(&self) -> &Pipeline {
        &self.pipeline
    }

    /// The byte tokens of a character of up to four bytes, if all of them exist.
    fn bytes_of(&self, bytes: &[u8]) -> Option<[u32; 4]> {
        let mut out = [0; 4];
        for (o, &b) in out.iter_mut().zip(bytes) {
            *o = self.byte_tokens[b as usize];
            if *o == trie::NONE {
                return None;
            }
        }
        Some(out)
    }

    fn is_byte_level(&self) -> bool {
        matches!(
            self.pipeline.model,
            ModelOptions::Bpe {
                byte_level: true,
                ..
            }
        )
    }
}

fn piece<'a>(view: &View<'a>, id: u32) -> Option<decode::Piece<'a>> {
    Some(decode::Piece {
        bytes: view.token(id)?,
        raw: view.flags(id) & RAW != 0,
        kind: view.kind(id),
    })
}

/// Turns ids into text one by one; see [`Tokenizer::decoder`].
pub struct StreamDecoder<'t> {
    tokenizer: &'t Tokenizer,
    view: View<'t>,
    machines: Vec<decode::Machine>,
    options: DecodeOptions,
}

impl StreamDecoder<'_> {
    /// Takes an id and appends the text that is complete to `out`: never part of a character. All of it together with
    /// [`StreamDecoder::finish`] is what [`Tokenizer::decode`] returns.
    pub fn push(&mut self, id: u32, out: &mut String) -> Result<()> {
        let Some(piece) = piece(&self.view, id) else {
            return Err(Error::invalid(format_args!(
                "token id {id} is not in the vocabulary of {} tokens",
                self.view.n_tokens()
            )));
        };
        if self.options.skip_special && self.tokenizer.is_control(id) {
            return Ok(());
        }
        self.tokenizer.decoder.push(&mut self.machines, piece, out)
    }

    /// Ends the text and appends what was held back.
    pub fn finish(mut self, out: &mut String) -> Result<()> {
        self.tokenizer.decoder.finish(&mut self.machines, out)
    }
}
