//! From text to ids: added tokens, normalisation, words, model, template.

mod words;

use std::borrow::Cow;

use super::added::{self, Part, Special};
use super::charsmap::Charsmap;
use super::definition::{ModelOptions, Normalizer, TemplateItem, TokenKind};
use super::normalize::{self, Tables};
use super::prepared::{View, flags_of_kind};
use super::split::{self, Words};
use super::trie::{NONE, Trie};
use super::unicode::char_to_byte;
use super::{EncodeOptions, Tokenizer, bpe, unigram};
use crate::error::{Error, Result};

/// Texts from this length on get a cache of words.
const CACHE_FROM: usize = 256;
/// Words that are cut off before they are encoded.
const BATCH: usize = 4096;
/// Slots of the cache, a power of two.
const CACHE_SLOTS: usize = 8192;

/// A letter that no normaliser changes and no published special token has.
const MASK: char = '\u{1c2}';

/// The ids of `text`.
pub fn encode(t: &Tokenizer, text: &str, options: EncodeOptions) -> Result<Vec<u32>> {
    let special = match options.parse_special {
        true => Special::Everywhere,
        false => Special::Nowhere,
    };
    let mut e = Encoder::new(t, text, special)?;
    if !options.add_special || t.pipeline.template.is_empty() {
        e.text(text)?;
        return Ok(e.out);
    }
    for item in &t.pipeline.template {
        match item {
            TemplateItem::Id(id) => e.out.push(*id),
            TemplateItem::Text => e.text(text)?,
        }
    }
    Ok(e.out)
}

/// The ids of `text`, in which special tokens count outside of the marked ranges.
pub fn encode_marked(t: &Tokenizer, text: &str, marked: &[(usize, usize)]) -> Result<Vec<u32>> {
    let mut e = Encoder::new(t, text, Special::Outside(marked))?;
    e.text(text)?;
    Ok(e.out)
}

/// The symbols of the 256 bytes, for a byte-level model without prefix and suffix.
fn bytes_as_symbols(t: &Tokenizer, view: &View) -> Option<Box<[u32; 256]>> {
    match &t.pipeline.model {
        ModelOptions::Bpe {
            byte_level: true,
            prefix,
            suffix,
            ..
        } if prefix.is_empty() && suffix.is_empty() => {
            let mut out = Box::new([NONE; 256]);
            for b in 0..256 {
                out[b] = view.initial(b as u32).unwrap_or(NONE);
            }
            Some(out)
        }
        _ => None,
    }
}

/// Control tokens only come from plain text when special tokens are parsed.
#[derive(Clone, Copy)]
struct Allow<'a> {
    view: View<'a>,
    all: bool,
}

impl bpe::Allowed for Allow<'_> {
    #[inline]
    fn allows(&self, id: u32) -> bool {
        self.all || self.view.flags(id) & 0x0f != flags_of_kind(TokenKind::Control)
    }
}

struct Encoder<'a> {
    t: &'a Tokenizer,
    view: View<'a>,
    /// Where special tokens count when the text is cut at added tokens.
    special: Special<'a>,
    /// Whether the model itself may produce control tokens.
    parse_special: bool,
    symbols: Vec<bpe::Symbol>,
    runs: Vec<bpe::Run>,
    bpe: bpe::Scratch,
    unigram: unigram::Scratch,
    bytes: Option<Box<[u32; 256]>>,
    cache: Vec<Entry>,
    unknown_before: bool,
    word: Vec<u8>,
    out: Vec<u32>,
}

/// A word that was encoded before: its bytes and its ids.
#[derive(Clone, Copy, Default)]
struct Entry {
    key: Key,
    n: u8,
    ids: [u32; 8],
}

/// A word of up to 23 bytes, padded with zeros; the last byte is its length.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Key([u64; 3]);

impl Key {
    fn new(word: &[u8]) -> Option<Self> {
        if word.is_empty() || word.len() > 23 {
            return None;
        }
        let mut key = [0u64; 3];
        let mut chunks = word.chunks_exact(8);
        let mut i = 0;
        for c in &mut chunks {
            key[i] = u64::from_le_bytes([c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7]]);
            i += 1;
        }
        for &b in chunks.remainder().iter().rev() {
            key[i] = key[i] << 8 | b as u64;
        }
        key[2] |= (word.len() as u64) << 56;
        Some(Key(key))
    }

    fn slot(&self) -> usize {
        let [a, b, c] = self.0;
        let h = (a ^ b.rotate_left(23) ^ c.rotate_left(46)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (h >> 32) as usize & (CACHE_SLOTS - 1)
    }
}

