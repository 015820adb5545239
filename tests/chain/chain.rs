//! A model that is constructed, not trained: it knows which words of one story follow which.
//!
//! It has the shape of a real one (embedding, rotary attention, gated feed-forward network, head), and every part does something. The residual
//! stream has three regions of one *slot* per word each: the word at this position, the word before it, the words that may come next.
//!
//! ```text
//! embedding   word w        -> 1 in slot w of "this"
//! attention   looks exactly one position back and copies "this" of there to "before" of here
//! network     one neuron per pair of neighbours in the story; a neuron that sees its pair adds what followed it to "next"
//! head        word v        <- bigrams (this, v) and, stronger where both agree, "next"
//! ```

#[path = "tokenizer.rs"]
pub mod tokenizer;

use quern::error::Result;
use quern::file::meta::key;
use quern::file::{Meta, Value, Writer, WriterPlan};
use quern_kernels::{Format, PANEL_ROWS};
use quern_models::rope::{Rope, default_inv_freq};
use quern_models::spec::*;
use std::collections::BTreeMap;
use std::io::{Seek, Write};
use tokenizer::{FIRST_WORD, byte_level};

/// The story.
pub const STORY: &str = include_str!("story.txt");

/// Width of a head.
const HEAD_DIM: usize = 32;

/// Length of the rotated part of queries and keys: the square of it makes the score of the position before exceed all others by more
/// than 20, so that its share of the softmax is 1 to within 1e-8.
const SHARPNESS: f32 = 16.0;

/// Weight of the gates: silu(10) where both words of a pair are there, silu(-10), which is nearly 0, where one is.
const GATE: f32 = 20.0;

/// Logits before the norm, which divides them by about 1.7: of a word that followed this one somewhere; per e-fold of how often;
/// of a word that followed this one where the same word stood before it.
const BIGRAM: f32 = 17.0;
const OFTEN: f32 = 1.7;
const TRIGRAM: f32 = 5.0;

/// Words of the story and how often they follow each other.
pub struct Chain {
    words: Vec<&'static str>,
    pairs: BTreeMap<(usize, usize), u32>,
    triples: BTreeMap<(usize, usize), BTreeMap<usize, u32>>,
}

/// Cuts a text as GPT-2's split does, as far as the story needs it.
fn split(text: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut start = 0;
    let mut letters = false;
    for (i, c) in text.char_indices() {
        let goes_on = match c {
            '\n' | ' ' => false,
            c if c.is_alphabetic() => letters || &text[start..i] == " ",
            _ => &text[start..i] == " ",
        };
        if !goes_on && i > start {
            words.push(&text[start..i]);
            start = i;
        }
        letters = c.is_alphabetic();
    }
    words.push(&text[start..]);
    words
}

impl Chain {
    /// Reads the story.
    pub fn new() -> Chain {
        let text = split(STORY.trim_end());
        let mut words = text.clone();
        words.sort_unstable();
        words.dedup();
        let mut chain = Chain {
            words,
            pairs: BTreeMap::new(),
            triples: BTreeMap::new(),
        };
        let slot = |w: &str| chain.words.binary_search(&w).expect("a word of the story");
        let mut slots = vec![chain.begin()];
        slots.extend(text.iter().map(|w| slot(w)));
        slots.push(chain.end());
        for pair in slots.windows(2) {
            *chain.pairs.entry((pair[0], pair[1])).or_default() += 1;
            // After a word that the story does not have, any word may come.
            if pair[1] != chain.end() {
                *chain.pairs.entry((chain.unknown(), pair[1])).or_default() += 1;
            }
        }
        for triple in slots.windows(3) {
            let next = chain.triples.entry((triple[0], triple[1])).or_default();
            *next.entry(triple[2]).or_default() += 1;
        }
        chain
    }

    /// Slots after those of the words.
    fn begin(&self) -> usize {
        self.words.len()
    }

    fn end(&self) -> usize {
        self.words.len() + 1
    }

    fn unknown(&self) -> usize {
        self.words.len() + 2
    }

    /// Slots in a region: whole heads, because attention copies a region.
    fn region(&self) -> usize {
        (self.words.len() + 3).next_multiple_of(HEAD_DIM)
    }

    /// The slot of a token.
    fn slot(&self, id: usize) -> usize {
        id.checked_sub(FIRST_WORD as usize)
            .unwrap_or(self.unknown())
    }

    /// The shape of the model.
    pub fn spec(&self) -> Spec {
        let region = self.region();
        let hidden = 3 * region;
        let heads = region / HEAD_DIM;
        let attention = Op::Attention(Attention {
            q_bias: true,
            kv_bias: true,
            rope: Some(0),
            ..Attention::new(heads as u32, heads as u32, HEAD_DIM as u32)
        });
        let dense = Op::Dense(Dense {
            up_bias: true,
            ..Dense::gated(self.triples.len() as u32, Activation::Silu)
        });
        Spec {
            vocab_size: FIRST_WORD + self.words.len() as u32 + 2,
            hidden: hidden as u32,
            context_length: 1024,
            embed: Embed::scaled(1.0),
            ropes: vec![Rope::Fixed {
                inv_freq: default_inv_freq(HEAD_DIM, 1e4),
                factor: 1.0,
            }],
            encoder: None,
            decoder: Stack {
                layers: vec![Layer {
                    blocks: vec![
                        Block::pre_norm(norm(), attention),
                        Block::pre_norm(norm(), dense),
                    ],
                }],
                streams: None,
                final_norm: Some(norm()),
            },
            head: Some(Head {
                tied: false,
                bias: false,
                scale: 1.0,
                softcap: None,
                width: None,
            }),
            embedding: None,
        }
    }

