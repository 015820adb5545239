//! From one word to ids: the cache, pairs of bytes or characters, word pieces, segments, and what is unknown.

use super::{Allow, Encoder, Key};
use crate::error::{Error, Result};
use crate::tokenizer::build::{INNER, LAST};
use crate::tokenizer::definition::{ModelOptions, TokenKind};
use crate::tokenizer::trie::NONE;
use crate::tokenizer::{bpe, unigram, wordpiece};

impl<'a> Encoder<'a> {
    pub(super) fn wordpiece_word(&mut self, word: &str) {
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
    pub(super) fn byte_word(&mut self, word: &[u8]) {
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
    pub(super) fn char_word(&mut self, word: &str) {
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

    pub(super) fn unigram_word(&mut self, word: &str) -> Result<()> {
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
