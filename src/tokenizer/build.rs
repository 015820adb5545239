//! From a [`Definition`] to the prepared form.

use std::borrow::Cow;
use std::collections::{BTreeMap, BinaryHeap, HashMap};

use super::charsmap::Charsmap;
use super::definition::{
    DecoderStep, Definition, Merge, Merges, ModelOptions, Normalizer, TemplateItem, Token,
    TokenKind,
};
use super::normalize;
use super::prepared::{
    IN_MODEL, NORM_TRIE, RAW, RAW_TRIE, Section, TRIE, TableBuilder, Writer, added_flags,
    flags_of_kind, hash_bytes, hash_pair,
};
use super::trie::{self, Trie};
use super::unicode::alphabet_to_bytes;
use crate::error::{Error, Result};

/// Key bit of an initial symbol: not the first of its word.
pub const INNER: u32 = 1 << 30;
/// Key bit of an initial symbol: the last of its word.
pub const LAST: u32 = 1 << 31;

/// Largest accepted vocabulary; published ones stay below 2^19.
const MAX_TOKENS: usize = 1 << 24;

impl Definition {
    /// The prepared form of this tokenizer. Errors name the token or option that does not fit.
    pub fn to_prepared(&self) -> Result<Vec<u8>> {
        let n = self.tokens.len();
        if n == 0 || n > MAX_TOKENS {
            return Err(Error::invalid(format_args!(
                "the vocabulary has {n} tokens, expected 1 to {MAX_TOKENS}"
            )));
        }
        self.check_ids()?;
        let mut w = Writer::new(n as u32);
        let config = serde_json::to_vec(&self.pipeline)
            .map_err(|e| Error::invalid(format_args!("tokenizer options: {e}")))?;
        w.put(Section::Config, config);
        let normalized = self.normalized_added()?;
        self.put_tokens(&mut w, &normalized)?;
        self.put_words(&mut w, &normalized)?;
        match &self.pipeline.model {
            ModelOptions::Bpe { .. } => self.put_bpe(&mut w)?,
            ModelOptions::Unigram { .. } | ModelOptions::WordPiece { .. } => {
                self.put_trie(&mut w)?
            }
        }
        if matches!(self.pipeline.model, ModelOptions::Unigram { .. }) {
            let scores = self.tokens.iter().flat_map(|t| t.score.to_le_bytes());
            w.put(Section::Scores, scores.collect());
        }
        if !self.charsmap.is_empty() {
            Charsmap::new(&self.charsmap)?;
            w.put(Section::Charsmap, self.charsmap.clone());
        }
        self.put_added(&mut w, &normalized)?;
        Ok(w.finish())
    }

    fn check_ids(&self) -> Result<()> {
        let n = self.tokens.len();
        let check = |what: &str, id: u32| {
            if (id as usize) < n {
                Ok(())
            } else {
                Err(Error::invalid(format_args!(
                    "{what} is {id}, but the vocabulary has {n} tokens"
                )))
            }
        };
        let p = &self.pipeline;
        for (what, id) in [("bos_token_id", p.bos), ("pad_token_id", p.pad)] {
            if let Some(id) = id {
                check(what, id)?;
            }
        }
        for &id in &p.eos {
            check("eos_token_id", id)?;
        }
        for item in &p.template {
            if let TemplateItem::Id(id) = item {
                check("a token id of the template", *id)?;
            }
        }
        match p.model {
            ModelOptions::Bpe { unk: Some(id), .. }
            | ModelOptions::Unigram { unk: Some(id), .. }
            | ModelOptions::WordPiece { unk: id, .. } => check("unk_token_id", id)?,
            _ => {}
        }
        for t in &self.added {
            check("the id of an added token", t.id)?;
        }
        if self.tokens.iter().any(|t| t.score.is_nan()) {
            return Err(Error::invalid("a token score is not a number"));
        }
        Ok(())
    }

    fn byte_level(&self) -> bool {
        matches!(
            self.pipeline.model,
            ModelOptions::Bpe {
                byte_level: true,
                ..
            }
        )
    }

    /// Whether the model reads and produces the token (in the alphabet it works in).
    fn usable(&self, t: &Token) -> bool {
        t.in_model && t.kind != TokenKind::Absent && (!self.byte_level() || t.raw)
    }

