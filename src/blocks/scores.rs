//! What surrounds a score: norms of the heads before it, soft cap and position bias after it.

use crate::ops::{BoundNorm, grow};
use crate::tensor::Vector;
use half::bf16;
use quern_kernels::Kernels;
use quern_models::spec::{self, Alibi, NormSpan, RelativeBias};

/// A norm of q or k bound to its weights.
pub struct HeadNorm {
    /// The norm; with [`NormSpan::EachHead`] the weights of all heads one after another.
    pub norm: BoundNorm,
    /// What it runs over.
    pub span: NormSpan,
}

impl HeadNorm {
    /// `x = norm(x)` for one head (or, where the span is the whole vector, all of it with head 0).
    pub fn apply(&self, kernels: &Kernels, head: usize, x: &mut [f32], row: &mut Vec<f32>) {
        let first = match self.span {
            NormSpan::EachHead => head * x.len(),
            NormSpan::Head | NormSpan::Whole => 0,
        };
        grow(row, x.len());
        let out = &mut row[..x.len()];
        self.norm.apply_part(kernels, first, x, out);
        x.copy_from_slice(out);
    }
}

/// What happens to scores before the mask; by default nothing.
#[derive(Default)]
pub struct Scores {
    softcap: Option<f32>,
    alibi: Option<Alibi>,
    /// One per query head, if there is a linear bias.
    slopes: Vec<f32>,
    relative: Option<Relative>,
}

impl Scores {
    /// What an attention does to its scores; `table` is that of the relative bias, if there is one.
    pub fn new(spec: &spec::Attention, table: Option<Vector>) -> Scores {
        let slopes = match &spec.alibi {
            None => Vec::new(),
            Some(_) => Alibi::slopes(spec.n_heads),
        };
        Scores {
            softcap: spec.softcap,
            alibi: spec.alibi,
            slopes: slopes.into_iter().map(|s| s as f32).collect(),
            relative: spec.relative.zip(table).map(|(bias, table)| Relative {
                starts: bias.starts(),
                bias,
                table,
            }),
        }
    }

    /// Changes the scores of the query at `position` for the keys from position `first` on; `row` is a workspace.
    pub fn apply(
        &self,
        kernels: &Kernels,
        head: usize,
        position: usize,
        first: usize,
        scores: &mut [f32],
        row: &mut Vec<f32>,
    ) {
        if let Some(cap) = self.softcap {
            kernels.softcap(scores, cap);
        }
        if let Some(alibi) = &self.alibi {
            let slope = self.slopes[head];
            grow(row, scores.len());
            let row = &mut row[..scores.len()];
            // Counted from the query, so that numbers stay small.
            if alibi.bf16 {
                // All three are rounded: PyTorch converts the position before it multiplies.
                let slope = round(slope);
                let bias = |j: usize| round(slope * round(j as f32));
                let own = bias(position);
                for (j, r) in row.iter_mut().enumerate() {
                    *r = bias(first + j) - own;
                }
                kernels.add_scaled(scores, row, alibi.scale);
            } else {
                for (j, r) in row.iter_mut().enumerate() {
                    *r = (first + j) as f32 - position as f32;
                }
                kernels.add_scaled(scores, row, alibi.scale * slope);
            }
        }
        if let Some(relative) = &self.relative {
            grow(row, scores.len());
            let row = &mut row[..scores.len()];
            relative.fill(head, position, first, row);
            kernels.add(scores, row);
        }
    }
}

/// A bias by distance and its table.
struct Relative {
    bias: RelativeBias,
    /// First distance of every bucket of one direction.
    starts: Vec<u32>,
    /// `[head][bucket]`.
    table: Vector,
}

impl Relative {
    /// Biases of the keys from position `first` on, for the query at `position`. Keys of a bucket lie together, so it is one look-up for each
    /// run of them.
    fn fill(&self, head: usize, position: usize, first: usize, row: &mut [f32]) {
        let buckets = self.bias.buckets as usize;
        let table = &self.table[head * buckets..][..buckets];
        let bucket = |distance: usize| {
            let after = |start: &u32| *start as usize <= distance;
            self.starts.partition_point(after) - 1
        };
        let mut at = 0;
        while at < row.len() {
            let key = first + at;
            let (value, run) = if key <= position {
                let distance = position - key;
                let bucket = bucket(distance);
                (table[bucket], distance - self.starts[bucket] as usize + 1)
            } else if self.bias.both_ways {
                let distance = key - position;
                let bucket = bucket(distance);
                let run = match self.starts.get(bucket + 1) {
                    Some(next) => *next as usize - distance,
                    None => usize::MAX,
                };
                (table[self.starts.len() + bucket], run)
            } else {
                (table[0], usize::MAX)
            };
            let end = row.len().min(at.saturating_add(run));
            row[at..end].fill(value);
            at = end;
        }
    }
}

/// To the nearest bf16, ties to even.
fn round(x: f32) -> f32 {
    bf16::from_f32(x).to_f32()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bytes::{AlignedBytes, Bytes};
    use std::sync::Arc;

    /// Runs give the same as one look-up per key.
    #[test]
    fn biases_by_distance() {
        for both_ways in [false, true] {
            let bias = RelativeBias {
                buckets: 12,
                max_distance: 40,
                both_ways,
            };
            let values: Vec<u8> = (0..24u16)
                .flat_map(|i| f32::from(i).to_le_bytes())
                .collect();
            let bytes = Arc::new(AlignedBytes::copy_of(&values).unwrap());
            let relative = Relative {
                starts: bias.starts(),
                bias,
                table: Vector::new(24, Bytes::new(bytes)).unwrap(),
            };
            for position in [0, 1, 5, 39, 200] {
                let mut row = vec![-1.0; 300];
                relative.fill(1, position, 3, &mut row);
                for (i, found) in row.iter().enumerate() {
                    let key = i + 3;
                    let distance = key.abs_diff(position) as u32;
                    let expected = match (key > position, both_ways) {
                        (false, _) => bias.bucket(distance),
                        (true, true) => 6 + bias.bucket(distance),
                        (true, false) => 0,
                    };
                    assert_eq!(*found, (12 + expected) as f32, "{position} {key}");
                }
            }
        }
    }
}