    /// The elements of a tensor that are not zero, as (row, column, value); vectors have one row.
    fn elements(&self, tensor: &TensorSpec) -> Vec<(usize, usize, f32)> {
        let region = self.region();
        let hidden = 3 * region;
        let (this, before, next) = (0, region, 2 * region);
        let tokens = || 0..FIRST_WORD as usize + self.words.len() + 2;
        let log = |count: &u32| (*count as f32).ln();
        // A stream of n ones has the root mean square sqrt(n / hidden); the norm's weight makes its output ones again.
        let fill = |len: usize, value: f32| (0..len).map(move |i| (0, i, value)).collect();
        let ones = |n: f32| fill(hidden, (n / hidden as f32).sqrt());
        let pairs = || self.triples.keys().enumerate();
        match tensor.key.role {
            Role::TokenEmbedding => tokens().map(|id| (id, this + self.slot(id), 1.0)).collect(),
            Role::PreNorm if tensor.key.block == 0 => ones(1.0),
            Role::PreNorm => ones(2.0),
            Role::FinalNorm => ones(1.0),
            Role::AttnQBias => rotated_back(region / HEAD_DIM),
            Role::AttnKBias => (0..region / HEAD_DIM)
                .flat_map(|head| {
                    (0..HEAD_DIM / 2).map(move |k| (0, head * HEAD_DIM + k, SHARPNESS))
                })
                .collect(),
            Role::AttnV => (0..region).map(|s| (s, this + s, 1.0)).collect(),
            Role::AttnO => (0..region).map(|s| (before + s, s, 1.0)).collect(),
            Role::MlpGate => pairs()
                .flat_map(|(n, (a, b))| [(n, before + a, GATE), (n, this + b, GATE)])
                .collect(),
            Role::MlpGateBias => fill(self.triples.len(), -1.5 * GATE),
            // silu(GATE / 2) is GATE / 2 to within 1e-3.
            Role::MlpUpBias => fill(self.triples.len(), 2.0 / GATE),
            Role::MlpDown => self
                .triples
                .values()
                .enumerate()
                .flat_map(|(n, followers)| {
                    followers
                        .iter()
                        .map(move |(c, count)| (next + c, n, 1.0 + 0.3 * log(count)))
                })
                .collect(),
            Role::Head => tokens()
                .skip(FIRST_WORD as usize)
                .flat_map(|id| {
                    let v = self.slot(id);
                    let bigrams = self.pairs.iter().filter(move |((_, b), _)| *b == v);
                    bigrams
                        .map(move |((a, _), count)| (id, this + a, BIGRAM + OFTEN * log(count)))
                        .chain([(id, next + v, TRIGRAM)])
                })
                .collect(),
            _ => Vec::new(),
        }
    }

    /// Writes the model, its matrices in `format`.
    ///
    /// # Errors
    /// Whatever the writer says.
    pub fn write<W: Write + Seek>(
        &self,
        format: Format,
        create: impl FnOnce(WriterPlan) -> Result<Writer<W>>,
    ) -> Result<Writer<W>> {
        let spec = self.spec();
        let definition = byte_level(&self.words);
        let mut meta = Meta::new();
        meta.set(key::NAME, Value::String("tiny".to_owned()));
        let mut plan = WriterPlan::new(spec.clone(), meta, |_| format);
        plan.tokenizer = definition.to_prepared()?;
        let mut writer = create(plan)?;
        for tensor in spec.tensors() {
            let elements = self.elements(&tensor);
            match tensor.shape {
                Shape::Vector(len) => {
                    let mut values = vec![0.0; len as usize];
                    elements.iter().for_each(|(_, i, v)| values[*i] = *v);
                    writer.write_vector(&values)?;
                }
                Shape::Matrix { rows, cols, .. } => {
                    let (rows, cols) = (rows as usize, cols as usize);
                    let mut values = vec![0.0; rows * cols];
                    elements
                        .iter()
                        .for_each(|(r, c, v)| values[r * cols + c] = *v);
                    for rows in values.chunks(PANEL_ROWS * cols) {
                        let bytes = format.panel_bytes(cols).expect("a small model");
                        let mut panel = vec![0; bytes];
                        format.pack_panel(rows, rows.len() / cols, cols, &mut panel);
                        writer.write_tensor_chunk(&panel)?;
                    }
                    writer.finish_tensor()?;
                }
            }
        }
        Ok(writer)
    }
}

fn norm() -> Norm {
    Norm {
        kind: NormKind::Rms,
        eps: 1e-6,
        weight: true,
        bias: false,
    }
}

/// The query of every position, in every head: the key rotated one position back, so that the key one position back fits best.
fn rotated_back(heads: usize) -> Vec<(usize, usize, f32)> {
    let angles = default_inv_freq(HEAD_DIM, 1e4);
    let mut elements = Vec::new();
    for head in 0..heads {
        for (k, angle) in angles.iter().enumerate() {
            let (sin, cos) = (libm::sin(*angle) as f32, libm::cos(*angle) as f32);
            let first = head * HEAD_DIM + k;
            elements.push((0, first, SHARPNESS * cos));
            elements.push((0, first + HEAD_DIM / 2, -SHARPNESS * sin));
        }
    }
    elements
}