    /// The normalised text of the added tokens that are looked for in the normalised text, where it differs. It is also
    /// what they decode to.
    fn normalized_added(&self) -> Result<HashMap<u32, String>> {
        // SentencePiece leaves these pieces alone.
        if let Some(Normalizer::SentencePiece { .. }) = self.pipeline.normalizers.first() {
            return Ok(HashMap::new());
        }
        let steps = self
            .pipeline
            .normalizers
            .iter()
            .map(normalize::Step::new)
            .collect::<Result<Vec<_>>>()?;
        let tables = normalize::Tables {
            charsmap: match self.charsmap.as_slice() {
                [] => None,
                bytes => Some(Charsmap::new(bytes)?),
            },
            user_defined: Trie::EMPTY,
        };
        let mut out = HashMap::new();
        for t in self.added.iter().filter(|t| t.normalized) {
            let text = normalize::normalize(&steps, tables, Cow::Borrowed(&t.content), &mut true)?;
            if text != t.content {
                out.insert(t.id, text.into_owned());
            }
        }
        Ok(out)
    }

    fn put_tokens(&self, w: &mut Writer, normalized: &HashMap<u32, String>) -> Result<()> {
        let alphabet = self.pipeline.decoder.contains(&DecoderStep::ByteLevel);
        let mut offsets = Vec::with_capacity((self.tokens.len() + 1) * 4);
        let mut arena = Vec::new();
        let mut flags = Vec::with_capacity(self.tokens.len());
        for (id, t) in (0u32..).zip(&self.tokens) {
            offsets.extend_from_slice(&(arena.len() as u32).to_le_bytes());
            let mut raw = t.raw;
            match normalized.get(&id) {
                None => arena.extend_from_slice(&t.piece),
                Some(text) => {
                    let bytes = alphabet.then(|| alphabet_to_bytes(text)).flatten();
                    raw = bytes.is_some();
                    arena.extend_from_slice(bytes.as_deref().unwrap_or(text.as_bytes()));
                }
            }
            if u32::try_from(arena.len()).is_err() {
                return Err(Error::invalid(
                    "the tokens are longer than 4 GiB altogether",
                ));
            }
            let mut f = flags_of_kind(t.kind);
            if raw {
                f |= RAW;
            }
            if t.in_model {
                f |= IN_MODEL;
            }
            flags.push(f);
        }
        offsets.extend_from_slice(&(arena.len() as u32).to_le_bytes());
        w.put(Section::Offsets, offsets);
        w.put(Section::Arena, arena);
        w.put(Section::Flags, flags);
        Ok(())
    }

    fn put_words(&self, w: &mut Writer, normalized: &HashMap<u32, String>) -> Result<()> {
        let usable: Vec<(u32, &[u8])> = (0u32..)
            .zip(&self.tokens)
            // Look-ups compare with the stored text.
            .filter(|(id, t)| self.usable(t) && !t.piece.is_empty() && !normalized.contains_key(id))
            .map(|(id, t)| (id, t.piece.as_slice()))
            .collect();
        let mut table = TableBuilder::<1>::new(usable.len());
        for (id, piece) in usable {
            let slot = table.slot(hash_bytes(piece), |s| {
                self.tokens[s[0] as usize].piece == piece
            })?;
            slot[0] = id;
        }
        w.put(Section::Words, table.finish());
        Ok(())
    }

    /// The trie of a Unigram or WordPiece vocabulary.
    fn put_trie(&self, w: &mut Writer) -> Result<()> {
        let sentencepiece = matches!(
            self.pipeline.model,
            ModelOptions::Unigram {
                sentencepiece: true,
                ..
            }
        );
        let entries: Vec<(&[u8], u32)> = self
            .tokens
            .iter()
            .zip(0u32..)
            .filter(|(t, _)| {
                self.usable(t)
                    && (!sentencepiece
                        || matches!(
                            t.kind,
                            TokenKind::Normal | TokenKind::UserDefined | TokenKind::Unused
                        ))
            })
            .map(|(t, id)| (t.piece.as_slice(), id))
            .collect();
        w.put_trie(TRIE, trie::build(&entries)?);
        Ok(())
    }

