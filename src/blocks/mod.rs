//! What a branch of a layer computes: one file per state shape.

pub mod attend;
pub mod attention;
pub mod conv;
pub mod cross;
pub mod delta_rule;
pub mod dense;
pub mod experts;
pub mod latent;
pub mod per_layer;
pub mod scores;
pub mod selective_scan;
pub mod state_space;
pub mod streams;

use crate::cache::Sequence;
use std::ops::Range;

/// The new tokens of one sequence within a pass.
pub struct Span<'a> {
    /// The state of the sequence; only the caches change, behind their locks.
    pub seq: &'a Sequence,
    /// Rows of the pass's buffers that belong to it.
    pub rows: Range<usize>,
    /// Position of its first new token.
    pub start: usize,
    /// Positions in its caches once the new tokens have joined them.
    pub keys: usize,
}

/// The memory of a list of spans for a list of others: the standard library collects in place where sizes agree, as they do here.
pub fn emptied<'a>(mut spans: Vec<Span<'_>>) -> Vec<Span<'a>> {
    spans.clear();
    spans
        .into_iter()
        .map(|_| unreachable!("there is none"))
        .collect()
}

/// cos and sin of one rotary embedding for every token of a pass: `[tokens][dim / 2]`.
#[derive(Default)]
pub struct Angles {
    half: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Angles {
    /// Computes the angles of all tokens. Frequencies and products are f64 through `libm`, rounded once.
    pub fn fill(&mut self, rope: &quern_models::rope::Rope, spans: &[Span<'_>]) {
        self.half = rope.dim() / 2;
        self.cos.clear();
        self.sin.clear();
        let factor = rope.factor();
        for span in spans {
            let mut counted = 0;
            let mut freq: std::borrow::Cow<'_, [f64]> = rope.inv_freq(1);
            for position in span.start..span.start + span.rows.len() {
                if rope.depends_on_length() && span.seq.counted(position) != counted {
                    counted = span.seq.counted(position);
                    freq = rope.inv_freq(counted);
                }
                for f in freq.iter() {
                    let (sin, cos) = libm::sincos(position as f64 * f);
                    self.cos.push((cos * factor) as f32);
                    self.sin.push((sin * factor) as f32);
                }
            }
        }
    }

    /// cos and sin of one token.
    pub fn of(&self, token: usize) -> (&[f32], &[f32]) {
        let at = token * self.half..(token + 1) * self.half;
        (&self.cos[at.clone()], &self.sin[at])
    }
}
