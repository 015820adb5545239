//! The prepared form: a tokenizer as flat little-endian tables that are used in place.
//!
//! ```text
//! 0   magic "QUERNTOK"            8 bytes
//! 8   version                     u32 (1)
//! 12  number of tokens            u32
//! 16  sections                    SECTIONS x { offset u64, length u64 }, offsets from the start, multiples of 8
//! ... the sections, zero padded, in the order of `Section`
//! ```
//!
//! Hash tables are open addressing with linear probing over a power of two of slots; an empty slot holds [`NONE`]. Opening
//! checks magic, version, that every section lies inside the bytes and has a length that fits its element and the number of
//! tokens, and that the token offsets ascend. Everything else is checked where it is used: an id from a table is looked up with
//! bounds, probing is bounded by the number of slots, trie walks by the key.

use super::definition::TokenKind;
use super::trie::{NONE, Trie, TrieBytes, u32_at};
use crate::bytes::Bytes;
use crate::error::{Error, Result};

/// First bytes of the prepared form.
pub const MAGIC: &[u8; 8] = b"QUERNTOK";
/// Version of the layout.
pub const VERSION: u32 = 1;

/// The sections, in file order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Section {
    /// The pipeline as JSON.
    Config,
    /// u32 x (tokens + 1): where each token's bytes begin in the arena.
    Offsets,
    /// The bytes of all tokens.
    Arena,
    /// u8 per token: [`TokenKind`] and the `RAW` / `IN_MODEL` bits.
    Flags,
    /// u32 slots: ids of the model's tokens, by a hash of their bytes.
    Words,
    /// (u32 key, u32 symbol) slots: the symbol a character or byte begins as.
    Initial,
    /// (u32 left, u32 right, u32 rank, u32 result) slots.
    Merges,
    /// (u32 left, u32 right) slots: neighbouring initial symbols that some merge can join; empty if not computed.
    Joins,
    /// Vocabulary trie: labels.
    TrieLabels,
    /// Vocabulary trie: first children.
    TrieFirst,
    /// Vocabulary trie: values.
    TrieValues,
    /// f64 per token.
    Scores,
    /// (u32 id, u32 flags) per added token.
    Added,
    /// Added tokens looked for in the raw text: labels.
    RawLabels,
    /// Added tokens looked for in the raw text: first children.
    RawFirst,
    /// Added tokens looked for in the raw text: values (index into `Added`).
    RawValues,
    /// Added tokens looked for in the normalised text: labels.
    NormLabels,
    /// Added tokens looked for in the normalised text: first children.
    NormFirst,
    /// Added tokens looked for in the normalised text: values (index into `Added`).
    NormValues,
    /// SentencePiece's character map.
    Charsmap,
    /// (u32 id, u32 left, u32 right), ascending: how unused pieces come apart.
    Unused,
}

/// The sections of the vocabulary trie.
pub const TRIE: [Section; 3] = [Section::TrieLabels, Section::TrieFirst, Section::TrieValues];
/// The sections of the trie of added tokens for the raw text.
pub const RAW_TRIE: [Section; 3] = [Section::RawLabels, Section::RawFirst, Section::RawValues];
/// The sections of the trie of added tokens for the normalised text.
pub const NORM_TRIE: [Section; 3] = [Section::NormLabels, Section::NormFirst, Section::NormValues];

/// How many sections there are.
pub const SECTIONS: usize = Section::Unused as usize + 1;

/// Longest search in a hash table: half-full tables of honest vocabularies stay below 100.
const MAX_PROBE: usize = 512;

/// Flag bit: the arena holds the bytes themselves, the source wrote them in GPT-2's alphabet.
pub const RAW: u8 = 0x10;
/// Flag bit: the model can produce the token.
pub const IN_MODEL: u8 = 0x20;

/// Added-token flag bits.
pub mod added_flags {
    /// A control token.
    pub const SPECIAL: u32 = 1;
    /// Only between non-word characters.
    pub const SINGLE_WORD: u32 = 2;
    /// Takes the white space on its left.
    pub const LSTRIP: u32 = 4;
    /// Takes the white space on its right.
    pub const RSTRIP: u32 = 8;
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes
        .get(at..)?
        .first_chunk()
        .map(|b| u64::from_le_bytes(*b))
}

/// Kind of a token as stored in its flag byte.
pub fn kind_from_flags(flags: u8) -> TokenKind {
    match flags & 0x0f {
        1 => TokenKind::Normal,
        2 => TokenKind::Unknown,
        3 => TokenKind::Control,
        4 => TokenKind::UserDefined,
        5 => TokenKind::Unused,
        6 => TokenKind::Byte,
        _ => TokenKind::Absent,
    }
}

