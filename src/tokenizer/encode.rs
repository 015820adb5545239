//! From text to ids: added tokens, normalisation, words, model, template.

use std::borrow::Cow;

use super::added::{self, Part, Special};
use super::build::{INNER, LAST};
use super::charsmap::Charsmap;
use super::definition::{ModelOptions, Normalizer, TemplateItem, TokenKind};
use super::normalize::{self, Tables};
use super::prepared::{View, flags_of_kind};
use super::split::{self, Words};
use super::trie::{NONE, Trie};
use super::unicode::char_to_byte;
use super::{EncodeOptions, Tokenizer, bpe, unigram, wordpiece};
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

    fn wordpiece_word(&mut self, word: &str) {
        let ModelOptions::WordPiece {
            unk,
            prefix,
            max_chars,
        } = &self.t.pipeline.model
        else {
            return;
        };
        if self.cached(word.as_bytes()) {
            return;
        }
        let from = self.out.len();
        let allow = self.allow();
        let rest = self.view.trie.walk(0, prefix.as_bytes());
        wordpiece::encode(
            &self.view,
            word,
            Some(0),
            rest,
            *unk,
            *max_chars,
            |id| bpe::Allowed::allows(&allow, id),
            &mut self.out,
        );
        self.remember(word.as_bytes(), from);
    }

    fn allow(&self) -> Allow<'a> {
        Allow {
            view: self.view,
            all: self.parse_special,
        }
    }

    /// Appends the ids of a word that was seen before.
    fn cached(&mut self, word: &[u8]) -> bool {
        if self.cache.is_empty() {
            return false;
        }
        let Some(key) = Key::new(word) else {
            return false;
        };
        let e = &self.cache[key.slot()];
        if e.key != key {
            return false;
        }
        self.out.extend_from_slice(&e.ids[..e.n as usize]);
        true
    }

    /// Remembers that `word` became the ids from `from` on.
    fn remember(&mut self, word: &[u8], from: usize) {
        let ids = &self.out[from..];
        if self.cache.is_empty() || ids.len() > 8 {
            return;
        }
        let Some(key) = Key::new(word) else { return };
        let e = &mut self.cache[key.slot()];
        e.key = key;
        e.n = ids.len() as u8;
        e.ids[..ids.len()].copy_from_slice(ids);
    }

    /// A word of a byte-level model.
    fn byte_word(&mut self, word: &[u8]) {
        let ModelOptions::Bpe {
            ignore_merges,
            fuse_unk,
            unk,
            ..
        } = &self.t.pipeline.model
        else {
            return;
        };
        if self.cached(word) {
            return;
        }
        let from = self.out.len();
        let allow = self.allow();
        if *ignore_merges
            && let Some(id) = self.view.word(word)
            && bpe::Allowed::allows(&allow, id)
        {
            self.out.push(id);
            self.remember(word, from);
            return;
        }
        if word.len() > bpe::SCAN
            && let Some(table) = &self.bytes
            && table[word[0] as usize] != NONE
            && word.iter().all(|&b| b == word[0])
        {
            self.runs.clear();
            self.runs.push(bpe::Run {
                id: table[word[0] as usize],
                count: word.len() as u32,
                start: 0,
                width: 1,
            });
            if bpe::merge_runs(&self.view, &mut self.runs, allow) {
                for run in &self.runs {
                    self.out
                        .extend(std::iter::repeat_n(run.id, run.count as usize));
                }
                return;
            }
        }
        self.symbols.clear();
        let mut unknown = false;
        for (i, &b) in word.iter().enumerate() {
            let id = match &self.bytes {
                Some(table) => table[b as usize],
                None => {
                    let inner = if i > 0 { INNER } else { 0 };
                    let last = if i + 1 == word.len() { LAST } else { 0 };
                    self.initial(b as u32, inner, last)
                }
            };
            let start = i as u32;
            if id != NONE {
                self.symbols.push(bpe::Symbol { id, start });
                unknown = false;
            } else if let Some(unk) = *unk {
                if !(unknown && *fuse_unk) {
                    self.symbols.push(bpe::Symbol { id: unk, start });
                }
                unknown = true;
            }
        }
        bpe::merge(&self.view, &mut self.symbols, allow, &mut self.bpe);
        self.out.extend(self.symbols.iter().map(|s| s.id));
        self.remember(word, from);
    }

    /// The symbol of a character at its place in the word; [`NONE`] if there is none.
    fn initial(&self, c: u32, inner: u32, last: u32) -> u32 {
        let ModelOptions::Bpe { prefix, suffix, .. } = &self.t.pipeline.model else {
            return NONE;
        };
        let inner = if prefix.is_empty() { 0 } else { inner };
        let last = if suffix.is_empty() { 0 } else { last };
        self.view.initial(c | inner | last).unwrap_or(NONE)
    }

    /// A word (or a whole text) of a character-level model.
    fn char_word(&mut self, word: &str) {
        let ModelOptions::Bpe {
            ignore_merges,
            byte_fallback,
            fuse_unk,
            unk,
            late_unk,
            ..
        } = &self.t.pipeline.model
        else {
            return;
        };
        if *ignore_merges
            && let Some(id) = self.view.word(word.as_bytes())
            && bpe::Allowed::allows(&self.allow(), id)
        {
            self.out.push(id);
            return;
        }
        self.runs.clear();
        self.unknown_before = false;
        // An unknown token that is not written yet: `tokenizers` writes it at the next known character.
        let mut unknown: Option<(u32, u32)> = None;
        for (i, c) in word.char_indices() {
            let inner = if i > 0 { INNER } else { 0 };
            let last = if i + c.len_utf8() == word.len() {
                LAST
            } else {
                0
            };
            let id = self.initial(c as u32, inner, last);
            let start = i as u32;
            let width = c.len_utf8() as u32;
            if id != NONE || *late_unk {
                if let Some((id, start)) = unknown.take() {
                    self.symbol(word, id, start, 0);
                }
                self.symbol(word, id, start, width);
                continue;
            }
            if *byte_fallback {
                let bytes = &word.as_bytes()[i..i + c.len_utf8()];
                if let Some(ids) = self.t.bytes_of(bytes) {
                    for &id in &ids[..bytes.len()] {
                        self.symbol(word, id, start, 0);
                    }
                    continue;
                }
            }
            if let Some(id) = *unk {
                match unknown {
                    Some(_) if *fuse_unk => {}
                    Some((before, at)) => {
                        self.symbol(word, before, at, 0);
                        unknown = Some((id, start));
                    }
                    None => unknown = Some((id, start)),
                }
            }
        }
        if let Some((id, start)) = unknown {
            self.symbol(word, id, start, 0);
        }
        self.segment(word, word.len());
    }

    /// Appends a symbol; where no merge can join it with the one before, what came before is encoded first.
    fn symbol(&mut self, word: &str, id: u32, start: u32, width: u32) {
        if let Some(last) = self.runs.last_mut() {
            if self.view.has_joins() && !self.view.joins(last.id, id) {
                self.segment(word, start as usize);
            } else if last.id == id && last.width == width {
                last.count += 1;
                return;
            }
        }
        self.runs.push(bpe::Run {
            id,
            count: 1,
            start,
            width,
        });
    }

    /// Encodes the collected symbols, which end at `end` of the word.
    fn segment(&mut self, word: &str, end: usize) {
        let mut runs = std::mem::take(&mut self.runs);
        self.segment_of(word, end, &mut runs);
        runs.clear();
        self.runs = runs;
    }

    fn segment_of(&mut self, word: &str, end: usize, runs: &mut Vec<bpe::Run>) {
        let Some(first) = runs.first() else { return };
        let bytes = word
            .as_bytes()
            .get(first.start as usize..end)
            .unwrap_or(&[]);
        let symbols: usize = runs.iter().map(|r| r.count as usize).sum();
        // Fallback bytes and unknown tokens are segments of one symbol wherever segments are cut.
        let cacheable = symbols > 1 && self.view.has_joins();
        if cacheable && self.cached(bytes) {
            self.unknown_before = false;
            return;
        }
        let allow = self.allow();
        let from = self.out.len();
        let mut known = true;
        if symbols > bpe::SCAN
            && runs.len() <= bpe::MAX_RUNS
            && bpe::merge_runs(&self.view, runs, allow)
        {
            for run in runs {
                known &= self.write(word, run.id, run.start, run.width, run.count);
            }
        } else {
            let mut list = std::mem::take(&mut self.symbols);
            list.clear();
            for run in runs {
                let of_run = |k| bpe::Symbol {
                    id: run.id,
                    start: run.start + k * run.width,
                };
                list.extend((0..run.count).map(of_run));
            }
            bpe::merge(&self.view, &mut list, allow, &mut self.bpe);
            for (i, s) in list.iter().enumerate() {
                let to = list.get(i + 1).map_or(end as u32, |n| n.start);
                known &= self.write(word, s.id, s.start, to.saturating_sub(s.start), 1);
            }
            self.symbols = list;
        }
        if cacheable && known {
            self.remember(bytes, from);
        }
    }

    /// Appends a token, or what stands for an unknown character, `count` times; returns whether it was a token.
    fn write(&mut self, word: &str, id: u32, start: u32, width: u32, count: u32) -> bool {
        let token = (id as usize) < self.view.n_tokens();
        for k in 0..count {
            if token {
                self.known(id);
            } else {
                let at = (start + k * width) as usize;
                let bytes = word.as_bytes().get(at..at + width as usize);
                self.late_unknown(bytes.unwrap_or(&[]));
            }
        }
        token
    }

    /// Appends a token; an unused piece is taken apart into what it was merged from.
    fn known(&mut self, id: u32) {
        self.unknown_before = false;
        if self.view.kind(id) != TokenKind::Unused {
            self.out.push(id);
            return;
        }
        let mut stack = vec![id];
        // A tree of merges has fewer leaves than the longest text has characters; damaged tables may hold cycles.
        let mut steps = 1 << 16;
        while let Some(id) = stack.pop() {
            steps -= 1;
            match self.view.unused(id) {
                Some((l, r)) if self.view.kind(id) == TokenKind::Unused && steps > 0 => {
                    stack.push(r);
                    stack.push(l);
                }
                _ => self.out.push(id),
            }
            if steps == 0 {
                return;
            }
        }
    }

    /// A character that is no token (SentencePiece rules): its bytes, or one unknown token for a run.
    fn late_unknown(&mut self, bytes: &[u8]) {
        let ModelOptions::Bpe {
            byte_fallback, unk, ..
        } = &self.t.pipeline.model
        else {
            return;
        };
        if *byte_fallback {
            let ids = bytes.iter().map(|&b| self.t.byte_tokens[b as usize]);
            if ids.clone().all(|id| id != NONE) {
                self.out.extend(ids);
                self.unknown_before = true;
                return;
            }
        }
        if let Some(unk) = *unk
            && !self.unknown_before
        {
            self.out.push(unk);
        }
        self.unknown_before = true;
    }

    fn unigram_word(&mut self, word: &str) -> Result<()> {
        let ModelOptions::Unigram {
            unk,
            byte_fallback,
            unk_score,
            sentencepiece,
            max_score,
        } = self.t.pipeline.model
        else {
            return Ok(());
        };
        if self.cached(word.as_bytes()) {
            return Ok(());
        }
        let from = self.out.len();
        let options = unigram::Options {
            unk,
            unk_score,
            sentencepiece,
            max_score,
        };
        let (t, view, all) = (self.t, self.view, self.parse_special);
        // Plain text never becomes a control token, not even one that the model lists as a piece.
        let allowed =
            |id: u32| all || !matches!(view.kind(id), TokenKind::Control | TokenKind::Unknown);
        let out = &mut self.out;
        let mut missing = false;
        unigram::encode(
            &view,
            word,
            &options,
            allowed,
            &mut self.unigram,
            |lo, hi, id| {
                if id != NONE {
                    out.push(id);
                    return;
                }
                let run = &word.as_bytes()[lo..hi];
                let whole = view.trie.get(run);
                if !sentencepiece && whole != NONE && allowed(whole) {
                    out.push(whole);
                    return;
                }
                if byte_fallback {
                    let ids = run.iter().map(|&b| t.byte_tokens[b as usize]);
                    if ids.clone().all(|id| id != NONE) {
                        out.extend(ids);
                        return;
                    }
                }
                match unk {
                    Some(unk) => out.push(unk),
                    None => missing = true,
                }
            },
        );
        if missing {
            return Err(Error::invalid(
                "the text holds a character that is not in the vocabulary, and the tokenizer has no unknown token",
            ));
        }
        self.remember(word.as_bytes(), from);
        Ok(())
    }
}