impl<'a> Encoder<'a> {
    fn new(t: &'a Tokenizer, text: &str, special: Special<'a>) -> Result<Self> {
        if u32::try_from(text.len()).is_err() {
            return Err(Error::limit(format_args!(
                "a text of {} bytes is longer than 4 GiB",
                text.len()
            )));
        }
        let view = t.prepared.view();
        let cache = if text.len() >= CACHE_FROM {
            vec![Entry::default(); CACHE_SLOTS]
        } else {
            Vec::new()
        };
        Ok(Encoder {
            t,
            view,
            special,
            parse_special: matches!(special, Special::Everywhere),
            symbols: Vec::new(),
            runs: Vec::new(),
            bpe: bpe::Scratch::default(),
            unigram: unigram::Scratch::default(),
            bytes: bytes_as_symbols(t, &view),
            cache,
            unknown_before: false,
            word: Vec::new(),
            out: Vec::new(),
        })
    }

    fn text(&mut self, text: &str) -> Result<()> {
        let t = self.t;
        let mut parts = Vec::new();
        let (raw, first) = (self.view.raw, &t.raw_first);
        added::partition(&self.view, raw, first, text, self.special, &mut parts);
        let sentencepiece = matches!(
            t.pipeline.normalizers.first(),
            Some(Normalizer::SentencePiece { .. })
        );
        let tables = Tables {
            charsmap: match self.view.charsmap {
                [] => None,
                bytes => Some(Charsmap::new(bytes)?),
            },
            user_defined: if sentencepiece {
                self.view.norm
            } else {
                Trie::EMPTY
            },
        };
        // SentencePiece's Unigram knows user-defined pieces itself.
        let norm = match t.pipeline.model {
            ModelOptions::Unigram {
                sentencepiece: true,
                ..
            } => Trie::EMPTY,
            _ => self.view.norm,
        };
        let mut inner = Vec::new();
        for part in parts {
            let (lo, hi) = match part {
                Part::Token(id) => {
                    self.out.push(id);
                    continue;
                }
                Part::Text(lo, hi) => (lo, hi),
            };
            let mut at_start = lo == 0;
            let normal = Cow::Borrowed(&text[lo..hi]);
            let normal = normalize::normalize(&t.normalizers, tables, normal, &mut at_start)?;
            inner.clear();
            let first = &t.norm_first;
            let special = match self.special {
                Special::Outside(marked) if t.norm_special && added::overlap(marked, lo, hi) => {
                    let marked = marked
                        .iter()
                        .filter(|(start, end)| *end > lo && *start < hi);
                    let marked: Vec<_> = marked
                        .map(|&(start, end)| (start.max(lo) - lo, end.min(hi) - lo))
                        .collect();
                    if !self.same_special(norm, tables, &text[lo..hi], &normal, &marked)? {
                        self.apart(norm, tables, &text[lo..hi], &marked, lo == 0)?;
                        continue;
                    }
                    Special::Everywhere
                }
                Special::Outside(marked) if added::overlap(marked, lo, hi) => Special::Nowhere,
                Special::Outside(_) => Special::Everywhere,
                other => other,
            };
            added::partition(&self.view, norm, first, &normal, special, &mut inner);
            for part in &inner {
                match *part {
                    Part::Token(id) => self.out.push(id),
                    Part::Text(lo, hi) => self.words(&normal[lo..hi], at_start && lo == 0)?,
                }
            }
        }
        Ok(())
    }