/// The flag byte of a kind, without the bits.
pub fn flags_of_kind(kind: TokenKind) -> u8 {
    match kind {
        TokenKind::Absent => 0,
        TokenKind::Normal => 1,
        TokenKind::Unknown => 2,
        TokenKind::Control => 3,
        TokenKind::UserDefined => 4,
        TokenKind::Unused => 5,
        TokenKind::Byte => 6,
    }
}

/// Hash of a byte string (FNV-1a with a final mix); part of the format.
pub fn hash_bytes(bytes: &[u8]) -> u64 {
    let mut h = 0xcbf2_9ce4_8422_2325u64;
    for &b in bytes {
        h = (h ^ b as u64).wrapping_mul(0x0000_0100_0000_01b3);
    }
    mix(h)
}

/// Hash of a pair of ids; part of the format.
#[inline]
pub fn hash_pair(a: u32, b: u32) -> u64 {
    mix((a as u64) << 32 | b as u64)
}

#[inline]
fn mix(mut h: u64) -> u64 {
    h ^= h >> 32;
    h = h.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    h ^ h >> 29
}

/// An open-addressing table of `N` u32 words per slot, under construction.
pub struct TableBuilder<const N: usize> {
    slots: Vec<[u32; N]>,
}

impl<const N: usize> TableBuilder<N> {
    /// A table for `entries` entries, at most half full.
    pub fn new(entries: usize) -> Self {
        let size = if entries == 0 {
            0
        } else {
            (entries * 2).next_power_of_two()
        };
        TableBuilder {
            slots: vec![[NONE; N]; size],
        }
    }

    /// The slot for an entry: the one where `same` holds, or the first empty one after `hash`. An error when the vocabulary was
    /// made to collide.
    pub fn slot(&mut self, hash: u64, same: impl Fn(&[u32; N]) -> bool) -> Result<&mut [u32; N]> {
        let mask = self.slots.len().wrapping_sub(1);
        let mut i = hash as usize & mask;
        for _ in 0..MAX_PROBE.min(self.slots.len()) {
            if self.slots[i][0] == NONE || same(&self.slots[i]) {
                return Ok(&mut self.slots[i]);
            }
            i = (i + 1) & mask;
        }
        Err(Error::invalid(
            "more than 512 tokens or merges of the vocabulary collide in its hash table",
        ))
    }

    /// The table's bytes.
    pub fn finish(self) -> Vec<u8> {
        self.slots
            .iter()
            .flatten()
            .flat_map(|v| v.to_le_bytes())
            .collect()
    }
}

/// Finds a slot of a table of `N` words per slot; `same` gets the slot's bytes.
#[inline]
fn probe<const N: usize>(
    table: &[u8],
    hash: u64,
    mut same: impl FnMut(&[u8]) -> bool,
) -> Option<&[u8]> {
    let width = N * 4;
    let slots = table.len() / width;
    if slots == 0 {
        return None;
    }
    // `open` made sure that the number of slots is a power of two.
    let mask = slots - 1;
    let mut i = hash as usize & mask;
    for _ in 0..MAX_PROBE.min(slots) {
        let slot = &table[i * width..(i + 1) * width];
        if slot[..4] == [0xff; 4] {
            return None;
        }
        if same(slot) {
            return Some(slot);
        }
        i = (i + 1) & mask;
    }
    None
}

/// Collects the sections of a prepared form.
pub struct Writer {
    n_tokens: u32,
    sections: Vec<Vec<u8>>,
}

impl Writer {
    /// A writer for `n_tokens` tokens.
    pub fn new(n_tokens: u32) -> Self {
        Writer {
            n_tokens,
            sections: vec![Vec::new(); SECTIONS],
        }
    }

    /// Sets a section's bytes.
    pub fn put(&mut self, section: Section, bytes: Vec<u8>) {
        self.sections[section as usize] = bytes;
    }

    /// Sets the three sections of a trie.
    pub fn put_trie(&mut self, sections: [Section; 3], trie: TrieBytes) {
        let [labels, first, values] = sections;
        self.put(labels, trie.labels);
        self.put(first, trie.first);
        self.put(values, trie.values);
    }

    /// The bytes of the prepared form.
    pub fn finish(self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&self.n_tokens.to_le_bytes());
        let mut offset = 16 + SECTIONS * 16;
        for s in &self.sections {
            out.extend_from_slice(&(offset as u64).to_le_bytes());
            out.extend_from_slice(&(s.len() as u64).to_le_bytes());
            offset += s.len().next_multiple_of(8);
        }
        for s in &self.sections {
            out.extend_from_slice(s);
            out.resize(out.len().next_multiple_of(8), 0);
        }
        out
    }
}