    fn put_added(&self, w: &mut Writer, normalized: &HashMap<u32, String>) -> Result<()> {
        let mut raw: Vec<(&[u8], u32)> = Vec::new();
        let mut norm: Vec<(&[u8], u32)> = Vec::new();
        let mut list = Vec::with_capacity(self.added.len() * 8);
        for (t, i) in self.added.iter().zip(0u32..) {
            let mut f = 0;
            for (on, bit) in [
                (t.special, added_flags::SPECIAL),
                (t.single_word, added_flags::SINGLE_WORD),
                (t.lstrip, added_flags::LSTRIP),
                (t.rstrip, added_flags::RSTRIP),
            ] {
                f |= if on { bit } else { 0 };
            }
            list.extend_from_slice(&t.id.to_le_bytes());
            list.extend_from_slice(&f.to_le_bytes());
            if t.normalized {
                let text = normalized.get(&t.id).unwrap_or(&t.content);
                norm.push((text.as_bytes(), i));
            } else {
                raw.push((t.content.as_bytes(), i));
            }
        }
        w.put(Section::Added, list);
        for (sections, mut entries) in [(RAW_TRIE, raw), (NORM_TRIE, norm)] {
            // Of tokens with equal texts the first one counts, special ones before the others; a trie keeps the last.
            entries.sort_by_key(|&(_, i)| (!self.added[i as usize].special, i));
            entries.reverse();
            w.put_trie(sections, trie::build(&entries)?);
        }
        Ok(())
    }

    fn put_bpe(&self, w: &mut Writer) -> Result<()> {
        let ModelOptions::Bpe {
            byte_level,
            prefix,
            suffix,
            late_unk,
            ..
        } = &self.pipeline.model
        else {
            return Ok(());
        };
        let mut initial = Initial {
            byte_level: *byte_level,
            keys: BTreeMap::new(),
            next: self.tokens.len() as u32,
        };
        for (id, t) in (0u32..).zip(&self.tokens) {
            if !self.usable(t) || *late_unk && !mergeable(t.kind) {
                continue;
            }
            let piece = t.piece.as_slice();
            for inner in [false, true] {
                for last in [false, true] {
                    let (p, s) = (
                        if inner { prefix.as_bytes() } else { b"" },
                        if last { suffix.as_bytes() } else { b"" },
                    );
                    let middle = piece.strip_prefix(p).and_then(|m| m.strip_suffix(s));
                    if let Some(key) = middle.and_then(|m| initial.key(m)) {
                        let key = key | if inner { INNER } else { 0 } | if last { LAST } else { 0 };
                        initial.keys.insert(key, id);
                    }
                }
            }
        }
        let plain = prefix.is_empty() && suffix.is_empty();
        let merges: Vec<Merge> = match &self.merges {
            Merges::None => Vec::new(),
            Merges::Listed(list) => list.clone(),
            Merges::ByScore => self.derive_merges(&mut initial)?,
        };
        self.put_unused(w, &merges);
        let mut table = TableBuilder::<4>::new(merges.len());
        for m in &merges {
            let slot = table.slot(hash_pair(m.left, m.right), |s| {
                s[0] == m.left && s[1] == m.right
            })?;
            *slot = [m.left, m.right, m.rank, m.result];
        }
        w.put(Section::Merges, table.finish());
        if plain
            && !*byte_level
            && let Some(joins) = self.joins(&merges, &initial)
        {
            let mut table = TableBuilder::<2>::new(joins.len().max(1));
            for (a, b) in joins {
                *table.slot(hash_pair(a, b), |s| *s == [a, b])? = [a, b];
            }
            w.put(Section::Joins, table.finish());
        }
        let mut table = TableBuilder::<2>::new(initial.keys.len());
        for (&key, &symbol) in &initial.keys {
            *table.slot(hash_pair(key, 0), |s| s[0] == key)? = [key, symbol];
        }
        w.put(Section::Initial, table.finish());
        Ok(())
    }

    fn put_unused(&self, w: &mut Writer, merges: &[Merge]) {
        let mut unused: BTreeMap<u32, (u32, u32)> = BTreeMap::new();
        for m in merges {
            if self.tokens[m.result as usize].kind == TokenKind::Unused {
                unused.insert(m.result, (m.left, m.right));
            }
        }
        let bytes = unused
            .iter()
            .flat_map(|(&id, &(l, r))| [id, l, r])
            .flat_map(u32::to_le_bytes);
        w.put(Section::Unused, bytes.collect());
    }