    /// Whether a text has the same special tokens with something else in its marked ranges: then none comes from there. Normalisation does
    /// not say which byte becomes which, so that is the question that can be answered.
    fn same_special(
        &self,
        norm: Trie,
        tables: Tables,
        text: &str,
        normal: &str,
        marked: &[(usize, usize)],
    ) -> Result<bool> {
        let specials = |text: &str| {
            let mut parts = Vec::new();
            let first = &self.t.norm_first;
            added::partition(
                &self.view,
                norm,
                first,
                text,
                Special::Everywhere,
                &mut parts,
            );
            parts.retain(
                |part| matches!(part, Part::Token(id) if self.t.special.binary_search(id).is_ok()),
            );
            parts
        };
        let found = specials(normal);
        if found.is_empty() {
            return Ok(true);
        }
        let mut masked = String::new();
        let mut from = 0;
        for &(start, end) in marked {
            masked.push_str(&text[from..start]);
            masked.extend(text[start..end].chars().map(|_| MASK));
            from = end;
        }
        masked.push_str(&text[from..]);
        let mut at_start = true;
        let masked = normalize::normalize(
            &self.t.normalizers,
            tables,
            Cow::Owned(masked),
            &mut at_start,
        )?;
        Ok(specials(&masked) == found)
    }

    /// Encodes a text whose marked ranges hold what normalisation would turn into special tokens: those outside are cut out first, as they are
    /// written, and in the rest there are none.
    fn apart(
        &mut self,
        norm: Trie,
        tables: Tables,
        text: &str,
        marked: &[(usize, usize)],
        first_part: bool,
    ) -> Result<()> {
        let t = self.t;
        let mut parts = Vec::new();
        let first = &t.norm_first;
        let special = Special::Outside(marked);
        added::partition(&self.view, norm, first, text, special, &mut parts);
        let mut inner = Vec::new();
        for part in parts {
            let (lo, hi) = match part {
                Part::Token(id) => {
                    self.out.push(id);
                    continue;
                }
                Part::Text(lo, hi) => (lo, hi),
            };
            let mut at_start = first_part && lo == 0;
            let normal = Cow::Borrowed(&text[lo..hi]);
            let normal = normalize::normalize(&t.normalizers, tables, normal, &mut at_start)?;
            inner.clear();
            added::partition(
                &self.view,
                norm,
                first,
                &normal,
                Special::Nowhere,
                &mut inner,
            );
            for part in &inner {
                match *part {
                    Part::Token(id) => self.out.push(id),
                    Part::Text(lo, hi) => self.words(&normal[lo..hi], at_start && lo == 0)?,
                }
            }
        }
        Ok(())
    }

    /// Cuts a text into words and encodes them.
    fn words(&mut self, text: &str, at_start: bool) -> Result<()> {
        let t = self.t;
        // A first step that only cuts is done bit by bit, so that the list of words stays small.
        let Some((first, rest)) = t
            .pre_tokenizers
            .split_first()
            .filter(|(s, _)| s.only_cuts())
        else {
            return self.batch(Words::new(Cow::Borrowed(text), at_start), &t.pre_tokenizers);
        };
        let mut batch = Vec::with_capacity(BATCH);
        let all = (0, text.len() as u32);
        first.cut(text, all, &mut |range| {
            batch.push(range);
            if batch.len() < BATCH {
                return Ok(());
            }
            let full = std::mem::replace(&mut batch, Vec::with_capacity(BATCH));
            self.batch(Words::of(text, full, at_start), rest)
        })?;
        self.batch(Words::of(text, batch, at_start), rest)
    }

    /// Runs the remaining steps over some words and encodes the result.
    fn batch(&mut self, mut words: Words, steps: &[split::Step]) -> Result<()> {
        let t = self.t;
        for step in steps {
            split::apply(step, &mut words)?;
        }
        let Words {
            text,
            ranges,
            alphabet,
            ..
        } = words;
        // Without a byte-level step a normaliser has written the alphabet.
        let alphabet = alphabet
            || t.pipeline
                .normalizers
                .iter()
                .any(|n| matches!(n, Normalizer::ByteLevel));
        for (lo, hi) in ranges {
            let word = &text[lo as usize..hi as usize];
            match &t.pipeline.model {
                _ if word.is_empty() => {}
                ModelOptions::Bpe {
                    byte_level: true, ..
                } if alphabet => {
                    let mut buffer = std::mem::take(&mut self.word);
                    buffer.clear();
                    buffer.extend(word.chars().filter_map(char_to_byte));
                    self.byte_word(&buffer);
                    self.word = buffer;
                }
                ModelOptions::Bpe {
                    byte_level: true, ..
                } => self.byte_word(word.as_bytes()),
                ModelOptions::Bpe { .. } => self.char_word(word),
                ModelOptions::Unigram { .. } => self.unigram_word(word)?,
                ModelOptions::WordPiece { .. } => self.wordpiece_word(word),
            }
        }
        Ok(())
    }
}