/// An opened prepared form: its bytes and where the sections lie.
#[derive(Clone, Debug)]
pub struct Prepared {
    bytes: Bytes,
    n_tokens: usize,
    sections: [(usize, usize); SECTIONS],
}

impl Prepared {
    /// Checks the structure and takes the bytes.
    pub fn open(bytes: Bytes) -> Result<Self> {
        let data = bytes.as_slice();
        let bad = |what: &str| Error::invalid(format_args!("tokenizer tables: {what}"));
        if data.get(..8) != Some(MAGIC) {
            return Err(bad("the magic is missing"));
        }
        let version = u32_at(data, 2);
        if version != VERSION {
            return Err(bad(&format!(
                "version {version}, expected {VERSION}; import the model again"
            )));
        }
        let n_tokens = u32_at(data, 3) as usize;
        let mut sections = [(0, 0); SECTIONS];
        for (i, s) in sections.iter_mut().enumerate() {
            let offset = u64_at(data, 16 + i * 16);
            let len = u64_at(data, 24 + i * 16);
            *s = match (offset, len) {
                (Some(o), Some(l))
                    if o % 8 == 0
                        && o.checked_add(l).is_some_and(|end| end <= data.len() as u64) =>
                {
                    (o as usize, l as usize)
                }
                _ => {
                    return Err(bad(&format!(
                        "section {i} lies outside the {} bytes",
                        data.len()
                    )));
                }
            };
        }
        let p = Prepared {
            bytes: bytes.clone(),
            n_tokens,
            sections,
        };
        p.check(&p.view())?;
        Ok(p)
    }

    fn check(&self, v: &View) -> Result<()> {
        let bad = |what: &str| Error::invalid(format_args!("tokenizer tables: {what}"));
        let n = self.n_tokens;
        if n == 0 || n >= 1 << 31 {
            return Err(bad(&format!("{n} tokens")));
        }
        if v.flags.len() != n || v.offsets.len() != (n + 1) * 4 {
            return Err(bad(&format!("the token sections do not hold {n} tokens")));
        }
        if !(v.scores.is_empty() || v.scores.len() == n * 8) {
            return Err(bad(&format!("the scores do not hold {n} tokens")));
        }
        let mut last = 0;
        for c in v.offsets.chunks_exact(4) {
            let o = u32::from_le_bytes([c[0], c[1], c[2], c[3]]);
            if o < last {
                return Err(bad("token offsets descend"));
            }
            last = o;
        }
        if last as usize > v.arena.len() {
            return Err(bad("a token lies outside the arena"));
        }
        for (name, table, width) in [
            ("words", v.words, 4),
            ("initial", v.initial, 8),
            ("merges", v.merges, 16),
            ("joins", v.joins, 8),
        ] {
            if !table.is_empty()
                && (table.len() % width != 0 || !(table.len() / width).is_power_of_two())
            {
                return Err(bad(&format!(
                    "the table of {name} has {} bytes",
                    table.len()
                )));
            }
        }
        if !v.added.len().is_multiple_of(8) || !v.unused.len().is_multiple_of(12) {
            return Err(bad("a list has a broken last entry"));
        }
        for at in [TRIE, RAW_TRIE, NORM_TRIE] {
            if self.trie_at(at).is_none() {
                return Err(bad("the arrays of a trie do not fit together"));
            }
        }
        Ok(())
    }

    /// Number of ids.
    pub fn n_tokens(&self) -> usize {
        self.n_tokens
    }

    fn section(&self, s: usize) -> &[u8] {
        let (offset, len) = self.sections[s];
        self.bytes
            .as_slice()
            .get(offset..offset + len)
            .unwrap_or(&[])
    }

    fn trie_at(&self, sections: [Section; 3]) -> Option<Trie<'_>> {
        let [labels, first, values] = sections.map(|s| self.section(s as usize));
        Trie::new(labels, first, values)
    }

    /// All tables as slices.
    pub fn view(&self) -> View<'_> {
        let s = |section: Section| self.section(section as usize);
        View {
            n_tokens: self.n_tokens,
            config: s(Section::Config),
            offsets: s(Section::Offsets),
            arena: s(Section::Arena),
            flags: s(Section::Flags),
            words: s(Section::Words),
            initial: s(Section::Initial),
            merges: s(Section::Merges),
            joins: s(Section::Joins),
            trie: self.trie_at(TRIE).unwrap_or(Trie::EMPTY),
            scores: s(Section::Scores),
            added: s(Section::Added),
            raw: self.trie_at(RAW_TRIE).unwrap_or(Trie::EMPTY),
            norm: self.trie_at(NORM_TRIE).unwrap_or(Trie::EMPTY),
            charsmap: s(Section::Charsmap),
            unused: s(Section::Unused),
        }
    }
}