    /// The rule that forms each token when any two neighbours may merge whose concatenation is a token, higher scores
    /// first. Inside the span of a token that gets formed, no other merge can have reached across its ends, so the last step of
    /// encoding the token on its own is the only rule that ever forms it.
    fn derive_merges(&self, initial: &mut Initial) -> Result<Vec<Merge>> {
        let mut by_hash: HashMap<(u64, usize), u32> = HashMap::new();
        for (id, t) in (0u32..).zip(&self.tokens) {
            if self.usable(t) && mergeable(t.kind) && !t.piece.is_empty() {
                by_hash.insert((Rolling::of(&t.piece), t.piece.len()), id);
            }
        }
        let mut scores: Vec<f64> = by_hash
            .values()
            .map(|&id| self.tokens[id as usize].score)
            .collect();
        scores.sort_by(|a, b| b.total_cmp(a));
        scores.dedup();
        let rank = |id: u32| {
            let s = self.tokens[id as usize].score;
            scores.partition_point(|&x| x > s) as u32
        };
        let mut out = Vec::with_capacity(by_hash.len());
        let mut work = Work::default();
        for (id, t) in (0u32..).zip(&self.tokens) {
            if by_hash.get(&(Rolling::of(&t.piece), t.piece.len())) != Some(&id) {
                continue;
            }
            let Some((left, right)) =
                work.last_merge(&t.piece, initial.byte_level, &by_hash, &rank)
            else {
                continue;
            };
            let mut symbol = |piece: &[u8]| match by_hash.get(&(Rolling::of(piece), piece.len())) {
                Some(&id) => Some(id),
                None => initial.virtual_symbol(piece),
            };
            if let (Some(left), Some(right)) = (symbol(left), symbol(right)) {
                out.push(Merge {
                    left,
                    right,
                    rank: rank(id),
                    result: id,
                });
            }
        }
        Ok(out)
    }

    /// The pairs of characters that stand at the seam of some merge; `None` when the merges use other symbols (bytes of a
    /// fallback, unknown), for which the seam is not a pair of characters.
    fn joins(&self, merges: &[Merge], initial: &Initial) -> Option<Vec<(u32, u32)>> {
        let symbols: HashMap<u32, u32> = initial.keys.iter().map(|(&k, &s)| (s, k)).collect();
        let text = |id: u32| -> Option<(char, char)> {
            match self.tokens.get(id as usize) {
                Some(t) if matches!(t.kind, TokenKind::Byte | TokenKind::Unknown) => None,
                Some(t) => {
                    let s = std::str::from_utf8(&t.piece).ok()?;
                    if s.len() == 6 && s.starts_with("<0x") && s.ends_with('>') {
                        return None;
                    }
                    Some((s.chars().next()?, s.chars().next_back()?))
                }
                None => {
                    let c = char::from_u32(*symbols.get(&id)?)?;
                    Some((c, c))
                }
            }
        };
        let mut out = Vec::with_capacity(merges.len());
        for m in merges {
            let (l, r) = (text(m.left)?.1, text(m.right)?.0);
            // A character that is no symbol cannot begin or end anything that gets merged.
            if let (Some(&l), Some(&r)) =
                (initial.keys.get(&(l as u32)), initial.keys.get(&(r as u32)))
            {
                out.push((l, r));
            }
        }
        out.sort_unstable();
        out.dedup();
        Some(out)
    }
}

fn mergeable(kind: TokenKind) -> bool {
    matches!(
        kind,
        TokenKind::Normal | TokenKind::UserDefined | TokenKind::Unused
    )
}

/// The symbols that characters (or bytes) begin as.
struct Initial {
    byte_level: bool,
    keys: BTreeMap<u32, u32>,
    next: u32,
}

impl Initial {
    fn key(&self, middle: &[u8]) -> Option<u32> {
        if self.byte_level {
            return match middle {
                [b] => Some(*b as u32),
                _ => None,
            };
        }
        let mut chars = std::str::from_utf8(middle).ok()?.chars();
        match (chars.next(), chars.next()) {
            (Some(c), None) => Some(c as u32),
            _ => None,
        }
    }

    /// A symbol for a character that is no token but part of one.
    fn virtual_symbol(&mut self, piece: &[u8]) -> Option<u32> {
        let key = self.key(piece)?;
        let next = &mut self.next;
        Some(*self.keys.entry(key).or_insert_with(|| {
            *next += 1;
            *next - 1
        }))
    }
}

/// A polynomial hash modulo 2^61 - 1, of which that of any part of a text follows from two prefixes.
struct Rolling;

