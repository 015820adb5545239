//! What surrounds a score: norms of the heads before it, soft cap and position bias after it.

use crate::ops::{BoundNorm, grow};
use half::bf16;
use quern_kernels::Kernels;
use quern_models::spec::{self, Alibi, NormSpan};

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
}

impl Scores {
    /// What an attention does to its scores.
    pub fn new(spec: &spec::Attention) -> Scores {
        let slopes = match &spec.alibi {
            None => Vec::new(),
            Some(_) => Alibi::slopes(spec.n_heads),
        };
        Scores {
            softcap: spec.softcap,
            alibi: spec.alibi,
            slopes: slopes.into_iter().map(|s| s as f32).collect(),
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
    }
}

/// To the nearest bf16, ties to even.
fn round(x: f32) -> f32 {
    bf16::from_f32(x).to_f32()
}