/// The tables of a prepared form as slices.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    n_tokens: usize,
    /// The pipeline as JSON.
    pub config: &'a [u8],
    offsets: &'a [u8],
    arena: &'a [u8],
    flags: &'a [u8],
    words: &'a [u8],
    initial: &'a [u8],
    merges: &'a [u8],
    joins: &'a [u8],
    /// The model's tokens.
    pub trie: Trie<'a>,
    scores: &'a [u8],
    added: &'a [u8],
    /// Added tokens for the raw text.
    pub raw: Trie<'a>,
    /// Added tokens for the normalised text.
    pub norm: Trie<'a>,
    /// SentencePiece's character map.
    pub charsmap: &'a [u8],
    unused: &'a [u8],
}

impl<'a> View<'a> {
    /// Number of ids.
    pub fn n_tokens(&self) -> usize {
        self.n_tokens
    }

    /// The stored bytes of a token; `None` outside the vocabulary or at a hole in it.
    #[inline]
    pub fn token(&self, id: u32) -> Option<&'a [u8]> {
        let i = id as usize;
        if i >= self.n_tokens || self.flags[i] & 0x0f == 0 {
            return None;
        }
        let lo = u32_at(self.offsets, i) as usize;
        let hi = u32_at(self.offsets, i + 1) as usize;
        self.arena.get(lo..hi)
    }

    /// The flag byte of a token; 0 outside the vocabulary.
    #[inline]
    pub fn flags(&self, id: u32) -> u8 {
        self.flags.get(id as usize).copied().unwrap_or(0)
    }

    /// The kind of a token.
    pub fn kind(&self, id: u32) -> TokenKind {
        kind_from_flags(self.flags(id))
    }

    /// The model's token with these bytes.
    pub fn word(&self, bytes: &[u8]) -> Option<u32> {
        probe::<1>(self.words, hash_bytes(bytes), |slot| {
            self.token(u32_at(slot, 0)) == Some(bytes)
        })
        .map(|slot| u32_at(slot, 0))
    }

    /// The symbol that `key` begins as.
    #[inline]
    pub fn initial(&self, key: u32) -> Option<u32> {
        probe::<2>(self.initial, hash_pair(key, 0), |slot| {
            u32_at(slot, 0) == key
        })
        .map(|slot| u32_at(slot, 1))
    }

    /// The rank and result of merging two symbols.
    #[inline]
    pub fn merge(&self, left: u32, right: u32) -> Option<(u32, u32)> {
        probe::<4>(self.merges, hash_pair(left, right), |slot| {
            u32_at(slot, 0) == left && u32_at(slot, 1) == right
        })
        .map(|slot| (u32_at(slot, 2), u32_at(slot, 3)))
    }

    /// Whether the table of joins was computed.
    pub fn has_joins(&self) -> bool {
        !self.joins.is_empty()
    }

    /// Whether some merge can join two initial symbols.
    #[inline]
    pub fn joins(&self, left: u32, right: u32) -> bool {
        probe::<2>(self.joins, hash_pair(left, right), |slot| {
            u32_at(slot, 0) == left && u32_at(slot, 1) == right
        })
        .is_some()
    }

    /// The score of a token; 0 where there are none.
    #[inline]
    pub fn score(&self, id: u32) -> f64 {
        u64_at(self.scores, id as usize * 8).map_or(0.0, f64::from_bits)
    }

    /// Number of added tokens.
    pub fn n_added(&self) -> usize {
        self.added.len() / 8
    }

    /// Id and flags of an added token.
    pub fn added(&self, index: u32) -> Option<(u32, u32)> {
        let i = index as usize;
        (i < self.n_added()).then(|| (u32_at(self.added, i * 2), u32_at(self.added, i * 2 + 1)))
    }

    /// What an unused piece was merged from.
    pub fn unused(&self, id: u32) -> Option<(u32, u32)> {
        let n = self.unused.len() / 12;
        let (mut lo, mut hi) = (0, n);
        while lo < hi {
            let mid = (lo + hi) / 2;
            if u32_at(self.unused, mid * 3) < id {
                lo = mid + 1;
            } else {
                hi = mid;
            }
        }
        (lo < n && u32_at(self.unused, lo * 3) == id).then(|| {
            (
                u32_at(self.unused, lo * 3 + 1),
                u32_at(self.unused, lo * 3 + 2),
            )
        })
    }
}