impl Rolling {
    const P: u64 = (1 << 61) - 1;
    /// Without a small multiple near zero modulo P, which would make short strings collide.
    const BASE: u64 = 0x1a2f_93c5_7d1b_e649;

    fn mul(a: u64, b: u64) -> u64 {
        let p = a as u128 * b as u128;
        let r = (p as u64 & Self::P) + (p >> 61) as u64;
        if r >= Self::P { r - Self::P } else { r }
    }

    fn push(h: u64, byte: u8) -> u64 {
        let r = Self::mul(h, Self::BASE) + byte as u64 + 1;
        if r >= Self::P { r - Self::P } else { r }
    }

    fn of(bytes: &[u8]) -> u64 {
        bytes.iter().fold(0, |h, &b| Self::push(h, b))
    }
}

/// Buffers for deriving merges.
#[derive(Default)]
struct Work {
    hashes: Vec<u64>,
    powers: Vec<u64>,
    ends: Vec<usize>,
    next: Vec<usize>,
    prev: Vec<usize>,
    heap: BinaryHeap<(std::cmp::Reverse<u32>, std::cmp::Reverse<usize>, usize)>,
}

impl Work {
    /// The two parts that the last merge of `piece` joins; `None` if merging does not end in the whole piece.
    fn last_merge<'p>(
        &mut self,
        piece: &'p [u8],
        byte_level: bool,
        by_hash: &HashMap<(u64, usize), u32>,
        rank: &impl Fn(u32) -> u32,
    ) -> Option<(&'p [u8], &'p [u8])> {
        let mut starts: Vec<usize> = if byte_level {
            (0..piece.len()).collect()
        } else {
            let text = std::str::from_utf8(piece).ok()?;
            text.char_indices().map(|(i, _)| i).collect()
        };
        let n = starts.len();
        if n < 2 {
            return None;
        }
        starts.push(piece.len());
        self.hashes.clear();
        self.hashes.push(0);
        for &b in piece {
            self.hashes
                .push(Rolling::push(self.hashes[self.hashes.len() - 1], b));
        }
        if self.powers.is_empty() {
            self.powers.push(1);
        }
        while self.powers.len() <= piece.len() {
            let last = self.powers[self.powers.len() - 1];
            self.powers.push(Rolling::mul(last, Rolling::BASE));
        }
        self.ends.clear();
        self.ends.extend_from_slice(&starts[1..]);
        self.next.clear();
        self.next.extend(1..=n);
        self.prev.clear();
        self.prev.extend((0..n).map(|i| i.wrapping_sub(1)));
        self.heap.clear();
        let (hashes, powers) = (&self.hashes, &self.powers);
        let lookup = |from: usize, to: usize| {
            let low = Rolling::mul(hashes[from], powers[to - from]);
            let h = (hashes[to] + Rolling::P - low) % Rolling::P;
            by_hash.get(&(h, to - from)).map(|&id| rank(id))
        };
        for i in 0..n - 1 {
            if let Some(r) = lookup(starts[i], starts[i + 2]) {
                self.heap
                    .push((std::cmp::Reverse(r), std::cmp::Reverse(i), starts[i + 2]));
            }
        }
        let mut left = n;
        let mut last = None;
        while let Some((_, std::cmp::Reverse(i), end)) = self.heap.pop() {
            let right = self.next[i];
            // Gone, at the end, or its span has changed: stale.
            if self.ends[i] == 0 || right == n || self.ends[right] != end {
                continue;
            }
            last = Some((starts[i], starts[right], end));
            left -= 1;
            self.ends[i] = end;
            self.ends[right] = 0;
            let after = self.next[right];
            self.next[i] = after;
            if after < n {
                self.prev[after] = i;
                if let Some(r) = lookup(starts[i], self.ends[after]) {
                    let end = self.ends[after];
                    self.heap
                        .push((std::cmp::Reverse(r), std::cmp::Reverse(i), end));
                }
            }
            let before = self.prev[i];
            if before != usize::MAX
                && let Some(r) = lookup(starts[before], end)
            {
                self.heap
                    .push((std::cmp::Reverse(r), std::cmp::Reverse(before), end));
            }
        }
        match last {
            Some((a, m, b)) if left == 1 && a == 0 && b == piece.len() => {
                Some((&piece[a..m], &piece[m..b]))
            }
            _ => None,
        }
    }
}
